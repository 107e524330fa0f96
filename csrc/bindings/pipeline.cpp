#include <pybind11/pybind11.h>

#include "families.hpp"

namespace pygrade::bindings {

void bind_pipeline(pybind11::module_&) {}

}  // namespace pygrade::bindings
