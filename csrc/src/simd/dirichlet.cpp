// Compiled once per instruction set; see ../isa.hpp for what may stand here.
#include "floored.hpp"
#include "sampler.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

// At most eight rows from `b` on.
int rows_from(std::int64_t b, std::int64_t end) { return static_cast<int>(end - b < row_lanes ? end - b : row_lanes); }

// Samples from `g` on that fit in one chunk.
std::int64_t samples_from(const DirichletLogProbTask& task, std::int64_t g) {
  const std::int64_t chunk = chunk_samples(task.tasks);
  return task.samples - g < chunk ? task.samples - g : chunk;
}

// ψ(α₀) - ψ(α_t) of the first rows → shift[count, T].
void store_shift(const Rows& rows, std::int64_t tasks, int count, double* shift) {
  for (std::int64_t t = 0; t < tasks; ++t) {
    alignas(64) double lane[row_lanes];
    store(lane, digamma_shift(rows, tasks, t));
    for (int l = 0; l < count; ++l) shift[l * tasks + t] = lane[l];
  }
}

void log_prob(const DirichletLogProbTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  Rows rows;
  Density density;
  Samples samples;
  alignas(64) double value[most_columns * row_lanes];
  alignas(64) float column[most_columns * row_lanes];
  for (std::int64_t b = begin; b < end; b += row_lanes) {
    const int count = rows_from(b, end);
    load_rows(task.concentration + b * tasks, tasks, count, rows);
    if (task.digamma_shift != nullptr) {
      evaluate<Order::digamma>(tasks, rows);
      store_shift(rows, tasks, count, task.digamma_shift + b * tasks);
    } else {
      evaluate<Order::log_gamma>(tasks, rows);
    }
    load_density(rows, tasks, task.log_floor, density);
    for (std::int64_t g = 0; g < task.samples;) {
      const std::int64_t size = samples_from(task, g);
      const std::int64_t at = b * task.samples + g;
      by_tasks(tasks, [&](auto known) __attribute__((always_inline)) {
        load_samples(task.log_weights + at * tasks, task.samples * tasks, count, size, known.value, task.log_floor,
                     samples);
        log_probs(density, samples, size, known.value, value);
      });
      for (std::int64_t i = 0; i < size * row_lanes; ++i) column[i] = static_cast<float>(value[i]);
      from_columns(column, size, task.log_prob + at, task.samples, count);
      g += size;
    }
  }
}

// The gradient of row b from log-weights as they stand, a task to a lane: no floor, and tasks by eight.
PYGRADE_ROW_OP void row_gradient(const DirichletLogProbTask& task, const double* shift, std::int64_t b,
                                 std::int64_t tasks) {
  constexpr std::int64_t chunk = 64;
  alignas(64) double coefficient[chunk], sums[max_tasks];
  Doubles total = fill(0.0);
  for (std::int64_t t = 0; t < tasks; t += row_lanes) store(sums + t, total);
  for (std::int64_t first = 0; first < task.samples; first += chunk) {
    const std::int64_t size = task.samples - first < chunk ? task.samples - first : chunk;
    const std::int64_t at = b * task.samples + first;
    for (std::int64_t g = 0; g < size; g += row_lanes) {
      const std::int64_t rest = size - g;
      const Doubles c = load_first(task.gradient + at + g, static_cast<int>(rest < row_lanes ? rest : row_lanes));
      store(coefficient + g, c);
      total = total + c;
    }
    for (std::int64_t t = 0; t < tasks; t += row_lanes) {
      const float* log_weight = task.log_weights + at * tasks + t;
      Doubles sum[4] = {load(sums + t), fill(0.0), fill(0.0), fill(0.0)};  // so that none waits for itself
      std::int64_t g = 0;
      for (; g + 4 <= size; g += 4)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
          sum[i] = multiply_add(fill(coefficient[g + i]), load(log_weight + (g + i) * tasks), sum[i]);
      for (; g < size; ++g) sum[0] = multiply_add(fill(coefficient[g]), load(log_weight + g * tasks), sum[0]);
      store(sums + t, (sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
  }
  const Doubles coefficients = fill(sum_of(total, row_lanes));
  for (std::int64_t t = 0; t < tasks; t += row_lanes)
    store(task.concentration_gradient + b * tasks + t, multiply_add(coefficients, load(shift + t), load(sums + t)));
}

void unfloored_backward(const DirichletLogProbTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  Rows rows;
  alignas(64) double own_shift[max_tasks * row_lanes];
  for (std::int64_t b = begin; b < end; b += row_lanes) {
    const int count = rows_from(b, end);
    const double* shift = own_shift;
    if (task.saved_shift != nullptr) {
      shift = task.saved_shift + b * tasks;
    } else {
      load_rows(task.concentration + b * tasks, tasks, count, rows);
      evaluate<Order::digamma>(tasks, rows);
      store_shift(rows, tasks, count, own_shift);
    }
    by_tasks(tasks, [&](auto known) __attribute__((always_inline)) {
      for (int l = 0; l < count; ++l) row_gradient(task, shift + l * known.value, b + l, known.value);
    });
  }
}

void log_prob_backward(const DirichletLogProbTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  if (task.log_floor == -__builtin_inf() && tasks % row_lanes == 0) return unfloored_backward(task, begin, end);
  Rows rows;
  Samples samples;
  ScoreSum score;
  alignas(64) float coefficient[most_columns * row_lanes];
  alignas(64) float gradient[max_tasks * row_lanes];
  for (std::int64_t b = begin; b < end; b += row_lanes) {
    const int count = rows_from(b, end);
    if (task.saved_shift == nullptr) {
      load_rows(task.concentration + b * tasks, tasks, count, rows);
      evaluate<Order::digamma>(tasks, rows);
    }
    clear(tasks, score);
    for (std::int64_t g = 0; g < task.samples;) {
      const std::int64_t size = samples_from(task, g);
      const std::int64_t at = b * task.samples + g;
      to_columns(task.gradient + at, task.samples, count, size, coefficient);
      by_tasks(tasks, [&](auto known) __attribute__((always_inline)) {
        load_samples(task.log_weights + at * tasks, task.samples * tasks, count, size, known.value, task.log_floor,
                     samples);
        add_scores(coefficient, samples, size, known.value, score);
      });
      g += size;
    }
    for (std::int64_t t = 0; t < tasks; ++t) {
      alignas(64) double saved[row_lanes];
      if (task.saved_shift == nullptr)
        store(saved, digamma_shift(rows, tasks, t));
      else
        for (int l = 0; l < row_lanes; ++l) saved[l] = task.saved_shift[(b + (l < count ? l : count - 1)) * tasks + t];
      store(gradient + t * row_lanes, score_of(score, t, load(saved)));
    }
    from_columns(gradient, tasks, task.concentration_gradient + b * tasks, tasks, count);
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
  const Doubles floor = fill(task.log_floor), least = raised(floor, fill(-700.0));
  const std::int64_t tasks = task.tasks;
  for (std::int64_t r = begin; r < end; r += row_lanes) {
    const int count = rows_from(r, end);
    Doubles total = fill(0.0);
    alignas(64) float columns[8 * row_lanes];
    for (std::int64_t first = 0; first < tasks; first += 8) {
      const std::int64_t width = tasks - first < 8 ? tasks - first : 8;
      to_columns(task.log_weights + r * tasks + first, tasks, count, width, columns);
      for (std::int64_t t = 0; t < width; ++t) total = total + weight_of(load(columns + t * row_lanes), least);
    }
    const Doubles log_total = log64(total);
    for (std::int64_t first = 0; first < tasks; first += 8) {
      const std::int64_t width = tasks - first < 8 ? tasks - first : 8;
      to_columns(task.log_weights + r * tasks + first, tasks, count, width, columns);
      for (std::int64_t t = 0; t < width; ++t) {
        const Doubles x = load(columns + t * row_lanes);
        store(columns + t * row_lanes, raised(x, floor) - log_total);
      }
      from_columns(columns, width, task.floored + r * tasks + first, tasks, count);
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

const DirichletKernels dirichlet_kernels{&sample, &log_prob,   &log_prob_backward, &entropy,
                                         &kl,     &floor_rows, &float_function,    &gamma};

}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
