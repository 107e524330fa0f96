#pragma once

#include "isa.hpp"
#include "pygrade/advantage.hpp"

namespace pygrade::detail {

struct AdvantageTask {
  const float* rewards;            // [B, G, C]
  const float* component_weights;  // [C]
  std::int64_t samples;            // G
  std::int64_t components;         // C
  AdvantageOptions options;
  float* advantage;  // [B, G]
  double* square;    // [B] sum of squared deviations of each group; batch scaling only
  double* count;     // [B] valid samples of each group; batch scaling only
};

// Floats of scratch that one share of `centre` needs.
inline std::int64_t advantage_scratch(std::int64_t samples, std::int64_t components) {
  return 8 * samples * (components + 3);
}

struct AdvantageKernels {
  // Rows [begin, end): deviations into `advantage`, already scaled and clipped unless the scale is the batch's.
  void (*centre)(const AdvantageTask& task, float* scratch, std::int64_t begin, std::int64_t end);
  // Rows [begin, end) of deviations times 1 / std, then leave-one-out and clip.
  void (*scale)(const AdvantageTask& task, double std, std::int64_t begin, std::int64_t end);
};

PYGRADE_DECLARE_KERNELS(AdvantageKernels, advantage_kernels)

}  // namespace pygrade::detail
