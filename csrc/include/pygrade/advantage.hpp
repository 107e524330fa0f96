// Group-relative advantages; pygrade/reference/advantage.py has the formulas.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
enum class Normalize { none = 0, group = 1, batch = 2, component = 3 };

struct AdvantageOptions {
  Normalize normalize = Normalize::batch;
  bool leave_one_out = false;
  float clip = std::numeric_limits<float>::infinity();  // advantages are clamped to ±clip
};

// rewards[B, G, C] and component_weights[C] → advantage[B, G], C-contiguous. A sample with a NaN or
// infinite reward is left out of all statistics and gets 0; with `validate` it throws instead, leaving `advantage`
// undefined. Throws std::invalid_argument on inconsistent sizes.
PYGRADE_API void group_advantage(std::span<const float> rewards, std::span<const float> component_weights,
                                 std::int64_t batch, std::int64_t samples, const AdvantageOptions& options,
                                 std::span<float> advantage, bool validate = false, int num_threads = 1);
}  // namespace pygrade::inline v0_2
