// One function an op family registers its bindings with; module.cpp calls them all.
#pragma once

#include <pybind11/pybind11.h>

namespace pygrade::bindings {

void bind_advantage(pybind11::module_& module);
void bind_lambdaloss(pybind11::module_& module);

}  // namespace pygrade::bindings
