// Functions of the kernels that only tests call; the ops themselves are torch's (csrc/torch/dirichlet.cpp).
#include "../src/dirichlet.hpp"

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {

void bind_dirichlet(py::module_& module) {
  module.def(
      "float_function",
      [](int function, py::handle x, py::handle y) {
        const Array from = array(x, "x", Dtype::float32, {any_size});
        const Array to = array(y, "y", Dtype::float32, {from.shape[0]});
        PYGRADE_KERNELS(dirichlet_kernels)
            .float_function(function, from.span<const float>().data(), to.span<float>().data(), from.shape[0]);
      },
      py::arg("function"), py::arg("x"), py::arg("y"));
  module.def(
      "gamma_functions",
      [](py::handle x, py::handle y) {
        const Array from = array(x, "x", Dtype::float64, {any_size});
        const Array to = array(y, "y", Dtype::float64, {from.shape[0], 3});
        PYGRADE_KERNELS(dirichlet_kernels)
            .gamma(from.span<const double>().data(), to.span<double>().data(), from.shape[0]);
      },
      py::arg("x"), py::arg("y"));
}

}  // namespace pygrade::inline v0_2::bindings
