#include "pygrade/gain.hpp"

#include "scores.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
Tensor topk_gain_of(const Tensor& scores, const Tensor& weights, const Tensor& gains, const Tensor& discount,
                    const MaybeTensor& masks, const MaybeTensor& component_list, std::int64_t transform, double beta,
                    double epsilon, const MaybeTensor& slope, const MaybeTensor& offsets, bool,
                    std::int64_t num_threads) {
  const FusionInput call(scores, transform, beta, epsilon, slope, offsets);
  const Scores& s = call.scores;
  const Input<float> w(weights, "weights", {s.batch, any('G'), s.tasks});
  const bool jagged = call.jagged();
  const Input<float> g = jagged ? Input<float>(gains, "gains", {s.rows, any('C')})
                                : Input<float>(gains, "gains", {s.batch, s.candidates, any('C')});
  const std::int64_t components = g.size(jagged ? 1 : 2);
  const Input<float> d(discount, "discount", {any('k')});
  const Input<std::uint8_t> m = jagged ? Input<std::uint8_t>(masks, "masks", {any('L'), s.rows})
                                       : Input<std::uint8_t>(masks, "masks", {s.batch, any('L'), s.candidates});
  const std::int64_t lists = m ? m.size(jagged ? 0 : 1) : 0;
  const Input<std::int32_t> ranked(component_list, "component_list", {components});
  Tensor gain = fresh({s.batch, w.size(1), components});
  topk_gain(s, w.span(), w.size(1), g.span(), d.span(), m.span(), lists, ranked.span(), components, call.options,
            memory_of(gain), thread_count(num_threads));
  return gain;
}
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "topk_gain(Tensor scores, Tensor weights, Tensor gains, Tensor discount, Tensor? masks=None, Tensor? "
      "component_list=None, int transform=0, float beta=1e-7, float epsilon=1e-3, Tensor? slope=None, Tensor? "
      "offsets=None, bool validate=True, int num_threads=0) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) { m.impl("topk_gain", TORCH_BOX(&topk_gain_of)); }
}  // namespace pygrade::inline v0_2::torch_ops
