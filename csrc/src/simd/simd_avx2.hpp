// Floats and Ints for AVX2 with FMA, F16C and BMI (x86-64-v3): 8 lanes. simd_avx512.hpp documents the operations.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "keys.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr int lanes = 8;
using Floats = __m256;
using Ints = __m256i;

PYGRADE_INLINE Floats load(const float* p) { return _mm256_loadu_ps(p); }
PYGRADE_INLINE void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
PYGRADE_INLINE Floats broadcast(float x) { return _mm256_set1_ps(x); }
PYGRADE_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
PYGRADE_INLINE Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
PYGRADE_INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
PYGRADE_INLINE Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
PYGRADE_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

PYGRADE_INLINE Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
PYGRADE_INLINE Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
PYGRADE_INLINE unsigned greater_equal(Floats a, Floats b) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}

PYGRADE_INLINE Ints load(const std::int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
PYGRADE_INLINE void store(std::int32_t* p, Ints v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
PYGRADE_INLINE Ints broadcast(std::int32_t x) { return _mm256_set1_epi32(x); }
PYGRADE_INLINE Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
PYGRADE_INLINE Ints sub(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
PYGRADE_INLINE Ints max(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
PYGRADE_INLINE Ints min(Ints a, Ints b) { return _mm256_min_epi32(a, b); }
PYGRADE_INLINE Ints as_ints(Floats a) { return _mm256_castps_si256(a); }
PYGRADE_INLINE Floats as_floats(Ints a) { return _mm256_castsi256_ps(a); }
PYGRADE_INLINE Ints max_bits(Ints a, Floats b) { return _mm256_max_epu32(a, _mm256_castps_si256(b)); }
PYGRADE_INLINE Floats number_of_bits(Floats a) { return _mm256_cvtepi32_ps(_mm256_castps_si256(a)); }
PYGRADE_INLINE Floats mantissa(Floats a) {
  const Ints fraction = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f800000)));
}
PYGRADE_INLINE Ints iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
PYGRADE_INLINE unsigned bits_of(Ints mask) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(mask)));
}
PYGRADE_INLINE Ints lanes_of(unsigned mask) {
  const Ints bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit), bit);
}
PYGRADE_INLINE unsigned greater(Ints a, Ints b) { return bits_of(_mm256_cmpgt_epi32(a, b)); }
PYGRADE_INLINE unsigned greater_equal(Ints a, Ints b) { return 0xffu ^ bits_of(_mm256_cmpgt_epi32(b, a)); }
PYGRADE_INLINE Ints count_greater(Ints count, Ints a, Ints b) {
  return _mm256_sub_epi32(count, _mm256_cmpgt_epi32(a, b));
}
PYGRADE_INLINE Ints select(unsigned mask, Ints yes, Ints no) { return _mm256_blendv_epi8(no, yes, lanes_of(mask)); }
PYGRADE_INLINE Floats select(unsigned mask, Floats yes, Floats no) {
  return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(lanes_of(mask)));
}
struct CompressTable {
  alignas(64) std::uint8_t from[256][8];
  constexpr CompressTable() : from() {
    for (int mask = 0; mask < 256; ++mask) {
      int kept = 0;
      for (int lane = 0; lane < 8; ++lane)
        if (mask >> lane & 1) from[mask][kept++] = static_cast<std::uint8_t>(lane);
    }
  }
};
constexpr CompressTable compress_table{};
PYGRADE_INLINE Ints compress_lanes(unsigned mask) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(compress_table.from[mask])));
}
PYGRADE_INLINE void compress(std::int32_t* p, unsigned mask, Ints v) {
  store(p, _mm256_permutevar8x32_epi32(v, compress_lanes(mask)));
}
PYGRADE_INLINE void compress(float* p, unsigned mask, Floats v) {
  store(p, _mm256_permutevar8x32_ps(v, compress_lanes(mask)));
}
PYGRADE_INLINE Ints order_key(Floats x) {
  const Ints bits = _mm256_castps_si256(_mm256_add_ps(x, _mm256_setzero_ps()));
  const Ints flip = _mm256_and_si256(_mm256_srai_epi32(bits, 31), _mm256_set1_epi32(0x7fffffff));
  const Ints nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(_mm256_xor_si256(bits, flip), _mm256_set1_epi32(key_nan), nan);
}
// table[index % 8]
PYGRADE_INLINE Floats look_up8(const float* table, Ints index) {
  return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
}
PYGRADE_INLINE Ints shift_left(Ints a, int bits) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits)); }
PYGRADE_INLINE Ints shift_right(Ints a, int bits) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(bits)); }
PYGRADE_INLINE std::uint64_t reaching32(const float* p, Floats bound) {
  const auto at = [&](int i) { return _mm256_castps_si256(_mm256_cmp_ps(load(p + i * lanes), bound, _CMP_GE_OQ)); };
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(at(0), at(1)), _mm256_packs_epi32(at(2), at(3)));
  const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(ordered));
}
PYGRADE_INLINE std::uint64_t reaching64(const float* p, Floats bound) {
  return reaching32(p, bound) | reaching32(p + 32, bound) << 32;
}

PYGRADE_INLINE Ints bits_and(Ints a, Ints b) { return _mm256_and_si256(a, b); }
PYGRADE_INLINE Ints bits_or(Ints a, Ints b) { return _mm256_or_si256(a, b); }
PYGRADE_INLINE Ints bits_xor(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
template <int distance>
PYGRADE_INLINE Ints swap_lanes(Ints a) {
  if constexpr (distance == 1) return _mm256_shuffle_epi32(a, 0xb1);
  if constexpr (distance == 2) return _mm256_shuffle_epi32(a, 0x4e);
  return _mm256_permute2x128_si256(a, a, 0x01);
}
PYGRADE_INLINE Ints next_lanes(Ints a) {
  return _mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0));
}
PYGRADE_INLINE std::int32_t max_of(Ints a) {
  __m128i x = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
PYGRADE_INLINE std::int32_t min_of(Ints a) {
  __m128i x = _mm_min_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  x = _mm_min_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_min_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
PYGRADE_INLINE unsigned nonzero(const std::uint8_t* p) {
  const __m128i x = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return 0xffu & ~static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_setzero_si128())));
}
PYGRADE_INLINE Floats widen_float16(const std::uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// Each half to the high bytes of its float, by one shuffle.
PYGRADE_INLINE Floats widen_bfloat16(const std::uint16_t* p) {
  const __m256i halves = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i bytes = _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7, -1, -1, 8, 9, -1, -1,
                                         10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
  return _mm256_castsi256_ps(_mm256_shuffle_epi8(halves, bytes));
}

PYGRADE_INLINE std::int32_t lowest_bit(std::uint64_t word) { return static_cast<std::int32_t>(_tzcnt_u64(word)); }
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
