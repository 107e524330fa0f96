// Multi-task fusion: one score per candidate from its task predictions, and the best candidates by it.
// pygrade/reference/fusion.py has the formulas; the following fixes the bits, which are the same for every layout,
// instruction set and number of threads, and in the Triton kernels.
//
// Fused score of T tasks: P = next power of two ≥ T, h = P / 2; x_j = p_j·w_j for j < h, then x_j = fma(p_{j+h},
// w_{j+h}, x_j) if that task exists, then x_j += x_{j+h} for h = P/4 … 1; p_0·w_0 for T = 1.
//
// Statistics of a task over the n candidates of a request: candidate i adds to accumulator i mod 128, in order; the 128
// accumulators are summed by halves (a_i += a_{i+64}, … a_0 += a_1). mean = Σ x / n; variance = Σ d² / n with d = x -
// mean and d² added by fma; the z-score is d · (1 / (sqrt(variance) + epsilon)). If the sum of d² overflows (or is
// NaN), the z-score is computed in double, in order of the index.
//
// Order: score descending, then index ascending; NaN after -inf; -0.0 equals +0.0.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
enum class ScoreType { float32 = 0, float16 = 1, bfloat16 = 2 };  // widened exactly to float32

enum class Transform { identity = 0, log = 1, zscore = 2, zlog = 3, rank = 4, log1p = 5 };

struct TransformTraits {
  std::string_view name;     // in policies and in Python
  bool nonnegative = false;  // takes scores ≥ 0
};

// The transforms by their value. Each has a row more in csrc/src/simd/tile.hpp (transform_tile), kernels/fusion.py
// (_changed) and pygrade/reference/fusion.py (TRANSFORMS, with its slope); all else reads these tables.
inline constexpr std::array<TransformTraits, 6> transforms{
    {{"identity"}, {"log", true}, {"zscore"}, {"zlog", true}, {"rank"}, {"log1p", true}}};

inline constexpr const TransformTraits& traits_of(Transform transform) {
  return transforms[static_cast<std::size_t>(transform)];
}

// The transform of a name, and all names as text.
PYGRADE_API std::optional<Transform> find_transform(std::string_view name);
PYGRADE_API std::string transform_list();

enum class Layout { item_major = 0, task_major = 1 };

inline constexpr std::int64_t max_tasks = 64;

// A view of the predictions of a batch of requests, C-contiguous in either layout; made by `dense` or `jagged`.
struct Scores {
  const void* data = nullptr;  // item-major: [B, N, T], or [M, T] with offsets; task-major: [B, T, N] or [T, M]
  ScoreType type = ScoreType::float32;
  std::int64_t batch = 0;                 // B
  std::int64_t candidates = 0;            // N; 0 with offsets
  std::int64_t tasks = 0;                 // T, 1 … max_tasks
  std::int64_t rows = 0;                  // B · N, or M
  const std::int64_t* offsets = nullptr;  // [B + 1], ascending from 0 to M; null if dense
  Layout layout = Layout::item_major;

  static Scores dense(const void* data, ScoreType type, std::int64_t batch, std::int64_t candidates, std::int64_t tasks,
                      Layout layout = Layout::item_major) {
    return {data, type, batch, candidates, tasks, batch * candidates, nullptr, layout};
  }
  static Scores jagged(const void* data, ScoreType type, std::int64_t rows, std::int64_t tasks,
                       std::span<const std::int64_t> offsets, Layout layout = Layout::item_major) {
    return {data, type, static_cast<std::int64_t>(offsets.size()) - 1, 0, tasks, rows, offsets.data(), layout};
  }
};

struct FusionOptions {
  Transform transform = Transform::identity;
  float beta = 1e-7f;     // log(p + beta)
  float epsilon = 1e-3f;  // added to a standard deviation
  // [T], ≥ 0; null: all 1. log(1 + slope_t · p), so that exp of the fused score is Π_t (1 + slope_t · p_t)^w_t
  const float* slope = nullptr;
};

// The functions below throw std::invalid_argument, before anything is written, on inconsistent sizes, offsets that do
// not ascend from 0 to the number of rows, a negative slope, and a negative score under a logarithm.

// f_t(p) of every score; values has the shape of the scores.
PYGRADE_API void transform_scores(const Scores& scores, const FusionOptions& options, std::span<float> values,
                                  int num_threads = 1);

// weights[B, G, T] → fused[B, G, N]; jagged: [G, M]. samples (G) is 1 for one weight vector per request.
PYGRADE_API void fuse_scores(const Scores& scores, std::span<const float> weights, std::int64_t samples,
                             const FusionOptions& options, std::span<float> fused, int num_threads = 1);

// The k best of each list: values[B, G, k], indices[B, G, k] within the request, padded with -inf and -1. Candidates
// with mask[B, N] (jagged: [M]) nonzero are eligible; an empty mask admits all.
PYGRADE_API void fuse_topk(const Scores& scores, std::span<const float> weights, std::int64_t samples, std::int64_t k,
                           const FusionOptions& options, std::span<const std::uint8_t> mask, std::span<float> values,
                           std::span<std::int32_t> indices, int num_threads = 1);
}  // namespace pygrade::inline v0_2
