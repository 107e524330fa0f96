#pragma once

#include "isa.hpp"
#include "pygrade/advantage.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr int block_rows = 16;

// The statistics of a block of rows, from which its advantages follow.
struct Block {
  double square;  // sum of squared deviations
  double count;   // valid samples
  bool quick;     // computed in single precision: the means are below; else `advantage` holds deviations
  float center[block_rows];
  float rest[block_rows];  // mean = center + rest
};

struct AdvantageTask {
  const float* rewards;            // [B, G, C]
  const float* component_weights;  // [C]
  std::int64_t batch;              // B
  std::int64_t samples;            // G ≥ 1
  std::int64_t components;         // C
  AdvantageOptions options;
  float* advantage;  // [B, G]
  Block* blocks;     // [B / block_rows, rounded up]
};

// Floats of scratch for one share of `center`.
inline std::int64_t advantage_scratch(std::int64_t samples, std::int64_t components) {
  return 8 * samples * (components + 3);
}

struct AdvantageKernels {
  // Blocks [begin, end): statistics, and advantages unless they are normalized by the batch.
  void (*center)(const AdvantageTask& task, float* scratch, std::int64_t begin, std::int64_t end);
  // Blocks [begin, end), normalized by the batch: deviations times the factor.
  void (*scale)(const AdvantageTask& task, double factor, std::int64_t begin, std::int64_t end);
};

PYGRADE_DECLARE_KERNELS(AdvantageKernels, advantage_kernels)
}  // namespace pygrade::inline v0_2::detail
