// Top-k blended ranking: from predictions and weights to a page. pygrade/reference/ranking.py is the specification;
// fused scores, transforms and order are those of <pygrade/fusion.hpp>.
#pragma once

#include <cstdint>
#include <span>

#include "pygrade/export.h"
#include "pygrade/fusion.hpp"

namespace pygrade::inline v0_2 {

// The rules between scores and page; an empty span disables its rule. Rows are those of the scores: B · N, or M if
// jagged.
struct PageRules {
  std::span<const std::uint8_t> mask;  // [rows] eligible where nonzero; transforms still see every candidate
  std::span<const float> boost_mul;    // [rows] factors >= 0: score · m, or score / m if score < 0, so that m > 1 never
  std::span<const float> boost_add;    // demotes; [rows] added to that, once it is rounded
  std::span<const std::int32_t> groups;          // [rows, A] the candidate's value of each group column; negative: none
  std::span<const std::int32_t> caps;            // [A] maximum number of candidates with one value; -1: no cap, 0: none
  std::span<const std::int32_t> cap_slots = {};  // [A] length of the top of the page that the cap holds for; -1: all
  std::span<const float> decay = {};  // [A] factor in (0, 1] for each candidate above of the same value, as boost_mul's
};

// weights[B, T] → values[B, k] (final scores) and indices[B, k] within the request, padded with -inf and -1. Each slot
// takes the candidate of the highest final score, decayed by the candidates above it, whose groups are not full; where
// there is none, the page ends. The result does not depend on num_threads. For one request use scores of batch 1.
//
// Throws std::invalid_argument, before anything is written, on inconsistent sizes, k < 1, groups without caps or decay,
// a cap below -1, cap_slots of 0 or below -1, a decay outside (0, 1], offsets that do not ascend from 0 to the number
// of rows, a boost_mul that is negative or not finite, and a negative score under a logarithm.
PYGRADE_API void rank(const Scores& scores, std::span<const float> weights, std::int64_t k,
                      const FusionOptions& options, const PageRules& rules, std::span<float> values,
                      std::span<std::int32_t> indices, int num_threads = 1);

}  // namespace pygrade::inline v0_2
