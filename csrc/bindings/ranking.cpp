#include "pygrade/ranking.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "../src/page_search.hpp"
#include "families.hpp"
#include "scores.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
// Numbers [A] of the group columns: an array, or copied from a list into `storage`; nothing for None.
template <class T>
std::span<const T> columns_of(py::handle values, const char* name, std::vector<T>& storage) {
  if (!PyList_Check(values.ptr()) && !PyTuple_Check(values.ptr())) return optional_span<const T>(values, name);
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  for (const py::handle value : values) {
    if constexpr (std::is_integral_v<T>)
      storage.push_back(static_cast<T>(integer(value, name, -1, most)));
    else
      storage.push_back(static_cast<T>(require_non_negative(value, name)));
  }
  return storage;
}

struct Rules {
  Rules(const Scores& s, bool single, py::handle mask, py::handle boost_mul, py::handle boost_add, py::handle groups,
        py::handle caps, py::handle cap_slots, py::handle decay) {
    page.mask = optional_beside<std::uint8_t>(mask, "mask", s, single);
    page.boost_mul = optional_beside<float>(boost_mul, "boost_mul", s, single);
    page.boost_add = optional_beside<float>(boost_add, "boost_add", s, single);
    page.caps = columns_of(caps, "caps", caps_);
    page.cap_slots = columns_of(cap_slots, "cap_slots", cap_slots_);
    page.decay = columns_of(decay, "decay", decay_);
    const Shape dense{s.batch, s.candidates, std::max(page.caps.size(), page.decay.size())};
    const Shape jagged{s.rows, dense.sizes[2]};
    const Shape& shape = s.offsets != nullptr ? jagged : dense;
    page.groups = optional_span<const std::int32_t>(groups, "groups", single ? shape.tail() : shape);
  }

  PageRules page;

 private:
  std::vector<std::int32_t> caps_, cap_slots_;
  std::vector<float> decay_;
};

// Takes the arguments of the public function.
py::object rank_of(const Arguments<19>& arguments) {
  const auto& [type, scores, weights, length, transform, mask, boost_mul, boost_add, groups, caps, cap_slots, decay,
               beta, epsilon, slope, offsets, layout, out, num_threads] = arguments;
  const Array given = any_array(scores, "scores");
  const bool single = offsets.is_none() && given.ndim == 2;
  const FusionCall call(given, transform, beta, epsilon, slope, offsets, layout, single);
  const Scores& s = call.scores;
  const Shape weight_shape{s.batch, s.tasks};
  const auto w = span_of<const float>(weights, "weights", single ? weight_shape.tail() : weight_shape);
  const std::int64_t k = list_length(length);
  const Rules rules(s, single, mask, boost_mul, boost_add, groups, caps, cap_slots, decay);
  const Best best(out, scores, single ? Shape{k} : Shape{s.batch, k});
  run(call, 1, num_threads,
      [&](int threads) { rank(s, w, k, call.options, rules.page, best.values(), best.indices(), threads); });
  return best.tuple(type);
}

py::object rank_fast_path(const Arguments<19>& arguments) {
  const py::handle scores = arguments[1], weights = arguments[2];
  return may_run(scores, weights) && !wants_gradient({scores, weights}) ? rank_of(arguments) : py::none();
}

// The core's checks of the rules of so many candidates, for other backends; given: in the order of request.def.
void check_page_rules(std::int64_t rows, const py::args& given) {
  PageRules rules;
  std::size_t at = 0;
#define PYGRADE_RULE(type, name, size, width, json, text) \
  if (const py::object value = given[at++]; !value.is_none()) rules.name = any_array(value, #name).span<const type>();
#include "pygrade/request.def"
  detail::check_rules(rules, rows);
}
}  // namespace

void bind_ranking(py::module_& module) {
  module.def("check_page_rules", &check_page_rules, "rows"_a);
  def_positional<&rank_fast_path>(module, "rank_fast_path",
                                  "type, scores, weights, k, transform, mask, boost_mul, boost_add, groups, caps, "
                                  "cap_slots, decay, beta, epsilon, slope, offsets, layout, out, num_threads");
}
}  // namespace pygrade::inline v0_2::bindings
