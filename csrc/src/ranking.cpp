#include "ranking.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "checks.hpp"
#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {

template <class T>
const T* optional(std::span<const T> values) {
  return values.empty() ? nullptr : values.data();
}

// Adds the caps to the task, unless none of them limits anything.
void set_caps(detail::RankingTask& task, const PageRules& rules, std::int64_t longest) {
  if (std::all_of(rules.caps.begin(), rules.caps.end(), [](std::int32_t cap) { return cap < 0; })) return;
  task.groups = rules.groups.data();
  task.caps = rules.caps.data();
  task.columns = static_cast<std::int64_t>(rules.caps.size());
  const auto page = static_cast<std::uint64_t>(std::min(task.fusion.k, longest));
  task.slots = static_cast<std::int64_t>(std::bit_ceil(std::max<std::uint64_t>(16, 2 * page)));
}

// Factors of scores: finite numbers >= 0.
void check_factors(std::span<const float> factors) {
  std::uint32_t wrong = 0;
  for (const float factor : factors) wrong += factor >= 0.0f && factor <= std::numeric_limits<float>::max() ? 0u : 1u;
  for (std::size_t i = 0; wrong > 0 && i < factors.size(); ++i)
    if (!(factors[i] >= 0.0f && std::isfinite(factors[i])))
      throw std::invalid_argument("boost_mul is " + std::to_string(factors[i]) + " at candidate " + std::to_string(i) +
                                  "; want a finite factor >= 0");
}

}  // namespace

void detail::check_rules(const PageRules& rules, std::int64_t rows) {
  if (!rules.mask.empty()) check_size(rules.mask.size(), rows, "mask");
  if (!rules.boost_mul.empty()) check_size(rules.boost_mul.size(), rows, "boost_mul");
  check_factors(rules.boost_mul);
  if (!rules.boost_add.empty()) check_size(rules.boost_add.size(), rows, "boost_add");
  check_size(rules.groups.size(), rows * std::ssize(rules.caps), "groups");
  for (std::size_t a = 0; a < rules.caps.size(); ++a)
    if (rules.caps[a] < -1)
      throw std::invalid_argument("caps[" + std::to_string(a) + "] is " + std::to_string(rules.caps[a]) +
                                  "; want -1 (no cap) or more");
}

void rank(const Scores& scores, std::span<const float> weights, std::int64_t k, const FusionOptions& options,
          const PageRules& rules, std::span<float> values, std::span<std::int32_t> indices, int num_threads) {
  if (k < 1) throw std::invalid_argument("k is " + std::to_string(k) + "; want at least 1");
  detail::check_scores(scores, options, num_threads);
  detail::check_weights(scores, weights, 1);
  detail::check_size(values.size(), scores.batch * k, "values");
  detail::check_size(indices.size(), scores.batch * k, "indices");
  detail::check_rules(rules, scores.rows);

  const std::int64_t longest = detail::longest_request(scores);
  detail::RankingTask task{{scores, options, weights.data(), 1, k}};
  task.fusion.mask = optional(rules.mask);
  task.fusion.values = values.data();
  task.fusion.indices = indices.data();
  task.fusion.stride = detail::scratch_stride(longest);
  task.boost_mul = optional(rules.boost_mul);
  task.boost_add = optional(rules.boost_add);
  set_caps(task, rules, longest);

  const detail::RankingKernels& kernels = PYGRADE_KERNELS(ranking_kernels);
  const auto mean = static_cast<double>(scores.rows) / static_cast<double>(std::max<std::int64_t>(1, scores.batch));
  detail::parallel_for(scores.batch, num_threads, detail::grain_of(detail::candidate_cost(scores) * (1.0 + mean)),
                       [&](std::int64_t begin, std::int64_t end) {
                         const std::int64_t size = detail::scratch_rows(scores.tasks) * task.fusion.stride;
                         const std::int64_t count = 2 * task.columns * task.slots;
                         const detail::Scratch scratch(static_cast<std::size_t>(size + count));
                         auto* counters = reinterpret_cast<std::int32_t*>(scratch.data() + size);
                         std::fill_n(counters, count, 0);
                         kernels.rank(task, begin, end, scratch.data(), counters);
                       });
}

}  // namespace pygrade::inline v0_2
