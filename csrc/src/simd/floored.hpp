// What the density kernels of `dirichlet` and `grpo` share: 16 samples of a row in lanes, their log-probabilities, and
// the sum of their scores ∂ log p / ∂α. All in double.
#pragma once

#include "lanes.hpp"
#include "special.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

inline double raised(float log_weight, double log_floor) {
  const double value = log_weight;
  return value < log_floor ? log_floor : value;  // NaN stays
}

// Log-weights of 16 samples, raised to the floor; minus `log_total` they are normalised again.
struct Lanes {
  alignas(64) float loaded[max_tasks][lane_count];
  alignas(64) double log_weight[max_tasks][lane_count];
  alignas(64) double log_total[lane_count];
};

inline void load_lanes(const float* rows, std::int64_t tasks, int count, double log_floor, Lanes& lanes) {
  to_lanes(rows, tasks, count, &lanes.loaded[0][0], lane_count);
  const bool floored = log_floor > -__builtin_inf();
  for (int l = 0; l < lane_count; ++l) lanes.log_total[l] = 0.0;
  for (std::int64_t t = 0; t < tasks; ++t) {
    if (floored) {
      for (int l = 0; l < lane_count; ++l) {
        lanes.log_weight[t][l] = raised(lanes.loaded[t][l], log_floor);
        lanes.log_total[l] += exp64(lanes.log_weight[t][l]);
      }
    } else {
      for (int l = 0; l < lane_count; ++l) lanes.log_weight[t][l] = lanes.loaded[t][l];
    }
  }
  if (floored)
    for (int l = 0; l < lane_count; ++l) lanes.log_total[l] = log64(lanes.log_total[l]);
}

// log p of each lane. A task with α = 1 adds 0, even where its weight is 0.
inline void lane_log_prob(const Row& row, std::int64_t tasks, const Lanes& lanes, double* value) {
  const double exponents = row.total - static_cast<double>(tasks);
  for (int l = 0; l < lane_count; ++l) value[l] = fma(-exponents, lanes.log_total[l], -row.log_beta);
  for (std::int64_t t = 0; t < tasks; ++t) {
    const double exponent = row.alpha[t] - 1.0;
    if (exponent == 0.0) continue;
    for (int l = 0; l < lane_count; ++l) value[l] = fma(exponent, lanes.log_weight[t][l], value[l]);
  }
}

// Σ_g coefficient_g · (log w_g - log total_g) by task, and Σ_g coefficient_g, each split over lanes.
struct ScoreSum {
  alignas(64) double by_task[max_tasks][lane_count];
  alignas(64) double coefficient[lane_count];
  alignas(64) double total[lane_count];
};

inline void clear(ScoreSum& score, std::int64_t tasks) {
  for (std::int64_t t = 0; t < tasks; ++t)
    for (int l = 0; l < lane_count; ++l) score.by_task[t][l] = 0.0;
  for (int l = 0; l < lane_count; ++l) score.coefficient[l] = score.total[l] = 0.0;
}

inline void add_score(const double* coefficient, std::int64_t tasks, const Lanes& lanes, ScoreSum& score) {
  for (int l = 0; l < lane_count; ++l) {
    score.coefficient[l] += coefficient[l];
    score.total[l] = fma(coefficient[l], lanes.log_total[l], score.total[l]);
  }
  for (std::int64_t t = 0; t < tasks; ++t)
    for (int l = 0; l < lane_count; ++l)
      score.by_task[t][l] = fma(coefficient[l], lanes.log_weight[t][l], score.by_task[t][l]);
}

inline double lane_sum(const double* x) {
  double half[8];
  for (int l = 0; l < 8; ++l) half[l] = x[l] + x[l + 8];
  return ((half[0] + half[4]) + (half[2] + half[6])) + ((half[1] + half[5]) + (half[3] + half[7]));
}

// gradient_t = Σ_g coefficient_g · (log w_gt + ψ(α₀) - ψ(α_t)).
inline void finish(const ScoreSum& score, const Row& row, std::int64_t tasks, double* gradient) {
  const double coefficient = lane_sum(score.coefficient);
  const double total = lane_sum(score.total);
  for (std::int64_t t = 0; t < tasks; ++t)
    gradient[t] = fma(coefficient, row.digamma[tasks] - row.digamma[t], lane_sum(score.by_task[t]) - total);
}

// Entropy and its gradient (α₀ - T) ψ'(α₀) - (α_t - 1) ψ'(α_t).
inline double row_entropy(const Row& row, std::int64_t tasks, double* gradient) {
  const double excess = row.total - static_cast<double>(tasks);
  double inner = 0.0;
  for (std::int64_t t = 0; t < tasks; ++t) {
    inner = fma(row.alpha[t] - 1.0, row.digamma[t], inner);
    gradient[t] = excess * row.trigamma[tasks] - (row.alpha[t] - 1.0) * row.trigamma[t];
  }
  return row.log_beta + excess * row.digamma[tasks] - inner;
}

// KL(row ‖ other) and its gradient to `row`, (α_t - β_t) ψ'(α_t) - (α₀ - β₀) ψ'(α₀).
inline double row_kl(const Row& row, const Row& other, std::int64_t tasks, double* gradient) {
  double sum = other.log_beta - row.log_beta;
  const double shared = (row.total - other.total) * row.trigamma[tasks];
  for (std::int64_t t = 0; t < tasks; ++t) {
    const double difference = row.alpha[t] - other.alpha[t];
    sum = fma(difference, row.digamma[t] - row.digamma[tasks], sum);
    gradient[t] = fma(difference, row.trigamma[t], -shared);
  }
  return sum;
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
