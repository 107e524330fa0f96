#include "dirichlet.hpp"

#include <bit>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "checks.hpp"
#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {
using detail::check_size;

constexpr std::int64_t max_samples = std::int64_t{1} << 24;  // 256 g + t is one counter word

void check_tasks(std::int64_t tasks) {
  if (tasks < 1 || tasks > 64)
    throw std::invalid_argument("concentration has " + std::to_string(tasks) + " tasks; expected 1 to 64");
}

void check_shape(const DirichletShape& shape) {
  check_tasks(shape.tasks);
  if (shape.batch < 0 || shape.samples < 0 || shape.samples > max_samples)
    throw std::invalid_argument("the number of samples is " + std::to_string(shape.samples) +
                                "; expected 0 to 16777216");
}

template <class T>
T* pointer(std::span<T> out) {
  return out.empty() ? nullptr : out.data();
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
            << "] is " << values[i] << "; expected a finite number > 0";
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
    PYGRADE_KERNELS(sampler_kernels).sample(task, scratch.data(), begin, end);
  });
}

namespace {
// Log-probabilities, their gradient to the concentrations, or both: the kernel says which.
void run_densities(decltype(detail::DirichletKernels::log_prob) kernel, std::span<const float> concentration,
                   std::span<const float> log_weights, std::span<const float> upstream, const char* upstream_name,
                   const DirichletShape& shape, double weight_floor, std::span<float> log_prob,
                   std::span<float> gradient, bool validate, int num_threads) {
  check_shape(shape);
  check_size(concentration.size(), shape.batch * shape.tasks, "concentration");
  check_size(log_weights.size(), shape.batch * shape.samples * shape.tasks, "log_weights");
  if (upstream_name != nullptr) check_size(upstream.size(), shape.batch * shape.samples, upstream_name);
  if (kernel != kernels().log_prob_backward) check_size(log_prob.size(), shape.batch * shape.samples, "log_prob");
  if (kernel != kernels().log_prob)
    check_size(gradient.size(), shape.batch * shape.tasks, "the gradient of concentration");
  const double floor = detail::log_floor(weight_floor);
  if (validate) check_concentration(concentration, shape.tasks);
  const detail::DirichletLogProbTask task{concentration.data(), log_weights.data(), pointer(upstream),
                                          shape.samples,        shape.tasks,        floor,
                                          pointer(log_prob),    pointer(gradient)};
  const auto tasks = static_cast<double>(shape.tasks);
  const double cost = 10.0 + tasks + 0.1 * static_cast<double>(shape.samples) * tasks;
  detail::parallel_for(shape.batch, num_threads, detail::grain_of(cost),
                       [&](std::int64_t begin, std::int64_t end) { kernel(task, begin, end); });
}
}  // namespace

void dirichlet_log_prob(std::span<const float> concentration, std::span<const float> log_weights,
                        const DirichletShape& shape, double weight_floor, std::span<float> log_prob, bool validate,
                        int num_threads) {
  run_densities(kernels().log_prob, concentration, log_weights, {}, nullptr, shape, weight_floor, log_prob, {},
                validate, num_threads);
}

void dirichlet_log_prob_backward(std::span<const float> concentration, std::span<const float> log_weights,
                                 std::span<const float> gradient, const DirichletShape& shape, double weight_floor,
                                 std::span<float> concentration_gradient, int num_threads) {
  run_densities(kernels().log_prob_backward, concentration, log_weights, gradient, "gradient", shape, weight_floor, {},
                concentration_gradient, false, num_threads);
}

void dirichlet_score(std::span<const float> concentration, std::span<const float> log_weights,
                     std::span<const float> coefficients, const DirichletShape& shape, double weight_floor,
                     std::span<float> log_prob, std::span<float> gradient, bool validate, int num_threads) {
  run_densities(kernels().score, concentration, log_weights, coefficients,
                coefficients.empty() ? nullptr : "coefficients", shape, weight_floor, log_prob, gradient, validate,
                num_threads);
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
  if (tasks < 1) throw std::invalid_argument("log_weights has no tasks; expected at least 1");
  check_size(floored.size(), static_cast<std::int64_t>(log_weights.size()), "floored");
  const std::int64_t rows = static_cast<std::int64_t>(log_weights.size()) / tasks;
  check_size(log_weights.size(), rows * tasks, "log_weights");
  const detail::FloorTask task{log_weights.data(), tasks, detail::log_floor(weight_floor), floored.data()};
  detail::parallel_for(rows, num_threads, detail::grain_of(0.8 * static_cast<double>(tasks)),
                       [&](std::int64_t begin, std::int64_t end) { kernels().floor(task, begin, end); });
}
}  // namespace pygrade::inline v0_2
