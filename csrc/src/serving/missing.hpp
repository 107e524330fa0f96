// Candidates with a missing prediction.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "pygrade/ranker.hpp"
#include "serving/policy.hpp"

namespace pygrade::inline v0_2::detail {
inline bool any_missing(std::span<const float> predictions) {
  std::uint32_t count = 0;  // compilers vectorize a count, not an early exit
  for (const float prediction : predictions) count += is_missing(prediction) ? 1u : 0u;
  return count > 0;
}

// Whether a value is below `low`, or not finite: any_missing of many.
inline bool any_outside(std::span<const float> values, float low = std::numeric_limits<float>::lowest()) {
  constexpr float high = std::numeric_limits<float>::max();
  return PYGRADE_KERNELS(policy_kernels)
      .any_outside(values.data(), static_cast<std::int64_t>(values.size()), &low, &high, 1);
}

// The smallest prediction of a task that is not missing; 0 without any.
inline float smallest(std::span<const float> predictions, std::size_t tasks, std::size_t task) {
  float low = std::numeric_limits<float>::infinity();
  for (std::size_t i = task; i < predictions.size(); i += tasks)
    if (!is_missing(predictions[i])) low = std::min(low, predictions[i]);
  return low == std::numeric_limits<float>::infinity() ? 0.0f : low;
}
}  // namespace pygrade::inline v0_2::detail
