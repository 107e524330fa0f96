#include "pygrade/ranking.hpp"

#include <stdexcept>
#include <tuple>

#include "scores.hpp"

namespace pygrade::inline v0_2::torch_ops {

namespace {

Input<std::int32_t> groups_of(const MaybeTensor& groups, const Scores& s, std::int64_t columns) {
  return s.offsets != nullptr ? Input<std::int32_t>(groups, "groups", {s.rows, columns})
                              : Input<std::int32_t>(groups, "groups", {s.batch, s.candidates, columns});
}

std::tuple<Tensor, Tensor> rank_of(const Tensor& scores, const Tensor& weights, std::int64_t k, std::int64_t transform,
                                   const MaybeTensor& mask, const MaybeTensor& boost_mul, const MaybeTensor& boost_add,
                                   const MaybeTensor& groups, const MaybeTensor& caps, double beta, double epsilon,
                                   const MaybeTensor& slope, const MaybeTensor& offsets, std::int64_t num_threads) {
  const FusionInput call(scores, transform, beta, epsilon, slope, offsets);
  const Scores& s = call.scores;
  const Input<float> w(weights, "weights", {s.batch, s.tasks});
  if (groups.has_value() != caps.has_value())
    throw std::invalid_argument(groups ? "groups and caps go together; got groups alone"
                                       : "groups and caps go together; got caps alone");
  const auto admitted = beside_scores<std::uint8_t>(mask, "mask", s);
  const auto factor = beside_scores<float>(boost_mul, "boost_mul", s);
  const auto addend = beside_scores<float>(boost_add, "boost_add", s);
  const Input<std::int32_t> limits(caps, "caps", {any_size});
  const auto member = groups_of(groups, s, static_cast<std::int64_t>(limits.span().size()));
  const PageRules rules{admitted.span(), factor.span(), addend.span(), member.span(), limits.span()};
  const std::int64_t sizes[] = {s.batch, list_length(k)};
  Tensor values = fresh(sizes, Dtype::float32, true), indices = fresh(sizes, Dtype::int32, true);
  rank(s, w.span(), k, call.options, rules, memory_of(values), memory_of<std::int32_t>(indices),
       thread_count(call, 1, num_threads));
  return {values, indices};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "rank(Tensor scores, Tensor weights, int k, int transform=0, Tensor? mask=None, Tensor? boost_mul=None, Tensor? "
      "boost_add=None, Tensor? groups=None, Tensor? caps=None, float beta=1e-7, float epsilon=1e-3, Tensor? "
      "slope=None, "
      "Tensor? offsets=None, int num_threads=0) -> (Tensor values, Tensor indices)");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) { m.impl("rank", TORCH_BOX(&rank_of)); }

}  // namespace pygrade::inline v0_2::torch_ops
