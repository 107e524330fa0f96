#include "pygrade/ranking.hpp"

#include <tuple>

#include "scores.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
std::tuple<Tensor, Tensor> rank_of(const Tensor& scores, const Tensor& weights, std::int64_t k, std::int64_t transform,
#define PYGRADE_RULE(type, name, rows, width, json, text) const MaybeTensor &name,
#include "pygrade/request.def"
                                   double beta, double epsilon, const MaybeTensor& slope, const MaybeTensor& offsets,
                                   std::int64_t num_threads) {
  const FusionInput call(scores, transform, beta, epsilon, slope, offsets);
  const Scores& s = call.scores;
  const Input<float> w(weights, "weights", {s.batch, s.tasks});
  const RulesInput rules(
#define PYGRADE_RULE(type, name, rows, width, json, text) name,
#include "pygrade/request.def"
      rows_of(s));
  const std::int64_t sizes[] = {s.batch, list_length(k)};
  Tensor values = fresh(sizes, Dtype::float32, true), indices = fresh(sizes, Dtype::int32, true);
  rank(s, w.span(), k, call.options, rules.rules(), memory_of(values), memory_of<std::int32_t>(indices),
       thread_count(call, 1, num_threads));
  return {values, indices};
}
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "rank(Tensor scores, Tensor weights, int k, int transform=0, "
#define PYGRADE_RULE(type, name, rows, width, json, text) "Tensor? " #name "=None, "
#include "pygrade/request.def"
      "float beta=1e-7, float epsilon=1e-3, Tensor? slope=None, Tensor? offsets=None, int num_threads=0) -> (Tensor "
      "values, Tensor indices)");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) { m.impl("rank", TORCH_BOX(&rank_of)); }
}  // namespace pygrade::inline v0_2::torch_ops
