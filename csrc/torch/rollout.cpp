// One step of exploration: on a CPU a chain of other families.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "pygrade/dirichlet.hpp"
#include "pygrade/gain.hpp"
#include "scores.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
// Lower bounds[0, T] are at most the upper ones[1, T].
void check_bounds(std::span<const float> bounds) {
  const std::size_t tasks = bounds.size() / 2;
  for (std::size_t t = 0; t < tasks; ++t) {
    if (bounds[t] <= bounds[tasks + t]) continue;
    std::ostringstream message;
    message << "weight_bounds[:, " << t << "] is " << bounds[t] << ", " << bounds[tasks + t]
            << "; expected low <= high";
    throw std::invalid_argument(message.str());
  }
}

// max(0, x), NaN for NaN.
float excess(float x) { return x < 0.0f ? 0.0f : x; }

// Σ_t [max(0, low_t - w_t) + max(0, w_t - high_t)] of weights[B, G, T], summed as torch sums.
Tensor violation(const Tensor& weights, const Input<float>& bounds) {
  const auto w = memory_of(weights);
  const auto tasks = static_cast<std::size_t>(bounds.size(1));
  const auto low = bounds.span().first(tasks), high = bounds.span().last(tasks);
  Tensor each = fresh(sizes_of(weights));
  const auto e = memory_of(each);
  for (std::size_t i = 0, t = 0; i < w.size(); ++i, t = t + 1 == tasks ? 0 : t + 1)
    e[i] = excess(low[t] - w[i]) + excess(w[i] - high[t]);
  const std::int64_t last[] = {-1};
  return torch::stable::sum(each, torch::headeronly::IntHeaderOnlyArrayRef(last, 1));
}

// rewards[B, G, C + 1] of gain[B, G, C] and a penalty[B, G] that counts against it.
Tensor with_penalty(std::span<const float> gain, const Tensor& penalty, std::int64_t batch, std::int64_t samples,
                    std::int64_t components) {
  Tensor rewards = fresh({batch, samples, components + 1});
  const auto to = memory_of(rewards), against = memory_of(penalty);
  const auto width = static_cast<std::size_t>(components);
  for (std::size_t row = 0; row < against.size(); ++row) {
    std::ranges::copy(gain.subspan(row * width, width), to.subspan(row * (width + 1)).begin());
    to[row * (width + 1) + width] = -against[row];
  }
  return rewards;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rollout_of(const Tensor& concentration, const Tensor& scores,
                                                      const Tensor& gains, const Tensor& discount,
                                                      std::int64_t num_samples, std::int64_t seed, std::int64_t offset,
                                                      const MaybeTensor& masks, const MaybeTensor& component_list,
                                                      const MaybeTensor& weight_bounds, double weight_floor,
                                                      bool validate, std::int64_t num_threads) {
  if (num_samples < 0 || num_samples > 1 << 24) refuse("num_samples", num_samples, "at least 0 and at most 2^24");
  if (offset < 0) refuse("offset", offset, "at least 0");
  const FusionInput call(scores, 0, 0.0, 0.0, {}, {});
  const Scores& s = call.scores;
  const DirichletShape shape{s.batch, num_samples, s.tasks};
  const Input<float> alpha(concentration, "concentration", {s.batch, s.tasks});
  const Input<float> g(gains, "gains", {s.batch, s.candidates, any('C')});
  const std::int64_t components = g.size(2);
  const Input<float> d(discount, "discount", {any('k')});
  const Input<std::uint8_t> m(masks, "masks", {s.batch, any('L'), s.candidates});
  const Input<std::int32_t> ranked(component_list, "component_list", {components});
  const Input<float> bounds(weight_bounds, "weight_bounds", {2, s.tasks});
  const int threads = thread_count(num_threads);
  if (bounds && validate) check_bounds(bounds.span());

  Tensor weights = fresh({shape.batch, shape.samples, shape.tasks}),
         log_weights = fresh({shape.batch, shape.samples, shape.tasks}), log_prob = fresh({shape.batch, shape.samples});
  const bool floored = weight_floor != 0.0;
  dirichlet_sample(alpha.span(), shape, static_cast<std::uint64_t>(seed), static_cast<std::uint64_t>(offset),
                   memory_of(weights), memory_of(log_weights), floored ? std::span<float>() : memory_of(log_prob),
                   validate, threads);
  if (floored)
    dirichlet_log_prob(alpha.span(), memory_of(log_weights), shape, weight_floor, memory_of(log_prob), false, threads);
  Tensor rewards = fresh({shape.batch, shape.samples, components});
  topk_gain(s, memory_of(weights), shape.samples, g.span(), d.span(), m.span(), m ? m.size(1) : 0, ranked.span(),
            components, call.options, memory_of(rewards), threads);
  if (bounds)
    rewards = with_penalty(memory_of(rewards), violation(weights, bounds), shape.batch, shape.samples, components);
  return {weights, log_weights, log_prob, rewards};
}
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "rollout(Tensor concentration, Tensor scores, Tensor gains, Tensor discount, int num_samples, int seed, int "
      "offset=0, Tensor? masks=None, Tensor? component_list=None, Tensor? weight_bounds=None, float weight_floor=0.0, "
      "bool validate=True, int num_threads=0) -> (Tensor weights, Tensor log_weights, Tensor log_prob, Tensor "
      "rewards)");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) { m.impl("rollout", TORCH_BOX(&rollout_of)); }
}  // namespace pygrade::inline v0_2::torch_ops
