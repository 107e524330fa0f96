// Compiled once per instruction set; see ../isa.hpp for what may stand here.
#include "floored.hpp"
#include "sampler.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

void log_prob(const DirichletLogProbTask& task, std::int64_t begin, std::int64_t end) {
  Row row;
  Lanes lanes;
  for (std::int64_t b = begin; b < end; ++b) {
    load_row(task.concentration + b * task.tasks, task.tasks, row);
    evaluate_log_beta(task.tasks, row);
    for (std::int64_t g = 0; g < task.samples; g += lane_count) {
      const int count = static_cast<int>(task.samples - g < lane_count ? task.samples - g : lane_count);
      const std::int64_t at = b * task.samples + g;
      load_lanes(task.log_weights + at * task.tasks, task.tasks, count, task.log_floor, lanes);
      alignas(64) double value[lane_count];
      lane_log_prob(row, task.tasks, lanes, value);
      for (int l = 0; l < count; ++l) task.log_prob[at + l] = static_cast<float>(value[l]);
    }
  }
}

void log_prob_backward(const DirichletLogProbTask& task, std::int64_t begin, std::int64_t end) {
  Row row;
  Lanes lanes;
  ScoreSum score;
  for (std::int64_t b = begin; b < end; ++b) {
    load_row(task.concentration + b * task.tasks, task.tasks, row);
    evaluate_row(task.tasks, row);
    clear(score, task.tasks);
    for (std::int64_t g = 0; g < task.samples; g += lane_count) {
      const int count = static_cast<int>(task.samples - g < lane_count ? task.samples - g : lane_count);
      const std::int64_t at = b * task.samples + g;
      load_lanes(task.log_weights + at * task.tasks, task.tasks, count, task.log_floor, lanes);
      alignas(64) double coefficient[lane_count] = {};
      for (int l = 0; l < count; ++l) coefficient[l] = task.gradient[at + l];
      add_score(coefficient, task.tasks, lanes, score);
    }
    alignas(64) double gradient[max_tasks];
    finish(score, row, task.tasks, gradient);
    float* out = task.concentration_gradient + b * task.tasks;
    for (std::int64_t t = 0; t < task.tasks; ++t) out[t] = static_cast<float>(gradient[t]);
  }
}

void entropy(const DirichletRowTask& task, std::int64_t begin, std::int64_t end) {
  Row row;
  for (std::int64_t b = begin; b < end; ++b) {
    load_row(task.concentration + b * task.tasks, task.tasks, row);
    evaluate_row(task.tasks, row);
    alignas(64) double gradient[max_tasks];
    task.value[b] = static_cast<float>(row_entropy(row, task.tasks, gradient));
    for (std::int64_t t = 0; t < task.tasks; ++t) task.gradient[b * task.tasks + t] = static_cast<float>(gradient[t]);
  }
}

void kl(const DirichletRowTask& task, std::int64_t begin, std::int64_t end) {
  Row row;
  Row other;
  for (std::int64_t b = begin; b < end; ++b) {
    const std::int64_t at = b * task.tasks;
    load_row(task.concentration + at, task.tasks, row);
    load_row(task.other + at, task.tasks, other);
    evaluate_row(task.tasks, row);
    evaluate_row(task.tasks, other);
    alignas(64) double gradient[max_tasks];
    task.value[b] = static_cast<float>(row_kl(row, other, task.tasks, gradient));
    const double shift = row.digamma[task.tasks] - other.digamma[task.tasks];
    for (std::int64_t t = 0; t < task.tasks; ++t) {
      task.gradient[at + t] = static_cast<float>(gradient[t]);
      task.other_gradient[at + t] = static_cast<float>(other.digamma[t] - row.digamma[t] + shift);
    }
  }
}

void floor_rows(const FloorTask& task, std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r) {
    const float* x = task.log_weights + r * task.tasks;
    float* y = task.floored + r * task.tasks;
    double total = 0.0;
    for (std::int64_t t = 0; t < task.tasks; ++t) total += exp64(raised(x[t], task.log_floor));
    const double log_total = log64(total);
    for (std::int64_t t = 0; t < task.tasks; ++t) y[t] = static_cast<float>(raised(x[t], task.log_floor) - log_total);
  }
}

void float_function(int function, const float* x, float* y, std::int64_t count) {
  if (function == 0)
    for (std::int64_t i = 0; i < count; ++i) y[i] = log(x[i]);
  else if (function == 1)
    for (std::int64_t i = 0; i < count; ++i) y[i] = exp(x[i]);
  else
    for (std::int64_t i = 0; i < count; ++i) y[i] = log_one_plus(x[i]);
}

void gamma(const double* x, double* y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const GammaFunctions g = gamma_functions(x[i]);
    y[3 * i] = g.log_gamma;
    y[3 * i + 1] = g.digamma;
    y[3 * i + 2] = g.trigamma;
  }
}

}  // namespace

const DirichletKernels dirichlet_kernels{&sample, &log_prob,   &log_prob_backward, &entropy,
                                         &kl,     &floor_rows, &float_function,    &gamma};

}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
