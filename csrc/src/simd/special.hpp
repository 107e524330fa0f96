// Special functions in double for the rows of the Dirichlet families, within about 1e-14 of the exact value (relative
// above 1, absolute below). Branch-free; the same source serves one double and a vector of doubles.
#pragma once

#include <cstdint>

#include "doubles.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
PYGRADE_INLINE std::uint64_t bits_of(double x) { return __builtin_bit_cast(std::uint64_t, x); }
PYGRADE_INLINE double from_bits(std::uint64_t x) { return __builtin_bit_cast(double, x); }
PYGRADE_INLINE PartBits bits_of(Part x) { return __builtin_bit_cast(PartBits, x); }
PYGRADE_INLINE Part from_bits(PartBits x) { return __builtin_bit_cast(Part, x); }

// v[0] + v[1] x + … + v[terms - 1] x^(terms - 1) by halves (Estrin): short dependency chains.
template <int terms, class Value>
PYGRADE_INLINE Value by_halves(Value x, const Value* v) {
  if constexpr (terms == 1) {
    return v[0];
  } else {
    Value pair[(terms + 1) / 2];
#pragma GCC unroll 16
    for (int i = 0; i + 1 < terms; i += 2) pair[i / 2] = multiply_add(v[i + 1], x, v[i]);
    if constexpr (terms % 2 == 1) pair[terms / 2] = v[terms - 1];
    return by_halves<(terms + 1) / 2>(x * x, pair);
  }
}
// c[0] + c[1] x + … + c[terms - 1] x^(terms - 1).
template <class Value, int terms>
PYGRADE_INLINE Value polynomial(Value x, const double (&c)[terms]) {
  Value v[terms];
#pragma GCC unroll 16
  for (int i = 0; i < terms; ++i) v[i] = Value{} + c[i];
  return by_halves<terms>(x, v);
}

// log(x) of a normal, positive, finite x; NaN at NaN and inf. x = 2^e (1 + f) with f in [√½ - 1, √2 - 1), then the
// series of fdlibm's e_log.c in s² = (f / (2 + f))². Arranged for short dependency chains.
template <class Value>
PYGRADE_INLINE Value log64(Value x) {
  const std::uint64_t one = 0x3ff0000000000000u;
  const auto bits = bits_of(x);
  const auto biased = bits - 0x3fe6a09e667f3bcdu + one;  // exponent + 1023, above bit 52
  const auto exponent = biased >> 52;
  const Value f = from_bits(bits - (exponent << 52) + one) - 1.0;
  // The bits of 2^52 or-ed with a smaller integer are the double 2^52 + integer.
  const Value e = from_bits(exponent | 0x4330000000000000u) - (0x1p52 + 1023.0) + (x - x);
  const Value s = f / (2.0 + f);
  const Value z = s * s;
  const double series[] = {6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                           2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                           1.479819860511658591e-01};
  const Value less = multiply_add(polynomial(z, series), Value{} - z, f);
  return multiply_add(e, 6.93147180559945309417e-01, multiply_add(s, Value{} - less, f));
}

// exp(x) of |x| ≤ 700 with a relative error below 1e-13; NaN at NaN.
template <class Value>
PYGRADE_INLINE Value exp64(Value x) {
  const double rounder = 0x1.8p52;
  const Value shifted = multiply_add(x, 1.44269504088896338700, rounder);
  const Value r = multiply_add(shifted - rounder, -6.93147180559945309417e-01, x);
  const double taylor[] = {1.0,         1.0,          0.5,           1.0 / 6.0,      1.0 / 24.0,      1.0 / 120.0,
                           1.0 / 720.0, 1.0 / 5040.0, 1.0 / 40320.0, 1.0 / 362880.0, 1.0 / 3628800.0, 1.0 / 39916800.0};
  const Value p = polynomial(r, taylor);                    // the next term is below 1e-14 on |r| ≤ ½ log 2
  return from_bits(bits_of(p) + (bits_of(shifted) << 52));  // the low bits of `shifted` hold n
}

PYGRADE_INLINE Doubles log64(Doubles x) {
  return by_part<Doubles>([&](int i) { return log64(x.part[i]); });
}
PYGRADE_INLINE Doubles exp64(Doubles x) {
  return by_part<Doubles>([&](int i) { return exp64(x.part[i]); });
}

// log Γ = stirling - log(product), so that a sum of several takes one logarithm of the product of products.
template <class Value>
struct GammaFunctions {
  Value stirling, product, digamma, trigamma;
};

// log Γ, ψ and ψ' of x > 0; NaN at NaN. Stirling's series need x ≥ 8: a smaller x is shifted up by 8. The shift's
// factors are paired, (y + k)(y + 7 - k) = q + k(7 - k) with q = y(y + 7). One division gives all reciprocals.
template <class Value>
PYGRADE_INLINE GammaFunctions<Value> gamma_functions(Value x) {
  const auto small = x < 8.0;
  const Value y = small ? x : Value{} + 1.0;
  const Value z = small ? x + 8.0 : x;
  const Value q0 = y * (y + 7.0);
  const Value q1 = q0 + 6.0;
  const Value q2 = q0 + 10.0;
  const Value q3 = q0 + 12.0;
  const Value q01 = q0 * q1;
  const Value q23 = q2 * q3;
  const Value product = q01 * q23;
  const Value shared = 1.0 / (product * z);
  const Value i = product * shared;  // 1 / z
  const Value rest01 = (shared * z) * q23;
  const Value rest23 = (shared * z) * q01;
  const Value r0 = q1 * rest01;  // 1 / q0, …
  const Value r1 = q0 * rest01;
  const Value r2 = q3 * rest23;
  const Value r3 = q2 * rest23;
  const Value harmonic = (2.0 * y + 7.0) * ((r0 + r1) + (r2 + r3));
  const Value pair = 2.0 * q0 + 49.0;
  Value squares = (pair * r0) * r0;
  squares = multiply_add((pair - 12.0) * r1, r1, squares);
  squares = multiply_add((pair - 20.0) * r2, r2, squares);
  squares = multiply_add((pair - 24.0) * r3, r3, squares);

  const Value log_z = log64(z);
  const Value w = i * i;
  const double log_gamma_series[] = {0.0833333333333333333,    -0.00277777777777777778, 0.000793650793650793651,
                                     -0.000595238095238095238, 0.000841750841750841751, -0.00191752691752691753,
                                     0.00641025641025641026};
  const double digamma_series[] = {0.0833333333333333333,   -0.00833333333333333333, 0.00396825396825396825,
                                   -0.00416666666666666667, 0.00757575757575757576,  -0.0210927960927960928,
                                   0.0833333333333333333};
  const double trigamma_series[] = {0.166666666666666667,   -0.0333333333333333333, 0.0238095238095238095,
                                    -0.0333333333333333333, 0.0757575757575757576,  -0.253113553113553114,
                                    1.16666666666666667};
  const Value series = multiply_add(polynomial(w, log_gamma_series), i, 0.918938533204672742 - z);
  const Value stirling = multiply_add(z - 0.5, log_z, series);
  const Value digamma = log_z - multiply_add(polynomial(w, digamma_series), w, 0.5 * i);
  const Value trigamma = i * multiply_add(polynomial(w, trigamma_series), w, 0.5 * i + 1.0);
  const Value zero{};
  return {stirling, small ? product : zero + 1.0, digamma - (small ? harmonic : zero),
          trigamma + (small ? squares : zero)};
}

inline constexpr int max_tasks = 64;

// Up to eight rows of concentrations in double, one per lane (missing rows repeat the last), by task with the totals
// last: [T + 1, 8].
struct Rows {
  alignas(64) double alpha[(max_tasks + 1) * row_lanes];
  alignas(64) double digamma[(max_tasks + 1) * row_lanes];
  alignas(64) double trigamma[(max_tasks + 1) * row_lanes];
  alignas(64) double log_beta[row_lanes];  // Σ log Γ(α_t) - log Γ(total)

  Doubles total(std::int64_t tasks) const { return load(alpha + tasks * row_lanes); }
};

// A row with a concentration that is not finite and positive becomes NaN as a whole.
inline void load_rows(const float* concentration, std::int64_t tasks, int count, Rows& rows) {
  alignas(64) float columns[max_tasks * row_lanes];
  to_columns(concentration, tasks, count, tasks, columns);
  const Doubles zero = fill(0.0), infinity = fill(__builtin_inf()), nan = fill(__builtin_nan(""));
  Doubles total = zero;
  for (std::int64_t t = 0; t < tasks; ++t) {
    const Doubles a = load(columns + t * row_lanes);
    const Doubles value = select(zero < a, select(a < infinity, a, nan), nan);
    store(rows.alpha + t * row_lanes, value);
    total = total + value;
  }
  store(rows.alpha + tasks * row_lanes, total);
}

enum class Order { log_gamma, digamma, trigamma };  // which special functions; each includes those before it

template <Order order>
PYGRADE_INLINE GammaFunctions<Part> evaluate_at(Rows& rows, std::int64_t i) {
  const auto g = gamma_functions(load_part(rows.alpha + i));
  if (order >= Order::digamma) store_part(rows.digamma + i, g.digamma);
  if (order >= Order::trigamma) store_part(rows.trigamma + i, g.trigamma);
  return g;
}

template <Order order>
inline void evaluate(std::int64_t tasks, Rows& rows) {
  for (int lane = 0; lane < row_lanes; lane += part_lanes) {
    const auto total = evaluate_at<order>(rows, tasks * row_lanes + lane);
    Part sum = Part{} - total.stirling;
    Part product = Part{} + 1.0;
    for (std::int64_t t = 0; t < tasks; ++t) {
      const auto g = evaluate_at<order>(rows, t * row_lanes + lane);
      sum += g.stirling;
      product *= g.product;
      if (t + 1 == tasks) product /= total.product;  // last, so that a single task has log B = 0 exactly
      if (t % 4 < 3 && t + 1 < tasks) continue;
      sum -= log64(product);  // every four factors, which stay in range
      product = Part{} + 1.0;
    }
    store_part(rows.log_beta + lane, sum);
  }
}

// ψ(α₀) - ψ(α_t).
inline Doubles digamma_shift(const Rows& rows, std::int64_t tasks, std::int64_t t) {
  return load(rows.digamma + tasks * row_lanes) - load(rows.digamma + t * row_lanes);
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
