// Entropy and KL divergence of eight rows of concentrations, with gradients. All in double.
#pragma once

#include "special.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// Stores the first `count` lanes of x.
inline void store_rows(Doubles x, int count, float* rows) {
  alignas(64) float lane[row_lanes];
  store(lane, x);
  for (int l = 0; l < count; ++l) rows[l] = lane[l];
}

// Entropy and its gradient[T, 8], (α₀ - T) ψ'(α₀) - (α_t - 1) ψ'(α_t).
inline Doubles row_entropy(const Rows& rows, std::int64_t tasks, double* gradient) {
  const Doubles one = fill(1.0);
  if (tasks == 1) {  // 0: the terms cancel, but for their rounding
    const Doubles zero = load(rows.alpha) - load(rows.alpha);
    store(gradient, zero);
    return zero;
  }
  const Doubles excess = rows.total(tasks) - fill(static_cast<double>(tasks));
  const Doubles shared = excess * load(rows.trigamma + tasks * row_lanes);
  Doubles sum = multiply_add(excess, load(rows.digamma + tasks * row_lanes), load(rows.log_beta));
  for (std::int64_t t = 0; t < tasks; ++t) {
    const Doubles less = one - load(rows.alpha + t * row_lanes);
    sum = multiply_add(less, load(rows.digamma + t * row_lanes), sum);
    store(gradient + t * row_lanes, multiply_add(less, load(rows.trigamma + t * row_lanes), shared));
  }
  return sum;
}

// KL(rows ‖ other) and its gradient[T, 8] with respect to `rows`, (α_t - β_t) ψ'(α_t) - (α₀ - β₀) ψ'(α₀).
inline Doubles row_kl(const Rows& rows, const Rows& other, std::int64_t tasks, double* gradient) {
  Doubles sum = load(other.log_beta) - load(rows.log_beta);
  const Doubles shared = (other.total(tasks) - rows.total(tasks)) * load(rows.trigamma + tasks * row_lanes);
  for (std::int64_t t = 0; t < tasks; ++t) {
    const Doubles difference = load(rows.alpha + t * row_lanes) - load(other.alpha + t * row_lanes);
    sum = sum - difference * digamma_shift(rows, tasks, t);
    store(gradient + t * row_lanes, multiply_add(difference, load(rows.trigamma + t * row_lanes), shared));
  }
  return sum;
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
