// Numerics with the same bits on every backend; kernels/numerics.py has the same functions.
//
// Everything is scalar, branch-free and made of correctly rounded operations (add, multiply, fused multiply-add,
// divide, square root, integer and bit operations), so that every instruction set rounds alike and the compiler can
// vectorize loops over it. Multiply-adds are fused only by an explicit fma, never by the compiler (-ffp-contract=off).
// Internal linkage separates the copies of the instruction sets.
#pragma once

#include <cstdint>

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
inline std::uint32_t bits_of(float x) { return __builtin_bit_cast(std::uint32_t, x); }
inline float from_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// Natural logarithm of 2^shift · (the normal positive float with these bits): splits off the power of two so that the
// rest is in [√½, √2), then the polynomial of Cephes logf.
inline float log_of_bits(std::uint32_t bits, std::int32_t shift) {
  const std::int32_t exponent = static_cast<std::int32_t>(bits - 0x3f3504f3u) >> 23;
  const float f = from_bits(bits - (static_cast<std::uint32_t>(exponent) << 23)) - 1.0f;
  const float e = static_cast<float>(exponent + shift);
  const float z = f * f;
  float p = 7.0376836292e-2f;
  p = fma(p, f, -1.1514610310e-1f);
  p = fma(p, f, 1.1676998740e-1f);
  p = fma(p, f, -1.2420140846e-1f);
  p = fma(p, f, 1.4249322787e-1f);
  p = fma(p, f, -1.6668057665e-1f);
  p = fma(p, f, 2.0000714765e-1f);
  p = fma(p, f, -2.4999993993e-1f);
  p = fma(p, f, 3.3333331174e-1f);
  p = fma(e, -2.12194440e-4f, (p * f) * z);
  p = fma(z, -0.5f, p);
  return fma(e, 0.693359375f, f + p);
}

// log(x) of a normal, positive, finite x.
inline float log_positive(float x) { return log_of_bits(bits_of(x), 0); }

// log(x) of any x: -inf at ±0, NaN below 0, inf at inf. Denormals are scaled through their integer value, so that
// flush-to-zero changes nothing.
inline float log(float x) {
  const std::uint32_t bits = bits_of(x);
  const bool denormal = bits < 0x00800000u;
  const float scaled = static_cast<float>(static_cast<std::int32_t>(bits));
  float result = log_of_bits(denormal ? bits_of(scaled) : bits, denormal ? -149 : 0);
  result = bits == 0x7f800000u ? __builtin_inff() : result;
  result = bits > 0x7f800000u ? __builtin_nanf("") : result;
  return (bits << 1) == 0u ? -__builtin_inff() : result;
}

// log(1 + y) of 0 ≤ y < 1e30. The rounding error of 1 + y is added back, so that the relative error is small for small
// y.
inline float log_one_plus(float y) {
  const float s = 1.0f + y;
  return log_positive(s) + (y - (s - 1.0f)) / s;
}

// log(1 + y) of any y ≥ 0, inf and NaN included.
inline float log1p(float y) {
  const float finite = y < __builtin_inff() ? y : 0.0f;
  const float s = 1.0f + finite;
  return log(1.0f + y) + (finite - (s - 1.0f)) / s;
}

// exp(x) of any x: 0 below -104, denormal results rounded once, inf above 88.72, NaN at NaN. Cephes expf's polynomial
// on |r| ≤ ½ log 2; the power of two is applied in two factors, each a normal float.
inline float exp(float x) {
  const float low = x < -104.0f ? -104.0f : x;
  const float inside = low > 89.0f ? 89.0f : low;
  const float rounder = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, held in the low bits
  const float shifted = fma(inside, 1.44269504089f, rounder);
  const float n = shifted - rounder;
  const std::int32_t k = static_cast<std::int32_t>(bits_of(shifted) - bits_of(rounder));
  float r = fma(n, -0.693359375f, inside);
  r = fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fma(p, r, 1.3981999507e-3f);
  p = fma(p, r, 8.3334519073e-3f);
  p = fma(p, r, 4.1665795894e-2f);
  p = fma(p, r, 1.6666665459e-1f);
  p = fma(p, r, 5.0000001201e-1f);
  p = fma(p, r * r, r) + 1.0f;
  const std::int32_t half = k >> 1;
  const float first = from_bits(static_cast<std::uint32_t>(half + 127) << 23);
  const float second = from_bits(static_cast<std::uint32_t>(k - half + 127) << 23);
  return (p * first) * second;
}

// (k + ½) · 2^-23 of a 23-bit integer k, exactly: never 0, never 1.
inline float unit_interval(std::uint32_t k) {
  return (static_cast<float>(static_cast<std::int32_t>(k)) + 0.5f) * 0x1p-23f;
}

// A uniform from the 23 high bits of a random word.
inline float uniform(std::uint32_t word) { return unit_interval(word >> 9); }

struct Words {
  std::uint32_t w0, w1, w2, w3;
};

// Philox4x32-10 (Salmon et al., SC 2011), with the test vectors of Random123.
inline Words philox(std::uint64_t key, std::uint32_t c0, std::uint32_t c1, std::uint32_t c2, std::uint32_t c3) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key);
  std::uint32_t k1 = static_cast<std::uint32_t>(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

struct Normals {
  float first, second;
};

// Two standard normals from two random words (Box-Muller). The angle is reduced to an octant, where the polynomials of
// Cephes sinf and cosf hold on [0, π/4].
inline Normals box_muller(std::uint32_t w0, std::uint32_t w1) {
  const float radius = __builtin_sqrtf(-2.0f * log_positive(uniform(w0)));
  const float eighths = uniform(w1) * 8.0f;  // exact
  const std::int32_t octant = static_cast<std::int32_t>(eighths);
  const float part = eighths - static_cast<float>(octant);
  const float q = ((octant & 1) != 0 ? 1.0f - part : part) * 0.785398163397448f;
  const float z = q * q;
  const float sine_series = fma(fma(-1.9515295891e-4f, z, 8.3321608736e-3f), z, -1.6666654611e-1f);
  const float cosine_series = fma(fma(2.443315711809948e-5f, z, -1.388731625493765e-3f), z, 4.166664568298827e-2f);
  const float sine = fma(q * z, sine_series, q);
  const float cosine = fma(z * z, cosine_series, fma(z, -0.5f, 1.0f));
  const bool swapped = ((octant + 1) & 2) != 0;
  const float x = swapped ? sine : cosine;
  const float y = swapped ? cosine : sine;
  const bool left = ((octant + 2) & 4) != 0;  // octants 2 to 5
  return {radius * (left ? -x : x), radius * (octant >= 4 ? -y : y)};
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
