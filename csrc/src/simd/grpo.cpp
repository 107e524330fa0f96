// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "../grpo.hpp"

#include "density.hpp"
#include "divergence.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// The maximum; NaN if either is NaN.
PYGRADE_INLINE Part max_or_nan(Part x, Part y) {
  const Part larger = x < y ? y : x;
  return y == y ? larger : y;
}

// Sums over a row's group, one lane per sample.
struct Group {
  Part objective, outside, ratio_max;
};

struct Clip {
  Part ratio_low, ratio_high, log_ratio_low, log_ratio_high;
  double share;

  explicit Clip(const GrpoTask& task)
      : ratio_low(fill_part(1.0 - task.options.clip)),
        ratio_high(fill_part(1.0 + task.options.clip_high)),
        log_ratio_low(fill_part(-task.options.log_ratio_clamp)),
        log_ratio_high(fill_part(task.options.log_ratio_clamp)),
        share(-1.0 / static_cast<double>(task.samples)) {}
};

// Adds the clipped objective of `count` samples from `at` on to the group's sums. Returns d loss / d log p, 0 in the
// other lanes.
PYGRADE_INLINE Part clipped_objective(const GrpoTask& task, const Clip& clip, std::int64_t at, int count, Part log_prob,
                                      Group& group) {
  const Part zero{};
  const Part a = load_first(task.advantages + at, count);  // 0 in the other lanes
  const Part log_ratio = log_prob - load_first(task.old_log_prob + at, count);
  const Part ratio = exp64(min(clip.log_ratio_high, max(clip.log_ratio_low, log_ratio)));
  const Part free = a == zero ? zero : ratio * a;
  const Part clipped = min(clip.ratio_high, max(clip.ratio_low, ratio)) * a;
  const PartMask cut = clipped < free;
  const Part outside = ((ratio < clip.ratio_low) | (clip.ratio_high < ratio)) ? fill_part(1.0) : zero;
  group.objective += cut ? clipped : free;
  group.outside += count == part_lanes ? outside : keep_first(outside, count);
  group.ratio_max = max_or_nan(group.ratio_max, count == part_lanes ? ratio : keep_first(ratio, count));
  const PartMask flat = cut | (log_ratio < clip.log_ratio_low) | (clip.log_ratio_high < log_ratio);
  return flat ? zero : free * clip.share;
}

// Adds the samples of a row to its group's sums and to the scores. Separate passes let independent samples overlap in
// each long dependency chain, above all the exponential's.
template <class Form>
PYGRADE_INLINE void add_row(const GrpoTask& task, const Clip& clip, std::int64_t b, int row, Form form,
                            const Density& density, Group& group, ScoreSums& scores) {
  Samples samples;
  RowScore<Form> score;
  alignas(64) double lane[max_samples];  // log p, then d loss / d log p
  for (std::int64_t g = 0; g < task.samples; g += max_samples) {
    const std::int64_t size = task.samples - g < max_samples ? task.samples - g : max_samples;
    const std::int64_t at = (b + row) * task.samples + g;
    load_samples(task.log_weights + at * form.tasks, size, form, task.log_floor, samples);
    log_probs(density, samples, form, lane);
    for_each_part(size, [&](std::int64_t i, int width) __attribute__((always_inline)) {
      store_part(lane + i, clipped_objective(task, clip, at + i, width, load_part(lane + i), group));
    });
    add_scores(lane, samples, form, score);
  }
  scores.put(row, form, score);
}

void loss(const GrpoTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  Rows rows;
  Rows reference;
  Density density;
  ScoreSums scores;
  Part objective[row_lanes] = {}, outside[row_lanes] = {}, ratio_max[row_lanes] = {};
  alignas(64) double kl_gradient[max_tasks * row_lanes], entropy_gradient[max_tasks * row_lanes];
  alignas(64) double columns[max_tasks * row_lanes], shift[max_tasks * row_lanes], penalty[max_tasks * row_lanes];
  const Clip clip(task);
  const Doubles kl_coefficient = fill(task.options.kl_coefficient);
  const Doubles entropy_coefficient = fill(task.options.entropy_coefficient);
  const Doubles share = fill(1.0 / static_cast<double>(task.samples));
  for (std::int64_t b = begin; b < end; b += row_lanes) {
    const int count = static_cast<int>(end - b < row_lanes ? end - b : row_lanes);
    const float* concentration = task.concentration + b * tasks;
    load_rows(concentration, tasks, count, rows);
    load_rows(task.reference + b * tasks, tasks, count, reference);
    evaluate<Order::trigamma>(tasks, rows);
    evaluate<Order::log_gamma>(tasks, reference);
    const Doubles kl = row_kl(rows, reference, tasks, kl_gradient);
    const Doubles entropy = row_entropy(rows, tasks, entropy_gradient);
    for (std::int64_t i = 0; i < tasks * row_lanes; i += row_lanes)
      store(columns + i, kl_coefficient * load(kl_gradient + i) - entropy_coefficient * load(entropy_gradient + i));
    to_rows(columns, tasks, count, penalty);
    for (std::int64_t t = 0; t < tasks; ++t) store(columns + t * row_lanes, digamma_shift(rows, tasks, t));
    to_rows(columns, tasks, count, shift);
    by_form(tasks, task.log_floor, [&](auto form) __attribute__((always_inline)) {
      for (int l = 0; l < count; ++l) {
        Group group{};
        load_density(concentration, rows, l, form.tasks, task.log_floor, density);
        add_row(task, clip, b, l, form, density, group, scores);
        objective[l] = group.objective;
        outside[l] = group.outside;
        ratio_max[l] = group.ratio_max;
      }
      store_scores(scores, shift, penalty, form.tasks, count, task.gradient + b * tasks);
    });
    const Doubles mean = sums_of_rows(objective) * share;
    store_rows(kl_coefficient * kl - entropy_coefficient * entropy - mean, count, task.loss + b);
    store_rows(kl, count, task.kl + b);
    store_rows(entropy, count, task.entropy + b);
    store_rows(sums_of_rows(outside) * share, count, task.clip_fraction + b);
    const auto join = [](Part x, Part y) __attribute__((always_inline)) { return max_or_nan(x, y); };
    store_rows(by_part<Doubles>([&](int i) { return across(ratio_max + i * part_lanes, join); }), count,
               task.ratio_max + b);
  }
}
}  // namespace

const GrpoKernels grpo_kernels{&loss};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
