# pygrade_download(NAME VARIABLE) sets VARIABLE to a directory with the sources of a package of sources.txt, which holds
# versions and hashes; pip downloads it once for a build directory.
option(PYGRADE_SYSTEM_LIBRARIES "Use the system's LMDB, hiredis and Boost where they are found" ON)

function(pygrade_download name variable)
  set(list ${PROJECT_SOURCE_DIR}/csrc/cmake/sources.txt)
  set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${list})
  file(STRINGS ${list} line REGEX "^${name}==")
  string(REGEX MATCH "^[^ ]+" release ${line})
  set(folder ${PROJECT_BINARY_DIR}/sources/${release})
  if(NOT EXISTS ${folder})
    find_package(Python QUIET COMPONENTS Interpreter)
    if(NOT Python_EXECUTABLE)
      message(FATAL_ERROR "there is no Python, whose pip downloads ${release}; or install the system's package of it")
    endif()
    message(STATUS "pygrade: downloads ${release}")
    file(REMOVE_RECURSE ${folder}.new)
    file(MAKE_DIRECTORY ${folder}.new)
    file(WRITE ${folder}.new/requirement.txt "${line}\n")
    execute_process(
      COMMAND ${Python_EXECUTABLE} -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation
              --require-hashes --requirement ${folder}.new/requirement.txt --dest ${folder}.new
      RESULT_VARIABLE status ERROR_VARIABLE error)
    if(NOT status EQUAL 0)
      message(FATAL_ERROR "${release} can't be downloaded by pip, which needs setuptools for it:\n${error}")
    endif()
    file(GLOB archive ${folder}.new/*.tar.gz ${folder}.new/*.whl)
    file(ARCHIVE_EXTRACT INPUT ${archive} DESTINATION ${folder}.new)
    file(REMOVE ${archive})
    file(RENAME ${folder}.new ${folder})
  endif()
  file(GLOB inside ${folder}/${name}-*)
  if(NOT EXISTS "${inside}/PKG-INFO")  # of a wheel
    set(inside ${folder})
  endif()
  set(${variable} ${inside} PARENT_SCOPE)
endfunction()
