// Floats and Ints for AVX-512: 16 lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "keys.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr int lanes = 16;
using Floats = __m512;
using Ints = __m512i;

PYGRADE_INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
PYGRADE_INLINE void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
PYGRADE_INLINE Floats broadcast(float x) { return _mm512_set1_ps(x); }
PYGRADE_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
PYGRADE_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
PYGRADE_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
PYGRADE_INLINE Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
PYGRADE_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

// a > b ? a : b and a < b ? a : b, so b if either is NaN
PYGRADE_INLINE Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
PYGRADE_INLINE Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
PYGRADE_INLINE unsigned greater_equal(Floats a, Floats b) {
  return _cvtmask16_u32(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ));
}
PYGRADE_INLINE Floats select(unsigned mask, Floats yes, Floats no) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(mask), no, yes);
}

PYGRADE_INLINE Ints load(const std::int32_t* p) { return _mm512_loadu_si512(p); }
PYGRADE_INLINE void store(std::int32_t* p, Ints v) { _mm512_storeu_si512(p, v); }
PYGRADE_INLINE Ints broadcast(std::int32_t x) { return _mm512_set1_epi32(x); }
PYGRADE_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
PYGRADE_INLINE Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
PYGRADE_INLINE Ints max(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
PYGRADE_INLINE Ints min(Ints a, Ints b) { return _mm512_min_epi32(a, b); }
// Casts that keep the bits.
PYGRADE_INLINE Ints as_ints(Floats a) { return _mm512_castps_si512(a); }
PYGRADE_INLINE Floats as_floats(Ints a) { return _mm512_castsi512_ps(a); }
// For floats that are not negative: the larger bit pattern, and the bit pattern as a number.
PYGRADE_INLINE Ints max_bits(Ints a, Floats b) { return _mm512_max_epu32(a, _mm512_castps_si512(b)); }
PYGRADE_INLINE Floats number_of_bits(Floats a) { return _mm512_cvtepi32_ps(_mm512_castps_si512(a)); }
// The mantissas of positive normal floats, in [1, 2).
PYGRADE_INLINE Floats mantissa(Floats a) {
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffff),
                                                       _mm512_set1_epi32(0x3f800000), 0xea));  // (a & b) | c
}
PYGRADE_INLINE Ints iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
PYGRADE_INLINE unsigned greater(Ints a, Ints b) { return _cvtmask16_u32(_mm512_cmpgt_epi32_mask(a, b)); }
PYGRADE_INLINE unsigned greater_equal(Ints a, Ints b) { return _cvtmask16_u32(_mm512_cmpge_epi32_mask(a, b)); }
// count + 1 in the lanes where a > b
PYGRADE_INLINE Ints count_greater(Ints count, Ints a, Ints b) {
  return _mm512_mask_add_epi32(count, _mm512_cmpgt_epi32_mask(a, b), count, _mm512_set1_epi32(1));
}
PYGRADE_INLINE Ints select(unsigned mask, Ints yes, Ints no) {
  return _mm512_mask_blend_epi32(static_cast<__mmask16>(mask), no, yes);
}
// Moves the lanes of the mask to the front of p; overwrites the rest of that vector. Compresses in a register and
// stores the whole register: compressing to memory is microcoded on Zen.
PYGRADE_INLINE void compress(std::int32_t* p, unsigned mask, Ints v) {
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), v));
}
PYGRADE_INLINE void compress(float* p, unsigned mask, Floats v) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), v));
}
// The sort keys of scores, see keys.hpp.
PYGRADE_INLINE Ints order_key(Floats x) {
  const Ints bits = _mm512_castps_si512(_mm512_add_ps(x, _mm512_setzero_ps()));
  const Ints flip = _mm512_and_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(0x7fffffff));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_mov_epi32(_mm512_xor_si512(bits, flip), nan, _mm512_set1_epi32(key_nan));
}
// table[index % 8]
PYGRADE_INLINE Floats look_up8(const float* table, Ints index) {
  return _mm512_permutexvar_ps(index, _mm512_broadcast_f32x8(_mm256_loadu_ps(table)));
}
PYGRADE_INLINE Ints shift_left(Ints a, int bits) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits)); }
PYGRADE_INLINE Ints shift_right(Ints a, int bits) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(bits)); }
// Bit i: p[i] ≥ bound, for 64 floats.
PYGRADE_INLINE std::uint64_t reaching64(const float* p, Floats bound) {
  const auto at = [&](int i) { return _mm512_cmp_ps_mask(load(p + i * lanes), bound, _CMP_GE_OQ); };
  return _cvtmask64_u64(_mm512_kunpackd(_mm512_kunpackw(at(3), at(2)), _mm512_kunpackw(at(1), at(0))));
}

PYGRADE_INLINE Ints bits_and(Ints a, Ints b) { return _mm512_and_si512(a, b); }
PYGRADE_INLINE Ints bits_or(Ints a, Ints b) { return _mm512_or_si512(a, b); }
PYGRADE_INLINE Ints bits_xor(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
// Exchanges lanes i and i ^ distance.
template <int distance>
PYGRADE_INLINE Ints swap_lanes(Ints a) {
  if constexpr (distance == 1) return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(0xb1));
  if constexpr (distance == 2) return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(0x4e));
  if constexpr (distance == 4) return _mm512_shuffle_i32x4(a, a, 0xb1);
  return _mm512_shuffle_i32x4(a, a, 0x4e);
}
// Each lane gets the next one; the last gets the first.
PYGRADE_INLINE Ints next_lanes(Ints a) { return _mm512_alignr_epi32(a, a, 1); }
PYGRADE_INLINE std::int32_t max_of(Ints a) { return _mm512_reduce_max_epi32(a); }
PYGRADE_INLINE std::int32_t min_of(Ints a) { return _mm512_reduce_min_epi32(a); }
PYGRADE_INLINE unsigned nonzero(const std::uint8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _cvtmask16_u32(_mm_test_epi8_mask(x, x));
}
PYGRADE_INLINE Floats widen_float16(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
// Each half to the high half of its float, by one permutation.
PYGRADE_INLINE Floats widen_bfloat16(const std::uint16_t* p) {
  const __m512i halves = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i from = _mm512_slli_epi32(iota(), 16);
  return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, from, halves));
}

// The position of the lowest bit that is set; arbitrary if none is.
PYGRADE_INLINE std::int32_t lowest_bit(std::uint64_t word) { return static_cast<std::int32_t>(_tzcnt_u64(word)); }
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
