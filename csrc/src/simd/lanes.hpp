// Moves columns (one task of 16 samples) into item-major rows (T values of one sample).
#pragma once

#include <cstdint>

#include "inline.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
inline constexpr int lane_count = 16;

// For loops over lanes that the compiler does not vectorize.
typedef float Sixteen __attribute__((vector_size(64), aligned(4), may_alias));
PYGRADE_INLINE Sixteen& sixteen(float* p) { return *reinterpret_cast<Sixteen*>(p); }

typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));

// Transposes the 8 × 8 matrix with rows at `from` + i · from_stride to rows at `to` + i · to_stride.
inline void transpose8(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) {
  Eight r[8], t[8], u[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = *reinterpret_cast<const Eight*>(from + i * from_stride);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      u[4 * i + 2 * j] = __builtin_shufflevector(t[4 * i + j], t[4 * i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      u[4 * i + 2 * j + 1] = __builtin_shufflevector(t[4 * i + j], t[4 * i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  // In ascending order of rows; from_lanes relies on it.
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    *reinterpret_cast<Eight*>(to + i * to_stride) = __builtin_shufflevector(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    *reinterpret_cast<Eight*>(to + (i + 4) * to_stride) =
        __builtin_shufflevector(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
}

// columns[t · stride + l] → rows[count, tasks]. Storing a partial tile as a whole spills into the next row, which is
// written later: partial tiles go first, and no store leaves `rows`.
inline void from_lanes(const float* columns, std::int64_t stride, std::int64_t tasks, int count, float* rows) {
  for (int l = 0; l < count; l += 8) {
    for (std::int64_t first = (tasks - 1) / 8 * 8; first >= 0; first -= 8) {
      if ((l + 7) * tasks + first + 8 <= count * tasks) {
        transpose8(columns + first * stride + l, stride, rows + l * tasks + first, tasks);
        continue;
      }
      const std::int64_t last = first + 8 < tasks ? first + 8 : tasks;
      const int end = l + 8 < count ? l + 8 : count;
      for (int k = l; k < end; ++k)
        for (std::int64_t t = first; t < last; ++t) rows[k * tasks + t] = columns[t * stride + k];
    }
  }
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
