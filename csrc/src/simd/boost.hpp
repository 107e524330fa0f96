// The boosts of scores, see PageRules.
#pragma once

#include <cstdint>

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// A factor above 1 raises every score, one below 1 lowers it: negative scores are divided by it. Two loops: the result
// is rounded before the sum. Null: no factors, no summands.
inline void boost(const float* boost_mul, const float* boost_add, std::int64_t count, float* scores) {
  if (boost_mul != nullptr)
    for (std::int64_t i = 0; i < count; ++i) {
      const float score = scores[i], factor = boost_mul[i];
      const float up = score * factor, down = score / factor;  // both, so that the loop has no branch
      scores[i] = score < 0.0f ? down : up;
    }
  if (boost_add != nullptr)
    for (std::int64_t i = 0; i < count; ++i) scores[i] += boost_add[i];
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
