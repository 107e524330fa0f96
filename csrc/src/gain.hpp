#pragma once

#include "fusion.hpp"
#include "pygrade/gain.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr std::int64_t lists_at_once = 16;  // lists whose gains are summed together; a multiple of fused_rows

struct GainTask {
  Scores scores;
  FusionOptions options;
  const float* weights;     // [B, G, T]
  std::int64_t samples;     // G
  const float* gains;       // [rows, C]
  std::int64_t components;  // C
  const float* discount;    // [k]
  std::int64_t k;
  std::int64_t padded_k;               // next power of two ≥ k
  const std::uint8_t* masks;           // [B, L, N], jagged [L, M]
  std::int64_t lists;                  // L
  const std::int32_t* component_list;  // [C]; null: every component ranks all candidates
  float* gain;                         // [B, G, C]
  std::int64_t stride;                 // scratch_stride of the longest request
  std::int64_t first_sample = 0;
  std::int64_t end_sample = 0;  // samples [first, end) of G are processed
};

struct GainKernels {
  // Requests [begin, end), with scratch_rows · stride + (padded_k + k) · lists_at_once floats of scratch.
  void (*topk_gain)(const GainTask& task, std::int64_t begin, std::int64_t end, float* scratch);
};

PYGRADE_DECLARE_KERNELS(GainKernels, gain_kernels)
}  // namespace pygrade::inline v0_2::detail
