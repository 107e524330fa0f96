# pygraded: the service over HTTP, without Python and torch.
#
# cpp-httplib is one header. Some distributions split it into a declaration and a shared library, whose settings are not
# these (TCP_NODELAY, poll); then, or if there is none, its sources are fetched, or devtools/httplib finds the header.
# toml++ is a header, too. TLS needs OpenSSL, linked as the system's shared library, which gets security updates; without
# it a proxy in front does TLS.
option(PYGRADE_SERVER_TLS "TLS in pygraded, by the system's OpenSSL" OFF)
option(PYGRADE_SERVER_STATIC "Link pygraded statically" ON)
set(PYGRADE_HTTPLIB_DIR "" CACHE PATH "Directory of cpp-httplib's single httplib.h; empty: searched, else fetched")

set(httplib_dir ${PYGRADE_HTTPLIB_DIR})
if(NOT httplib_dir)
  find_path(pygrade_httplib_include httplib.h)
  mark_as_advanced(pygrade_httplib_include)
  if(pygrade_httplib_include)
    file(STRINGS ${pygrade_httplib_include}/httplib.h whole_header REGEX "^inline bool Server::listen" LIMIT_COUNT 1)
    if(whole_header)
      set(httplib_dir ${pygrade_httplib_include})
    endif()
  endif()
endif()
find_path(pygrade_toml_include toml++/toml.hpp)
mark_as_advanced(pygrade_toml_include)
if(NOT pygrade_toml_include)
  message(WARNING "pygraded is not built: toml++/toml.hpp was not found; install libtomlplusplus-dev")
  return()
endif()
if(NOT httplib_dir)
  include(FetchContent)
  FetchContent_Declare(pygrade_httplib GIT_REPOSITORY https://github.com/yhirose/cpp-httplib GIT_TAG v0.18.7
    GIT_SHALLOW ON SOURCE_SUBDIR none)
  FetchContent_MakeAvailable(pygrade_httplib)
  set(httplib_dir ${pygrade_httplib_SOURCE_DIR})
endif()

add_executable(pygraded csrc/server/main.cpp csrc/server/http.cpp csrc/server/settings.cpp csrc/server/tokens.cpp)
target_include_directories(pygraded PRIVATE csrc/src)
target_include_directories(pygraded SYSTEM PRIVATE ${httplib_dir} ${pygrade_toml_include})
target_link_libraries(pygraded PRIVATE pygrade)
if(PYGRADE_SERVER_TLS)
  find_package(OpenSSL REQUIRED)
  target_compile_definitions(pygraded PRIVATE CPPHTTPLIB_OPENSSL_SUPPORT)
  target_link_libraries(pygraded PRIVATE OpenSSL::SSL OpenSSL::Crypto)
  target_link_options(pygraded PRIVATE -static-libstdc++ -static-libgcc)
elseif(PYGRADE_SERVER_STATIC AND NOT PYGRADE_SANITIZE)
  target_link_options(pygraded PRIVATE -static)
endif()
target_link_options(pygraded PRIVATE -Wl,--gc-sections $<$<CONFIG:Release>:-s>)
install(TARGETS pygraded RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT server)
