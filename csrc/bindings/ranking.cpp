#include "pygrade/ranking.hpp"

#include "families.hpp"
#include "scores.hpp"

namespace pygrade::bindings {

namespace {

template <class T>
std::span<const T> optional_beside(py::handle value, const char* name, Dtype dtype, const Scores& scores) {
  return value.is_none() ? std::span<const T>() : beside_scores(value, name, dtype, scores).span<const T>();
}

}  // namespace

void bind_ranking(py::module_& module) {
  module.def(
      "rank",
      [](py::handle scores, py::handle weights, std::int64_t k, int transform, py::handle mask, py::handle boost_mul,
         py::handle boost_add, py::handle groups, py::handle caps, float beta, float epsilon, py::handle slope,
         py::handle offsets, bool task_major, py::handle values, py::handle indices, int num_threads) {
        const Scores s = scores_of(scores, offsets, task_major);
        const Array w = array(weights, "weights", Dtype::float32, {s.batch, s.tasks});
        const FusionOptions options = fusion_options(transform, beta, epsilon, slope, s);
        PageRules rules;
        rules.mask = optional_beside<std::uint8_t>(mask, "mask", Dtype::boolean, s);
        rules.boost_mul = optional_beside<float>(boost_mul, "boost_mul", Dtype::float32, s);
        rules.boost_add = optional_beside<float>(boost_add, "boost_add", Dtype::float32, s);
        if (!caps.is_none()) {
          const Array c = array(caps, "caps", Dtype::int32, {any_size});
          const Array g = s.offsets != nullptr
                              ? array(groups, "groups", Dtype::int32, {s.rows, c.shape[0]})
                              : array(groups, "groups", Dtype::int32, {s.batch, s.candidates, c.shape[0]});
          rules.caps = c.span<const std::int32_t>();
          rules.groups = g.span<const std::int32_t>();
        }
        const Array v = array(values, "values", Dtype::float32, {s.batch, k});
        const Array i = array(indices, "indices", Dtype::int32, {s.batch, k});
        const py::gil_scoped_release release;
        rank(s, w.span<const float>(), k, options, rules, v.span<float>(), i.span<std::int32_t>(), num_threads);
      },
      py::arg("scores"), py::arg("weights"), py::arg("k"), py::arg("transform"), py::arg("mask"), py::arg("boost_mul"),
      py::arg("boost_add"), py::arg("groups"), py::arg("caps"), py::arg("beta"), py::arg("epsilon"), py::arg("slope"),
      py::arg("offsets"), py::arg("task_major"), py::arg("values"), py::arg("indices"), py::arg("num_threads"));
}

}  // namespace pygrade::bindings
