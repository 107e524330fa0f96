# A toolchain that builds for an old glibc on a new system: `pip install ziglang` brings clang, headers and stubs of every
# glibc, and libc++, which it links statically. The system's own libraries are not looked at; the sources of those that
# stores need are downloaded.
set(PYGRADE_NEWEST_GLIBC 2.28 CACHE STRING "Oldest glibc to run on")
set(PYGRADE_PYTHON python3 CACHE STRING "A Python that has ziglang")

find_program(zig zig NO_CMAKE_FIND_ROOT_PATH)
if(NOT zig)
  execute_process(COMMAND ${PYGRADE_PYTHON} -c "import os, ziglang; print(os.path.dirname(ziglang.__file__))"
    OUTPUT_VARIABLE folder ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  find_program(zig zig HINTS ${folder} NO_CMAKE_FIND_ROOT_PATH)
endif()
if(NOT zig)
  message(FATAL_ERROR "there is no zig: pip install ziglang, or set PYGRADE_PYTHON to a Python that has it")
endif()
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES zig PYGRADE_NEWEST_GLIBC)

set(CMAKE_SYSTEM_NAME Linux)
if(NOT CMAKE_SYSTEM_PROCESSOR)
  set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_HOST_SYSTEM_PROCESSOR})
endif()
set(target -target ${CMAKE_SYSTEM_PROCESSOR}-linux-gnu.${PYGRADE_NEWEST_GLIBC})
set(CMAKE_C_COMPILER ${zig} cc ${target})
set(CMAKE_CXX_COMPILER ${zig} c++ ${target})
set(CMAKE_CXX_FLAGS_INIT -g0)
set(CMAKE_SHARED_LINKER_FLAGS_INIT -s)
set(PYGRADE_ISA_SEPARATOR _)  # of -march=x86_64_v3, as zig spells it
foreach(kind LIBRARY INCLUDE PACKAGE)
  set(CMAKE_FIND_ROOT_PATH_MODE_${kind} ONLY)
endforeach()
