#include "pygrade/dirichlet.hpp"

#include <stdexcept>
#include <string>
#include <tuple>

#include "tensors.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
DirichletShape shape_of(const Input<float>& log_weights) {
  return {log_weights.size(0), log_weights.size(1), log_weights.size(2)};
}

// The seed counts as an unsigned integer of 64 bits.
void draw(const Input<float>& alpha, const DirichletShape& shape, std::int64_t seed, std::int64_t offset,
          std::span<float> weights, std::span<float> log_weights, std::span<float> log_prob, bool validate,
          std::int64_t num_threads) {
  if (offset < 0) refuse("offset", offset, "at least 0");
  dirichlet_sample(alpha.span(), shape, static_cast<std::uint64_t>(seed), static_cast<std::uint64_t>(offset), weights,
                   log_weights, log_prob, validate, thread_count(num_threads));
}

std::tuple<Tensor, Tensor, Tensor> dirichlet_sample_of(const Tensor& concentration, std::int64_t num_samples,
                                                       std::int64_t seed, std::int64_t offset, bool validate,
                                                       std::int64_t num_threads) {
  if (num_samples < 0 || num_samples > 1 << 24) refuse("num_samples", num_samples, "at least 0 and at most 2^24");
  const Input<float> alpha(concentration, "concentration", {any('B'), any('T')});
  const DirichletShape shape{alpha.size(0), num_samples, alpha.size(1)};
  Tensor weights = fresh({shape.batch, shape.samples, shape.tasks}),
         log_weights = fresh({shape.batch, shape.samples, shape.tasks}), log_prob = fresh({shape.batch, shape.samples});
  draw(alpha, shape, seed, offset, memory_of(weights), memory_of(log_weights), memory_of(log_prob), validate,
       num_threads);
  return {weights, log_weights, log_prob};
}

// Checks the output that an op fills in place.
std::span<float> filled(const Tensor& output, const char* name, Sizes sizes) {
  checked(output, name, Dtype::float32, sizes);
  if (!output.is_contiguous())
    throw std::invalid_argument(std::string(name) + " is not contiguous; expected plain memory");
  return memory_of(output);
}

void dirichlet_sample_into(const Tensor& concentration, std::int64_t seed, std::int64_t offset, const Tensor& weights,
                           const Tensor& log_weights, const Tensor& log_prob, bool validate, std::int64_t num_threads) {
  const auto w = filled(weights, "weights", {any('B'), any('G'), any('T')});
  const auto sizes = sizes_of(weights);
  const DirichletShape shape{sizes[0], sizes[1], sizes[2]};
  const Input<float> alpha(concentration, "concentration", {shape.batch, shape.tasks});
  draw(alpha, shape, seed, offset, w, filled(log_weights, "log_weights", {shape.batch, shape.samples, shape.tasks}),
       filled(log_prob, "log_prob", {shape.batch, shape.samples}), validate, num_threads);
}

Tensor dirichlet_log_prob_of(const Tensor& concentration, const Tensor& log_weights, double weight_floor, bool validate,
                             std::int64_t num_threads) {
  const Input<float> logs(log_weights, "log_weights", {any('B'), any('G'), any('T')});
  const DirichletShape shape = shape_of(logs);
  const Input<float> alpha(concentration, "concentration", {shape.batch, shape.tasks});
  Tensor log_prob = fresh({shape.batch, shape.samples});
  dirichlet_log_prob(alpha.span(), logs.span(), shape, weight_floor, memory_of(log_prob), validate,
                     thread_count(num_threads));
  return log_prob;
}

Tensor dirichlet_log_prob_backward_of(const Tensor& concentration, const Tensor& log_weights, const Tensor& gradient,
                                      double weight_floor, std::int64_t num_threads) {
  const Input<float> logs(log_weights, "log_weights", {any('B'), any('G'), any('T')});
  const DirichletShape shape = shape_of(logs);
  const Input<float> alpha(concentration, "concentration", {shape.batch, shape.tasks});
  const Input<float> upstream(gradient, "gradient", {shape.batch, shape.samples});
  Tensor result = fresh({shape.batch, shape.tasks});
  dirichlet_log_prob_backward(alpha.span(), logs.span(), upstream.span(), shape, weight_floor, memory_of(result),
                              thread_count(num_threads));
  return result;
}

std::tuple<Tensor, Tensor> dirichlet_score_of(const Tensor& concentration, const Tensor& log_weights,
                                              const MaybeTensor& coefficients, double weight_floor, bool validate,
                                              std::int64_t num_threads) {
  const Input<float> logs(log_weights, "log_weights", {any('B'), any('G'), any('T')});
  const DirichletShape shape = shape_of(logs);
  const Input<float> alpha(concentration, "concentration", {shape.batch, shape.tasks});
  const Input<float> each(coefficients, "coefficients", {shape.batch, shape.samples});
  Tensor log_prob = fresh({shape.batch, shape.samples}), gradient = fresh({shape.batch, shape.tasks});
  dirichlet_score(alpha.span(), logs.span(), each.span(), shape, weight_floor, memory_of(log_prob), memory_of(gradient),
                  validate, thread_count(num_threads));
  return {log_prob, gradient};
}

std::tuple<Tensor, Tensor> dirichlet_entropy_of(const Tensor& concentration, bool validate, std::int64_t num_threads) {
  const Input<float> alpha(concentration, "concentration", {any('B'), any('T')});
  Tensor entropy = fresh({alpha.size(0)}), gradient = fresh({alpha.size(0), alpha.size(1)});
  dirichlet_entropy(alpha.span(), alpha.size(1), memory_of(entropy), memory_of(gradient), validate,
                    thread_count(num_threads));
  return {entropy, gradient};
}

std::tuple<Tensor, Tensor, Tensor> dirichlet_kl_of(const Tensor& concentration, const Tensor& other, bool validate,
                                                   std::int64_t num_threads) {
  const Input<float> alpha(concentration, "concentration", {any('B'), any('T')});
  const Input<float> beta(other, "other", {alpha.size(0), alpha.size(1)});
  Tensor kl = fresh({alpha.size(0)}), gradient = fresh({alpha.size(0), alpha.size(1)}),
         other_gradient = fresh({alpha.size(0), alpha.size(1)});
  dirichlet_kl(alpha.span(), beta.span(), alpha.size(1), memory_of(kl), memory_of(gradient), memory_of(other_gradient),
               validate, thread_count(num_threads));
  return {kl, gradient, other_gradient};
}

Tensor floor_log_weights_of(const Tensor& log_weights, double weight_floor, std::int64_t num_threads) {
  const Input<float> logs(log_weights, "log_weights", {any('M'), any('T')});
  Tensor floored = fresh({logs.size(0), logs.size(1)});
  floor_log_weights(logs.span(), logs.size(1), weight_floor, memory_of(floored), thread_count(num_threads));
  return floored;
}
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "dirichlet_sample(Tensor concentration, int num_samples, int seed, int offset=0, bool validate=True, int "
      "num_threads=0) -> (Tensor weights, Tensor log_weights, Tensor log_prob)");
  m.def(
      "dirichlet_sample_into(Tensor concentration, int seed, int offset, Tensor(a!) weights, Tensor(b!) log_weights, "
      "Tensor(c!) log_prob, bool validate=True, int num_threads=0) -> ()");
  m.def(
      "dirichlet_log_prob(Tensor concentration, Tensor log_weights, float weight_floor=0.0, bool validate=True, int "
      "num_threads=0) -> Tensor");
  m.def(
      "dirichlet_log_prob_backward(Tensor concentration, Tensor log_weights, Tensor gradient, float weight_floor=0.0, "
      "int num_threads=0) -> Tensor");
  m.def(
      "dirichlet_score(Tensor concentration, Tensor log_weights, Tensor? coefficients=None, float weight_floor=0.0, "
      "bool validate=True, int num_threads=0) -> (Tensor log_prob, Tensor gradient)");
  m.def(
      "dirichlet_entropy(Tensor concentration, bool validate=True, int num_threads=0) -> (Tensor entropy, Tensor "
      "gradient)");
  m.def(
      "dirichlet_kl(Tensor concentration, Tensor other, bool validate=True, int num_threads=0) -> (Tensor kl, Tensor "
      "gradient, Tensor other_gradient)");
  m.def("floor_log_weights(Tensor log_weights, float weight_floor, int num_threads=0) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) {
  m.impl("dirichlet_sample", TORCH_BOX(&dirichlet_sample_of));
  m.impl("dirichlet_sample_into", TORCH_BOX(&dirichlet_sample_into));
  m.impl("dirichlet_log_prob", TORCH_BOX(&dirichlet_log_prob_of));
  m.impl("dirichlet_log_prob_backward", TORCH_BOX(&dirichlet_log_prob_backward_of));
  m.impl("dirichlet_score", TORCH_BOX(&dirichlet_score_of));
  m.impl("dirichlet_entropy", TORCH_BOX(&dirichlet_entropy_of));
  m.impl("dirichlet_kl", TORCH_BOX(&dirichlet_kl_of));
  m.impl("floor_log_weights", TORCH_BOX(&floor_log_weights_of));
}
}  // namespace pygrade::inline v0_2::torch_ops
