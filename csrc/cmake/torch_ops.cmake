# The library that registers the ops with torch: pygrade/_ops.so in a wheel, else libpygrade_ops.so for C++ servers, which
# dlopen it before they load a .pt2 file. It is written against torch's stable ABI of 2.10 and serves every later torch.
#
# torch is found, in this order, by PYGRADE_TORCH_DIR (a directory with include/ and lib/, such as libtorch), by Torch_DIR
# (its CMake package), or through the Python interpreter.
set(PYGRADE_TORCH_DIR "" CACHE PATH "torch or libtorch: a directory with include/ and lib/")
if(PYGRADE_TORCH_DIR)
  set(torch_dir ${PYGRADE_TORCH_DIR})
elseif(Torch_DIR)
  get_filename_component(torch_dir ${Torch_DIR}/../../.. ABSOLUTE)
else()
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
            "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE torch_dir OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()
find_file(PYGRADE_TORCH_HEADER torch/csrc/stable/library.h HINTS ${torch_dir}/include NO_DEFAULT_PATH NO_CACHE)
find_library(PYGRADE_TORCH_LIBRARY torch_cpu HINTS ${torch_dir}/lib NO_DEFAULT_PATH NO_CACHE)
if(NOT PYGRADE_TORCH_HEADER OR NOT PYGRADE_TORCH_LIBRARY)
  message(FATAL_ERROR "The ops of torch need torch 2.11 or later; there is none in '${torch_dir}'. "
                      "Set PYGRADE_TORCH_DIR, or PYGRADE_BUILD_TORCH_OPS=OFF to build without them.")
endif()

set(torch_op_sources csrc/torch/scores.cpp csrc/torch/tensors.cpp csrc/torch/rollout.cpp)
set(op_families ${PYGRADE_FAMILIES} ${PYGRADE_TRAINING_FAMILIES})
list(REMOVE_ITEM op_families policy_network)  # training's network is no op
foreach(family IN LISTS op_families)
  list(APPEND torch_op_sources csrc/torch/${family}.cpp)
endforeach()
add_library(pygrade_ops MODULE ${torch_op_sources})
target_include_directories(pygrade_ops SYSTEM PRIVATE ${torch_dir}/include)
target_compile_definitions(pygrade_ops PRIVATE TORCH_TARGET_VERSION=0x020a000000000000)
pygrade_compile_in_batches(pygrade_ops)
target_compile_options(pygrade_ops PRIVATE $<$<CONFIG:Release>:-O2>)
# torch loads libraries with RTLD_LOCAL, so that this one must name libtorch_cpu itself; no path to it is kept.
target_link_libraries(pygrade_ops PRIVATE pygrade_training ${PYGRADE_TORCH_LIBRARY})
if(NOT APPLE)
  # Nothing is exported: the ops register when the library is loaded, and its copy of the core stays its own.
  target_link_options(pygrade_ops PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/csrc/cmake/hide_all.map)
endif()
if(SKBUILD)
  set_target_properties(pygrade_ops PROPERTIES PREFIX "" OUTPUT_NAME _ops)
  install(TARGETS pygrade_ops LIBRARY DESTINATION pygrade)
elseif(PYGRADE_INSTALL)
  install(TARGETS pygrade_ops LIBRARY DESTINATION ${library_dir} COMPONENT runtime)
endif()
