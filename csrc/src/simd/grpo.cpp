// Compiled once per instruction set; see ../isa.hpp for what may stand here. Eight rows at a time, one to a lane.
#include "../grpo.hpp"

#include "floored.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

// Of some samples, [samples, 8].
struct Ratios {
  alignas(64) float old[most_columns * row_lanes];
  alignas(64) float advantage[most_columns * row_lanes];
  alignas(64) double log_prob[most_columns * row_lanes];
  alignas(64) double coefficient[most_columns * row_lanes];  // d loss / d log p
};

struct Group {
  Doubles objective, outside, ratio_max;
};

// Adds the samples' clipped objective to the group's sums, and leaves their coefficients.
PYGRADE_ROW_OP void clipped_objective(const GrpoTask& task, std::int64_t count, Ratios& r, Group& group) {
  const GrpoOptions& options = task.options;
  const Doubles zero = fill(0.0), one = fill(1.0);
  const Doubles least = fill(1.0 - options.clip), most = fill(1.0 + options.clip_high);
  const Doubles low = fill(-options.log_ratio_clamp), high = fill(options.log_ratio_clamp);
  const Doubles share = fill(-1.0 / static_cast<double>(task.samples));
  for (std::int64_t i = 0; i < count * row_lanes; i += row_lanes) {
    const Doubles log_ratio = load(r.log_prob + i) - load(r.old + i), a = load(r.advantage + i);
    const Doubles ratio = exp64(lowered(raised(log_ratio, low), high));
    const Doubles free = select(a == zero, zero, ratio * a);
    const Doubles clipped = lowered(raised(ratio, least), most) * a;
    const Mask cut = clipped < free;
    group.objective = group.objective + select(cut, clipped, free);
    group.outside = group.outside + select(ratio < least, one, select(most < ratio, one, zero));
    const Doubles larger = select(group.ratio_max < ratio, ratio, group.ratio_max);
    group.ratio_max = select(ratio == ratio, larger, ratio);
    const Doubles inside = select(log_ratio < low, zero, select(high < log_ratio, zero, free * share));
    store(r.coefficient + i, select(cut, zero, inside));
  }
}

void loss(const GrpoTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  const std::int64_t chunk = chunk_samples(tasks);
  Rows rows;
  Rows reference;
  Density density;
  Samples samples;
  ScoreSum score;
  Ratios ratios;
  alignas(64) double kl_gradient[max_tasks * row_lanes], entropy_gradient[max_tasks * row_lanes];
  alignas(64) float gradient[max_tasks * row_lanes];
  for (std::int64_t b = begin; b < end; b += row_lanes) {
    const int count = static_cast<int>(end - b < row_lanes ? end - b : row_lanes);
    load_rows(task.concentration + b * tasks, tasks, count, rows);
    load_rows(task.reference + b * tasks, tasks, count, reference);
    evaluate<Order::trigamma>(tasks, rows);
    evaluate<Order::log_gamma>(tasks, reference);
    load_density(rows, tasks, task.log_floor, density);
    clear(tasks, score);
    Group group{fill(0.0), fill(0.0), fill(0.0)};
    for (std::int64_t g = 0; g < task.samples; g += chunk) {
      const std::int64_t size = task.samples - g < chunk ? task.samples - g : chunk;
      const std::int64_t at = b * task.samples + g;
      to_columns(task.old_log_prob + at, task.samples, count, size, ratios.old);
      to_columns(task.advantages + at, task.samples, count, size, ratios.advantage);
      by_tasks(tasks, [&](auto known) __attribute__((always_inline)) {
        load_samples(task.log_weights + at * tasks, task.samples * tasks, count, size, known.value, task.log_floor,
                     samples);
        log_probs(density, samples, size, known.value, ratios.log_prob);
        clipped_objective(task, size, ratios, group);
        add_scores(ratios.coefficient, samples, size, known.value, score);
      });
    }
    const Doubles kl = row_kl(rows, reference, tasks, kl_gradient);
    const Doubles entropy = row_entropy(rows, tasks, entropy_gradient);
    const Doubles kl_coefficient = fill(task.options.kl_coefficient);
    const Doubles entropy_coefficient = fill(task.options.entropy_coefficient);
    const Doubles share = fill(1.0 / static_cast<double>(task.samples));
    store_rows(kl_coefficient * kl - entropy_coefficient * entropy - group.objective * share, count, task.loss + b);
    store_rows(kl, count, task.kl + b);
    store_rows(entropy, count, task.entropy + b);
    store_rows(group.outside * share, count, task.clip_fraction + b);
    store_rows(group.ratio_max, count, task.ratio_max + b);
    for (std::int64_t t = 0; t < tasks; ++t) {
      const std::int64_t at = t * row_lanes;
      const Doubles penalty =
          kl_coefficient * load(kl_gradient + at) - entropy_coefficient * load(entropy_gradient + at);
      store(gradient + at, score_of(score, t, digamma_shift(rows, tasks, t)) + penalty);
    }
    from_columns(gradient, tasks, task.gradient + b * tasks, tasks, count);
  }
}

}  // namespace

const GrpoKernels grpo_kernels{&loss};

}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
