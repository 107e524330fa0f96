// Part, a vector of doubles, for AVX2 with FMA: 4 lanes. doubles_avx512.hpp documents the operations.
#pragma once

#include <immintrin.h>

#include "inline.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr int part_lanes = 4;
typedef double Part __attribute__((vector_size(32)));

PYGRADE_INLINE Part load_part(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
PYGRADE_INLINE void store_part(float* p, Part x) { _mm_storeu_ps(p, _mm256_cvtpd_ps(x)); }

PYGRADE_INLINE Part load_fewer(const double* p, int count) {
  return _mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3)));
}
PYGRADE_INLINE Part load_fewer(const float* p, int count) {
  const __m128i present = _mm_cmpgt_epi32(_mm_set1_epi32(count), _mm_setr_epi32(0, 1, 2, 3));
  return _mm256_cvtps_pd(_mm_maskload_ps(p, present));
}

PYGRADE_INLINE double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
PYGRADE_INLINE Part multiply_add(Part a, Part b, Part c) { return _mm256_fmadd_pd(a, b, c); }
PYGRADE_INLINE Part square_root(Part a) { return _mm256_sqrt_pd(a); }

PYGRADE_INLINE Part max(Part a, Part b) { return _mm256_max_pd(a, b); }
PYGRADE_INLINE Part min(Part a, Part b) { return _mm256_min_pd(a, b); }

template <class Join>
PYGRADE_INLINE Part across(const Part* v, Join join) {
  Part pair[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    pair[i] = join(__builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 4, 2, 6),
                   __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 5, 3, 7));
  return join(__builtin_shufflevector(pair[0], pair[1], 0, 1, 4, 5),
              __builtin_shufflevector(pair[0], pair[1], 2, 3, 6, 7));
}

PYGRADE_INLINE void transpose_parts(Part* v) {
  Part pair[4];
#pragma GCC unroll 2
  for (int i = 0; i < 4; i += 2) {
    pair[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 4, 2, 6);
    pair[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 1, 5, 3, 7);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    v[i] = __builtin_shufflevector(pair[i], pair[i + 2], 0, 1, 4, 5);
    v[i + 2] = __builtin_shufflevector(pair[i], pair[i + 2], 2, 3, 6, 7);
  }
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
