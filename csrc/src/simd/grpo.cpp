// Compiled once per instruction set; see ../isa.hpp for what may stand here.
#include "../grpo.hpp"

#include "floored.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

struct Group {
  alignas(64) double objective[lane_count];
  alignas(64) double outside[lane_count];
  alignas(64) double ratio_max[lane_count];
};

// One vector of samples: adds to the group's sums, and leaves d loss / d log p in `coefficient`.
inline void clipped_objective(const GrpoOptions& options, double samples, const double* log_prob, const double* old,
                              const double* advantage, const double* valid, Group& group, double* coefficient) {
  const double clamp = options.log_ratio_clamp;
  const double least = 1.0 - options.clip;
  const double most = 1.0 + options.clip_high;
  for (int l = 0; l < lane_count; ++l) {
    const double difference = log_prob[l] - old[l];
    const double raised_difference = difference < -clamp ? -clamp : difference;
    const double clamped = raised_difference > clamp ? clamp : raised_difference;
    const double ratio = exp64(clamped);
    const double raised_ratio = ratio < least ? least : ratio;
    const double clipped_ratio = raised_ratio > most ? most : raised_ratio;
    const double a = advantage[l];
    const double free = ratio * a;
    const double clipped = clipped_ratio * a;
    const double smaller = free > clipped ? clipped : free;
    group.objective[l] += a == 0.0 ? 0.0 : smaller;
    group.outside[l] += ((ratio < least) | (ratio > most)) ? valid[l] : 0.0;
    const double candidate = valid[l] > 0.0 ? ratio : 0.0;
    group.ratio_max[l] = candidate > group.ratio_max[l] ? candidate : group.ratio_max[l];
    group.ratio_max[l] = candidate == candidate ? group.ratio_max[l] : candidate;
    const bool constant = (free > clipped) | (difference > clamp) | (difference < -clamp) | (a == 0.0);
    coefficient[l] = constant ? 0.0 : -free / samples;
  }
}

void loss(const GrpoTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  const auto samples = static_cast<double>(task.samples);
  Row row;
  Row reference;
  Lanes lanes;
  ScoreSum score;
  Group group;
  for (std::int64_t b = begin; b < end; ++b) {
    load_row(task.concentration + b * tasks, tasks, row);
    load_row(task.reference + b * tasks, tasks, reference);
    evaluate_row(tasks, row);
    evaluate_log_beta(tasks, reference);
    clear(score, tasks);
    for (int l = 0; l < lane_count; ++l) group.objective[l] = group.outside[l] = group.ratio_max[l] = 0.0;
    for (std::int64_t g = 0; g < task.samples; g += lane_count) {
      const int count = static_cast<int>(task.samples - g < lane_count ? task.samples - g : lane_count);
      const std::int64_t at = b * task.samples + g;
      load_lanes(task.log_weights + at * tasks, tasks, count, task.log_floor, lanes);
      alignas(64) double log_prob[lane_count], coefficient[lane_count];
      alignas(64) double old[lane_count] = {}, advantage[lane_count] = {}, valid[lane_count] = {};
      for (int l = 0; l < count; ++l) {
        old[l] = task.old_log_prob[at + l];
        advantage[l] = task.advantages[at + l];
        valid[l] = 1.0;
      }
      lane_log_prob(row, tasks, lanes, log_prob);
      clipped_objective(task.options, samples, log_prob, old, advantage, valid, group, coefficient);
      add_score(coefficient, tasks, lanes, score);
    }
    alignas(64) double gradient[max_tasks], kl_gradient[max_tasks], entropy_gradient[max_tasks];
    finish(score, row, tasks, gradient);
    const double kl = row_kl(row, reference, tasks, kl_gradient);
    const double entropy = row_entropy(row, tasks, entropy_gradient);
    double ratio_max = 0.0;
    for (int l = 0; l < lane_count; ++l) {
      const double candidate = group.ratio_max[l];
      ratio_max = candidate > ratio_max || candidate != candidate ? candidate : ratio_max;
    }
    const double kl_coefficient = task.options.kl_coefficient;
    const double entropy_coefficient = task.options.entropy_coefficient;
    task.loss[b] =
        static_cast<float>(-lane_sum(group.objective) / samples + kl_coefficient * kl - entropy_coefficient * entropy);
    task.kl[b] = static_cast<float>(kl);
    task.entropy[b] = static_cast<float>(entropy);
    task.clip_fraction[b] = static_cast<float>(lane_sum(group.outside) / samples);
    task.ratio_max[b] = static_cast<float>(ratio_max);
    for (std::int64_t t = 0; t < tasks; ++t)
      task.gradient[b * tasks + t] =
          static_cast<float>(gradient[t] + kl_coefficient * kl_gradient[t] - entropy_coefficient * entropy_gradient[t]);
  }
}

}  // namespace

const GrpoKernels grpo_kernels{&loss};

}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
