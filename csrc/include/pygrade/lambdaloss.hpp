// LambdaLoss with LambdaRank weights and its gradient; pygrade/reference/lambdaloss.py has the formulas.
#pragma once

#include <cstdint>
#include <span>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
// scores[B, N], gains[B, N], mask[B, N] (0: left out; empty: all included) and discount[K] → loss[B] and gradient[B, N]
// = d loss / d scores, C-contiguous, in one pass over the pairs with different gains, summed in double. Throws
// std::invalid_argument on inconsistent sizes, a temperature that is not positive and, with `validate`, NaN in a
// candidate that is not left out.
PYGRADE_API void lambda_loss(std::span<const float> scores, std::span<const float> gains,
                             std::span<const std::uint8_t> mask, std::span<const float> discount, std::int64_t batch,
                             float temperature, std::span<float> loss, std::span<float> gradient, bool validate = false,
                             int num_threads = 1);
}  // namespace pygrade::inline v0_2
