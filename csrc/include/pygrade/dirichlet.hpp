// Dirichlet distributions over weight vectors; pygrade/reference/dirichlet.py has the formulas.
//
// Arrays are C-contiguous float32; rows have 1 to 64 tasks. A concentration is a finite number > 0. With `validate`
// anything else throws std::invalid_argument before anything is written; without it the row's results are NaN. All
// functions throw std::invalid_argument on inconsistent sizes.
#pragma once

#include <cstdint>
#include <span>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
struct DirichletShape {
  std::int64_t batch = 0;    // B
  std::int64_t samples = 0;  // G, at most 2^24
  std::int64_t tasks = 0;    // T
};

// Throws std::invalid_argument that names `name` and the first invalid element of values[rows, tasks], if there is one.
PYGRADE_API void check_concentration(std::span<const float> values, std::int64_t tasks,
                                     const char* name = "concentration");

// concentration[B, T] → weights[B, G, T], log_weights[B, G, T], log_prob[B, G]; any output may be empty. A draw is a
// function of (seed, offset + b, g, t) and α_b alone: Philox4x32-10 with key `seed` and counter (low word of offset +
// b, 256 g + t, attempt, high word). Weights and log-weights have the same bits on every instruction set, with any
// number of threads and in Triton. Log-weights are finite even if weights underflow to 0.
PYGRADE_API void dirichlet_sample(std::span<const float> concentration, const DirichletShape& shape, std::uint64_t seed,
                                  std::uint64_t offset, std::span<float> weights, std::span<float> log_weights,
                                  std::span<float> log_prob, bool validate = true, int num_threads = 1);

// log p(w_bg | α_b) → log_prob[B, G]. weight_floor > 0: log-weights are first clamped to log(weight_floor) and
// renormalized.
PYGRADE_API void dirichlet_log_prob(std::span<const float> concentration, std::span<const float> log_weights,
                                    const DirichletShape& shape, double weight_floor, std::span<float> log_prob,
                                    bool validate = true, int num_threads = 1);

// Σ_g gradient[B, G] · ∂ log p(w_bg | α_b) / ∂α_b → concentration_gradient[B, T].
PYGRADE_API void dirichlet_log_prob_backward(std::span<const float> concentration, std::span<const float> log_weights,
                                             std::span<const float> gradient, const DirichletShape& shape,
                                             double weight_floor, std::span<float> concentration_gradient,
                                             int num_threads = 1);

// Log-probability and its gradient in one pass over the log-weights; coefficients[B, G] is the `gradient` above; empty:
// all 1.
PYGRADE_API void dirichlet_score(std::span<const float> concentration, std::span<const float> log_weights,
                                 std::span<const float> coefficients, const DirichletShape& shape, double weight_floor,
                                 std::span<float> log_prob, std::span<float> gradient, bool validate = true,
                                 int num_threads = 1);

// Entropy in nats → entropy[B], and its gradient[B, T].
PYGRADE_API void dirichlet_entropy(std::span<const float> concentration, std::int64_t tasks, std::span<float> entropy,
                                   std::span<float> gradient, bool validate = true, int num_threads = 1);

// KL(Dir(concentration) ‖ Dir(other)) in nats → kl[B], and its gradients[B, T] with respect to both.
PYGRADE_API void dirichlet_kl(std::span<const float> concentration, std::span<const float> other, std::int64_t tasks,
                              std::span<float> kl, std::span<float> gradient, std::span<float> other_gradient,
                              bool validate = true, int num_threads = 1);

// log(max(w, weight_floor) / Σ max(w, weight_floor)) of rows of log-weights → floored, of the same size.
PYGRADE_API void floor_log_weights(std::span<const float> log_weights, std::int64_t tasks, double weight_floor,
                                   std::span<float> floored, int num_threads = 1);
}  // namespace pygrade::inline v0_2
