// The clipped group-relative policy loss of a Dirichlet policy; pygrade/reference/grpo.py has the formulas.
#pragma once

#include <cstdint>
#include <span>

#include "pygrade/api.hpp"
#include "pygrade/dirichlet.hpp"

namespace pygrade::inline v0_2 {
struct GrpoOptions {
  double clip = 0.2;                 // ratios below 1 - clip are clipped
  double clip_high = 0.2;            // ratios above 1 + clip_high are clipped
  double kl_coefficient = 0.01;      // factor of KL(new ‖ reference)
  double entropy_coefficient = 0.0;  // factor of the entropy, which is rewarded
  double weight_floor = 1e-5;        // as in dirichlet_log_prob
  double log_ratio_clamp = 10.0;     // in (0, 80]
};

// concentration, reference [B, T], log_weights [B, G, T], old_log_prob, advantages [B, G].
struct GrpoInputs {
  std::span<const float> concentration;
  std::span<const float> log_weights;
  std::span<const float> old_log_prob;
  std::span<const float> advantages;
  std::span<const float> reference;
};

// All [B], except gradient [B, T]: d loss_b / d concentration_b.
struct GrpoOutputs {
  std::span<float> loss;
  std::span<float> kl;
  std::span<float> entropy;
  std::span<float> clip_fraction;
  std::span<float> ratio_max;
  std::span<float> gradient;
};

// Loss and gradient in one pass. Throws std::invalid_argument on inconsistent sizes, invalid options, no samples and,
// with `validate`, concentrations that are not finite and positive; without it such rows become NaN.
PYGRADE_API void grpo_loss(const GrpoInputs& inputs, const DirichletShape& shape, const GrpoOptions& options,
                           const GrpoOutputs& outputs, bool validate = true, int num_threads = 1);
}  // namespace pygrade::inline v0_2
