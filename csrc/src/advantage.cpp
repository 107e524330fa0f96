#include "advantage.hpp"

#include <cmath>
#include <stdexcept>
#include <vector>

#include "parallel.hpp"

namespace pygrade {

void group_advantage(std::span<const float> rewards, std::span<const float> component_weights, std::int64_t batch,
                     std::int64_t samples, const AdvantageOptions& options, std::span<float> advantage, bool validate,
                     int num_threads) {
  const auto components = static_cast<std::int64_t>(component_weights.size());
  if (batch < 0 || samples < 0 || static_cast<std::int64_t>(rewards.size()) != batch * samples * components)
    throw std::invalid_argument("rewards does not hold batch * samples * components values");
  if (static_cast<std::int64_t>(advantage.size()) != batch * samples)
    throw std::invalid_argument("advantage does not hold batch * samples values");
  if (!(options.clip >= 0.0f)) throw std::invalid_argument("clip is negative or NaN; want a number ≥ 0");
  if (validate) {
    bool good = true;
    for (const float reward : rewards) good &= reward == reward;
    if (!good) throw std::invalid_argument("rewards holds NaN; want numbers (validate=False leaves such samples out)");
  }

  const bool whole_batch = options.normalize == Normalize::batch;
  std::vector<double> square(whole_batch ? static_cast<std::size_t>(batch) : 0);
  std::vector<double> count(square.size());
  const detail::AdvantageTask task{rewards.data(), component_weights.data(), samples,       components,
                                   options,        advantage.data(),         square.data(), count.data()};
  const detail::AdvantageKernels& kernels = PYGRADE_KERNELS(advantage_kernels);
  const std::int64_t grain = 1 + 400'000 / (1 + samples * (components + 2));  // about 200 µs of work
  detail::parallel_for(batch, num_threads, grain, [&](std::int64_t begin, std::int64_t end) {
    static thread_local std::vector<float> scratch;  // kept: a warm call allocates nothing
    scratch.resize(static_cast<std::size_t>(detail::advantage_scratch(samples, components)));
    kernels.centre(task, scratch.data(), begin, end);
  });
  if (!whole_batch) return;

  double sum = 0.0;
  double valid = 0.0;
  for (std::size_t b = 0; b < square.size(); ++b) {  // in row order: the same for every number of threads
    sum += square[b];
    valid += count[b];
  }
  const double std = valid > 0.0 ? std::sqrt(sum / valid) : 0.0;
  detail::parallel_for(batch, num_threads, grain,
                       [&](std::int64_t begin, std::int64_t end) { kernels.scale(task, std, begin, end); });
}

}  // namespace pygrade
