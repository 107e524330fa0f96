// The functions that register bindings; module.cpp calls them.
#pragma once

#include <pybind11/pybind11.h>

namespace pygrade::inline v0_2::bindings {

// The fast path of the serving ops, and functions for tests. Every op is registered with torch (csrc/torch).
void bind_dirichlet(pybind11::module_& module);
void bind_fusion(pybind11::module_& module);
void bind_policy_network(pybind11::module_& module);
void bind_ranking(pybind11::module_& module);

// Not op families: dispatch, the saved policy, the ranker and the parts of a page.
void bind_dispatch(pybind11::module_& module);
void bind_correction(pybind11::module_& module);
void bind_policy(pybind11::module_& module);
void bind_ranker(pybind11::module_& module);
void bind_features(pybind11::module_& module);
void bind_materialize(pybind11::module_& module);
void bind_prerank(pybind11::module_& module);
void bind_store(pybind11::module_& module);
void bind_mtl(pybind11::module_& module);
void bind_pipeline(pybind11::module_& module);
void bind_service(pybind11::module_& module);

}  // namespace pygrade::inline v0_2::bindings
