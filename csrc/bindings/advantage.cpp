#include "pygrade/advantage.hpp"

#include <vector>

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::bindings {

void bind_advantage(py::module_& module) {
  module.def(
      "group_advantage",
      [](py::handle rewards, py::handle component_weights, int normalize, bool leave_one_out, float clip,
         py::handle advantage, bool validate, int num_threads) {
        if (normalize < 0 || normalize > 3) throw py::value_error("normalize is not a known code");
        const Array r = array(rewards, "rewards", Dtype::float32, {any_size, any_size, any_size});
        std::vector<float> ones;
        std::span<const float> w;
        if (component_weights.is_none())
          w = ones = std::vector<float>(static_cast<std::size_t>(r.shape[2]), 1.0f);
        else
          w = array(component_weights, "component_weights", Dtype::float32, {r.shape[2]}).span<const float>();
        const Array a = array(advantage, "advantage", Dtype::float32, {r.shape[0], r.shape[1]});
        const AdvantageOptions options{static_cast<Normalize>(normalize), leave_one_out, clip};
        const py::gil_scoped_release release;
        group_advantage(r.span<const float>(), w, r.shape[0], r.shape[1], options, a.span<float>(), validate,
                        num_threads);
      },
      py::arg("rewards"), py::arg("component_weights"), py::arg("normalize"), py::arg("leave_one_out"), py::arg("clip"),
      py::arg("advantage"), py::arg("validate"), py::arg("num_threads"));
}

}  // namespace pygrade::bindings
