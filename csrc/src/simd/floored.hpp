// What the density kernels of `dirichlet` and `grpo` share: samples of eight rows at a time, one row to a lane, their
// log-probabilities, and the sum of their scores ∂ log p / ∂α. All in double.
#pragma once

#include "special.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

inline constexpr std::int64_t most_columns = 512;  // of G · T in flight: 8 samples of 64 tasks

// Samples in flight: a multiple of 8, so that their columns are transposed without a remainder.
inline std::int64_t chunk_samples(std::int64_t tasks) { return most_columns / tasks / 8 * 8; }

// Log-weights of some samples. Raised to the floor and minus `log_total` they are normalised again.
struct Samples {
  alignas(64) float log_weight[most_columns * row_lanes];  // [samples, T, 8]
  alignas(64) double log_total[most_columns * row_lanes];  // [samples, 8]
  Doubles floor;
};

// exp of a log-weight raised to `least`, which is at least -700; nonsense above 700 is lowered to it.
PYGRADE_ROW_OP Doubles weight_of(Doubles log_weight, Doubles least) {
  return exp64(lowered(raised(log_weight, least), fill(700.0)));
}

// `rows` points to the first of `count` samples in row 0; those of the next row stand `stride` floats behind.
PYGRADE_ROW_OP void load_samples(const float* rows, std::int64_t stride, int row_count, std::int64_t count,
                                 std::int64_t tasks, double log_floor, Samples& samples) {
  to_columns(rows, stride, row_count, count * tasks, samples.log_weight);
  samples.floor = fill(log_floor);
  if (log_floor == -__builtin_inf()) {
    for (std::int64_t g = 0; g < count; ++g) store(samples.log_total + g * row_lanes, fill(0.0));
    return;
  }
  const Doubles least = raised(samples.floor, fill(-700.0));
  for (std::int64_t g = 0; g < count; ++g) {
    Doubles total = fill(0.0);
    for (std::int64_t t = 0; t < tasks; ++t)
      total = total + weight_of(load(samples.log_weight + (g * tasks + t) * row_lanes), least);
    store(samples.log_total + g * row_lanes, total);
  }
  for (std::int64_t g = 0; g < count; ++g)
    store(samples.log_total + g * row_lanes, log64(load(samples.log_total + g * row_lanes)));
}

// What the log-probabilities of eight rows are made of.
struct Density {
  alignas(64) double exponent[max_tasks * row_lanes];  // α_t - 1
  alignas(64) double least[max_tasks * row_lanes];     // the floor; 0 where α_t = 1: adds 0 even where a weight is 0
  Doubles excess, shift;                               // T - α₀ and -log B(α)
};

inline void load_density(const Rows& rows, std::int64_t tasks, double log_floor, Density& density) {
  const Doubles zero = fill(0.0), one = fill(1.0), floor = fill(log_floor);
  for (std::int64_t i = 0; i < tasks * row_lanes; i += row_lanes) {
    const Doubles exponent = load(rows.alpha + i) - one;
    store(density.exponent + i, exponent);
    store(density.least + i, select(exponent == zero, zero, floor));
  }
  density.excess = fill(static_cast<double>(tasks)) - rows.total(tasks);
  density.shift = zero - load(rows.log_beta);
}

// log p of each sample → value[count, 8].
PYGRADE_ROW_OP void log_probs(const Density& density, const Samples& samples, std::int64_t count, std::int64_t tasks,
                              double* value) {
  for (std::int64_t g = 0; g < count; ++g) {
    const float* log_weight = samples.log_weight + g * tasks * row_lanes;
    Doubles sum = multiply_add(density.excess, load(samples.log_total + g * row_lanes), density.shift);
    for (std::int64_t i = 0; i < tasks * row_lanes; i += row_lanes)
      sum = multiply_add(load(density.exponent + i), raised(load(log_weight + i), load(density.least + i)), sum);
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
PYGRADE_ROW_OP void add_scores(const Float* coefficient, const Samples& samples, std::int64_t count, std::int64_t tasks,
                               ScoreSum& score) {
  for (std::int64_t g = 0; g < count; ++g) {
    const Doubles c = load(coefficient + g * row_lanes);
    score.coefficient = score.coefficient + c;
    score.total = multiply_add(c, load(samples.log_total + g * row_lanes), score.total);
  }
  std::int64_t first = 0;
  for (; first + 8 <= tasks; first += 8) {  // eight sums at once, so that none waits for itself
    Doubles sum[8];
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sum[j] = load(score.by_task + (first + j) * row_lanes);
    for (std::int64_t g = 0; g < count; ++g) {
      const Doubles c = load(coefficient + g * row_lanes);
      const float* log_weight = samples.log_weight + (g * tasks + first) * row_lanes;
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j)
        sum[j] = multiply_add(c, raised(load(log_weight + j * row_lanes), samples.floor), sum[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) store(score.by_task + (first + j) * row_lanes, sum[j]);
  }
  for (std::int64_t t = first; t < tasks; ++t) {
    Doubles sum = load(score.by_task + t * row_lanes);
    for (std::int64_t g = 0; g < count; ++g)
      sum = multiply_add(load(coefficient + g * row_lanes),
                         raised(load(samples.log_weight + (g * tasks + t) * row_lanes), samples.floor), sum);
    store(score.by_task + t * row_lanes, sum);
  }
}

// Σ_g coefficient_g · (log w_gt + ψ(α₀) - ψ(α_t)), the last two as `shift`.
inline Doubles score_of(const ScoreSum& score, std::int64_t t, Doubles shift) {
  return multiply_add(score.coefficient, shift, load(score.by_task + t * row_lanes) - score.total);
}

struct EightTasks {
  static constexpr std::int64_t value = 8;
};
struct SomeTasks {
  std::int64_t value;
};

// Calls work with the number of tasks as `value`, a constant where it is the usual one.
template <class Work>
PYGRADE_ROW_OP void by_tasks(std::int64_t tasks, Work work) {
  if (tasks == EightTasks::value)
    work(EightTasks{});
  else
    work(SomeTasks{tasks});
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
