#pragma once

#include "isa.hpp"
#include "pygrade/grpo.hpp"

namespace pygrade::inline v0_2::detail {
struct GrpoTask {
  const float* concentration;  // [B, T]
  const float* log_weights;    // [B, G, T]
  const float* old_log_prob;   // [B, G]
  const float* advantages;     // [B, G]
  const float* reference;      // [B, T]
  std::int64_t samples;        // G
  std::int64_t tasks;          // T
  GrpoOptions options;
  double log_floor;      // -inf: no floor
  float* loss;           // [B]
  float* kl;             // [B]
  float* entropy;        // [B]
  float* clip_fraction;  // [B]
  float* ratio_max;      // [B]
  float* gradient;       // [B, T]
};

struct GrpoKernels {
  void (*loss)(const GrpoTask& task, std::int64_t begin, std::int64_t end);
};

PYGRADE_DECLARE_KERNELS(GrpoKernels, grpo_kernels)
}  // namespace pygrade::inline v0_2::detail
