#include "policy_network.hpp"

#include <algorithm>
#include <cmath>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "checks.hpp"
#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {
using detail::check_number;
using detail::check_size;
using detail::chunk_rows;
using detail::PackedLayer;
using detail::padded;

// beta^step by squaring: libraries' pow may differ in the last bit.
double power(double beta, std::int64_t step) {
  double result = 1.0;
  for (; step > 0; step /= 2) {
    if (step % 2 == 1) result *= beta;
    beta *= beta;
  }
  return result;
}

// Floats that start at a cache line.
class Memory {
 public:
  // At least `size` floats; their content is lost if they grow.
  void grow(std::int64_t size) {
    const auto lines = static_cast<std::size_t>((size + 15) / 16);
    if (lines > lines_.size()) lines_ = std::vector<Line>(lines);
  }
  float* data() { return lines_.empty() ? nullptr : lines_.front().at; }
  const float* data() const { return lines_.empty() ? nullptr : lines_.front().at; }

 private:
  struct alignas(64) Line {
    float at[16];
  };
  std::vector<Line> lines_;
};

// The layers' parameters as the kernels read them.
struct Packed {
  Memory memory;
  std::vector<PackedLayer> layers;
};
}  // namespace

struct PolicyNetwork::Impl {
  std::vector<DenseLayer> layers;
  PolicyNetworkOptions options;
  std::int64_t num_parameters = 0;
  std::int64_t widest = 0;         // padded
  std::int64_t chunk_size = 0;     // floats of a chunk's memory
  std::int64_t gradient_size = 0;  // padded
  double cost = 0.0;               // nanoseconds of a chunk's forward pass on AVX-512

  // The last `forward`.
  Packed packed;
  std::int64_t batch = -1;
  Memory chunks;
  std::vector<float> factor;
  Memory parts;  // of `gradient`

  std::int64_t num_inputs() const { return layers.front().inputs; }
  std::int64_t num_tasks() const { return layers.back().outputs; }

  void pack(Packed& to) const {
    std::int64_t size = 0;
    for (const DenseLayer& layer : layers)
      size += layer.inputs * padded(layer.outputs) + layer.outputs * padded(layer.inputs) + padded(layer.outputs);
    to.memory.grow(size);  // zeroed when it is made; padding is never written
    to.layers.clear();
    const detail::PolicyNetworkKernels& kernels = PYGRADE_KERNELS(policy_network_kernels);
    float* at = to.memory.data();
    for (const DenseLayer& layer : layers) {
      float* columns = at;
      float* rows = columns + layer.inputs * padded(layer.outputs);
      float* bias = rows + layer.outputs * padded(layer.inputs);
      at = bias + padded(layer.outputs);
      kernels.pack(layer.weights.data(), layer.inputs, layer.outputs, columns, rows);
      std::ranges::copy(layer.bias, bias);
      to.layers.push_back({layer.inputs, layer.outputs, columns, rows, bias});
    }
  }

  std::int64_t check_batch(std::span<const float> inputs, std::span<const float> row_factor,
                           std::span<float> concentration) const {
    const auto rows = static_cast<std::int64_t>(concentration.size()) / num_tasks();
    check_size(concentration.size(), rows * num_tasks(), "concentration");
    check_size(inputs.size(), rows * num_inputs(), "inputs");
    if (!row_factor.empty()) check_size(row_factor.size(), rows, "factor");
    return rows;
  }

  detail::ForwardTask task(const Packed& with, std::span<const float> inputs, const float* row_factor,
                           std::int64_t rows, std::span<float> concentration) const {
    return {with.layers.data(),
            static_cast<std::int64_t>(with.layers.size()),
            options.input_mean.data(),
            options.input_std.data(),
            options.concentration_floor,
            options.total_concentration,
            inputs.data(),
            row_factor,
            rows,
            concentration.data()};
  }
};

PolicyNetwork::PolicyNetwork(std::vector<DenseLayer> layers, const PolicyNetworkOptions& options)
    : impl_(std::make_unique<Impl>()) {
  if (layers.empty()) throw std::invalid_argument("layers is empty; expected at least the head");
  std::int64_t inputs = layers.front().inputs;
  check_number(inputs >= 1, "inputs of layer 0", static_cast<double>(inputs), "at least 1");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const DenseLayer& layer = layers[i];
    const std::string name = "layer " + std::to_string(i);
    if (layer.inputs != inputs || layer.outputs < 1 || layer.outputs > std::int64_t{1} << 20)
      throw std::invalid_argument(name + " maps " + std::to_string(layer.inputs) + " inputs to " +
                                  std::to_string(layer.outputs) + " outputs; expected " + std::to_string(inputs) +
                                  " inputs and 1 to 2^20 outputs");
    check_size(layer.weights.size(), layer.outputs * layer.inputs, "weights of " + name);
    check_size(layer.bias.size(), layer.outputs, "bias of " + name);
    inputs = layer.outputs;
  }
  check_number(inputs <= max_tasks, "tasks", static_cast<double>(inputs), "at most 64");
  check_size(options.input_mean.size(), layers.front().inputs, "input_mean");
  check_size(options.input_std.size(), layers.front().inputs, "input_std");
  Impl& impl = *impl_;
  impl.layers = std::move(layers);
  impl.options = options;
  impl.widest = padded(impl.num_inputs());
  impl.chunk_size = chunk_rows * padded(impl.num_inputs());
  for (const DenseLayer& layer : impl.layers) {
    impl.num_parameters += layer.outputs * (layer.inputs + 1);
    impl.widest = std::max(impl.widest, padded(layer.outputs));
    impl.chunk_size += 2 * chunk_rows * padded(layer.outputs);
    impl.gradient_size += padded(layer.outputs) * (padded(layer.inputs) + 1);
  }
  impl.cost = static_cast<double>(chunk_rows * impl.num_parameters) * 0.02;
}

PolicyNetwork::~PolicyNetwork() = default;
PolicyNetwork::PolicyNetwork(PolicyNetwork&&) noexcept = default;
PolicyNetwork& PolicyNetwork::operator=(PolicyNetwork&&) noexcept = default;

bool PolicyNetwork::is_fast() { return PYGRADE_KERNELS(policy_network_kernels).fuses; }

std::int64_t PolicyNetwork::num_inputs() const { return impl_->num_inputs(); }
std::int64_t PolicyNetwork::num_tasks() const { return impl_->num_tasks(); }
std::int64_t PolicyNetwork::num_parameters() const { return impl_->num_parameters; }

void PolicyNetwork::concentration(std::span<const float> inputs, std::span<const float> factor,
                                  std::span<float> concentration, int num_threads) const {
  const Impl& impl = *impl_;
  const std::int64_t rows = impl.check_batch(inputs, factor, concentration);
  Packed packed;
  impl.pack(packed);
  const auto task = impl.task(packed, inputs, factor.empty() ? nullptr : factor.data(), rows, concentration);
  const detail::PolicyNetworkKernels& kernels = PYGRADE_KERNELS(policy_network_kernels);
  detail::parallel_for((rows + chunk_rows - 1) / chunk_rows, num_threads, detail::grain_of(impl.cost),
                       [&](std::int64_t begin, std::int64_t end) {
                         const detail::Scratch scratch(static_cast<std::size_t>(impl.chunk_size));
                         for (std::int64_t c = begin; c < end; ++c) kernels.forward(task, c, scratch.data(), false);
                       });
}

void PolicyNetwork::forward(std::span<const float> inputs, std::span<const float> factor,
                            std::span<float> concentration, int num_threads) {
  Impl& impl = *impl_;
  const std::int64_t rows = impl.check_batch(inputs, factor, concentration);
  impl.batch = -1;
  impl.pack(impl.packed);
  const std::int64_t count = (rows + chunk_rows - 1) / chunk_rows;
  impl.chunks.grow(count * impl.chunk_size);
  impl.factor.assign(factor.begin(), factor.end());
  const auto task = impl.task(impl.packed, inputs, factor.empty() ? nullptr : impl.factor.data(), rows, concentration);
  const detail::PolicyNetworkKernels& kernels = PYGRADE_KERNELS(policy_network_kernels);
  detail::parallel_for(count, num_threads, detail::grain_of(impl.cost), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) kernels.forward(task, c, impl.chunks.data() + c * impl.chunk_size, true);
  });
  impl.batch = rows;
}

double PolicyNetwork::gradient(std::span<const float> slope, std::span<float> gradient, int num_threads) {
  Impl& impl = *impl_;
  if (impl.batch < 0) throw std::logic_error("gradient needs a forward pass before it");
  check_size(slope.size(), impl.batch * impl.num_tasks(), "slope");
  check_size(gradient.size(), impl.num_parameters, "gradient");
  const std::int64_t count = (impl.batch + chunk_rows - 1) / chunk_rows;
  if (count == 0) {
    std::ranges::fill(gradient, 0.0f);
    return 0.0;
  }
  impl.parts.grow(count * impl.gradient_size);
  const detail::BackwardTask task{impl.packed.layers.data(),
                                  static_cast<std::int64_t>(impl.packed.layers.size()),
                                  impl.options.total_concentration,
                                  impl.factor.empty() ? nullptr : impl.factor.data(),
                                  impl.batch,
                                  slope.data(),
                                  impl.widest};
  const detail::PolicyNetworkKernels& kernels = PYGRADE_KERNELS(policy_network_kernels);
  float* const parts = impl.parts.data();
  detail::parallel_for(count, num_threads, detail::grain_of(2.0 * impl.cost),
                       [&](std::int64_t begin, std::int64_t end) {
                         const detail::Scratch scratch(static_cast<std::size_t>(2 * chunk_rows * impl.widest));
                         for (std::int64_t c = begin; c < end; ++c)
                           kernels.backward(task, c, impl.chunks.data() + c * impl.chunk_size,
                                            parts + c * impl.gradient_size, scratch.data());
                       });
  const detail::FloatEnvironment environment;
  return std::sqrt(
      kernels.add_chunks(task.layers, task.layer_count, parts, count, impl.gradient_size, gradient.data()));
}

void PolicyNetwork::adam(std::span<const float> gradient, std::span<float> first, std::span<float> second,
                         std::int64_t step, const AdamOptions& options) const {
  const Impl& impl = *impl_;
  check_size(gradient.size(), impl.num_parameters, "gradient");
  check_size(first.size(), impl.num_parameters, "first");
  check_size(second.size(), impl.num_parameters, "second");
  check_number(step >= 1, "step", static_cast<double>(step), "at least 1");
  check_number(std::isfinite(options.learning_rate) && options.learning_rate >= 0.0, "learning_rate",
               options.learning_rate, "a finite number ≥ 0");
  check_number(options.beta1 >= 0.0 && options.beta1 < 1.0, "beta1", options.beta1, "a number in [0, 1)");
  check_number(options.beta2 >= 0.0 && options.beta2 < 1.0, "beta2", options.beta2, "a number in [0, 1)");
  check_number(options.epsilon > 0.0, "epsilon", options.epsilon, "a number > 0");
  check_number(options.weight_decay >= 0.0, "weight_decay", options.weight_decay, "a number ≥ 0");
  check_number(options.scale >= 0.0, "scale", options.scale, "a number ≥ 0");
  const double step_size = options.learning_rate / (1.0 - power(options.beta1, step));
  const double root_correction = std::sqrt(1.0 - power(options.beta2, step));
  detail::AdamTask task{0,
                        gradient.data(),
                        first.data(),
                        second.data(),
                        nullptr,
                        static_cast<float>(options.scale),
                        static_cast<float>(1.0 - options.beta1),
                        static_cast<float>(options.beta2),
                        static_cast<float>(1.0 - options.beta2),
                        static_cast<float>(options.epsilon),
                        static_cast<float>(step_size),
                        static_cast<float>(root_correction),
                        static_cast<float>(1.0 - options.learning_rate * options.weight_decay)};
  const detail::FloatEnvironment environment;
  const detail::PolicyNetworkKernels& kernels = PYGRADE_KERNELS(policy_network_kernels);
  for (const DenseLayer& layer : impl.layers) {
    for (const std::span<float> part : {layer.weights, layer.bias}) {
      task.count = static_cast<std::int64_t>(part.size());
      task.parameters = part.data();
      kernels.adam(task);
      task.gradient += task.count;
      task.first += task.count;
      task.second += task.count;
    }
  }
}

double clip_factor(double norm, double max_norm) { return std::min(1.0, max_norm / (norm + 1e-6)); }
}  // namespace pygrade::inline v0_2
