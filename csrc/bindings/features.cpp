#include <pybind11/pybind11.h>

#include "families.hpp"

namespace pygrade::bindings {

void bind_features(pybind11::module_&) {}

}  // namespace pygrade::bindings
