#include "pygrade/lambdaloss.hpp"

#include <tuple>

#include "tensors.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
std::tuple<Tensor, Tensor> lambda_loss_of(const Tensor& scores, const Tensor& gains, const MaybeTensor& mask,
                                          const Tensor& discount, double temperature, bool validate,
                                          std::int64_t num_threads) {
  const Input<float> s(scores, "scores", {any('B'), any('N')});
  const std::int64_t batch = s.size(0), candidates = s.size(1);
  const Input<float> g(gains, "gains", {batch, candidates});
  const Input<std::uint8_t> m(mask, "mask", {batch, candidates});
  const Input<float> d(discount, "discount", {any('K')});
  Tensor loss = fresh({batch}), gradient = fresh({batch, candidates});
  lambda_loss(s.span(), g.span(), m.span(), d.span(), batch, static_cast<float>(temperature), memory_of(loss),
              memory_of(gradient), validate, thread_count(num_threads));
  return {loss, gradient};
}
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "lambda_loss(Tensor scores, Tensor gains, Tensor? mask, Tensor discount, float temperature=1.0, bool "
      "validate=True, int num_threads=0) -> (Tensor loss, Tensor gradient)");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) { m.impl("lambda_loss", TORCH_BOX(&lambda_loss_of)); }
}  // namespace pygrade::inline v0_2::torch_ops
