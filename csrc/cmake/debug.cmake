# Debug files: with PYGRADE_DEBUG_FILES=DIR a program or shared library of ours has a build id and the name of its NAME.debug,
# which is in DIR and has its functions and lines. `python -m devtools.debug_files` packs those of a wheel.
set(PYGRADE_DEBUG_FILES "" CACHE PATH "A directory for debug files; empty: there are none")
if(PYGRADE_DEBUG_FILES)
  add_compile_options(-g1)  # functions and lines, also of what is inlined
  add_link_options(-Wl,--build-id)
  file(MAKE_DIRECTORY ${PYGRADE_DEBUG_FILES})
endif()

function(pygrade_split_debug)
  foreach(target IN LISTS ARGN)
    if(PYGRADE_DEBUG_FILES AND TARGET ${target})
      set(file ${PYGRADE_DEBUG_FILES}/$<TARGET_FILE_NAME:${target}>.debug)
      add_custom_command(TARGET ${target} POST_BUILD
        COMMAND ${CMAKE_OBJCOPY} --only-keep-debug $<TARGET_FILE:${target}> ${file}
        COMMAND ${CMAKE_OBJCOPY} --strip-unneeded --add-gnu-debuglink=${file} $<TARGET_FILE:${target}>)
    endif()
  endforeach()
endfunction()
