// Up to 16 groups of one component in single precision, with a group's samples side by side in a vector. Sums are of
// differences from the group's first sample, so that rounding errors are relative to the deviations, not to the level
// of the rewards.
#pragma once

#include "../advantage.hpp"
#include "doubles.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
static_assert(block_rows == 2 * row_lanes);
inline constexpr std::int64_t max_quick_samples = 64;  // more would lose too much in single-precision sums

template <int width>
struct WideTypes {
  typedef float Register __attribute__((vector_size(4 * width)));
  typedef float InMemory __attribute__((vector_size(4 * width), aligned(4), may_alias));
};
// A vector of `width` floats.
template <int width>
using Wide = typename WideTypes<width>::Register;

template <int width>
PYGRADE_INLINE Wide<width> wide_at(const float* p) {
  return *reinterpret_cast<const typename WideTypes<width>::InMemory*>(p);
}
template <int width>
PYGRADE_INLINE void put_wide(Wide<width> x, float* p) {
  *reinterpret_cast<typename WideTypes<width>::InMemory*>(p) = x;
}

inline constexpr int widest = 2 * part_lanes;
inline constexpr int narrowest = widest < 8 ? widest : 8;  // fit groups of any multiple of 8

// x, added up to at most eight values → to[8].
template <int width>
PYGRADE_INLINE void put_folded(Wide<width> x, float* to) {
  if constexpr (width == 16)
    put_wide<8>(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15),
                to);
  else
    put_wide<width>(x, to);
}

// The sums of the eight rows of partial[8, 8], one per lane.
PYGRADE_INLINE Doubles row_sums(float* partial) {
  alignas(64) float columns[8 * row_lanes];
  transpose8(partial, row_lanes, columns, row_lanes);
  Eight sum[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) sum[i] = *reinterpret_cast<const Eight*>(columns + i * row_lanes);
  const Eight total = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  *reinterpret_cast<Eight*>(partial) = total;
  return load(partial);
}

// The sums of squared deviations of rows[count, samples], one lane per row, 0 for missing rows; `samples` is a multiple
// of the width. Writes the means to the block.
template <int width>
PYGRADE_INLINE void sum_squares(const float* rows, std::int64_t samples, int count, Block& block,
                                Doubles (&square)[2]) {
  alignas(64) float sums[block_rows * row_lanes], squares[block_rows * row_lanes], pivots[block_rows] = {};
  if (count < block_rows || width < row_lanes)
    for (int i = 0; i < block_rows * row_lanes; ++i) sums[i] = squares[i] = 0.0f;
  for (int l = 0; l < count; ++l) {
    const float* row = rows + l * samples;
    const Wide<width> pivot = row[0] - Wide<width>{};
    Wide<width> sum{}, squared{};
    for (std::int64_t g = 0; g < samples; g += width) {
      const Wide<width> difference = wide_at<width>(row + g) - pivot;
      sum += difference;
      squared += difference * difference;
    }
    pivots[l] = row[0];
    put_folded<width>(sum, sums + l * row_lanes);
    put_folded<width>(squared, squares + l * row_lanes);
  }
  const Doubles share = fill(1.0 / static_cast<double>(samples));
  for (int h = 0; h < 2; ++h) {
    const Doubles sum = row_sums(sums + h * 64), mean = sum * share;
    square[h] = row_sums(squares + h * 64) - sum * mean;
    const Doubles exact = load(pivots + h * row_lanes) + mean;
    store(block.center + h * row_lanes, exact);
    store(block.rest + h * row_lanes, exact - load(block.center + h * row_lanes));
  }
}

template <int width>
inline bool all_equal(const float* row, std::int64_t samples) {
  alignas(64) float folded[row_lanes] = {};
  Wide<width> distance{};
  for (std::int64_t g = 0; g < samples; g += width) {
    const Wide<width> difference = wide_at<width>(row + g) - row[0];
    distance += difference < 0.0f ? -difference : difference;
  }
  put_folded<width>(distance, folded);
  float sum = 0.0f;
  for (const float value : folded) sum += value;
  return sum == 0.0f;
}

// Whether single precision was enough: no square out of range, no value NaN or infinite.
template <int width>
PYGRADE_INLINE bool fits(const Doubles (&square)[2], const float* rows, std::int64_t samples, int count) {
  const Doubles low = fill(1e-30), high = fill(1e30), zero = fill(0.0), one = fill(1.0);
  Doubles misfit[2];
  for (int h = 0; h < 2; ++h) misfit[h] = select(low < square[h], select(square[h] < high, zero, one), one);
  if (sum_of(misfit[0] + misfit[1], row_lanes) == 0.0) return true;
  alignas(64) double misfits[block_rows];
  for (int h = 0; h < 2; ++h) store(misfits + h * row_lanes, misfit[h]);
  for (int l = 0; l < count; ++l)
    if (misfits[l] != 0.0 && !all_equal<width>(rows + l * samples, samples)) return false;
  return true;
}

// (value - mean) · factor of each group, clamped to ±clip → out[count, samples].
template <int width>
PYGRADE_INLINE void quick_deviations(const Block& block, const float* rows, std::int64_t samples, int count,
                                     const float* factor, float clip, float* out) {
  const Wide<width> zero{}, high = clip - zero, low = -clip - zero;
  for (int l = 0; l < count; ++l) {
    const float* row = rows + l * samples;
    const Wide<width> center = block.center[l] - zero, rest = block.rest[l] - zero, by = factor[l] - zero;
    for (std::int64_t g = 0; g < samples; g += width) {
      const Wide<width> x = ((wide_at<width>(row + g) - center) - rest) * by;
      const Wide<width> capped = x > high ? high : x;
      put_wide<width>(capped < low ? low : capped, out + l * samples + g);
    }
  }
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
