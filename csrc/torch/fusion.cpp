#include "pygrade/fusion.hpp"

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "scores.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
// In the order of the scores in memory, as torch.empty_like.
Tensor fresh_like(const Scores& s, std::span<const std::int64_t> sizes) {
  if (s.layout == Layout::item_major) return fresh(sizes, Dtype::float32, true);
  return torch::stable::transpose(s.offsets != nullptr ? fresh({s.tasks, s.rows}, Dtype::float32, true)
                                                       : fresh({s.batch, s.tasks, s.candidates}, Dtype::float32, true),
                                  -2, -1);
}

Tensor transform_scores_of(const Tensor& scores, std::int64_t transform, double beta, double epsilon,
                           const MaybeTensor& slope, const MaybeTensor& offsets, bool, std::int64_t num_threads) {
  const FusionInput call(scores, transform, beta, epsilon, slope, offsets);
  Tensor values = fresh_like(call.scores, sizes_of(scores));
  transform_scores(call.scores, call.options, memory_of(values), thread_count(call, 1, num_threads));
  return values;
}

Tensor fuse_scores_of(const Tensor& scores, const Tensor& weights, std::int64_t transform, double beta, double epsilon,
                      const MaybeTensor& slope, const MaybeTensor& offsets, bool, std::int64_t num_threads) {
  const FusionInput call(scores, transform, beta, epsilon, slope, offsets);
  const Scores& s = call.scores;
  const Weights w(weights, s);
  const std::int64_t dense[] = {s.batch, w.samples, s.candidates}, single[] = {s.batch, s.candidates};
  const std::int64_t jagged[] = {w.samples, s.rows};
  std::span<const std::int64_t> sizes = w.group ? std::span<const std::int64_t>(dense) : single;
  if (call.jagged()) sizes = std::span<const std::int64_t>(jagged).subspan(w.group ? 0 : 1);
  Tensor fused = fresh(sizes, Dtype::float32, true);
  fuse_scores(s, w.input.span(), w.samples, call.options, memory_of(fused), thread_count(call, w.samples, num_threads));
  return fused;
}

std::tuple<Tensor, Tensor> fuse_topk_of(const Tensor& scores, const Tensor& weights, std::int64_t k,
                                        std::int64_t transform, const MaybeTensor& mask, double beta, double epsilon,
                                        const MaybeTensor& slope, const MaybeTensor& offsets, bool,
                                        std::int64_t num_threads) {
  const FusionInput call(scores, transform, beta, epsilon, slope, offsets);
  const Scores& s = call.scores;
  const Weights w(weights, s);
  const auto admitted = per_candidate<std::uint8_t>(mask, "mask", rows_of(s));
  const std::int64_t group[] = {s.batch, w.samples, list_length(k)}, single[] = {s.batch, k};
  const std::span<const std::int64_t> sizes = w.group ? std::span<const std::int64_t>(group) : single;
  Tensor values = fresh(sizes, Dtype::float32, true), indices = fresh(sizes, Dtype::int32, true);
  fuse_topk(s, w.input.span(), w.samples, k, call.options, admitted.span(), memory_of(values),
            memory_of<std::int32_t>(indices), thread_count(call, w.samples, num_threads));
  return {values, indices};
}
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "transform_scores(Tensor scores, int transform=0, float beta=1e-7, float epsilon=1e-3, Tensor? slope=None, "
      "Tensor? offsets=None, bool validate=True, int num_threads=0) -> Tensor");
  m.def(
      "fuse_scores(Tensor scores, Tensor weights, int transform=0, float beta=1e-7, float epsilon=1e-3, Tensor? "
      "slope=None, Tensor? offsets=None, bool validate=True, int num_threads=0) -> Tensor");
  m.def(
      "fuse_topk(Tensor scores, Tensor weights, int k, int transform=0, Tensor? mask=None, float beta=1e-7, float "
      "epsilon=1e-3, Tensor? slope=None, Tensor? offsets=None, bool validate=True, int num_threads=0) -> (Tensor "
      "values, Tensor indices)");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) {
  m.impl("transform_scores", TORCH_BOX(&transform_scores_of));
  m.impl("fuse_scores", TORCH_BOX(&fuse_scores_of));
  m.impl("fuse_topk", TORCH_BOX(&fuse_topk_of));
}
}  // namespace pygrade::inline v0_2::torch_ops
