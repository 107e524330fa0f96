#include "page_search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "checks.hpp"
#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {
template <class T>
const T* or_null(std::span<const T> values) {
  return values.empty() ? nullptr : values.data();
}

// Coefficients that are finite, and at least `low`.
void check_finite(std::span<const float> values, const char* name, float low, const char* wanted) {
  constexpr float most = std::numeric_limits<float>::max();
  std::uint32_t wrong = 0;
  for (const float value : values) wrong += value >= std::max(low, -most) && value <= most ? 0u : 1u;
  for (std::size_t i = 0; wrong > 0 && i < values.size(); ++i)
    if (!(std::isfinite(values[i]) && values[i] >= low))
      throw std::invalid_argument(std::string(name) + " is " + std::to_string(values[i]) + " at " + std::to_string(i) +
                                  "; expected " + wanted);
}

void check_indices(std::span<const std::int32_t> values, const char* name, std::int64_t end) {
  const auto last = static_cast<std::int32_t>(std::min<std::int64_t>(end, INT32_MAX) - 1);
  std::uint32_t wrong = 0;
  for (const std::int32_t value : values) wrong += value < -1 || value > last ? 1u : 0u;
  for (std::size_t i = 0; wrong > 0 && i < values.size(); ++i)
    if (values[i] < -1 || values[i] > last)
      throw std::invalid_argument(std::string(name) + " is " + std::to_string(values[i]) + " at " + std::to_string(i) +
                                  "; expected -1 or more, and below " + std::to_string(end));
}

void check_search(const PageSearch& search) {
  const bool page_value = search.objective == PageObjective::page_value;
  if (search.k < 1 || search.k > INT32_MAX)
    throw std::invalid_argument("k is " + std::to_string(search.k) + "; expected at least 1 and at most 2^31 - 1");
  if (search.objective > PageObjective::log_det)
    throw std::invalid_argument("objective is " + std::to_string(static_cast<int>(search.objective)) +
                                "; expected page_value, mmr or log_det");
  if (search.beam < 1 || search.beam > (page_value ? detail::max_beam : 1))
    throw std::invalid_argument("beam is " + std::to_string(search.beam) +
                                "; expected 1 to 64, and 1 but for page_value");
  for (const auto& [values, name] : {std::pair{search.attention, "attention"}, {search.examination, "examination"}}) {
    if (values.empty()) continue;
    detail::require(page_value, "attention and examination are read for page_value alone; expected none");
    detail::check_size(values.size(), search.k, name);
    check_finite(values, name, 0.0f, "a finite number >= 0");
  }
  detail::check_number(search.trade_off >= 0.0f && search.trade_off <= 1.0f, "trade_off", search.trade_off, "0 to 1");
  detail::check_number(std::isfinite(search.cosine), "cosine", search.cosine, "a finite number");
  if (search.category_count < 0 || search.category_count > INT32_MAX)
    throw std::invalid_argument("category_count is " + std::to_string(search.category_count) +
                                "; expected 0 to 2^31 - 1");
  detail::check_size(search.pairs.size(), search.category_count * search.category_count, "pairs");
  check_finite(search.pairs, "pairs", -INFINITY, "a finite number");
}

// Requests as Scores of one task, whose rows and offsets the checks and loops of the other ops take.
Scores requests_of(const PageCandidates& given) {
  if (given.offsets.empty())
    return Scores::dense(nullptr, ScoreType::float32, given.batch, given.candidates, 1, Layout::item_major);
  return Scores::jagged(nullptr, ScoreType::float32, static_cast<std::int64_t>(given.value.size()), 1, given.offsets);
}

void check_candidates(const PageCandidates& given, const PageSearch& search, std::int64_t rows, int num_threads) {
  const bool page_value = search.objective == PageObjective::page_value;
  detail::check_size(given.value.size(), rows, "value");
  detail::check_size(given.root.size(), page_value ? rows : 0, "root");
  detail::require(given.categories.empty() == search.pairs.empty() || rows == 0,
                  "categories and pairs go together; expected both or none");
  if (!given.categories.empty()) detail::check_size(given.categories.size(), rows, "categories");
  check_indices(given.categories, "categories", search.category_count);
  if (given.embeddings.empty()) return;
  if (given.width < 1 || given.width > detail::max_embedding_width)
    throw std::invalid_argument("embeddings has " + std::to_string(given.width) + " components; expected 1 to 256");
  detail::check_size(given.embeddings.size(), rows * given.width, "embeddings");
  const auto find = PYGRADE_KERNELS(page_search_kernels).find_unscaled;
  const auto grain = detail::grain_of(0.05 * static_cast<double>(given.width));
  detail::parallel_for(rows, num_threads, grain, [&](std::int64_t begin, std::int64_t end) {
    if (const std::int64_t row = find(given.embeddings.data(), given.width, begin, end); row >= 0)
      throw std::invalid_argument("embeddings is not of length 1 at candidate " + std::to_string(row) +
                                  "; expected unit vectors, or 0 where there is none");
  });
}

// Pins are places in their request.
void check_pins(std::span<const std::int32_t> pins, const Scores& requests, std::int64_t k) {
  if (pins.empty()) return;
  detail::check_size(pins.size(), requests.batch * k, "pins");
  for (std::int64_t b = 0; b < requests.batch; ++b)
    check_indices(pins.subspan(static_cast<std::size_t>(b * k), static_cast<std::size_t>(k)), "pins",
                  detail::request_of(requests, b).count);
}
}  // namespace

void detail::check_rules(const PageRules& rules, std::int64_t rows) {
  const std::size_t columns = std::max(rules.caps.size(), rules.decay.size());
  if (!rules.mask.empty()) check_size(rules.mask.size(), rows, "mask");
  if (!rules.boost_mul.empty()) check_size(rules.boost_mul.size(), rows, "boost_mul");
  check_finite(rules.boost_mul, "boost_mul", 0.0f, "a finite factor >= 0");
  if (!rules.boost_add.empty()) check_size(rules.boost_add.size(), rows, "boost_add");
  check_finite(rules.boost_add, "boost_add", -INFINITY, "a finite number");
  if (rows > 0 && rules.groups.empty() != (columns == 0))
    throw std::invalid_argument(columns == 0 ? "groups is given alone; expected caps or decay with it"
                                             : "caps and decay go with groups; expected groups with them");
  check_size(rules.groups.size(), rows * static_cast<std::int64_t>(columns), "groups");
  for (const auto& [size, name] : {std::pair{rules.caps.size(), "caps"}, {rules.decay.size(), "decay"}})
    if (size > 0) check_size(size, static_cast<std::int64_t>(columns), name);
  if (!rules.cap_slots.empty()) check_size(rules.cap_slots.size(), std::ssize(rules.caps), "cap_slots");
  const auto refuse = [](const char* name, std::size_t a, auto value, const char* wanted) {
    throw std::invalid_argument(std::string(name) + "[" + std::to_string(a) + "] is " + std::to_string(value) +
                                "; expected " + wanted);
  };
  for (std::size_t a = 0; a < rules.caps.size(); ++a)
    if (rules.caps[a] < -1) refuse("caps", a, rules.caps[a], "-1 (no cap) or more");
  for (std::size_t a = 0; a < rules.cap_slots.size(); ++a)
    if (rules.cap_slots[a] < -1 || rules.cap_slots[a] == 0)
      refuse("cap_slots", a, rules.cap_slots[a], "-1 (the whole page) or more than 0");
  for (std::size_t a = 0; a < rules.decay.size(); ++a)
    if (!(rules.decay[a] > 0.0f && rules.decay[a] <= 1.0f)) refuse("decay", a, rules.decay[a], "a factor in (0, 1]");
}

detail::RulesTask detail::rules_of(const PageRules& rules) {
  RulesTask task{or_null(rules.mask), or_null(rules.boost_mul), or_null(rules.boost_add)};
  const bool capped = std::ranges::any_of(rules.caps, [](std::int32_t cap) { return cap >= 0; });
  const bool fading = std::ranges::any_of(rules.decay, [](float factor) { return factor < 1.0f; });
  if (!capped && !fading) return task;
  task.groups = rules.groups.data();
  task.columns = static_cast<std::int64_t>(std::max(rules.caps.size(), rules.decay.size()));
  if (capped) task.caps = rules.caps.data();
  if (capped) task.cap_slots = or_null(rules.cap_slots);
  if (fading) task.decay = rules.decay.data();
  return task;
}

// Scratch that the classes of csrc/src/simd/page_search.cpp take.
std::int64_t detail::page_scratch(const PageSearchTask& task) {
  const std::int64_t beam = task.beam;
  const std::int64_t components = (task.width + dot_lanes - 1) / dot_lanes * dot_lanes;
  std::int64_t rows = 9 + (5 * beam + 1) / 2 + (beam > 1 ? cached_rows : 1) + task.rules.columns;
  if (task.rules.decay != nullptr) rows += 2 * beam;
  if (task.embeddings != nullptr) rows += components;
  if (task.objective == PageObjective::log_det) rows += task.k;
  return rows * task.stride + (2 * beam * (2 + task.rules.columns) + 1) * task.k + cached_rows;
}

void search_page(const PageCandidates& candidates, const PageSearch& search, const PageRules& rules,
                 std::span<const std::int32_t> pins, std::span<float> values, std::span<std::int32_t> indices,
                 int num_threads) {
  check_search(search);
  const Scores requests = requests_of(candidates);
  detail::check_shapes(requests, {});
  check_candidates(candidates, search, requests.rows, num_threads);
  detail::check_rules(rules, requests.rows);
  check_pins(pins, requests, search.k);
  detail::check_size(values.size(), requests.batch * search.k, "values");
  detail::check_size(indices.size(), requests.batch * search.k, "indices");

  const detail::PageSearchTask task{
      .requests = requests,
      .value = candidates.value.data(),
      .root = or_null(candidates.root),
      .categories = or_null(candidates.categories),
      .embeddings = search.cosine == 0.0f ? nullptr : or_null(candidates.embeddings),
      .width = candidates.width,
      .rules = detail::rules_of(rules),
      .pins = or_null(pins),
      .attention = or_null(search.attention),
      .examination = or_null(search.examination),
      .pairs = or_null(search.pairs),
      .category_count = search.category_count,
      .cosine = search.cosine,
      .trade_off = search.trade_off,
      .objective = search.objective,
      .k = search.k,
      .beam = search.beam,
      .values = values.data(),
      .indices = indices.data(),
      .stride = detail::scratch_stride(detail::longest_request(requests)),
  };
  const auto size = static_cast<std::size_t>(detail::page_scratch(task));
  const double mean =
      static_cast<double>(requests.rows) / static_cast<double>(std::max<std::int64_t>(1, requests.batch));
  const double cost = 0.01 * mean * static_cast<double>(search.k * search.beam * (8 + candidates.width / 4));
  const detail::PageSearchKernels& kernels = PYGRADE_KERNELS(page_search_kernels);
  detail::parallel_for(
      requests.batch, num_threads, detail::grain_of(1.0 + cost),
      [&](std::int64_t begin, std::int64_t end) { kernels.search(task, begin, end, detail::Scratch(size).data()); });
}
}  // namespace pygrade::inline v0_2
