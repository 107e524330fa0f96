// Part, a vector of doubles, for AVX-512: 8 lanes.
#pragma once

#include <immintrin.h>

#include "inline.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr int part_lanes = 8;
typedef double Part __attribute__((vector_size(64)));

PYGRADE_INLINE Part load_part(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
PYGRADE_INLINE void store_part(float* p, Part x) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(x)); }

// The first `count` values, 0 in the other lanes; a mask reads no memory beyond them.
PYGRADE_INLINE Part load_fewer(const double* p, int count) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), p);
}
PYGRADE_INLINE Part load_fewer(const float* p, int count) {
  return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(static_cast<__mmask8>((1u << count) - 1), p));
}

// a · b + c, rounded once if the instruction set can: results in double need not be the same bits.
PYGRADE_INLINE double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
PYGRADE_INLINE Part multiply_add(Part a, Part b, Part c) { return _mm512_fmadd_pd(a, b, c); }
PYGRADE_INLINE Part square_root(Part a) { return _mm512_sqrt_pd(a); }

// a > b ? a : b and a < b ? a : b, lane by lane; b if either is NaN.
PYGRADE_INLINE Part max(Part a, Part b) { return _mm512_max_pd(a, b); }
PYGRADE_INLINE Part min(Part a, Part b) { return _mm512_min_pd(a, b); }

// Lane i: all lanes of v[i] joined pairwise, for part_lanes vectors.
template <class Join>
PYGRADE_INLINE Part across(const Part* v, Join join) {
  Part pair[4], four[2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    pair[i] = join(__builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14),
                   __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    four[i] = join(__builtin_shufflevector(pair[2 * i], pair[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13),
                   __builtin_shufflevector(pair[2 * i], pair[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15));
  return join(__builtin_shufflevector(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11),
              __builtin_shufflevector(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15));
}

// Exchanges lane j of v[i] with lane i of v[j], for part_lanes vectors.
PYGRADE_INLINE void transpose_parts(Part* v) {
  Part pair[8], four[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pair[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    pair[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int j = i / 2 * 4 + i % 2;
    four[j] = __builtin_shufflevector(pair[j], pair[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    four[j + 2] = __builtin_shufflevector(pair[j], pair[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(four[i], four[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(four[i], four[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
