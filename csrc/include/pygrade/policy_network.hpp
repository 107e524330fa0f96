// The network of a fusion policy in training: concentrations of a batch, the gradient of every parameter, and Adam.
//
// pygrade/policy/network.py documents the network, pygrade/reference/policy_network.py has the formulas. Every output
// of a layer is one chain of fused multiply-adds from its bias on, in the order of the inputs. Gradients are summed
// over the rows of a chunk (64) in such chains and then over the chunks, in order. So concentrations, gradients and
// updated parameters have the same bits on every instruction set and with any number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
// A layer's parameters, as torch.nn.Linear keeps them. SiLU follows every layer but the last.
struct DenseLayer {
  std::int64_t inputs;
  std::int64_t outputs;
  std::span<float> weights;  // [outputs, inputs]
  std::span<float> bias;     // [outputs]
};

struct PolicyNetworkOptions {
  float concentration_floor;
  float total_concentration;
  std::span<const float> input_mean;  // [D]
  std::span<const float> input_std;   // [D]
};

struct AdamOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;  // decoupled (AdamW)
  double scale = 1.0;         // factor of the gradient, as clip_factor gives it
};

// A view of parameters that the caller owns: they, input_mean and input_std must outlive the network. One thread at a
// time, but for `concentration`.
class PYGRADE_API PolicyNetwork {
 public:
  static constexpr std::int64_t max_tasks = 64;

  // std::invalid_argument if the layers do not fit each other or the options.
  PolicyNetwork(std::vector<DenseLayer> layers, const PolicyNetworkOptions& options);
  ~PolicyNetwork();
  PolicyNetwork(PolicyNetwork&&) noexcept;
  PolicyNetwork& operator=(PolicyNetwork&&) noexcept;

  // Whether this processor fuses multiply-adds in its kernels. Elsewhere results are the same, but slow.
  static bool is_fast();

  std::int64_t num_inputs() const;      // D
  std::int64_t num_tasks() const;       // T
  std::int64_t num_parameters() const;  // P: by layer, the weights and then the bias

  // Raw inputs [B, D] (NaN: unknown) → concentration [B, T], times factor [B] (empty: 1).
  void concentration(std::span<const float> inputs, std::span<const float> factor, std::span<float> concentration,
                     int num_threads = 1) const;

  // Runs the same, and keeps what `gradient` needs.
  void forward(std::span<const float> inputs, std::span<const float> factor, std::span<float> concentration,
               int num_threads = 1);

  // slope [B, T], the gradient of a loss by the concentration of the last `forward` → gradient [P] by the parameters
  // that it ran with. Returns the gradient's Euclidean norm, summed in double. std::logic_error before any `forward`.
  double gradient(std::span<const float> slope, std::span<float> gradient, int num_threads = 1);

  // Step number `step` (from 1) of Adam from gradient [P], with its moments first and second [P].
  void adam(std::span<const float> gradient, std::span<float> first, std::span<float> second, std::int64_t step,
            const AdamOptions& options) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The factor that scales a gradient of this norm down to max_norm: min(1, max_norm / (norm + 1e-6)).
PYGRADE_API double clip_factor(double norm, double max_norm);
}  // namespace pygrade::inline v0_2
