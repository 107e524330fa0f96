# What users of the C++ library get: headers, both libraries, and a relocatable CMake package. A wheel holds them inside
# the Python package; `pygrade --cmake-dir` prints the directory of the CMake package.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(STRINGS ${PROJECT_SOURCE_DIR}/csrc/include/pygrade/pygrade.h abi_line REGEX "define PYGRADE_ABI_VERSION")
string(REGEX MATCH "[0-9]+$" PYGRADE_ABI_VERSION "${abi_line}")

foreach(library pygrade pygrade_shared)
  target_compile_features(${library} PUBLIC cxx_std_20)
  target_link_libraries(${library} PUBLIC Threads::Threads)
  target_include_directories(${library} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/csrc/include>)
endforeach()
set_target_properties(pygrade PROPERTIES EXPORT_NAME static)
set_target_properties(pygrade_shared PROPERTIES EXPORT_NAME shared OUTPUT_NAME pygrade SOVERSION ${PYGRADE_ABI_VERSION})

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
if(NOT SKBUILD)  # -lpygrade; wheels hold no links
  install(TARGETS pygrade_shared LIBRARY DESTINATION ${library_dir} COMPONENT development NAMELINK_ONLY)
endif()
install(DIRECTORY csrc/include/pygrade DESTINATION ${include_dir} COMPONENT development)
install(EXPORT pygrade-targets NAMESPACE pygrade:: DESTINATION ${package_dir} COMPONENT development)
configure_package_config_file(csrc/cmake/pygrade-config.cmake.in ${PROJECT_BINARY_DIR}/pygrade-config.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/pygrade-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/pygrade-config.cmake ${PROJECT_BINARY_DIR}/pygrade-config-version.cmake
              csrc/cmake/pygrade-stores.cmake
  DESTINATION ${package_dir} COMPONENT development)
