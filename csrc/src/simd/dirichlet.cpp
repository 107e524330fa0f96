// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "density.hpp"
#include "divergence.hpp"
#include "sampler.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// Rows from `b` on, at most eight.
int rows_from(std::int64_t b, std::int64_t end) { return static_cast<int>(end - b < row_lanes ? end - b : row_lanes); }

enum class Wanted { value, gradient, both };

template <Wanted wanted, class Form>
PYGRADE_INLINE void one_row(const DirichletLogProbTask& task, std::int64_t b, int row, Form form,
                            const Density& density, ScoreSums& scores) {
  Samples samples;
  RowScore<Form> score;
  alignas(64) double lane[max_samples];
  for (std::int64_t g = 0; g < task.samples; g += max_samples) {
    const std::int64_t size = task.samples - g < max_samples ? task.samples - g : max_samples;
    const std::int64_t at = (b + row) * task.samples + g;
    load_samples(task.log_weights + at * form.tasks, size, form, task.log_floor, samples);
    if (wanted != Wanted::gradient) {
      log_probs(density, samples, form, lane);
      for_each_part(size, [&](std::int64_t i, int width) __attribute__((always_inline)) {
        store_first(task.log_prob + at + i, load_part(lane + i), width);
      });
    }
    if (wanted != Wanted::value) {
      for_each_part(size, [&](std::int64_t i, int width) __attribute__((always_inline)) {
        store_part(lane + i, task.gradient != nullptr ? load_first(task.gradient + at + i, width)
                                                      : keep_first(fill_part(1.0), width));
      });
      add_scores(lane, samples, form, score);
    }
  }
  if (wanted != Wanted::value) scores.put(row, form, score);
}

template <Wanted wanted>
void log_prob(const DirichletLogProbTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  Rows rows;
  Density density;
  ScoreSums scores;
  alignas(64) double columns[max_tasks * row_lanes], shift[max_tasks * row_lanes];
  for (std::int64_t b = begin; b < end; b += row_lanes) {
    const int count = rows_from(b, end);
    const float* concentration = task.concentration + b * tasks;
    load_rows(concentration, tasks, count, rows);
    if (wanted == Wanted::value) {
      evaluate<Order::log_gamma>(tasks, rows);
    } else {
      evaluate<Order::digamma>(tasks, rows);
      for (std::int64_t t = 0; t < tasks; ++t) store(columns + t * row_lanes, digamma_shift(rows, tasks, t));
      to_rows(columns, tasks, count, shift);
    }
    by_form(tasks, task.log_floor, [&](auto form) __attribute__((always_inline)) {
      for (int l = 0; l < count; ++l) {
        if (wanted != Wanted::gradient) load_density(concentration, rows, l, form.tasks, task.log_floor, density);
        one_row<wanted>(task, b, l, form, density, scores);
      }
      if (wanted != Wanted::value)
        store_scores(scores, shift, nullptr, form.tasks, count, task.concentration_gradient + b * tasks);
    });
  }
}

// gradient[T, 8] in double → rows of `out`.
void store_gradient(const double* gradient, std::int64_t tasks, int count, float* out) {
  alignas(64) float columns[max_tasks * row_lanes];
  for (std::int64_t i = 0; i < tasks * row_lanes; ++i) columns[i] = static_cast<float>(gradient[i]);
  from_columns(columns, tasks, out, tasks, count);
}

void entropy(const DirichletRowTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  Rows rows;
  alignas(64) double gradient[max_tasks * row_lanes];
  for (std::int64_t b = begin; b < end; b += row_lanes) {
    const int count = rows_from(b, end);
    load_rows(task.concentration + b * tasks, tasks, count, rows);
    evaluate<Order::trigamma>(tasks, rows);
    store_rows(row_entropy(rows, tasks, gradient), count, task.value + b);
    store_gradient(gradient, tasks, count, task.gradient + b * tasks);
  }
}

void kl(const DirichletRowTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  Rows rows;
  Rows other;
  alignas(64) double gradient[max_tasks * row_lanes];
  for (std::int64_t b = begin; b < end; b += row_lanes) {
    const int count = rows_from(b, end);
    load_rows(task.concentration + b * tasks, tasks, count, rows);
    load_rows(task.other + b * tasks, tasks, count, other);
    evaluate<Order::trigamma>(tasks, rows);
    evaluate<Order::digamma>(tasks, other);
    store_rows(row_kl(rows, other, tasks, gradient), count, task.value + b);
    store_gradient(gradient, tasks, count, task.gradient + b * tasks);
    for (std::int64_t t = 0; t < tasks; ++t)
      store(gradient + t * row_lanes, digamma_shift(rows, tasks, t) - digamma_shift(other, tasks, t));
    store_gradient(gradient, tasks, count, task.other_gradient + b * tasks);
  }
}

void floor_rows(const FloorTask& task, std::int64_t begin, std::int64_t end) {
  const Part floor = fill_part(task.log_floor);
  const std::int64_t tasks = task.tasks;
  for (std::int64_t r = begin; r < end; r += part_lanes) {
    const int count = part_from(r, end);
    const Part log_total = log_totals(task.log_weights + r * tasks, count, tasks, task.log_floor);
    for (int l = 0; l < count; ++l) {
      for (std::int64_t t = 0; t < tasks; t += part_lanes) {
        const int width = part_from(t, tasks);
        const std::int64_t at = (r + l) * tasks + t;
        store_first(task.floored + at, max(floor, load_first(task.log_weights + at, width)) - log_total[l], width);
      }
    }
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
    const GammaFunctions<double> g = gamma_functions(x[i]);
    y[3 * i] = g.stirling - log64(g.product);
    y[3 * i + 1] = g.digamma;
    y[3 * i + 2] = g.trigamma;
  }
}
}  // namespace

const SamplerKernels sampler_kernels{&sample};
const DirichletKernels dirichlet_kernels{&log_prob<Wanted::value>,
                                         &log_prob<Wanted::gradient>,
                                         &log_prob<Wanted::both>,
                                         &entropy,
                                         &kl,
                                         &floor_rows,
                                         &float_function,
                                         &gamma};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
