// Vectors of floats and 32-bit integers for the instruction set a file is compiled for: `lanes` values each. Every
// operation is exact per lane (IEEE, or integer), so an algorithm written with it has the same bits everywhere.
// Masks are plain bits, lane 0 lowest.
#pragma once

#include <cstdint>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define PYGRADE_INLINE inline __attribute__((always_inline))

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

constexpr std::int32_t key_none = INT32_MIN;               // of no candidate: below every key
constexpr std::int32_t key_nan = INT32_MIN + 1;            // of NaN: below -inf's
constexpr std::int32_t key_lowest = INT32_MIN + 0x7fffff;  // of -inf

// The score, not NaN, that has this key.
PYGRADE_INLINE float score_of_key(std::int32_t key) {
  return __builtin_bit_cast(float, key < 0 ? key ^ 0x7fffffff : key);
}

#if defined(__AVX512F__)

constexpr int lanes = 16;
using Floats = __m512;
using Ints = __m512i;

PYGRADE_INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
PYGRADE_INLINE void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
PYGRADE_INLINE Floats broadcast(float x) { return _mm512_set1_ps(x); }
PYGRADE_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
PYGRADE_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
PYGRADE_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
PYGRADE_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

// b where a is not greater, which includes NaN
PYGRADE_INLINE Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
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
// The larger bit pattern, and bit patterns as numbers, for floats that are not negative.
PYGRADE_INLINE Ints max_bits(Ints a, Floats b) { return _mm512_max_epu32(a, _mm512_castps_si512(b)); }
PYGRADE_INLINE Floats number_of_bits(Floats a) { return _mm512_cvtepi32_ps(_mm512_castps_si512(a)); }
PYGRADE_INLINE Ints iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
PYGRADE_INLINE unsigned greater(Ints a, Ints b) { return _cvtmask16_u32(_mm512_cmpgt_epi32_mask(a, b)); }
PYGRADE_INLINE unsigned greater_equal(Ints a, Ints b) { return _cvtmask16_u32(_mm512_cmpge_epi32_mask(a, b)); }
// count + 1 where a > b, where a >= b
PYGRADE_INLINE Ints count_greater(Ints count, Ints a, Ints b) {
  return _mm512_mask_add_epi32(count, _mm512_cmpgt_epi32_mask(a, b), count, _mm512_set1_epi32(1));
}
PYGRADE_INLINE Ints count_greater_equal(Ints count, Ints a, Ints b) {
  return _mm512_mask_add_epi32(count, _mm512_cmpge_epi32_mask(a, b), count, _mm512_set1_epi32(1));
}
PYGRADE_INLINE Ints select(unsigned mask, Ints yes, Ints no) {
  return _mm512_mask_blend_epi32(static_cast<__mmask16>(mask), no, yes);
}
// The lanes of the mask to the front of p; the rest of the vector there is overwritten too. Compressing in a register
// and storing all of it, because the form that stores to memory is microcoded on Zen.
PYGRADE_INLINE void compress(std::int32_t* p, unsigned mask, Ints v) {
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), v));
}
PYGRADE_INLINE void compress(float* p, unsigned mask, Floats v) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), v));
}
// Integers in the order of the scores: -0 equals +0, NaN is key_nan.
PYGRADE_INLINE Ints order_key(Floats x) {
  const Ints bits = _mm512_castps_si512(_mm512_add_ps(x, _mm512_setzero_ps()));
  const Ints flip = _mm512_and_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(0x7fffffff));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_mov_epi32(_mm512_xor_si512(bits, flip), nan, _mm512_set1_epi32(key_nan));
}
PYGRADE_INLINE Ints shift_left(Ints a, int bits) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(bits)); }
PYGRADE_INLINE Ints shift_right(Ints a, int bits) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(bits)); }
// One bit for each of the 64 floats from p on that reaches `least`, in their order.
PYGRADE_INLINE std::uint64_t reaching64(const float* p, Floats least) {
  const auto at = [&](int i) { return _mm512_cmp_ps_mask(load(p + i * lanes), least, _CMP_GE_OQ); };
  return _cvtmask64_u64(_mm512_kunpackd(_mm512_kunpackw(at(3), at(2)), _mm512_kunpackw(at(1), at(0))));
}

PYGRADE_INLINE Ints bits_and(Ints a, Ints b) { return _mm512_and_si512(a, b); }
PYGRADE_INLINE Ints bits_or(Ints a, Ints b) { return _mm512_or_si512(a, b); }
PYGRADE_INLINE Ints bits_xor(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
// Lanes i and i ^ distance in each other's place.
template <int distance>
PYGRADE_INLINE Ints swap_lanes(Ints a) {
  if constexpr (distance == 1) return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(0xb1));
  if constexpr (distance == 2) return _mm512_shuffle_epi32(a, static_cast<_MM_PERM_ENUM>(0x4e));
  if constexpr (distance == 4) return _mm512_shuffle_i32x4(a, a, 0xb1);
  return _mm512_shuffle_i32x4(a, a, 0x4e);
}
// Each lane's next one; the last one's is the first.
PYGRADE_INLINE Ints next_lanes(Ints a) { return _mm512_alignr_epi32(a, a, 1); }
PYGRADE_INLINE std::int32_t sum_of(Ints a) { return _mm512_reduce_add_epi32(a); }
PYGRADE_INLINE std::int32_t max_of(Ints a) { return _mm512_reduce_max_epi32(a); }
PYGRADE_INLINE std::int32_t min_of(Ints a) { return _mm512_reduce_min_epi32(a); }
PYGRADE_INLINE unsigned nonzero(const std::uint8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _cvtmask16_u32(_mm_test_epi8_mask(x, x));
}
PYGRADE_INLINE Floats widen_float16(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
PYGRADE_INLINE Floats widen_bfloat16(const std::uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

#elif defined(__AVX2__)

constexpr int lanes = 8;
using Floats = __m256;
using Ints = __m256i;

PYGRADE_INLINE Floats load(const float* p) { return _mm256_loadu_ps(p); }
PYGRADE_INLINE void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
PYGRADE_INLINE Floats broadcast(float x) { return _mm256_set1_ps(x); }
PYGRADE_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
PYGRADE_INLINE Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
PYGRADE_INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
PYGRADE_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

// b where a is not greater, which includes NaN
PYGRADE_INLINE Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
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
PYGRADE_INLINE Ints max_bits(Ints a, Floats b) { return _mm256_max_epu32(a, _mm256_castps_si256(b)); }
PYGRADE_INLINE Floats number_of_bits(Floats a) { return _mm256_cvtepi32_ps(_mm256_castps_si256(a)); }
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
PYGRADE_INLINE Ints count_greater_equal(Ints count, Ints a, Ints b) {
  return _mm256_add_epi32(_mm256_add_epi32(count, _mm256_set1_epi32(1)), _mm256_cmpgt_epi32(b, a));
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
PYGRADE_INLINE Ints shift_left(Ints a, int bits) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(bits)); }
PYGRADE_INLINE Ints shift_right(Ints a, int bits) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(bits)); }
PYGRADE_INLINE std::uint64_t reaching32(const float* p, Floats least) {
  const auto at = [&](int i) { return _mm256_castps_si256(_mm256_cmp_ps(load(p + i * lanes), least, _CMP_GE_OQ)); };
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(at(0), at(1)), _mm256_packs_epi32(at(2), at(3)));
  const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(ordered));
}
PYGRADE_INLINE std::uint64_t reaching64(const float* p, Floats least) {
  return reaching32(p, least) | reaching32(p + 32, least) << 32;
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
PYGRADE_INLINE std::int32_t sum_of(Ints a) {
  __m128i x = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
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
PYGRADE_INLINE Floats widen_bfloat16(const std::uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

#else  // any processor: plain loops, which the compiler turns into what it has

constexpr int lanes = 4;
struct Floats {
  float at[lanes];
};
struct Ints {
  std::int32_t at[lanes];
};

template <class Vector, class Function>
PYGRADE_INLINE Vector each(Function function) {
  Vector result;
  for (int i = 0; i < lanes; ++i) result.at[i] = function(i);
  return result;
}
template <class Function>
PYGRADE_INLINE unsigned each_bit(Function function) {
  unsigned mask = 0;
  for (int i = 0; i < lanes; ++i) mask |= static_cast<unsigned>(function(i)) << i;
  return mask;
}

PYGRADE_INLINE Floats load(const float* p) {
  return each<Floats>([p](int i) { return p[i]; });
}
PYGRADE_INLINE void store(float* p, Floats v) { __builtin_memcpy(p, v.at, sizeof v.at); }
PYGRADE_INLINE Floats broadcast(float x) {
  return each<Floats>([x](int) { return x; });
}
PYGRADE_INLINE Floats add(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] + b.at[i]; });
}
PYGRADE_INLINE Floats sub(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] - b.at[i]; });
}
PYGRADE_INLINE Floats mul(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] * b.at[i]; });
}
PYGRADE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return __builtin_fmaf(a.at[i], b.at[i], c.at[i]); });
}
// b where a is not greater, which includes NaN
PYGRADE_INLINE Floats max(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
PYGRADE_INLINE unsigned greater_equal(Floats a, Floats b) {
  return each_bit([&](int i) { return a.at[i] >= b.at[i]; });
}
PYGRADE_INLINE Floats select(unsigned mask, Floats yes, Floats no) {
  return each<Floats>([&](int i) { return (mask >> i & 1) ? yes.at[i] : no.at[i]; });
}
PYGRADE_INLINE Ints load(const std::int32_t* p) {
  return each<Ints>([p](int i) { return p[i]; });
}
PYGRADE_INLINE void store(std::int32_t* p, Ints v) { __builtin_memcpy(p, v.at, sizeof v.at); }
PYGRADE_INLINE Ints broadcast(std::int32_t x) {
  return each<Ints>([x](int) { return x; });
}
PYGRADE_INLINE Ints add(Ints a, Ints b) {  // wraps, as instructions do: lanes that nobody wants hold anything
  return each<Ints>([&](int i) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.at[i]) + static_cast<std::uint32_t>(b.at[i]));
  });
}
PYGRADE_INLINE Ints sub(Ints a, Ints b) {
  return each<Ints>([&](int i) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.at[i]) - static_cast<std::uint32_t>(b.at[i]));
  });
}
PYGRADE_INLINE Ints max(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
PYGRADE_INLINE Ints min(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
}
PYGRADE_INLINE Ints iota() {
  return each<Ints>([](int i) { return i; });
}
PYGRADE_INLINE unsigned greater(Ints a, Ints b) {
  return each_bit([&](int i) { return a.at[i] > b.at[i]; });
}
PYGRADE_INLINE unsigned greater_equal(Ints a, Ints b) {
  return each_bit([&](int i) { return a.at[i] >= b.at[i]; });
}
PYGRADE_INLINE Ints count_greater(Ints count, Ints a, Ints b) {
  return each<Ints>([&](int i) { return count.at[i] + (a.at[i] > b.at[i] ? 1 : 0); });
}
PYGRADE_INLINE Ints count_greater_equal(Ints count, Ints a, Ints b) {
  return each<Ints>([&](int i) { return count.at[i] + (a.at[i] >= b.at[i] ? 1 : 0); });
}
PYGRADE_INLINE Ints select(unsigned mask, Ints yes, Ints no) {
  return each<Ints>([&](int i) { return (mask >> i & 1) ? yes.at[i] : no.at[i]; });
}
PYGRADE_INLINE void compress(std::int32_t* p, unsigned mask, Ints v) {
  for (int i = 0; i < lanes; ++i) {
    *p = v.at[i];
    p += mask >> i & 1;
  }
}
PYGRADE_INLINE void compress(float* p, unsigned mask, Floats v) {
  for (int i = 0; i < lanes; ++i) {
    *p = v.at[i];
    p += mask >> i & 1;
  }
}
PYGRADE_INLINE Ints order_key(Floats x) {
  return each<Ints>([&](int i) {
    const float canonical = x.at[i] + 0.0f;
    std::int32_t bits;
    __builtin_memcpy(&bits, &canonical, sizeof bits);
    const std::int32_t key = bits ^ (bits < 0 ? 0x7fffffff : 0);
    return x.at[i] == x.at[i] ? key : key_nan;
  });
}
PYGRADE_INLINE Ints shift_left(Ints a, int bits) {
  return each<Ints>([&](int i) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.at[i]) << bits); });
}
PYGRADE_INLINE Ints shift_right(Ints a, int bits) {
  return each<Ints>([&](int i) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.at[i]) >> bits); });
}
PYGRADE_INLINE std::uint64_t reaching64(const float* p, Floats least) {
  std::uint64_t word = 0;
  for (int i = 0; i < 64; i += lanes) word |= std::uint64_t{greater_equal(load(p + i), least)} << i;
  return word;
}

PYGRADE_INLINE Ints bits_and(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] & b.at[i]; });
}
PYGRADE_INLINE Ints bits_or(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] | b.at[i]; });
}
PYGRADE_INLINE Ints bits_xor(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] ^ b.at[i]; });
}
template <int distance>
PYGRADE_INLINE Ints swap_lanes(Ints a) {
  return each<Ints>([&](int i) { return a.at[i ^ distance]; });
}
PYGRADE_INLINE Ints next_lanes(Ints a) {
  return each<Ints>([&](int i) { return a.at[(i + 1) % lanes]; });
}
PYGRADE_INLINE std::int32_t sum_of(Ints a) {
  std::int32_t sum = 0;
  for (int i = 0; i < lanes; ++i) sum += a.at[i];
  return sum;
}
PYGRADE_INLINE std::int32_t max_of(Ints a) {
  std::int32_t most = a.at[0];
  for (int i = 1; i < lanes; ++i) most = a.at[i] > most ? a.at[i] : most;
  return most;
}
PYGRADE_INLINE std::int32_t min_of(Ints a) {
  std::int32_t least = a.at[0];
  for (int i = 1; i < lanes; ++i) least = a.at[i] < least ? a.at[i] : least;
  return least;
}
PYGRADE_INLINE unsigned nonzero(const std::uint8_t* p) {
  return each_bit([p](int i) { return p[i] != 0; });
}
PYGRADE_INLINE float float_of_bits(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
PYGRADE_INLINE float float_of_float16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 0x1fu;
  const std::uint32_t fraction = half & 0x3ffu;
  if (exponent == 31) return float_of_bits(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;  // subnormal: exact
  return sign != 0 ? -small : small;
}
PYGRADE_INLINE Floats widen_float16(const std::uint16_t* p) {
  return each<Floats>([p](int i) { return float_of_float16(p[i]); });
}
PYGRADE_INLINE Floats widen_bfloat16(const std::uint16_t* p) {
  return each<Floats>([p](int i) { return float_of_bits(static_cast<std::uint32_t>(p[i]) << 16); });
}

#endif

constexpr unsigned all_lanes = (1u << lanes) - 1;

// The lanes whose number has this bit.
PYGRADE_INLINE constexpr unsigned lanes_with(int bit) {
  unsigned mask = 0;
  for (int i = 0; i < lanes; ++i) mask |= static_cast<unsigned>((i & bit) != 0) << i;
  return mask;
}

// The number of the lowest bit that is set; anything where none is.
PYGRADE_INLINE std::int32_t lowest_bit(std::uint64_t word) {
#if defined(__BMI__)
  return static_cast<std::int32_t>(_tzcnt_u64(word));
#else
  return word == 0 ? 0 : __builtin_ctzll(word);
#endif
}

// The lanes below `count`, which may be beyond the vector on either side.
PYGRADE_INLINE unsigned first_lanes(std::int64_t count) {
  return count >= lanes ? all_lanes : count <= 0 ? 0u : (1u << count) - 1;
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
