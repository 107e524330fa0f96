// Shared by the density kernels of `dirichlet` and `grpo`, all in double. A row's samples are read in place, one lane
// per task; values per sample have one lane per sample, terms per row one lane per row.
#pragma once

#include "special.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// The number of tasks (a constant for the usual 8) and whether there is a floor.
template <bool is_floored>
struct EightTasks {
  static constexpr std::int64_t tasks = 8;
  static constexpr int max_parts = 8 / part_lanes;
  static constexpr bool floored = is_floored;
};
template <bool is_floored>
struct SomeTasks {
  std::int64_t tasks;
  static constexpr int max_parts = max_tasks / part_lanes;
  static constexpr bool floored = is_floored;
};

template <class Work>
PYGRADE_INLINE void by_form(std::int64_t tasks, double log_floor, Work work) {
  const bool floored = log_floor != -__builtin_inf();
  if (tasks == 8 && !floored)
    work(EightTasks<false>{});
  else if (tasks == 8)
    work(EightTasks<true>{});
  else if (!floored)
    work(SomeTasks<false>{tasks});
  else
    work(SomeTasks<true>{tasks});
}

// Number of tasks, samples or rows from `first` on that fit in one part.
PYGRADE_INLINE int part_from(std::int64_t first, std::int64_t end) {
  return static_cast<int>(end - first < part_lanes ? end - first : part_lanes);
}

// exp of a log-weight, clamped to [floor, 700]; floor is at least -700.
PYGRADE_INLINE Part weight_of(Part log_weight, Part floor) {
  return exp64(min(fill_part(700.0), max(floor, log_weight)));
}

// log Σ_t exp(max(log_weight, floor)) of `count` ≤ part_lanes samples; subtracting it renormalizes them.
PYGRADE_INLINE Part log_totals(const float* log_weights, int count, std::int64_t tasks, double log_floor) {
  const Part floor = fill_part(log_floor < -700.0 ? -700.0 : log_floor);
  Part sum[part_lanes];
#pragma GCC unroll 8
  for (int j = 0; j < part_lanes; ++j) {
    sum[j] = Part{};
    const float* sample = log_weights + (j < count ? j : 0) * tasks;
    for (std::int64_t t = 0; t < tasks; t += part_lanes) {
      const int width = part_from(t, tasks);
      const Part weight = weight_of(load_first(sample + t, width), floor);
      sum[j] += width == part_lanes ? weight : keep_first(weight, width);
    }
  }
  return log64(sums_across(sum));
}

// The terms of a row's log-probabilities; 0 after the last task, up to a whole part.
struct Density {
  alignas(64) double exponent[max_tasks];  // α_t - 1
  alignas(64) double floor[max_tasks];     // the floor; 0 if α_t = 1, so that a weight of 0 adds 0
  double excess, shift;                    // T - α₀ and -log B(α)
};

// Row `row` of the eight rows at `concentration`.
PYGRADE_INLINE void load_density(const float* concentration, const Rows& rows, int row, std::int64_t tasks,
                                 double log_floor, Density& density) {
  const Part zero{}, floor = fill_part(log_floor);
  for (std::int64_t t = 0; t < tasks; t += part_lanes) {
    const int width = part_from(t, tasks);
    const Part exponent = keep_first(load_first(concentration + row * tasks + t, width) - 1.0, width);
    store_part(density.exponent + t, exponent);
    store_part(density.floor + t, exponent == zero ? zero : floor);
  }
  density.excess = static_cast<double>(tasks) - rows.alpha[tasks * row_lanes + row];
  density.shift = -rows.log_beta[row];
}

inline constexpr std::int64_t max_samples = 64;  // per pass over a row

// Some samples of one row: log_weights[count, T], and log_total[count] from `log_totals` if there is a floor.
struct Samples {
  const float* log_weights;
  std::int64_t count;
  double log_floor;
  alignas(64) double log_total[max_samples];
};

// Calls work(first, count) for each part of the samples; count is a constant for whole parts.
template <class Work>
PYGRADE_INLINE void for_each_part(std::int64_t samples, Work work) {
  std::int64_t g = 0;
  for (; g + part_lanes <= samples; g += part_lanes) work(g, part_lanes);
  if (g < samples) work(g, static_cast<int>(samples - g));
}

template <class Form>
PYGRADE_INLINE void load_samples(const float* log_weights, std::int64_t count, Form form, double log_floor,
                                 Samples& samples) {
  samples.log_weights = log_weights;
  samples.count = count;
  samples.log_floor = log_floor;
  if (!form.floored) return;
  for_each_part(count, [&](std::int64_t g, int width) __attribute__((always_inline)) {
    store_part(samples.log_total + g, log_totals(log_weights + g * form.tasks, width, form.tasks, log_floor));
  });
}

// log p of each sample → value[count]; arbitrary in the lanes up to a whole part.
template <class Form>
PYGRADE_INLINE void log_probs(const Density& density, const Samples& samples, Form form, double* value) {
  const std::int64_t tasks = form.tasks;
  const float* log_weights = samples.log_weights;
  const Part shift = fill_part(density.shift), excess = fill_part(density.excess);
  for_each_part(samples.count, [&](std::int64_t g, int count) __attribute__((always_inline)) {
    Part dot[part_lanes];
#pragma GCC unroll 8
    for (int j = 0; j < part_lanes; ++j) {
      const float* sample = log_weights + (g + (j < count ? j : 0)) * tasks;
      dot[j] = Part{};
      for (std::int64_t t = 0; t < tasks; t += part_lanes) {
        const Part x = load_first(sample + t, part_from(t, tasks));
        dot[j] = multiply_add(load_part(density.exponent + t), max(load_part(density.floor + t), x), dot[j]);
      }
    }
    Part sum = sums_across(dot) + shift;
    if (form.floored) sum = multiply_add(load_part(samples.log_total + g), excess, sum);
    store_part(value + g, sum);
  });
}

// For one row: Σ_g coefficient_g · log w_gt, and one lane per sample: Σ_g coefficient_g, Σ_g coefficient_g · log
// total_g.
template <class Form>
struct RowScore {
  Part by_task[Form::max_parts] = {};
  Part coefficient = {}, total = {};
};

// coefficient[count] must be 0 in the lanes up to a whole part.
template <class Form>
PYGRADE_INLINE void add_scores(const double* coefficient, const Samples& samples, Form form, RowScore<Form>& score) {
  const std::int64_t tasks = form.tasks;
  const float* log_weights = samples.log_weights;
  const Part floor = fill_part(samples.log_floor);
  for_each_part(samples.count, [&](std::int64_t g, int count) __attribute__((always_inline)) {
    const Part c = load_part(coefficient + g);
    score.coefficient += c;
    if (form.floored) score.total = multiply_add(c, load_part(samples.log_total + g), score.total);
    for (std::int64_t t = 0; t < tasks; t += part_lanes) {
      const int width = part_from(t, tasks);
      Part sum[2] = {score.by_task[t / part_lanes], Part{}};  // two sums: half the latency
#pragma GCC unroll 8
      for (int j = 0; j < count; ++j) {
        const Part x = load_first(log_weights + (g + j) * tasks + t, width);
        sum[j % 2] = multiply_add(form.floored ? max(floor, x) : x, coefficient[g + j], sum[j % 2]);
      }
      score.by_task[t / part_lanes] = sum[0] + sum[1];
    }
  });
}

// The sums of RowScore for eight rows.
struct ScoreSums {
  alignas(64) double by_task[row_lanes][max_tasks];
  Part coefficient[row_lanes] = {};
  Part total[row_lanes] = {};

  template <class Form>
  PYGRADE_INLINE void put(int row, Form form, const RowScore<Form>& score) {
    for (std::int64_t t = 0; t < form.tasks; t += part_lanes)
      store_part(by_task[row] + t, score.by_task[t / part_lanes]);
    coefficient[row] = score.coefficient;
    total[row] = score.total;
  }
};

// Sums over the lanes of eight vectors → one value per row.
PYGRADE_INLINE Doubles sums_of_rows(const Part* v) {
  return by_part<Doubles>([&](int i) { return sums_across(v + i * part_lanes); });
}

// Terms of eight rows, columns[T, 8] → rows[count, T].
inline void to_rows(const double* columns, std::int64_t tasks, int count, double* rows) {
  std::int64_t t = 0;
  if (count == row_lanes)
    for (; t + part_lanes <= tasks; t += part_lanes)
      for (int l = 0; l < row_lanes; l += part_lanes) {
        Part tile[part_lanes];
#pragma GCC unroll 8
        for (int i = 0; i < part_lanes; ++i) tile[i] = load_part(columns + (t + i) * row_lanes + l);
        transpose_parts(tile);
#pragma GCC unroll 8
        for (int i = 0; i < part_lanes; ++i) store_part(rows + (l + i) * tasks + t, tile[i]);
      }
  for (; t < tasks; ++t)
    for (int l = 0; l < count; ++l) rows[l * tasks + t] = columns[t * row_lanes + l];
}

// Σ_g coefficient_g · (log w_gt + shift_t) + penalty_t of `count` rows → gradient[count, T]. shift[count, T] holds
// ψ(α₀) - ψ(α_t); penalty[count, T] may be null.
PYGRADE_INLINE void store_scores(const ScoreSums& score, const double* shift, const double* penalty, std::int64_t tasks,
                                 int count, float* gradient) {
  alignas(64) double coefficient[row_lanes], total[row_lanes];
  store(coefficient, sums_of_rows(score.coefficient));
  store(total, sums_of_rows(score.total));
  for (int l = 0; l < count; ++l) {
    for (std::int64_t t = 0; t < tasks; t += part_lanes) {
      const int width = part_from(t, tasks);
      const std::int64_t at = l * tasks + t;
      Part sum =
          multiply_add(load_first(shift + at, width), coefficient[l], load_part(score.by_task[l] + t) - total[l]);
      if (penalty != nullptr) sum += load_first(penalty + at, width);
      store_first(gradient + at, sum, width);
    }
  }
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
