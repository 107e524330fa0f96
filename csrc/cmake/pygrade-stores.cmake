# pygrade_find_store_library(NAME HEADER LIBRARY) defines the target pygrade::NAME for a library that a store needs, and
# sets pygrade_NAME_FOUND. Used by the build and, where the installed library was built with it, by its CMake package.
function(pygrade_find_store_library name header library)
  if(NOT TARGET pygrade::${name})
    find_path(pygrade_${name}_include ${header})
    find_library(pygrade_${name}_library ${library})
    mark_as_advanced(pygrade_${name}_include pygrade_${name}_library)
    add_library(pygrade::${name} INTERFACE IMPORTED)
    if(pygrade_${name}_include AND pygrade_${name}_library)
      set_target_properties(pygrade::${name} PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${pygrade_${name}_include}"
        INTERFACE_LINK_LIBRARIES "${pygrade_${name}_library}")
    endif()
  endif()
  if(pygrade_${name}_include AND pygrade_${name}_library)
    set(pygrade_${name}_FOUND TRUE PARENT_SCOPE)
  else()
    set(pygrade_${name}_FOUND FALSE PARENT_SCOPE)
  endif()
endfunction()
