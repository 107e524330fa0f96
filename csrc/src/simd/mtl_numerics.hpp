// Activations in float and the logits' functions in double, written out so that every instruction set has their bits.
// Branch-free: the compiler vectorizes loops over them.
#pragma once

#include <cstdint>

#include "numerics.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
inline std::uint64_t bits_of(double x) { return __builtin_bit_cast(std::uint64_t, x); }
inline double from_bits(std::uint64_t bits) { return __builtin_bit_cast(double, bits); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

inline constexpr float exp_limit = 87.0f;
inline constexpr float exp_rounder = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, held in the low bits
inline constexpr float exp_log2_e = 1.44269504f;
inline constexpr float exp_terms[] = {1.32764725e-3f, 9.67554189e-3f, 5.55071309e-2f,
                                      2.40221202e-1f, 6.93146944e-1f, 1.0f};

// exp(x) of |x| ≤ exp_limit: 2^n · 2^f with |f| ≤ ½, and the polynomial of degree 5 whose largest relative error is the
// least. The result is within 4 units in the last place; numerics.hpp's, within one, takes two steps more.
inline float exp_inside(float x) {
  const float shifted = fma(x, exp_log2_e, exp_rounder);
  const float f = fma(x, exp_log2_e, -(shifted - exp_rounder));
  float p = exp_terms[0];
#pragma GCC unroll 5
  for (int i = 1; i < 6; ++i) p = fma(p, f, exp_terms[i]);
  return from_bits(bits_of(p) + (bits_of(shifted) << 23));
}

// exp(x) of x ≤ 0; exp(-exp_limit) below that.
inline float exp_below(float x) { return exp_inside(x < -exp_limit ? -exp_limit : x); }

// exp(-|x|) of any x; exp(-708) beyond that. Taylor's series on |r| ≤ ½ log 2; the next term is below 2e-16.
inline double exp_minus(double x) {
  const double magnitude = x < 0.0 ? x : -x;
  const double inside = magnitude < -708.0 ? -708.0 : magnitude;
  const double rounder = 0x1.8p52;
  const double shifted = fma(inside, 1.44269504088896338700, rounder);
  const double n = shifted - rounder;
  double r = fma(n, -6.93147180369123816490e-01, inside);
  r = fma(n, -1.90821492927058770002e-10, r);
  double p = 1.0 / 479001600.0;
  p = fma(p, r, 1.0 / 39916800.0);
  p = fma(p, r, 1.0 / 3628800.0);
  p = fma(p, r, 1.0 / 362880.0);
  p = fma(p, r, 1.0 / 40320.0);
  p = fma(p, r, 1.0 / 5040.0);
  p = fma(p, r, 1.0 / 720.0);
  p = fma(p, r, 1.0 / 120.0);
  p = fma(p, r, 1.0 / 24.0);
  p = fma(p, r, 1.0 / 6.0);
  p = fma(p, r, 0.5);
  p = fma(p, r, 1.0);
  p = fma(p, r, 1.0);
  return from_bits(bits_of(p) + (bits_of(shifted) << 52));
}

// log(x) of a normal, positive, finite x: the series of FreeBSD's e_log.c.
inline double log_normal(double x) {
  const std::uint64_t sqrt_half = 0x3fe6a09e667f3bcdu, one = 0x3ff0000000000000u, fraction = 0x000fffffffffffffu;
  const std::uint64_t magic = 0x4330000000000000u;
  const std::uint64_t shifted = bits_of(x) + (one - sqrt_half);
  // The bits of 2^52 or-ed with a smaller integer are the double 2^52 + integer.
  const double exponent = from_bits(magic | shifted >> 52) - (0x1p52 + 1023.0);
  const double f = from_bits((shifted & fraction) + sqrt_half) - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  const double w = z * z;
  const double even = w * fma(w, fma(w, 1.531383769920937332e-01, 2.222219843214978396e-01), 3.999999999940941908e-01);
  const double odd =
      z * fma(w, fma(w, fma(w, 1.479819860511658591e-01, 1.818357216161805012e-01), 2.857142874366239149e-01),
              6.666666666666735130e-01);
  const double half_square = 0.5 * f * f;
  const double low = fma(exponent, 1.90821492927058770002e-10, s * (half_square + (even + odd)));
  return fma(exponent, 6.93147180369123816490e-01, f - (half_square - low));
}

// log(1 + y) of 0 ≤ y ≤ 1. The rounding error of 1 + y is added back.
inline double log_one_plus(double y) {
  const double s = 1.0 + y;
  return log_normal(s) + (y - (s - 1.0)) / s;
}

// log(1 / (1 + exp(-x))).
inline double log_sigmoid(double x) { return (x < 0.0 ? x : 0.0) - log_one_plus(exp_minus(x)); }

// 1 / (1 + exp(-x)).
inline double sigmoid(double x) {
  const double e = exp_minus(x);
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
