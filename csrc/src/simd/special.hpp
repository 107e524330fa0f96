// Special functions in double for the rows of the Dirichlet families: within ~1e-14 of the exact value (relative above
// 1, absolute below). Scalar and branch-free like numerics.hpp, so that loops over them vectorise.
#pragma once

#include <cstdint>

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

// log(x) of a normal, positive, finite x (fdlibm's e_log.c); NaN at NaN and inf.
inline double log64(double x) {
  const std::uint64_t bits = __builtin_bit_cast(std::uint64_t, x);
  const std::uint64_t one = 0x3ff0000000000000u;
  const std::uint64_t biased = bits - 0x3fe6a09e667f3bcdu + one;  // exponent + 1023 above bit 52
  const std::uint64_t exponent = biased >> 52;
  const double f = __builtin_bit_cast(double, bits - (exponent << 52) + one) - 1.0;
  // An integer below 2^52 under the exponent of 2^52 is 2^52 + integer.
  const double e = __builtin_bit_cast(double, exponent | 0x4330000000000000u) - (0x1p52 + 1023.0);
  const double s = f / (2.0 + f);
  const double z = s * s;
  double r = 1.479819860511658591e-01;
  r = fma(r, z, 1.531383769920937332e-01);
  r = fma(r, z, 1.818357216161805012e-01);
  r = fma(r, z, 2.222219843214978396e-01);
  r = fma(r, z, 2.857142874366239149e-01);
  r = fma(r, z, 3.999999999940941908e-01);
  r = fma(r, z, 6.666666666666735130e-01);
  r = r * z;
  const double half = 0.5 * f * f;
  const double low = fma(s, half + r, e * 1.90821492927058770002e-10);
  return fma(e, 6.93147180369123816490e-01, f - (half - low)) + (x - x);
}

// exp(x), x clamped to ±700; NaN stays.
inline double exp64(double x) {
  const double low = x < -700.0 ? -700.0 : x;
  const double inside = low > 700.0 ? 700.0 : low;
  const double rounder = 0x1.8p52;
  const double shifted = fma(inside, 1.44269504088896338700, rounder);
  const double n = shifted - rounder;
  double r = fma(n, -6.93147180369123816490e-01, inside);
  r = fma(n, -1.90821492927058770002e-10, r);
  double p = 1.0 / 479001600.0;  // Taylor: the next term is below 2e-16 on |r| ≤ ½ log 2
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
  const std::uint64_t power = __builtin_bit_cast(std::uint64_t, shifted) << 52;  // the low bits of `shifted` hold n
  return __builtin_bit_cast(double, __builtin_bit_cast(std::uint64_t, p) + power);
}

struct GammaFunctions {
  double log_gamma, digamma, trigamma;
};

// log Γ, ψ and ψ' of x > 0 (NaN stays): x < 8 is shifted up by 8, where Stirling's series hold. The shift's factors are
// paired, (y + k)(y + 7 - k) = q + k(7 - k) with q = y(y + 7).
inline GammaFunctions gamma_functions(double x) {
  const bool small = x < 8.0;
  const double y = small ? x : 1.0;
  const double z = small ? x + 8.0 : x;
  const double q0 = y * (y + 7.0);
  const double q1 = q0 + 6.0;
  const double q2 = q0 + 10.0;
  const double q3 = q0 + 12.0;
  const double r0 = 1.0 / q0;
  const double r1 = 1.0 / q1;
  const double r2 = 1.0 / q2;
  const double r3 = 1.0 / q3;
  const double product = (q0 * q1) * (q2 * q3);
  const double harmonic = fma(2.0, y, 7.0) * ((r0 + r1) + (r2 + r3));
  const double pair = fma(2.0, q0, 49.0);
  double squares = (pair * r0) * r0;
  squares = fma((pair - 12.0) * r1, r1, squares);
  squares = fma((pair - 20.0) * r2, r2, squares);
  squares = fma((pair - 24.0) * r3, r3, squares);

  const double log_z = log64(z);
  const double i = 1.0 / z;
  const double w = i * i;
  double lg = 0.00641025641025641026;
  lg = fma(lg, w, -0.00191752691752691753);
  lg = fma(lg, w, 0.000841750841750841751);
  lg = fma(lg, w, -0.000595238095238095238);
  lg = fma(lg, w, 0.000793650793650793651);
  lg = fma(lg, w, -0.00277777777777777778);
  lg = fma(lg, w, 0.0833333333333333333);
  lg = fma(lg, i, fma(z - 0.5, log_z, 0.918938533204672742 - z));

  double psi = 0.0833333333333333333;
  psi = fma(psi, w, -0.0210927960927960928);
  psi = fma(psi, w, 0.00757575757575757576);
  psi = fma(psi, w, -0.00416666666666666667);
  psi = fma(psi, w, 0.00396825396825396825);
  psi = fma(psi, w, -0.00833333333333333333);
  psi = fma(psi, w, 0.0833333333333333333);
  psi = log_z - fma(psi, w, 0.5 * i);

  double tri = 1.16666666666666667;
  tri = fma(tri, w, -0.253113553113553114);
  tri = fma(tri, w, 0.0757575757575757576);
  tri = fma(tri, w, -0.0333333333333333333);
  tri = fma(tri, w, 0.0238095238095238095);
  tri = fma(tri, w, -0.0333333333333333333);
  tri = fma(tri, w, 0.166666666666666667);
  tri = i * fma(tri, w, fma(0.5, i, 1.0));
  return {lg - (small ? log64(product) : 0.0), psi - (small ? harmonic : 0.0), tri + (small ? squares : 0.0)};
}

inline constexpr int max_tasks = 64;

// One row of concentrations with its total last, in double, padded to a multiple of 8 with ones: the shape that the
// special functions take it in.
struct Row {
  alignas(64) double alpha[max_tasks + 8];
  alignas(64) double log_gamma[max_tasks + 8];
  alignas(64) double digamma[max_tasks + 8];
  alignas(64) double trigamma[max_tasks + 8];
  double total;
  double log_beta;  // Σ log Γ(α_t) - log Γ(total)
};

// A concentration that is not a finite positive number makes its whole row NaN.
inline void load_row(const float* concentration, std::int64_t tasks, Row& row) {
  const double nan = __builtin_nan("");
  double total = 0.0;
  for (std::int64_t t = 0; t < tasks; ++t) {
    const float a = concentration[t];
    const double value = a > 0.0f && a < __builtin_inff() ? static_cast<double>(a) : nan;
    row.alpha[t] = value;
    total += value;
  }
  row.total = row.alpha[tasks] = total;
  for (std::int64_t t = tasks + 1; t % 8 != 0; ++t) row.alpha[t] = 1.0;
}

inline void evaluate_row(std::int64_t tasks, Row& row) {
  for (std::int64_t first = 0; first <= tasks; first += 8) {
    for (int l = 0; l < 8; ++l) {
      const GammaFunctions g = gamma_functions(row.alpha[first + l]);
      row.log_gamma[first + l] = g.log_gamma;
      row.digamma[first + l] = g.digamma;
      row.trigamma[first + l] = g.trigamma;
    }
  }
  double sum = 0.0;
  for (std::int64_t t = 0; t < tasks; ++t) sum += row.log_gamma[t];
  row.log_beta = sum - row.log_gamma[tasks];
}

// The same without ψ and ψ'.
inline void evaluate_log_beta(std::int64_t tasks, Row& row) {
  for (std::int64_t first = 0; first <= tasks; first += 8)
    for (int l = 0; l < 8; ++l) row.log_gamma[first + l] = gamma_functions(row.alpha[first + l]).log_gamma;
  double sum = 0.0;
  for (std::int64_t t = 0; t < tasks; ++t) sum += row.log_gamma[t];
  row.log_beta = sum - row.log_gamma[tasks];
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
