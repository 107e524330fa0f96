#include "pygrade/grpo.hpp"

#include <tuple>

#include "tensors.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> grpo_loss_of(
    const Tensor& concentration, const Tensor& log_weights, const Tensor& old_log_prob, const Tensor& advantages,
    const Tensor& reference_concentration, double clip, double clip_high, double kl_coefficient,
    double entropy_coefficient, double weight_floor, double log_ratio_clamp, bool validate, std::int64_t num_threads) {
  const Input<float> logs(log_weights, "log_weights", {any('B'), any('G'), any('T')});
  const DirichletShape shape{logs.size(0), logs.size(1), logs.size(2)};
  const Input<float> alpha(concentration, "concentration", {shape.batch, shape.tasks});
  const Input<float> old(old_log_prob, "old_log_prob", {shape.batch, shape.samples});
  const Input<float> gains(advantages, "advantages", {shape.batch, shape.samples});
  const Input<float> anchor(reference_concentration, "reference_concentration", {shape.batch, shape.tasks});
  const GrpoOptions options{clip, clip_high, kl_coefficient, entropy_coefficient, weight_floor, log_ratio_clamp};
  Tensor loss = fresh({shape.batch}), kl = fresh({shape.batch}), entropy = fresh({shape.batch}),
         clip_fraction = fresh({shape.batch}), ratio_max = fresh({shape.batch}),
         gradient = fresh({shape.batch, shape.tasks});
  const GrpoOutputs outputs{memory_of(loss),          memory_of(kl),        memory_of(entropy),
                            memory_of(clip_fraction), memory_of(ratio_max), memory_of(gradient)};
  grpo_loss({alpha.span(), logs.span(), old.span(), gains.span(), anchor.span()}, shape, options, outputs, validate,
            thread_count(num_threads));
  return {loss, kl, entropy, clip_fraction, ratio_max, gradient};
}
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "grpo_loss(Tensor concentration, Tensor log_weights, Tensor old_log_prob, Tensor advantages, Tensor "
      "reference_concentration, float clip=0.2, float clip_high=0.2, float kl_coefficient=0.01, float "
      "entropy_coefficient=0.0, float weight_floor=1e-5, float log_ratio_clamp=10.0, bool validate=True, int "
      "num_threads=0) -> (Tensor loss, Tensor kl, Tensor entropy, Tensor clip_fraction, Tensor ratio_max, Tensor "
      "gradient)");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) { m.impl("grpo_loss", TORCH_BOX(&grpo_loss_of)); }
}  // namespace pygrade::inline v0_2::torch_ops
