# cmake -DKIND=static|shared|pkg-config|missing -DLANGUAGES=C|"C;CXX" -DWORK=DIR
#       (-DBUILD=build directory of pygrade | -DPACKAGE=directory of its CMake package) -P consumer.cmake
# Installs that build (or takes an installed package), builds the consumer project against it and runs its programs; for
# pkg-config compiles them by hand.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    string(JOIN " " command ${ARGN})
    message(FATAL_ERROR "${command}\n${output}")
  endif()
endfunction()

# Compiles consumer/`source` with what pkg-config says, and runs it.
function(check_pkg_config compiler source options)
  separate_arguments(options)
  execute_process(COMMAND ${PKG_CONFIG} --cflags --libs ${options} OUTPUT_VARIABLE flags COMMAND_ERROR_IS_FATAL ANY)
  string(STRIP "${flags}" flags)
  separate_arguments(flags)
  set(consumer ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/consumer)
  run(${compiler} ${consumer}/${source} -o ${WORK}/program ${ARGN} ${flags})
  run(${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${library} ${WORK}/program ${consumer}/policy)
endfunction()

file(REMOVE_RECURSE ${WORK})
if(BUILD)
  run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/installed)
  file(RENAME ${WORK}/installed ${WORK}/moved)  # the package must be relocatable
  set(where -DCMAKE_PREFIX_PATH=${WORK}/moved)
  if(NOT EXISTS ${WORK}/moved/share/licenses/pygrade/LICENSE)
    message(FATAL_ERROR "the license was not installed")
  endif()
  file(GLOB_RECURSE package ${WORK}/moved/*.cmake ${WORK}/moved/*.pc)
  foreach(file IN LISTS package)
    file(STRINGS ${file} needed REGEX "hiredis|[Oo]pen[Ss][Ss][Ll]|-lssl")
    if(needed OR NOT package MATCHES "pygrade-static.pc")
      message(FATAL_ERROR "${file}: ${needed}; programs need neither hiredis nor OpenSSL")
    endif()
  endforeach()
else()
  set(where -Dpygrade_DIR=${PACKAGE})
endif()

if(KIND STREQUAL "pkg-config")
  find_program(PKG_CONFIG pkg-config)
  if(NOT PKG_CONFIG)
    message("skipped: no pkg-config")
    return()
  endif()
  file(GLOB_RECURSE found ${WORK}/moved/pygrade.pc)
  cmake_path(GET found PARENT_PATH folder)
  cmake_path(GET folder PARENT_PATH library)
  set(ENV{PKG_CONFIG_PATH} ${folder})
  check_pkg_config(cc main.c pygrade)
  check_pkg_config(cc main.c pygrade-static)
  check_pkg_config(c++ main.cpp pygrade-static -std=c++20)
  check_pkg_config(cc main.c "--static pygrade" -static)
  return()
endif()

if(KIND STREQUAL "missing")  # nothing of the system is found: a sentence, and no program that does not link
  execute_process(
    COMMAND ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/build ${where} -DPYGRADE_KIND=static
            "-DPYGRADE_LANGUAGES=${LANGUAGES}"
            "-DCMAKE_IGNORE_PATH=${IGNORE}"
    RESULT_VARIABLE status ERROR_VARIABLE output OUTPUT_QUIET)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(status EQUAL 0 OR NOT output MATCHES "was built with .*not found here: install what is missing")
    message(FATAL_ERROR "status ${status}: ${output}")
  endif()
  return()
endif()

run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/build ${where} -DPYGRADE_KIND=${KIND}
    "-DPYGRADE_LANGUAGES=${LANGUAGES}" -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${CMAKE_CTEST_COMMAND} --test-dir ${WORK}/build --output-on-failure --no-tests=error)
