// Top-k blended ranking: from predictions and weights to a page. pygrade/reference/ranking.py is the specification;
// fused scores, transforms and order are those of <pygrade/fusion.hpp>.
#pragma once

#include <cstdint>
#include <span>

#include "pygrade/api.hpp"
#include "pygrade/fusion.hpp"

namespace pygrade::inline v0_2 {
// The rules between fused scores and page, see request.def; an empty span disables its rule. Rows are those of the
// scores: B · N, or M if jagged. Transforms still see every candidate; score · m is rounded before boost_add.
struct PageRules {
#define PYGRADE_RULE(type, name, rows, width, json, text) std::span<const type> name = {};
#include "pygrade/request.def"
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
