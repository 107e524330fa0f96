// The functions that register bindings; module.cpp calls them.
#pragma once

#include <pybind11/pybind11.h>

namespace pygrade::inline v0_2::bindings {
namespace py = pybind11;
using namespace py::literals;  // "name"_a names an argument

// The fast paths, and functions for tests. Every op is registered with torch (csrc/torch).
void bind_dirichlet(py::module_& module);
void bind_fusion(py::module_& module);
void bind_policy_network(py::module_& module);
void bind_ranking(py::module_& module);
void bind_training(py::module_& module);

// Not op families: dispatch, the saved policy, the ranker and the parts of a page.
void bind_dispatch(py::module_& module);
void bind_correction(py::module_& module);
void bind_policy(py::module_& module);
void bind_ranker(py::module_& module);
void bind_features(py::module_& module);
void bind_history(py::module_& module);
void bind_materialize(py::module_& module);
void bind_prerank(py::module_& module);
void bind_store(py::module_& module);
void bind_mtl(py::module_& module);
void bind_pipeline(py::module_& module);
void bind_service(py::module_& module);
}  // namespace pygrade::inline v0_2::bindings
