#include "pygrade/gain.hpp"

#include "families.hpp"
#include "scores.hpp"

namespace pygrade::bindings {

void bind_gain(py::module_& module) {
  module.def(
      "topk_gain",
      [](py::handle scores, py::handle weights, py::handle gains, py::handle discount, py::handle masks,
         py::handle component_list, int transform, float beta, float epsilon, py::handle slope, py::handle offsets,
         py::handle gain, int num_threads) {
        const Scores s = scores_of(scores, offsets, false);
        const Weights w = weights_of(weights, s);
        const FusionOptions options = fusion_options(transform, beta, epsilon, slope, s);
        const bool jagged = s.offsets != nullptr;
        const Array g = jagged ? array(gains, "gains", Dtype::float32, {s.rows, any_size})
                               : array(gains, "gains", Dtype::float32, {s.batch, s.candidates, any_size});
        const std::int64_t components = g.shape[static_cast<std::size_t>(g.ndim - 1)];
        const Array d = array(discount, "discount", Dtype::float32, {any_size});
        Array m;
        std::int64_t lists = 0;
        if (!masks.is_none()) {
          m = jagged ? array(masks, "masks", Dtype::boolean, {any_size, s.rows})
                     : array(masks, "masks", Dtype::boolean, {s.batch, any_size, s.candidates});
          lists = m.shape[jagged ? 0 : 1];
        }
        Array c;
        if (!component_list.is_none()) c = array(component_list, "component_list", Dtype::int32, {components});
        const Array out = array(gain, "gain", Dtype::float32, {s.batch, w.samples, components});
        const auto lists_of = masks.is_none() ? std::span<const std::uint8_t>() : m.span<const std::uint8_t>();
        const auto ranked = component_list.is_none() ? std::span<const std::int32_t>() : c.span<const std::int32_t>();
        const py::gil_scoped_release release;
        topk_gain(s, w.array.span<const float>(), w.samples, g.span<const float>(), d.span<const float>(), lists_of,
                  lists, ranked, components, options, out.span<float>(), num_threads);
      },
      py::arg("scores"), py::arg("weights"), py::arg("gains"), py::arg("discount"), py::arg("masks"),
      py::arg("component_list"), py::arg("transform"), py::arg("beta"), py::arg("epsilon"), py::arg("slope"),
      py::arg("offsets"), py::arg("gain"), py::arg("num_threads"));
}

}  // namespace pygrade::bindings
