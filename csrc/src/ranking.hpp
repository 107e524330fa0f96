#pragma once

#include "fusion.hpp"
#include "pygrade/ranking.hpp"

namespace pygrade::inline v0_2::detail {

struct RankingTask {
  FusionTask fusion;  // one weight vector per request; values and indices are the page's
  const float* boost_mul = nullptr;
  const float* boost_add = nullptr;
  const std::int32_t* groups = nullptr;  // [rows, columns]; null: no caps
  const std::int32_t* caps = nullptr;    // [columns]
  std::int64_t columns = 0;
  std::int64_t slots = 0;  // of one column's counters: a power of two, at least twice the page's length
};

struct RankingKernels {
  // Pages of requests [begin, end), with a FusionTask's scratch and 2 · columns · slots integers of counters.
  void (*rank)(const RankingTask& task, std::int64_t begin, std::int64_t end, float* scratch, std::int32_t* counters);
};

// std::invalid_argument for rules that do not fit `rows` candidates, or a cap below -1.
void check_rules(const PageRules& rules, std::int64_t rows);

PYGRADE_DECLARE_KERNELS(RankingKernels, ranking_kernels)

}  // namespace pygrade::inline v0_2::detail
