#pragma once

#include "isa.hpp"
#include "pygrade/dirichlet.hpp"

namespace pygrade::inline v0_2::detail {
struct DirichletSampleTask {
  const float* concentration;  // [B, T]
  std::int64_t samples;        // G
  std::int64_t tasks;          // T
  std::uint64_t seed;
  std::uint64_t offset;
  float* weights;      // [B, G, T] or null
  float* log_weights;  // [B, G, T] or null
  float* log_prob;     // [B, G] or null
};

struct DirichletLogProbTask {
  const float* concentration;     // [B, T]
  const float* log_weights;       // [B, G, T]
  const float* gradient;          // [B, G]; backward and score (null: all 1)
  std::int64_t samples;           // G
  std::int64_t tasks;             // T
  double log_floor;               // -inf: no floor
  float* log_prob;                // [B, G]; forward and score
  float* concentration_gradient;  // [B, T]; backward and score
};

struct DirichletRowTask {
  const float* concentration;  // [B, T]
  const float* other;          // [B, T]; KL only
  std::int64_t tasks;          // T
  float* value;                // [B]
  float* gradient;             // [B, T]
  float* other_gradient;       // [B, T]; KL only
};

struct FloorTask {
  const float* log_weights;  // [rows, T]
  std::int64_t tasks;        // T
  double log_floor;
  float* floored;  // [rows, T]
};

// Floats of scratch for one share of the sampler: seven arrays [T rounded up to a multiple of 8, 64].
inline std::int64_t sampler_scratch(std::int64_t tasks) { return 7 * 64 * ((tasks + 7) / 8 * 8); }

struct SamplerKernels {  // apart: a ranker that explores links no densities
  void (*sample)(const DirichletSampleTask& task, float* scratch, std::int64_t begin, std::int64_t end);
};

struct DirichletKernels {
  void (*log_prob)(const DirichletLogProbTask& task, std::int64_t begin, std::int64_t end);
  void (*log_prob_backward)(const DirichletLogProbTask& task, std::int64_t begin, std::int64_t end);
  void (*score)(const DirichletLogProbTask& task, std::int64_t begin, std::int64_t end);
  void (*entropy)(const DirichletRowTask& task, std::int64_t begin, std::int64_t end);
  void (*kl)(const DirichletRowTask& task, std::int64_t begin, std::int64_t end);
  void (*floor)(const FloorTask& task, std::int64_t begin, std::int64_t end);
  // For tests of the numerics: 0 log, 1 exp, 2 log(1 + y) of count floats.
  void (*float_function)(int function, const float* x, float* y, std::int64_t count);
  // For tests of the numerics: x[count] → y[count, 3], log Γ, ψ and ψ' in double.
  void (*gamma)(const double* x, double* y, std::int64_t count);
};

PYGRADE_DECLARE_KERNELS(SamplerKernels, sampler_kernels)
PYGRADE_DECLARE_KERNELS(DirichletKernels, dirichlet_kernels)
}  // namespace pygrade::inline v0_2::detail
