#include "pygrade/lambdaloss.hpp"

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::bindings {

void bind_lambdaloss(py::module_& module) {
  module.def(
      "lambda_loss",
      [](py::handle scores, py::handle gains, py::handle mask, py::handle discount, float temperature, py::handle loss,
         py::handle gradient, bool validate, int num_threads) {
        const Array s = array(scores, "scores", Dtype::float32, {any_size, any_size});
        const Array g = array(gains, "gains", Dtype::float32, {s.shape[0], s.shape[1]});
        const Array d = array(discount, "discount", Dtype::float32, {any_size});
        const Array l = array(loss, "loss", Dtype::float32, {s.shape[0]});
        const Array out = array(gradient, "gradient", Dtype::float32, {s.shape[0], s.shape[1]});
        std::span<const std::uint8_t> m;
        if (!mask.is_none())
          m = array(mask, "mask", Dtype::boolean, {s.shape[0], s.shape[1]}).span<const std::uint8_t>();
        const py::gil_scoped_release release;
        lambda_loss(s.span<const float>(), g.span<const float>(), m, d.span<const float>(), s.shape[0], temperature,
                    l.span<float>(), out.span<float>(), validate, num_threads);
      },
      py::arg("scores"), py::arg("gains"), py::arg("mask"), py::arg("discount"), py::arg("temperature"),
      py::arg("loss"), py::arg("gradient"), py::arg("validate"), py::arg("num_threads"));
}

}  // namespace pygrade::bindings
