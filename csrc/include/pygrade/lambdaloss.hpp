// LambdaLoss with LambdaRank weights and its gradient; the formulas stand in pygrade/reference/lambdaloss.py.
#pragma once

#include <cstdint>
#include <span>

#include "pygrade/export.h"

namespace pygrade {

// scores[B, N], gains[B, N], mask[B, N] (0: left out; empty: all count) and discount[K] → loss[B] and
// gradient[B, N] = d loss / d scores, C-contiguous, in one pass over the pairs with different gains. Sums are taken in
// double. Throws std::invalid_argument on sizes that do not fit, a temperature that is not positive and, where
// `validate` is set, NaN wherever the mask admits it.
PYGRADE_API void lambda_loss(std::span<const float> scores, std::span<const float> gains,
                             std::span<const std::uint8_t> mask, std::span<const float> discount, std::int64_t batch,
                             float temperature, std::span<float> loss, std::span<float> gradient, bool validate = false,
                             int num_threads = 1);

}  // namespace pygrade
