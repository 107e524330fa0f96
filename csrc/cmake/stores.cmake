# The stores that need a library. Sets store_targets and store_definitions, adds to core_sources, and sets
# PYGRADE_STORE_LIBRARIES (as arguments of pygrade_find_store_library, for the CMake package) and PYGRADE_PRIVATE_LIBS
# (what a program that links the static library needs beside it).
include(csrc/cmake/pygrade-stores.cmake)
set(all_suffixes ${CMAKE_FIND_LIBRARY_SUFFIXES})
if(PYGRADE_STATIC_STORES)
  set(CMAKE_FIND_LIBRARY_SUFFIXES ${CMAKE_STATIC_LIBRARY_SUFFIX})
endif()
set(store_targets "")
set(store_definitions "")
set(PYGRADE_STORE_LIBRARIES "")
set(PYGRADE_PRIVATE_LIBS "")

function(pygrade_add_store option name header library package)
  if(PYGRADE_${option} STREQUAL "OFF")
    return()
  endif()
  pygrade_find_store_library(${name} ${header} ${library})
  if(NOT pygrade_${name}_FOUND)
    if(NOT PYGRADE_${option} STREQUAL "AUTO")
      message(FATAL_ERROR "PYGRADE_${option} is ${PYGRADE_${option}}, but ${header} and lib${library} were not found: "
                          "install ${package}, or set PYGRADE_${option} to OFF")
    endif()
    message(STATUS "pygrade: without ${name}: ${header} and lib${library} were not found (${package})")
    return()
  endif()
  set(store_targets ${store_targets} pygrade::${name} PARENT_SCOPE)
  set(store_definitions ${store_definitions} PYGRADE_HAS_${option} PARENT_SCOPE)
  set(core_sources ${core_sources} ${ARGN} PARENT_SCOPE)
  set(PYGRADE_STORE_LIBRARIES ${PYGRADE_STORE_LIBRARIES} "${name} ${header} ${library}" PARENT_SCOPE)
  set(PYGRADE_PRIVATE_LIBS ${PYGRADE_PRIVATE_LIBS} -l${library} PARENT_SCOPE)
endfunction()

pygrade_add_store(LMDB lmdb lmdb.h lmdb liblmdb-dev
  csrc/src/stores/lmdb.cpp csrc/src/stores/lmdb_file.cpp csrc/src/stores/lmdb_pages.cpp
  csrc/src/stores/lmdb_tree.cpp)
pygrade_add_store(REDIS hiredis hiredis/hiredis.h hiredis libhiredis-dev
  csrc/src/stores/redis.cpp csrc/src/stores/redis_address.cpp csrc/src/stores/redis_connection.cpp
  csrc/src/stores/redis_pool.cpp)
set(CMAKE_FIND_LIBRARY_SUFFIXES ${all_suffixes})
