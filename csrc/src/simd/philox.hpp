// Philox4x32-10 of 16 counters at a time, with the bits of `philox` in numerics.hpp. Uses intrinsics if there are any:
// the compiler does not find the widening multiply of every other lane.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "lanes.hpp"
#include "numerics.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
struct LaneWords {
  alignas(64) std::uint32_t w0[lane_count], w1[lane_count], w2[lane_count], w3[lane_count];
};

#if defined(__AVX512F__)

struct Wide {
  using Vector = __m512i;
  static constexpr int lanes = 16;
  static Vector load(const std::uint32_t* p) { return _mm512_loadu_si512(p); }
  static void store(std::uint32_t* p, Vector v) { _mm512_storeu_si512(p, v); }
  static Vector fill(std::uint32_t v) { return _mm512_set1_epi32(static_cast<int>(v)); }
  static Vector multiply(Vector a, Vector b) { return _mm512_mul_epu32(a, b); }
  static Vector high(Vector v) { return _mm512_srli_epi64(v, 32); }
  static Vector exclusive_or(Vector a, Vector b, Vector c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  static Vector join(Vector even, Vector odd) {
    return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  }
};

#elif defined(__AVX2__)

struct Wide {
  using Vector = __m256i;
  static constexpr int lanes = 8;
  static Vector load(const std::uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void store(std::uint32_t* p, Vector v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static Vector fill(std::uint32_t v) { return _mm256_set1_epi32(static_cast<int>(v)); }
  static Vector multiply(Vector a, Vector b) { return _mm256_mul_epu32(a, b); }
  static Vector high(Vector v) { return _mm256_srli_epi64(v, 32); }
  static Vector exclusive_or(Vector a, Vector b, Vector c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
  static Vector join(Vector even, Vector odd) { return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA); }
};

#endif

#if defined(__AVX2__)

// Even and odd lanes separately, each in the low half of a 64-bit element; the high halves are ignored.
inline void philox16(std::uint64_t key, const std::uint32_t* c0, const std::uint32_t* c1, std::uint32_t c2,
                     const std::uint32_t* c3, LaneWords& words) {
  using Vector = Wide::Vector;
  const Vector m0 = Wide::fill(0xD2511F53u);
  const Vector m1 = Wide::fill(0xCD9E8D57u);
  for (int l = 0; l < lane_count; l += Wide::lanes) {
    Vector a0 = Wide::load(c0 + l), a1 = Wide::load(c1 + l), a2 = Wide::fill(c2), a3 = Wide::load(c3 + l);
    Vector b0 = Wide::high(a0), b1 = Wide::high(a1), b2 = a2, b3 = Wide::high(a3);
    std::uint32_t k0 = static_cast<std::uint32_t>(key);
    std::uint32_t k1 = static_cast<std::uint32_t>(key >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const Vector key0 = Wide::fill(k0);
      const Vector key1 = Wide::fill(k1);
      const Vector p = Wide::multiply(a0, m0);
      const Vector q = Wide::multiply(a2, m1);
      const Vector r = Wide::multiply(b0, m0);
      const Vector s = Wide::multiply(b2, m1);
      a0 = Wide::exclusive_or(Wide::high(q), a1, key0);
      b0 = Wide::exclusive_or(Wide::high(s), b1, key0);
      a1 = q;
      b1 = s;
      a2 = Wide::exclusive_or(Wide::high(p), a3, key1);
      b2 = Wide::exclusive_or(Wide::high(r), b3, key1);
      a3 = p;
      b3 = r;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    Wide::store(words.w0 + l, Wide::join(a0, b0));
    Wide::store(words.w1 + l, Wide::join(a1, b1));
    Wide::store(words.w2 + l, Wide::join(a2, b2));
    Wide::store(words.w3 + l, Wide::join(a3, b3));
  }
}

#else

inline void philox16(std::uint64_t key, const std::uint32_t* c0, const std::uint32_t* c1, std::uint32_t c2,
                     const std::uint32_t* c3, LaneWords& words) {
  for (int l = 0; l < lane_count; ++l) {
    const Words w = philox(key, c0[l], c1[l], c2, c3[l]);
    words.w0[l] = w.w0;
    words.w1[l] = w.w1;
    words.w2[l] = w.w2;
    words.w3[l] = w.w3;
  }
}

#endif
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
