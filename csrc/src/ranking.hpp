#pragma once

#include "fusion.hpp"
#include "page_search.hpp"
#include "pygrade/ranking.hpp"

namespace pygrade::inline v0_2::detail {
struct RankingTask {
  FusionTask fusion;                 // one weight vector per request; values and indices are the page's
  const float* boost_mul = nullptr;  // this and the next: [rows] or null
  const float* boost_add = nullptr;
  PageSearchTask page = {};  // of candidates that the mask admits, with their boosts
};

struct RankingKernels {
  // Pages of requests [begin, end), with the scratch of a FusionTask and, if groups limit them, of page_search_kernels.
  void (*rank)(const RankingTask& task, std::int64_t begin, std::int64_t end, float* scratch, float* page_scratch);
};

PYGRADE_DECLARE_KERNELS(RankingKernels, ranking_kernels)  // of float32 scores
PYGRADE_DECLARE_KERNELS(RankingKernels, any_ranking_kernels)

// `rank` of float32 scores, without the forms for halves.
void rank_floats(const Scores& scores, std::span<const float> weights, std::int64_t k, const FusionOptions& options,
                 const PageRules& rules, std::span<float> values, std::span<std::int32_t> indices);
}  // namespace pygrade::inline v0_2::detail
