# cmake -DKIND=static|shared -DWORK=DIR (-DBUILD=build directory of pygrade | -DPACKAGE=directory of its CMake package)
#       -P consumer.cmake
# Installs that build (or takes an installed package), builds the consumer project against it and runs its programs.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    string(JOIN " " command ${ARGN})
    message(FATAL_ERROR "${command}\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
if(BUILD)
  run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/installed)
  file(RENAME ${WORK}/installed ${WORK}/moved)  # the package must be relocatable
  set(where -DCMAKE_PREFIX_PATH=${WORK}/moved)
else()
  set(where -Dpygrade_DIR=${PACKAGE})
endif()
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/build ${where} -DPYGRADE_KIND=${KIND}
    -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${CMAKE_CTEST_COMMAND} --test-dir ${WORK}/build --output-on-failure --no-tests=error)
