#include "ranking.hpp"

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "checks.hpp"
#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {
void rank_by(const detail::RankingKernels& kernels, const Scores& scores, std::span<const float> weights,
             std::int64_t k, const FusionOptions& options, const PageRules& rules, std::span<float> values,
             std::span<std::int32_t> indices, int num_threads) {
  if (k < 1) throw std::invalid_argument("k is " + std::to_string(k) + "; expected at least 1");
  detail::check_scores(scores, options, num_threads);
  detail::check_weights(scores, weights, 1);
  detail::check_size(values.size(), scores.batch * k, "values");
  detail::check_size(indices.size(), scores.batch * k, "indices");
  detail::check_rules(rules, scores.rows);

  detail::RankingTask task{.fusion = {scores, options, weights.data(), 1, k}};
  task.fusion.values = values.data();
  task.fusion.indices = indices.data();
  task.fusion.stride = detail::scratch_stride(detail::longest_request(scores));
  detail::RulesTask& limits = task.page.rules = detail::rules_of(rules);
  task.fusion.mask = std::exchange(limits.mask, nullptr);
  task.boost_mul = std::exchange(limits.boost_mul, nullptr);
  task.boost_add = std::exchange(limits.boost_add, nullptr);
  task.page.k = k;
  task.page.values = task.fusion.values;
  task.page.indices = task.fusion.indices;
  task.page.stride = task.fusion.stride;

  const std::int64_t size = detail::scratch_rows(scores.tasks) * task.fusion.stride;
  const std::int64_t more = limits.columns > 0 ? detail::page_scratch(task.page) : 0;
  const auto mean = static_cast<double>(scores.rows) / static_cast<double>(std::max<std::int64_t>(1, scores.batch));
  detail::parallel_for(scores.batch, num_threads, detail::grain_of(detail::candidate_cost(scores) * (1.0 + mean)),
                       [&](std::int64_t begin, std::int64_t end) {
                         const detail::Scratch scratch(static_cast<std::size_t>(size + more));
                         kernels.rank(task, begin, end, scratch.data(), scratch.data() + size);
                       });
}
}  // namespace

void rank(const Scores& scores, std::span<const float> weights, std::int64_t k, const FusionOptions& options,
          const PageRules& rules, std::span<float> values, std::span<std::int32_t> indices, int num_threads) {
  rank_by(PYGRADE_KERNELS(any_ranking_kernels), scores, weights, k, options, rules, values, indices, num_threads);
}

void detail::rank_floats(const Scores& scores, std::span<const float> weights, std::int64_t k,
                         const FusionOptions& options, const PageRules& rules, std::span<float> values,
                         std::span<std::int32_t> indices) {
  rank_by(PYGRADE_KERNELS(ranking_kernels), scores, weights, k, options, rules, values, indices, 1);
}
}  // namespace pygrade::inline v0_2
