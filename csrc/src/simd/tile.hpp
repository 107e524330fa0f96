// The task-major tile of a request: row t holds f_t(p) of its candidates, as float32. Whatever compares candidates of
// one request (transforms, fusing many weight vectors, selecting) works on these rows.
#pragma once

#include "../fusion.hpp"
#include "lanes.hpp"
#include "numerics.hpp"
#include "select.hpp"
#include "simd.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
inline std::int64_t score_bytes(ScoreType type) { return type == ScoreType::float32 ? 4 : 2; }

inline const void* scores_at(const Scores& scores, std::int64_t element) {
  return static_cast<const char*>(scores.data) + element * score_bytes(scores.type);
}

// Scores as elements of their own types, which `load_scores` widens exactly.
struct Float16 {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};
PYGRADE_INLINE Floats load_scores(const float* p) { return load(p); }
PYGRADE_INLINE Floats load_scores(const Float16* p) { return widen_float16(&p->bits); }
PYGRADE_INLINE Floats load_scores(const Bfloat16* p) { return widen_bfloat16(&p->bits); }

// Calls work with a pointer to the scores from an element on. halves: of every type; else of float32 alone.
template <bool halves = true, class Work>
PYGRADE_INLINE auto with_elements(const Scores& scores, std::int64_t element, Work work) {
  const void* from = scores_at(scores, element);
  if constexpr (halves) {
    if (scores.type == ScoreType::float16) return work(static_cast<const Float16*>(from));
    if (scores.type == ScoreType::bfloat16) return work(static_cast<const Bfloat16*>(from));
  }
  return work(static_cast<const float*>(from));
}

// Widens `count` scores; reads nothing past them.
inline void widen(const void* from, ScoreType type, std::int64_t count, float* to) {
  if (type == ScoreType::float32) {
    if (count > 0) __builtin_memcpy(to, from, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  const auto* half = static_cast<const std::uint16_t*>(from);
  const bool brain = type == ScoreType::bfloat16;
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, brain ? widen_bfloat16(half + i) : widen_float16(half + i));
  if (i == count) return;
  std::uint16_t rest[lanes] = {};
  float wide[lanes];
  __builtin_memcpy(rest, half + i, static_cast<std::size_t>(count - i) * sizeof *half);
  store(wide, brain ? widen_bfloat16(rest) : widen_float16(rest));
  __builtin_memcpy(to + i, wide, static_cast<std::size_t>(count - i) * sizeof *wide);
}

// The first element of task t of the request in task-major scores.
inline std::int64_t task_row(const Scores& scores, Request request, std::int64_t t) {
  if (scores.offsets != nullptr) return t * scores.rows + request.first;
  return request.first * scores.tasks + t * scores.candidates;
}

// Prefetches 8 KiB ahead of a pass over memory: the hardware prefetcher stops at page boundaries.
inline void prefetch(const void* from, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + 8192 + i);
}

constexpr std::int64_t tile_block = 32;  // candidates transposed together

// Transposes rows [first, first + count) of the scores to tile[T][stride], from column 0 on. Works on eight tasks at a
// time, so that up to seven rows after the tile are overwritten. `ahead`: also prefetch.
inline void load_tile(const Scores& scores, std::int64_t first, std::int64_t count, float* tile, std::int64_t stride,
                      bool ahead = true) {
  const std::int64_t tasks = scores.tasks;
  if (tasks == 1) return widen(scores_at(scores, first), scores.type, count, tile);
  float wide[tile_block * max_tasks + 8];
  for (std::int64_t begin = 0; begin < count; begin += tile_block) {
    const std::int64_t size = count - begin < tile_block ? count - begin : tile_block;
    const void* from = scores_at(scores, (first + begin) * tasks);
    const float* rows = static_cast<const float*>(from);
    if (scores.type != ScoreType::float32) {
      widen(from, scores.type, size * tasks, wide);
      rows = wide;
    }
    if (ahead) prefetch(from, size * tasks * score_bytes(scores.type));
    if (tasks == 2) {
      for (std::int64_t i = 0; i < size; ++i) {
        tile[begin + i] = rows[2 * i];
        tile[stride + begin + i] = rows[2 * i + 1];
      }
      continue;
    }
    std::int64_t i = 0;
    const std::int64_t safe = count - 8 - begin;  // with eight rows left, eight floats can be read from any row
    const std::int64_t fast = size < safe ? size : safe;
    for (; i + 8 <= fast; i += 8)
      for (std::int64_t t = 0; t < tasks; t += 8)
        transpose8(rows + i * tasks + t, tasks, tile + t * stride + begin + i, stride);
    for (std::int64_t t = 0; t < tasks; ++t)
      for (std::int64_t j = i; j < size; ++j) tile[t * stride + begin + j] = rows[j * tasks + t];
  }
}

// Fills the tile with NaN after its columns, up to the end of their last vector.
inline void pad_tile(float* tile, std::int64_t stride, std::int64_t tasks, std::int64_t count) {
  const std::int64_t end = vectors_of(count) * lanes;
  for (std::int64_t t = 0; t < tasks; ++t)
    for (std::int64_t i = count; i < end; ++i) tile[t * stride + i] = __builtin_nanf("");
}

// The inverse of load_tile: tile[T][stride] → values[count, T].
inline void store_tile(const float* tile, std::int64_t stride, std::int64_t tasks, std::int64_t count, float* values) {
  for (std::int64_t begin = 0; begin < count; begin += tile_block) {
    const std::int64_t end = count - begin < tile_block ? count : begin + tile_block;
    for (std::int64_t t = 0; t < tasks; ++t)
      for (std::int64_t i = begin; i < end; ++i) values[i * tasks + t] = tile[t * stride + i];
  }
}

constexpr int accumulators = 128;

// Σ term(x_i) in the order that fusion.hpp fixes; `fold(sum, x)` adds one value to an accumulator.
template <class Fold>
inline float fixed_sum(const float* row, std::int64_t count, Fold fold) {
  float sums[accumulators] = {};
  std::int64_t begin = 0;
  for (; begin + accumulators <= count; begin += accumulators)
    for (int i = 0; i < accumulators; ++i) sums[i] = fold(sums[i], row[begin + i]);
  for (int i = 0; begin + i < count; ++i) sums[i] = fold(sums[i], row[begin + i]);
  for (int half = accumulators / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

// The z-score of values whose squares overflow in single precision. Values that are not finite make it NaN.
inline void wide_zscore_row(float* row, std::int64_t count, float epsilon) {
  double mean = 0.0, square = 0.0;
  for (std::int64_t i = 0; i < count; ++i) mean += row[i];
  mean /= static_cast<double>(count);
  for (std::int64_t i = 0; i < count; ++i) square += (row[i] - mean) * (row[i] - mean);
  const double std = __builtin_sqrt(square / static_cast<double>(count)) + epsilon;
  for (std::int64_t i = 0; i < count; ++i) row[i] = static_cast<float>((row[i] - mean) / std);
}

inline void zscore_row(float* row, std::int64_t count, float epsilon) {
  const float n = static_cast<float>(count);
  const float mean = fixed_sum(row, count, [](float sum, float x) { return sum + x; }) / n;
  const float square = fixed_sum(row, count, [mean](float sum, float x) {
    const float d = x - mean;
    return __builtin_fmaf(d, d, sum);
  });
  if (!(square < __builtin_inff())) return wide_zscore_row(row, count, epsilon);
  const float inverse = 1.0f / (__builtin_sqrtf(square / n) + epsilon);
  for (std::int64_t i = 0; i < count; ++i) row[i] = (row[i] - mean) * inverse;
}

constexpr std::int64_t log_block = 1024;  // numbers that stay in the first-level cache

// log(x + beta) of a row, in another one or in place. Blocks of normal, positive, finite numbers have no special cases.
inline void log_row(const float* from, float* row, std::int64_t count, float beta) {
  for (std::int64_t begin = 0; begin < count; begin += log_block) {
    float* x = row + begin;
    const std::int64_t size = count - begin < log_block ? count - begin : log_block;
    std::uint32_t special = 0;
#pragma GCC ivdep  // a number depends on that of its own place alone
    for (std::int64_t i = 0; i < size; ++i) {
      x[i] = from[begin + i] + beta;
      special |= bits_of(x[i]) - 0x00800000u >= 0x7f000000u ? 1u : 0u;
    }
    if (special == 0)
      for (std::int64_t i = 0; i < size; ++i) x[i] = log_positive(x[i]);
    else
      for (std::int64_t i = 0; i < size; ++i) x[i] = log(x[i]);
  }
}

// log(1 + x) of a row in place, likewise.
inline void log1p_row(float* row, std::int64_t count) {
  for (std::int64_t begin = 0; begin < count; begin += log_block) {
    float* x = row + begin;
    const std::int64_t size = count - begin < log_block ? count - begin : log_block;
    std::uint32_t special = 0;
    for (std::int64_t i = 0; i < size; ++i) special |= bits_of(x[i]) >= 0x7149f2cau ? 1u : 0u;  // not in [0, 1e30)
    if (special == 0)
      for (std::int64_t i = 0; i < size; ++i) x[i] = log_one_plus(x[i]);
    else
      for (std::int64_t i = 0; i < size; ++i) x[i] = log1p(x[i]);
  }
}

// The share of the other candidates that each one beats: (n - 1 - position) / (n - 1).
inline void rank_row(float* row, std::int64_t count, const SelectScratch& scratch) {
  select_best(row, count, count, scratch);
  const std::int64_t last = count - 1;
  const float divisor = static_cast<float>(last > 1 ? last : 1);
  for (std::int64_t position = 0; position < count; ++position)
    row[scratch.best[position]] = static_cast<float>(last - position) / divisor;
}

// Transforms the whole request in place.
inline void transform_tile(float* tile, std::int64_t stride, std::int64_t tasks, std::int64_t count,
                           const FusionOptions& options, const SelectScratch& scratch) {
  if (options.transform == Transform::identity || count == 0) return;
  for (std::int64_t t = 0; t < tasks; ++t) {
    float* row = tile + t * stride;
    if (options.transform == Transform::log || options.transform == Transform::zlog)
      log_row(row, row, count, options.beta);
    if (options.transform == Transform::log1p) {
      const float slope = options.slope == nullptr ? 1.0f : options.slope[t];
      for (std::int64_t i = 0; i < count; ++i) row[i] = slope * row[i];
      log1p_row(row, count);
    }
    if (options.transform == Transform::zscore || options.transform == Transform::zlog)
      zscore_row(row, count, options.epsilon);
    if (options.transform == Transform::rank) rank_row(row, count, scratch);
  }
}

// The layout of a share's scratch: scratch_rows rows of `stride` floats.
struct FusionScratch {
  std::int64_t stride;
  float* tile;           // [T][stride]
  float* kept;           // [T][stride] columns of the candidates in `ids`
  float* fused;          // [fused_rows][stride]
  std::int32_t* maxima;  // [fused_rows][stride] block maxima of the fused rows
  std::int32_t* ids;     // [stride] candidates that the mask admits, ascending
  SelectScratch select[fused_rows];

  FusionScratch(float* scratch, std::int64_t tasks, std::int64_t row_stride)
      : stride(row_stride),
        tile(scratch),
        kept(tile + tasks * stride),
        fused(kept + tasks * stride),
        maxima(reinterpret_cast<std::int32_t*>(fused + fused_rows * stride)),
        ids(maxima + fused_rows * stride),
        select{at(0), at(1), at(2), at(3)} {
    static_assert(fused_rows == 4);
  }

 private:
  SelectScratch at(std::int64_t i) const {
    return {fused + (2 * fused_rows + 1 + selection_rows * i) * stride, stride};
  }
};

// Loads the request to s.tile, transformed.
inline void load_request(const Scores& scores, const FusionOptions& options, Request request, const FusionScratch& s,
                         bool ahead = true) {
  if (scores.layout == Layout::task_major) {
    for (std::int64_t t = 0; t < scores.tasks; ++t)
      widen(scores_at(scores, task_row(scores, request, t)), scores.type, request.count, s.tile + t * s.stride);
  } else {
    load_tile(scores, request.first, request.count, s.tile, s.stride, ahead);
  }
  transform_tile(s.tile, s.stride, scores.tasks, request.count, options, s.select[0]);
}

// Writes the candidates that the mask admits to s.ids, and their columns of from[rows][s.stride] to `to`; returns how
// many there are.
inline std::int64_t keep_admitted(const std::uint8_t* mask, std::int64_t count, const float* from, float* to,
                                  std::int64_t rows, const FusionScratch& s) {
  std::int64_t kept = 0;
  Ints ids = iota();
  for (std::int64_t i = 0; i < count; i += lanes, ids = add(ids, broadcast(lanes))) {
    std::uint8_t rest[lanes] = {};
    const bool whole = i + lanes <= count;
    if (!whole) __builtin_memcpy(rest, mask + i, static_cast<std::size_t>(count - i));
    const unsigned admitted = nonzero(whole ? mask + i : rest);
    compress(s.ids + kept, admitted, ids);
    for (std::int64_t r = 0; r < rows; ++r) compress(to + r * s.stride + kept, admitted, load(from + r * s.stride + i));
    kept += __builtin_popcount(admitted);
  }
  return kept;
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
