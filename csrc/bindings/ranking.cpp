#include "pygrade/ranking.hpp"

#include <limits>
#include <vector>

#include "families.hpp"
#include "scores.hpp"

namespace pygrade::inline v0_2::bindings {

namespace {

// caps[A] as an array, or copied from a list into `storage`.
std::span<const std::int32_t> caps_of(py::handle caps, std::vector<std::int32_t>& storage) {
  if (!PyList_Check(caps.ptr()) && !PyTuple_Check(caps.ptr()))
    return array(caps, "caps", Dtype::int32, {any_size}).span<const std::int32_t>();
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  for (const py::handle cap : caps) storage.push_back(static_cast<std::int32_t>(integer(cap, "caps", -1, most)));
  return storage;
}

PageRules rules_of(const Scores& s, bool single, py::handle mask, py::handle boost_mul, py::handle boost_add,
                   py::handle groups, py::handle caps, std::vector<std::int32_t>& storage) {
  PageRules rules;
  rules.mask = optional_beside<std::uint8_t>(mask, "mask", Dtype::boolean, s, single);
  rules.boost_mul = optional_beside<float>(boost_mul, "boost_mul", Dtype::float32, s, single);
  rules.boost_add = optional_beside<float>(boost_add, "boost_add", Dtype::float32, s, single);
  if (groups.is_none() != caps.is_none()) throw ValueMisfit("groups and caps go together");
  if (caps.is_none()) return rules;
  rules.caps = caps_of(caps, storage);
  const auto columns = static_cast<std::int64_t>(rules.caps.size());
  const Shape dense{s.batch, s.candidates, columns};
  const Shape shape = s.offsets != nullptr ? Shape{s.rows, columns} : single ? dense.tail() : dense;
  rules.groups = array(groups, "groups", Dtype::int32, shape).span<const std::int32_t>();
  return rules;
}

// Takes the arguments of the public function.
py::object rank_of(const Arguments<17>& arguments) {
  const auto& [type, scores, weights, length, transform, mask, boost_mul, boost_add, groups, caps, beta, epsilon, slope,
               offsets, layout, out, num_threads] = arguments;
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

py::object rank_fast_path(const Arguments<17>& arguments) {
  return may_run(arguments[1], arguments[2]) ? rank_of(arguments) : py::none();
}

constexpr auto rank_doc =
    "rank_fast_path(type: object, scores: object, weights: object, k: object, transform: object, mask: object, "
    "boost_mul: "
    "object, boost_add: object, groups: object, caps: object, beta: object, epsilon: object, slope: object, offsets: "
    "object, layout: object, out: object, num_threads: object) -> object";

}  // namespace

void bind_ranking(py::module_& module) { def_positional<&rank_fast_path>(module, "rank_fast_path", rank_doc); }

}  // namespace pygrade::inline v0_2::bindings
