// Top-k blended ranking: from predictions and weights to a page. pygrade/reference/ranking.py is the specification;
// fused scores, transforms and order are those of <pygrade/fusion.hpp>.
#pragma once

#include <cstdint>
#include <span>

#include "pygrade/export.h"
#include "pygrade/fusion.hpp"

namespace pygrade::inline v0_2 {

// The rules between fused scores and page; an empty span disables its rule. Rows are those of the scores: B · N, or M
// if jagged.
struct PageRules {
  std::span<const std::uint8_t> mask;  // [rows] eligible where nonzero; transforms still see every candidate
  std::span<const float> boost_mul;    // [rows] factors >= 0: fused · m, or fused / m if fused < 0, so that m > 1 never
  std::span<const float> boost_add;    // demotes; [rows] added to that, once it is rounded
  std::span<const std::int32_t> groups;  // [rows, A] the candidate's value of each group column; negative: none
  std::span<const std::int32_t>
      caps;  // [A] maximum number of candidates with one value on the page; -1: no cap, 0: none
};

// weights[B, T] → values[B, k] (final scores) and indices[B, k] within the request, padded with -inf and -1. Candidates
// are taken in order of their final score, skipping those whose groups are full. The result does not depend on
// num_threads. For one request use scores of batch 1.
//
// Throws std::invalid_argument, before anything is written, on inconsistent sizes, k < 1, a cap below -1, offsets that
// do not ascend from 0 to the number of rows, a boost_mul that is negative or not finite, and a negative score under a
// logarithm.
PYGRADE_API void rank(const Scores& scores, std::span<const float> weights, std::int64_t k,
                      const FusionOptions& options, const PageRules& rules, std::span<float> values,
                      std::span<std::int32_t> indices, int num_threads = 1);

}  // namespace pygrade::inline v0_2
