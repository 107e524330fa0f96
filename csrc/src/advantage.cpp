#include "advantage.hpp"

#include <cmath>
#include <memory>
#include <stdexcept>

#include "checks.hpp"
#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {
bool all_finite(std::span<const float> values) {
  bool finite = true;
  for (const float value : values) finite &= value - value == 0.0f;
  return finite;
}
}  // namespace

void group_advantage(std::span<const float> rewards, std::span<const float> component_weights, std::int64_t batch,
                     std::int64_t samples, const AdvantageOptions& options, std::span<float> advantage, bool validate,
                     int num_threads) {
  const auto components = static_cast<std::int64_t>(component_weights.size());
  if (batch < 0 || samples < 0) throw std::invalid_argument("batch or samples is negative; expected at least 0");
  detail::check_size(rewards.size(), batch * samples * components, "rewards");
  detail::check_size(advantage.size(), batch * samples, "advantage");
  if (!(options.clip >= 0.0f)) throw std::invalid_argument("clip is negative or NaN; expected a number ≥ 0");
  if (validate && !all_finite(component_weights))
    throw std::invalid_argument("component_weights holds NaN or infinity; expected numbers");
  if (batch * samples == 0) return;

  const std::int64_t blocks = (batch + detail::block_rows - 1) / detail::block_rows;
  const auto states = std::make_unique_for_overwrite<detail::Block[]>(static_cast<std::size_t>(blocks));
  const detail::AdvantageTask task{rewards.data(), component_weights.data(), batch,       samples, components,
                                   options,        advantage.data(),         states.get()};
  const detail::AdvantageKernels& kernels = PYGRADE_KERNELS(advantage_kernels);
  const std::int64_t grain = detail::grain_of(20.0 + 2.0 * static_cast<double>(samples * (components + 1)));
  detail::parallel_for(blocks, num_threads, grain, [&](std::int64_t begin, std::int64_t end) {
    const detail::Scratch scratch(static_cast<std::size_t>(detail::advantage_scratch(samples, components)));
    kernels.center(task, scratch.data(), begin, end);
  });
  double square = 0.0;
  double valid = 0.0;
  for (std::int64_t i = 0; i < blocks; ++i) {  // in order, so that the number of threads changes nothing
    square += states[i].square;
    valid += states[i].count;
  }
  if (validate && valid != static_cast<double>(batch * samples) && !all_finite(rewards))
    throw std::invalid_argument(
        "rewards holds NaN or infinity; expected numbers (validate=False leaves such samples out)");
  if (options.normalize != Normalize::batch) return;

  const double factor = square > 0.0 ? 1.0 / std::sqrt(square / valid) : 0.0;
  detail::parallel_for(blocks, num_threads, 4 * grain,
                       [&](std::int64_t begin, std::int64_t end) { kernels.scale(task, factor, begin, end); });
}
}  // namespace pygrade::inline v0_2
