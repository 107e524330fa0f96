#include "pygrade/ranking.hpp"

#include <pybind11/stl.h>

#include "families.hpp"
#include "scores.hpp"

namespace pygrade::bindings {

namespace {

// caps[A] as an array, or copied from a list into `storage`.
std::span<const std::int32_t> caps_of(py::handle caps, std::vector<std::int32_t>& storage) {
  if (!PyList_Check(caps.ptr()) && !PyTuple_Check(caps.ptr()))
    return array(caps, "caps", Dtype::int32, {any_size}).span<const std::int32_t>();
  storage = py::cast<std::vector<std::int32_t>>(caps);
  return storage;
}

PageRules rules_of(const Scores& s, bool single, py::handle mask, py::handle boost_mul, py::handle boost_add,
                   py::handle groups, py::handle caps, std::vector<std::int32_t>& storage) {
  PageRules rules;
  rules.mask = optional_beside<std::uint8_t>(mask, "mask", Dtype::boolean, s, single);
  rules.boost_mul = optional_beside<float>(boost_mul, "boost_mul", Dtype::float32, s, single);
  rules.boost_add = optional_beside<float>(boost_add, "boost_add", Dtype::float32, s, single);
  if (groups.is_none() != caps.is_none()) throw py::value_error("groups and caps go together");
  if (caps.is_none()) return rules;
  rules.caps = caps_of(caps, storage);
  const auto columns = static_cast<std::int64_t>(rules.caps.size());
  const Shape dense{s.batch, s.candidates, columns};
  const Shape shape = s.offsets != nullptr ? Shape{s.rows, columns} : single ? dense.tail() : dense;
  rules.groups = array(groups, "groups", Dtype::int32, shape).span<const std::int32_t>();
  return rules;
}

// Takes the arguments of the public function.
py::object rank_at_once(const Arguments<17>& arguments) {
  const auto& [type, scores, weights, length, transform, mask, boost_mul, boost_add, groups, caps, beta, epsilon, slope,
               offsets, layout, out, num_threads] = arguments;
  if (!may_run(scores, weights)) return py::none();
  const Array given = any_array(scores, "scores");
  const bool single = offsets.is_none() && given.ndim == 2;
  const FusionCall call(given, transform, beta, epsilon, slope, offsets, layout, single);
  const Scores& s = call.scores;
  const Shape weight_shape{s.batch, s.tasks};
  const Array w = array(weights, "weights", Dtype::float32, single ? weight_shape.tail() : weight_shape);
  const std::int64_t k = list_length(length);
  std::vector<std::int32_t> storage;
  const PageRules rules = rules_of(s, single, mask, boost_mul, boost_add, groups, caps, storage);
  const Best best(out, scores, single ? Shape{k} : Shape{s.batch, k});
  run(call, 1, num_threads, [&](int threads) {
    rank(s, w.span<const float>(), k, call.options, rules, best.values(), best.indices(), threads);
  });
  return best.tuple(type);
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
        std::vector<std::int32_t> storage;
        const PageRules rules = rules_of(s, false, mask, boost_mul, boost_add, groups, caps, storage);
        const Array v = array(values, "values", Dtype::float32, {s.batch, k});
        const Array i = array(indices, "indices", Dtype::int32, {s.batch, k});
        const py::gil_scoped_release release;
        rank(s, w.span<const float>(), k, options, rules, v.span<float>(), i.span<std::int32_t>(), num_threads);
      },
      py::arg("scores"), py::arg("weights"), py::arg("k"), py::arg("transform"), py::arg("mask"), py::arg("boost_mul"),
      py::arg("boost_add"), py::arg("groups"), py::arg("caps"), py::arg("beta"), py::arg("epsilon"), py::arg("slope"),
      py::arg("offsets"), py::arg("task_major"), py::arg("values"), py::arg("indices"), py::arg("num_threads"));
  def_at_once<&rank_at_once>(
      module, "rank_at_once",
      "rank_at_once(type: object, scores: object, weights: object, k: object, transform: object, mask: object, "
      "boost_mul: object, boost_add: object, groups: object, caps: object, beta: object, epsilon: object, slope: "
      "object, offsets: object, layout: object, out: object, num_threads: object) -> object");
}

}  // namespace pygrade::bindings
