#pragma once

#include <cstdint>

#include "isa.hpp"
#include "pygrade/policy.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr std::int64_t lane_padding = 16;  // layer widths are multiples of the widest vector

// The segments of a PiecewiseLinear, one of each by segment.
struct Segments {
  const float *x, *y, *slope;
};

struct PolicyKernels {
  // logs[count, tasks] = log(p + beta) of rows[count, tasks], and of each task their mean[tasks] and the sum of their
  // squared deviations, square[tasks]: the bits of the ops' zlog.
  void (*log_moments)(const float* rows, std::int64_t count, std::int64_t tasks, float beta, float* logs, float* mean,
                      float* square);
  // Logarithms → the z-scores of zlog, in place; mean and square as of log_moments.
  void (*standardize)(float* logs, std::int64_t count, std::int64_t tasks, const float* mean, const float* square,
                      float epsilon);
  // Whether values[i] is outside low[i modulo width] … high[i modulo width], or NaN.
  bool (*any_outside)(const float* values, std::int64_t count, const float* low, const float* high, std::int64_t width);
  // out[j] = bias[j] + Σ_i x[i] · weights[i, j] over `inputs`, for j < outputs, a multiple of lane_padding.
  void (*linear)(const float* x, std::int64_t inputs, const float* weights, const float* bias, std::int64_t outputs,
                 float* out);
  // x / (1 + exp(-x)) in place.
  void (*silu)(float* x, std::int64_t count);
  // exp(x) in place.
  void (*exp)(float* x, std::int64_t count);
  // out[i] = PiecewiseLinear of values[i · stride], for i < count.
  void (*piecewise_linear)(const float* values, std::int64_t stride, std::int64_t count, Segments segments,
                           std::int64_t segment_count, float* out);
};

PYGRADE_DECLARE_KERNELS(PolicyKernels, policy_kernels)
}  // namespace pygrade::inline v0_2::detail
