#include "pygrade/ranking.hpp"

#include <limits>
#include <vector>

#include "families.hpp"
#include "scores.hpp"

namespace pygrade::inline v0_2::bindings {

namespace {

// caps[A] as an array, or copied from a list into `storage`.
std::span<const std::int32_t> caps_of(py::handle caps, std::vector<std::int32_t>& storage) {
  if (!PyList_Check(caps.ptr()) && !PyTuple_Check(caps.ptr())) return span_of<const std::int32_t>(caps, "caps");
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  for (const py::handle cap : caps) storage.push_back(static_cast<std::int32_t>(integer(cap, "caps", -1, most)));
  return storage;
}

PageRules rules_of(const Scores& s, bool single, py::handle mask, py::handle boost_mul, py::handle boost_add,
                   py::handle groups, py::handle caps, std::vector<std::int32_t>& storage) {
  PageRules rules;
  rules.mask = optional_beside<std::uint8_t>(mask, "mask", s, single);
  rules.boost_mul = optional_beside<float>(boost_mul, "boost_mul", s, single);
  rules.boost_add = optional_beside<float>(boost_add, "boost_add", s, single);
  if (groups.is_none() != caps.is_none()) throw ValueMisfit("groups and caps go together");
  if (caps.is_none()) return rules;
  rules.caps = caps_of(caps, storage);
  const Shape dense{s.batch, s.candidates, rules.caps.size()};
  const Shape shape = s.offsets != nullptr ? Shape{s.rows, rules.caps.size()} : single ? dense.tail() : dense;
  rules.groups = span_of<const std::int32_t>(groups, "groups", shape);
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
  const auto w = span_of<const float>(weights, "weights", single ? weight_shape.tail() : weight_shape);
  const std::int64_t k = list_length(length);
  std::vector<std::int32_t> storage;
  const PageRules rules = rules_of(s, single, mask, boost_mul, boost_add, groups, caps, storage);
  const Best best(out, scores, single ? Shape{k} : Shape{s.batch, k});
  run(call, 1, num_threads,
      [&](int threads) { rank(s, w, k, call.options, rules, best.values(), best.indices(), threads); });
  return best.tuple(type);
}

py::object rank_fast_path(const Arguments<17>& arguments) {
  return may_run(arguments[1], arguments[2]) ? rank_of(arguments) : py::none();
}

}  // namespace

void bind_ranking(py::module_& module) {
  def_positional<&rank_fast_path>(
      module, "rank_fast_path",
      "type, scores, weights, k, transform, mask, boost_mul, boost_add, groups, caps, beta, "
      "epsilon, slope, offsets, layout, out, num_threads");
}

}  // namespace pygrade::inline v0_2::bindings
