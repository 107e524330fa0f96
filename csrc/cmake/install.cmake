# What users of the library get: headers, both libraries, a relocatable CMake package and pkg-config files. A wheel holds
# them inside the Python package; `pygrade --cmake-dir` prints the directory of the CMake package.
#
# The static library has the C++ API and the C ABI; the shared one exports the C ABI alone (pygrade.map).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(STRINGS ${PROJECT_SOURCE_DIR}/csrc/include/pygrade/pygrade.h abi_line REGEX "define PYGRADE_ABI_VERSION")
string(REGEX MATCH "[0-9]+$" PYGRADE_ABI_VERSION "${abi_line}")

# What a linker that is not told of C++ needs beside the static library: the runtime of this compiler.
set(cxx_runtime ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES})
list(FILTER cxx_runtime INCLUDE REGEX "^(stdc\\+\\+|c\\+\\+|c\\+\\+abi|m)$")
list(REMOVE_DUPLICATES cxx_runtime)

foreach(library pygrade pygrade_shared)
  target_include_directories(${library} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/csrc/include>)
endforeach()
target_compile_features(pygrade PUBLIC cxx_std_20)
target_link_libraries(pygrade PUBLIC Threads::Threads INTERFACE "$<$<LINK_LANGUAGE:C>:${cxx_runtime}>")
target_link_libraries(pygrade_shared PRIVATE Threads::Threads)
set_target_properties(pygrade PROPERTIES EXPORT_NAME static)
set_target_properties(pygrade_shared PROPERTIES EXPORT_NAME shared OUTPUT_NAME pygrade SOVERSION ${PYGRADE_ABI_VERSION})
if(PYGRADE_STATIC_RUNTIME)
  target_link_options(pygrade_shared PRIVATE -static-libstdc++ -static-libgcc)
endif()
if(NOT APPLE)
  # nodelete: worker threads and the memory that threads keep outlive a dlclose.
  set(symbols ${PROJECT_SOURCE_DIR}/csrc/cmake/pygrade.map)
  target_link_options(pygrade_shared PRIVATE -Wl,--version-script=${symbols} -Wl,-z,nodelete -Wl,--gc-sections)
  set_property(TARGET pygrade_shared PROPERTY LINK_DEPENDS ${symbols})
endif()

if(NOT PYGRADE_INSTALL)
  return()
endif()

set(include_dir ${CMAKE_INSTALL_INCLUDEDIR})
set(library_dir ${CMAKE_INSTALL_LIBDIR})
if(SKBUILD)
  set(include_dir pygrade/include)
  set(library_dir pygrade/lib)
endif()
set(package_dir ${library_dir}/cmake/pygrade)

install(TARGETS pygrade pygrade_shared EXPORT pygrade-targets
  ARCHIVE DESTINATION ${library_dir} COMPONENT development
  LIBRARY DESTINATION ${library_dir} COMPONENT runtime NAMELINK_SKIP
  INCLUDES DESTINATION ${include_dir})
if(PYGRADE_DEBUG_FILES)
  install(CODE "execute_process(COMMAND ${CMAKE_STRIP} -g \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${library_dir}/libpygrade.a\")"
          COMPONENT development)
endif()
if(beside_libraries)
  add_dependencies(pygrade_shared ${beside_libraries})
  install(TARGETS ${beside_libraries} LIBRARY DESTINATION ${library_dir} COMPONENT runtime)
endif()
if(NOT SKBUILD)  # -lpygrade; wheels hold no links
  install(TARGETS pygrade_shared LIBRARY DESTINATION ${library_dir} COMPONENT development NAMELINK_ONLY)
endif()
# Headers of training's ops are for Python's modules alone.
install(DIRECTORY csrc/include/pygrade DESTINATION ${include_dir} COMPONENT development
        REGEX "/(advantage|grpo|lambdaloss|policy_network)\\.hpp$" EXCLUDE)
install(EXPORT pygrade-targets NAMESPACE pygrade:: DESTINATION ${package_dir} COMPONENT development)
configure_package_config_file(csrc/cmake/pygrade-config.cmake.in ${PROJECT_BINARY_DIR}/pygrade-config.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/pygrade-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/pygrade-config.cmake ${PROJECT_BINARY_DIR}/pygrade-config-version.cmake
              csrc/cmake/pygrade-stores.cmake
  DESTINATION ${package_dir} COMPONENT development)

# pygrade.pc links the shared library, or the static one with `pkg-config --static` and a linker that takes archives
# (-static); pygrade-static.pc always links the static one.
list(TRANSFORM cxx_runtime PREPEND -l)
string(JOIN " " private_libs ${PYGRADE_PRIVATE_LIBS} ${cxx_runtime} -pthread)
file(RELATIVE_PATH pc_prefix /prefix/${library_dir}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" pc_prefix ${pc_prefix})
foreach(pc_name pygrade pygrade-static)
  set(pc_libs "-L\${libdir} -lpygrade")
  set(pc_private_libs ${private_libs})
  set(pc_description "the C ABI, ${PYGRADE_ABI_VERSION}")
  if(pc_name STREQUAL pygrade-static)
    set(pc_libs "\${libdir}/libpygrade.a ${private_libs}")
    set(pc_private_libs "")
    set(pc_description "the C++ API and the C ABI, linked statically")
  endif()
  configure_file(csrc/cmake/pygrade.pc.in ${PROJECT_BINARY_DIR}/${pc_name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${pc_name}.pc DESTINATION ${library_dir}/pkgconfig COMPONENT development)
endforeach()
if(NOT SKBUILD)  # the wheel's metadata have it
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/pygrade COMPONENT runtime)
endif()
