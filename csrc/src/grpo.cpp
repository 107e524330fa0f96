#include "grpo.hpp"

#include <stdexcept>
#include <string>

#include "checks.hpp"
#include "util/parallel.hpp"

namespace pygrade::inline v0_2 {
using detail::check_number;
using detail::check_size;

void grpo_loss(const GrpoInputs& inputs, const DirichletShape& shape, const GrpoOptions& options,
               const GrpoOutputs& outputs, bool validate, int num_threads) {
  const std::int64_t rows = shape.batch * shape.tasks;
  const std::int64_t draws = shape.batch * shape.samples;
  if (shape.batch < 0 || shape.tasks < 1 || shape.tasks > 64)
    throw std::invalid_argument("concentration has " + std::to_string(shape.tasks) + " tasks; expected 1 to 64");
  if (shape.samples < 1) throw std::invalid_argument("log_weights has no samples; expected at least 1");
  check_size(inputs.concentration.size(), rows, "concentration");
  check_size(inputs.log_weights.size(), draws * shape.tasks, "log_weights");
  check_size(inputs.old_log_prob.size(), draws, "old_log_prob");
  check_size(inputs.advantages.size(), draws, "advantages");
  check_size(inputs.reference.size(), rows, "reference_concentration");
  check_size(outputs.loss.size(), shape.batch, "loss");
  check_size(outputs.kl.size(), shape.batch, "kl");
  check_size(outputs.entropy.size(), shape.batch, "entropy");
  check_size(outputs.clip_fraction.size(), shape.batch, "clip_fraction");
  check_size(outputs.ratio_max.size(), shape.batch, "ratio_max");
  check_size(outputs.gradient.size(), rows, "gradient");
  check_number(options.clip >= 0.0, "clip", options.clip, "a number ≥ 0");
  check_number(options.clip_high >= 0.0, "clip_high", options.clip_high, "a number ≥ 0");
  check_number(options.log_ratio_clamp > 0.0 && options.log_ratio_clamp <= 80.0, "log_ratio_clamp",
               options.log_ratio_clamp, "a number in (0, 80]");
  const double log_floor = detail::log_floor(options.weight_floor);
  if (validate) {
    check_concentration(inputs.concentration, shape.tasks);
    check_concentration(inputs.reference, shape.tasks, "reference_concentration");
  }
  const detail::GrpoTask task{inputs.concentration.data(),
                              inputs.log_weights.data(),
                              inputs.old_log_prob.data(),
                              inputs.advantages.data(),
                              inputs.reference.data(),
                              shape.samples,
                              shape.tasks,
                              options,
                              log_floor,
                              outputs.loss.data(),
                              outputs.kl.data(),
                              outputs.entropy.data(),
                              outputs.clip_fraction.data(),
                              outputs.ratio_max.data(),
                              outputs.gradient.data()};
  const detail::GrpoKernels& kernels = PYGRADE_KERNELS(grpo_kernels);
  const double cost = 30.0 + static_cast<double>(shape.tasks) * (3.0 + 0.6 * static_cast<double>(shape.samples));
  detail::parallel_for(shape.batch, num_threads, detail::grain_of(cost),
                       [&](std::int64_t begin, std::int64_t end) { kernels.loss(task, begin, end); });
}
}  // namespace pygrade::inline v0_2
