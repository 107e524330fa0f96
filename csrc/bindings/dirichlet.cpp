// Functions of the kernels that only tests call; the ops themselves are torch's (csrc/torch/dirichlet.cpp).
#include "../src/dirichlet.hpp"

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {
void bind_dirichlet(py::module_& module) {
  module.def(
      "float_function",
      [](int function, py::handle x, py::handle y) {
        const auto from = span_of<const float>(x, "x");
        const auto to = span_of<float>(y, "y", {from.size()});
        PYGRADE_KERNELS(dirichlet_kernels).float_function(function, from.data(), to.data(), std::ssize(from));
      },
      "function"_a, "x"_a, "y"_a);
  module.def(
      "gamma_functions",
      [](py::handle x, py::handle y) {
        const auto from = span_of<const double>(x, "x");
        const auto to = span_of<double>(y, "y", {from.size(), 3});
        PYGRADE_KERNELS(dirichlet_kernels).gamma(from.data(), to.data(), std::ssize(from));
      },
      "x"_a, "y"_a);
}
}  // namespace pygrade::inline v0_2::bindings
