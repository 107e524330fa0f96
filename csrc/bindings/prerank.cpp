#include <pybind11/pybind11.h>

#include "families.hpp"

namespace pygrade::bindings {

void bind_prerank(pybind11::module_&) {}

}  // namespace pygrade::bindings
