#include "dirichlet.hpp"

#include <bit>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {

constexpr std::int64_t max_tasks = 64;
constexpr std::int64_t max_samples = std::int64_t{1} << 24;  // 256 g + t is one counter word

void check_size(std::size_t size, std::int64_t wanted, const char* name) {
  if (wanted < 0 || size != static_cast<std::size_t>(wanted))
    throw std::invalid_argument(std::string(name) + " holds " + std::to_string(size) + " values; want " +
                                std::to_string(wanted));
}

void check_tasks(std::int64_t tasks) {
  if (tasks < 1 || tasks > max_tasks)
    throw std::invalid_argument("concentration has " + std::to_string(tasks) + " tasks; want 1 to 64");
}

void check_shape(const DirichletShape& shape) {
  check_tasks(shape.tasks);
  if (shape.batch < 0 || shape.samples < 0 || shape.samples > max_samples)
    throw std::invalid_argument("the number of samples is " + std::to_string(shape.samples) + "; want 0 to 16777216");
}

double log_floor(double weight_floor) {
  if (!(weight_floor >= 0.0 && weight_floor < 1.0)) {
    std::ostringstream message;
    message << "weight_floor is " << weight_floor << "; want a number in [0, 1)";
    throw std::invalid_argument(message.str());
  }
  return weight_floor > 0.0 ? std::log(weight_floor) : -std::numeric_limits<double>::infinity();
}

template <class T>
T* pointer(std::span<T> out) {
  return out.empty() ? nullptr : out.data();
}

std::int64_t log_prob_grain(const DirichletShape& shape) {
  const auto tasks = static_cast<double>(shape.tasks);
  return detail::grain_of(10.0 + tasks + 0.1 * static_cast<double>(shape.samples) * tasks);
}

const detail::DirichletKernels& kernels() { return PYGRADE_KERNELS(dirichlet_kernels); }

}  // namespace

void check_concentration(std::span<const float> values, std::int64_t tasks, const char* name) {
  std::int32_t bad =
      0;  // on the bits, so that the compiler vectorizes: those of valid numbers are one range of integers
  for (const float value : values) {
    const auto bits = std::bit_cast<std::int32_t>(value);
    bad |= static_cast<std::int32_t>(bits <= 0) | static_cast<std::int32_t>(bits >= 0x7f800000);
  }
  if (bad == 0) return;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] > 0.0f && values[i] <= std::numeric_limits<float>::max()) continue;
    std::ostringstream message;
    message << name << "[" << i / static_cast<std::size_t>(tasks) << ", " << i % static_cast<std::size_t>(tasks)
            << "] is " << values[i] << "; want a finite number > 0";
    throw std::invalid_argument(message.str());
  }
}

void dirichlet_sample(std::span<const float> concentration, const DirichletShape& shape, std::uint64_t seed,
                      std::uint64_t offset, std::span<float> weights, std::span<float> log_weights,
                      std::span<float> log_prob, bool validate, int num_threads) {
  check_shape(shape);
  const std::int64_t draws = shape.batch * shape.samples;
  check_size(concentration.size(), shape.batch * shape.tasks, "concentration");
  if (!weights.empty()) check_size(weights.size(), draws * shape.tasks, "weights");
  if (!log_weights.empty()) check_size(log_weights.size(), draws * shape.tasks, "log_weights");
  if (!log_prob.empty()) check_size(log_prob.size(), draws, "log_prob");
  if (validate) check_concentration(concentration, shape.tasks);
  if (draws == 0) return;
  const detail::DirichletSampleTask task{concentration.data(), shape.samples,        shape.tasks,      seed, offset,
                                         pointer(weights),     pointer(log_weights), pointer(log_prob)};
  const double cost = 60.0 + 3.5 * static_cast<double>(shape.samples * shape.tasks);
  detail::parallel_for(shape.batch, num_threads, detail::grain_of(cost), [&](std::int64_t begin, std::int64_t end) {
    const detail::Scratch scratch(static_cast<std::size_t>(detail::sampler_scratch(shape.tasks)));
    kernels().sample(task, scratch.data(), begin, end);
  });
}

void dirichlet_log_prob(std::span<const float> concentration, std::span<const float> log_weights,
                        const DirichletShape& shape, double weight_floor, std::span<float> log_prob, bool validate,
                        int num_threads) {
  check_shape(shape);
  check_size(concentration.size(), shape.batch * shape.tasks, "concentration");
  check_size(log_weights.size(), shape.batch * shape.samples * shape.tasks, "log_weights");
  check_size(log_prob.size(), shape.batch * shape.samples, "log_prob");
  const double floor = log_floor(weight_floor);
  if (validate) check_concentration(concentration, shape.tasks);
  const detail::DirichletLogProbTask task{
      concentration.data(), log_weights.data(), nullptr, shape.samples, shape.tasks, floor, log_prob.data(), nullptr};
  detail::parallel_for(shape.batch, num_threads, log_prob_grain(shape),
                       [&](std::int64_t begin, std::int64_t end) { kernels().log_prob(task, begin, end); });
}

void dirichlet_log_prob_backward(std::span<const float> concentration, std::span<const float> log_weights,
                                 std::span<const float> gradient, const DirichletShape& shape, double weight_floor,
                                 std::span<float> concentration_gradient, int num_threads) {
  check_shape(shape);
  check_size(concentration.size(), shape.batch * shape.tasks, "concentration");
  check_size(log_weights.size(), shape.batch * shape.samples * shape.tasks, "log_weights");
  check_size(gradient.size(), shape.batch * shape.samples, "gradient");
  check_size(concentration_gradient.size(), concentration.size(), "concentration_gradient");
  const detail::DirichletLogProbTask task{
      concentration.data(), log_weights.data(),      gradient.data(), shape.samples,
      shape.tasks,          log_floor(weight_floor), nullptr,         concentration_gradient.data()};
  detail::parallel_for(shape.batch, num_threads, log_prob_grain(shape),
                       [&](std::int64_t begin, std::int64_t end) { kernels().log_prob_backward(task, begin, end); });
}

void dirichlet_score(std::span<const float> concentration, std::span<const float> log_weights,
                     std::span<const float> coefficients, const DirichletShape& shape, double weight_floor,
                     std::span<float> log_prob, std::span<float> gradient, bool validate, int num_threads) {
  check_shape(shape);
  check_size(concentration.size(), shape.batch * shape.tasks, "concentration");
  check_size(log_weights.size(), shape.batch * shape.samples * shape.tasks, "log_weights");
  if (!coefficients.empty()) check_size(coefficients.size(), shape.batch * shape.samples, "coefficients");
  check_size(log_prob.size(), shape.batch * shape.samples, "log_prob");
  check_size(gradient.size(), concentration.size(), "gradient");
  const double floor = log_floor(weight_floor);
  if (validate) check_concentration(concentration, shape.tasks);
  const detail::DirichletLogProbTask task{concentration.data(), log_weights.data(), pointer(coefficients),
                                          shape.samples,        shape.tasks,        floor,
                                          log_prob.data(),      gradient.data()};
  detail::parallel_for(shape.batch, num_threads, log_prob_grain(shape),
                       [&](std::int64_t begin, std::int64_t end) { kernels().score(task, begin, end); });
}

void dirichlet_entropy(std::span<const float> concentration, std::int64_t tasks, std::span<float> entropy,
                       std::span<float> gradient, bool validate, int num_threads) {
  check_tasks(tasks);
  const auto batch = static_cast<std::int64_t>(entropy.size());
  check_size(concentration.size(), batch * tasks, "concentration");
  check_size(gradient.size(), batch * tasks, "gradient");
  if (validate) check_concentration(concentration, tasks);
  const detail::DirichletRowTask task{concentration.data(), nullptr, tasks, entropy.data(), gradient.data(), nullptr};
  detail::parallel_for(batch, num_threads, detail::grain_of(10.0 + 2.0 * static_cast<double>(tasks)),
                       [&](std::int64_t begin, std::int64_t end) { kernels().entropy(task, begin, end); });
}

void dirichlet_kl(std::span<const float> concentration, std::span<const float> other, std::int64_t tasks,
                  std::span<float> kl, std::span<float> gradient, std::span<float> other_gradient, bool validate,
                  int num_threads) {
  check_tasks(tasks);
  const auto batch = static_cast<std::int64_t>(kl.size());
  check_size(concentration.size(), batch * tasks, "concentration");
  check_size(other.size(), batch * tasks, "other");
  check_size(gradient.size(), batch * tasks, "gradient");
  check_size(other_gradient.size(), batch * tasks, "other_gradient");
  if (validate) {
    check_concentration(concentration, tasks);
    check_concentration(other, tasks, "other");
  }
  const detail::DirichletRowTask task{concentration.data(), other.data(),         tasks, kl.data(),
                                      gradient.data(),      other_gradient.data()};
  detail::parallel_for(batch, num_threads, detail::grain_of(15.0 + 3.5 * static_cast<double>(tasks)),
                       [&](std::int64_t begin, std::int64_t end) { kernels().kl(task, begin, end); });
}

void floor_log_weights(std::span<const float> log_weights, std::int64_t tasks, double weight_floor,
                       std::span<float> floored, int num_threads) {
  if (tasks < 1) throw std::invalid_argument("log_weights has no tasks; want at least 1");
  check_size(floored.size(), static_cast<std::int64_t>(log_weights.size()), "floored");
  const std::int64_t rows = static_cast<std::int64_t>(log_weights.size()) / tasks;
  check_size(log_weights.size(), rows * tasks, "log_weights");
  const detail::FloorTask task{log_weights.data(), tasks, log_floor(weight_floor), floored.data()};
  detail::parallel_for(rows, num_threads, detail::grain_of(0.8 * static_cast<double>(tasks)),
                       [&](std::int64_t begin, std::int64_t end) { kernels().floor(task, begin, end); });
}

}  // namespace pygrade::inline v0_2
