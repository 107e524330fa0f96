// What the density kernels of `dirichlet` and `grpo` share: samples of eight rows at a time, one row to a lane, their
// log-probabilities, and the sum of their scores ∂ log p / ∂α. All in double.
#pragma once

#include "special.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

inline constexpr std::int64_t most_columns = 512;  // of G · T in flight: 8 samples of 64 tasks

// Samples in flight: a multiple of 8, so that their columns are transposed without a remainder.
inline std::int64_t chunk_samples(std::int64_t tasks) { return most_columns / tasks / 8 * 8; }

// Log-weights of some samples, raised to the floor; minus `log_total` they are normalised again.
struct Samples {
  alignas(64) float loaded[most_columns * row_lanes];
  alignas(64) double log_weight[most_columns * row_lanes];  // [samples, T, 8]
  alignas(64) double log_total[most_columns * row_lanes];   // [samples, 8]
};

// `rows` points to the first of `count` samples in row 0; those of the next row stand `stride` floats behind.
inline void load_samples(const float* rows, std::int64_t stride, int row_count, std::int64_t count, std::int64_t tasks,
                         double log_floor, Samples& samples) {
  to_columns(rows, stride, row_count, count * tasks, samples.loaded);
  if (log_floor > -__builtin_inf()) {
    const Doubles floor = fill(log_floor);
    for (std::int64_t g = 0; g < count; ++g) {
      Doubles total = fill(0.0);
      for (std::int64_t t = 0; t < tasks; ++t) {
        const std::int64_t at = (g * tasks + t) * row_lanes;
        const Doubles loaded = load(samples.loaded + at);
        const Doubles log_weight = select(loaded < floor, floor, loaded);  // NaN stays
        store(samples.log_weight + at, log_weight);
        total = total + exp64(log_weight);
      }
      store(samples.log_total + g * row_lanes, log64(total));
    }
  } else {
    for (std::int64_t i = 0; i < count * tasks * row_lanes; ++i) samples.log_weight[i] = samples.loaded[i];
    for (std::int64_t i = 0; i < count * row_lanes; ++i) samples.log_total[i] = 0.0;
  }
}

// log p of each sample → value[count, 8]. A task with α = 1 adds 0, even where its weight is 0.
inline void log_probs(const Rows& rows, const Samples& samples, std::int64_t count, std::int64_t tasks, double* value) {
  const Doubles zero = fill(0.0), one = fill(1.0);
  const Doubles excess = fill(static_cast<double>(tasks)) - rows.total(tasks);
  const Doubles shift = zero - load(rows.log_beta);
  for (std::int64_t g = 0; g < count; ++g) {
    const double* log_weight = samples.log_weight + g * tasks * row_lanes;
    Doubles sum = multiply_add(excess, load(samples.log_total + g * row_lanes), shift);
    for (std::int64_t t = 0; t < tasks; ++t) {
      const Doubles exponent = load(rows.alpha + t * row_lanes) - one;
      const Doubles term = select(exponent == zero, zero, load(log_weight + t * row_lanes));
      sum = multiply_add(exponent, term, sum);
    }
    store(value + g * row_lanes, sum);
  }
}

// Σ_g coefficient_g · log w_g by task, and Σ_g coefficient_g, Σ_g coefficient_g · log total_g.
struct ScoreSum {
  alignas(64) double by_task[max_tasks * row_lanes];
  Doubles coefficient;
  Doubles total;
};

inline void clear(std::int64_t tasks, ScoreSum& score) {
  for (std::int64_t i = 0; i < tasks * row_lanes; ++i) score.by_task[i] = 0.0;
  score.coefficient = score.total = fill(0.0);
}

// coefficient[count, 8], in single precision where it is a gradient.
template <class Float>
inline void add_scores(const Float* coefficient, const Samples& samples, std::int64_t count, std::int64_t tasks,
                       ScoreSum& score) {
  for (std::int64_t g = 0; g < count; ++g) {
    const Doubles c = load(coefficient + g * row_lanes);
    score.coefficient = score.coefficient + c;
    score.total = multiply_add(c, load(samples.log_total + g * row_lanes), score.total);
  }
  for (std::int64_t t = 0; t < tasks; ++t) {
    Doubles sum = load(score.by_task + t * row_lanes);
    for (std::int64_t g = 0; g < count; ++g)
      sum =
          multiply_add(load(coefficient + g * row_lanes), load(samples.log_weight + (g * tasks + t) * row_lanes), sum);
    store(score.by_task + t * row_lanes, sum);
  }
}

// Σ_g coefficient_g · (log w_gt + ψ(α₀) - ψ(α_t)), the last two as `shift`.
inline Doubles score_of(const ScoreSum& score, std::int64_t t, Doubles shift) {
  return multiply_add(score.coefficient, shift, load(score.by_task + t * row_lanes) - score.total);
}

// ψ(α₀) - ψ(α_t).
inline Doubles digamma_shift(const Rows& rows, std::int64_t tasks, std::int64_t t) {
  return load(rows.digamma + tasks * row_lanes) - load(rows.digamma + t * row_lanes);
}

// The first `count` lanes of x.
inline void store_rows(Doubles x, int count, float* rows) {
  alignas(64) float lane[row_lanes];
  store(lane, x);
  for (int l = 0; l < count; ++l) rows[l] = lane[l];
}

// Entropy and its gradient[T, 8], (α₀ - T) ψ'(α₀) - (α_t - 1) ψ'(α_t).
inline Doubles row_entropy(const Rows& rows, std::int64_t tasks, double* gradient) {
  const Doubles one = fill(1.0);
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

// KL(rows ‖ other) and its gradient[T, 8] to `rows`, (α_t - β_t) ψ'(α_t) - (α₀ - β₀) ψ'(α₀).
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
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
