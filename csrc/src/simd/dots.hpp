// Dot products of rows with one vector, in the order of <pygrade/page_search.hpp>: 16 sums, then a tree.
#pragma once

#include <cstdint>
#include <utility>

#include "simd.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
typedef float Row __attribute__((vector_size(4 * lanes)));

// From rows of 2 · half numbers, those of a before those of b, to rows of half numbers: the sums of their halves.
template <int half, int... i>
PYGRADE_INLINE Row fold(Row a, Row b, std::integer_sequence<int, i...>) {
  const Row low = __builtin_shufflevector(a, b, (i / half * 2 * half + i % half)...);
  const Row high = __builtin_shufflevector(a, b, (i / half * 2 * half + i % half + half)...);
  return low + high;
}

// The sums of `lanes` rows by halves, in the order of the rows.
template <int half>
PYGRADE_INLINE void fold_rows(Row* rows) {
#pragma GCC unroll 8
  for (int r = 0; r < half; ++r)
    rows[r] = fold<half>(rows[2 * r], rows[2 * r + 1], std::make_integer_sequence<int, lanes>());
  if constexpr (half > 1) fold_rows<half / 2>(rows);
}

// <a, b> of `blocks` times 16 numbers.
inline float dot(const float* a, const float* b, std::int64_t blocks) {
  float sums[16] = {};
  for (std::int64_t t = 0; t < 16 * blocks; t += 16)
    for (int l = 0; l < 16; ++l) sums[l] = __builtin_fmaf(a[t + l], b[t + l], sums[l]);
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sums[l] += sums[l + half];
  return sums[0];
}

// out[r] = <rows[r], vector> of `lanes` rows of `blocks` times 16 numbers, `stride` apart.
PYGRADE_INLINE void dot_rows(const float* rows, std::int64_t stride, const float* vector, std::int64_t blocks,
                             float* out) {
  constexpr int parts = 16 / lanes;
  Row sums[lanes];
  constexpr int together = lanes / parts;  // rows whose sums stay in registers
  for (int first = 0; first < lanes; first += together) {
    Floats sum[together][parts];
#pragma GCC unroll 16
    for (int r = 0; r < together; ++r)
#pragma GCC unroll 4
      for (int p = 0; p < parts; ++p) sum[r][p] = broadcast(0.0f);
    for (std::int64_t t = 0; t < 16 * blocks; t += 16) {
#pragma GCC unroll 4
      for (int p = 0; p < parts; ++p) {
        const Floats x = load(vector + t + p * lanes);
#pragma GCC unroll 16
        for (int r = 0; r < together; ++r)
          sum[r][p] = fma(load(rows + (first + r) * stride + t + p * lanes), x, sum[r][p]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < together; ++r) {
#pragma GCC unroll 2
      for (int half = parts / 2; half > 0; half /= 2)
#pragma GCC unroll 2
        for (int p = 0; p < half; ++p) sum[r][p] = add(sum[r][p], sum[r][p + half]);
      sums[first + r] = __builtin_bit_cast(Row, sum[r][0]);
    }
  }
  fold_rows<lanes / 2>(sums);
  store(out, __builtin_bit_cast(Floats, sums[0]));
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
