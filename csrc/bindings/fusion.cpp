#include "pygrade/fusion.hpp"

#include "dispatch.hpp"
#include "families.hpp"
#include "scores.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
// The functions take the arguments of the public ones.
py::object transform_scores_of(const Arguments<8>& arguments) {
  const auto& [scores, transform, beta, epsilon, slope, offsets, layout, num_threads] = arguments;
  const Array given = any_array(scores, "scores");
  const FusionCall call(given, transform, beta, epsilon, slope, offsets, layout);
  py::object values = new_array(scores, Dtype::float32, {given.ndim, given.shape});
  const Array v = any_array(values, "values");
  run(call, 1, num_threads,
      [&](int threads) { transform_scores(call.scores, call.options, v.span<float>(), threads); });
  return values;
}

// With weights[B, T] the result has no dimension for samples.
Shape fused_shape(const Scores& s, const Weights& w) {
  const bool group = w.array.ndim == 3;
  if (s.offsets != nullptr) return group ? Shape{w.samples, s.rows} : Shape{s.rows};
  return group ? Shape{s.batch, w.samples, s.candidates} : Shape{s.batch, s.candidates};
}

py::object fuse_scores_of(const Arguments<9>& arguments) {
  const auto& [scores, weights, transform, beta, epsilon, slope, offsets, layout, num_threads] = arguments;
  const FusionCall call(any_array(scores, "scores"), transform, beta, epsilon, slope, offsets, layout);
  const Weights w = weights_of(weights, call.scores);
  py::object fused = new_array(scores, Dtype::float32, fused_shape(call.scores, w));
  const Array f = any_array(fused, "fused");
  run(call, w.samples, num_threads, [&](int threads) {
    fuse_scores(call.scores, w.array.span<const float>(), w.samples, call.options, f.span<float>(), threads);
  });
  return fused;
}

py::object fuse_topk_of(const Arguments<13>& arguments) {
  const auto& [type, scores, weights, length, transform, mask, beta, epsilon, slope, offsets, layout, out,
               num_threads] = arguments;
  const FusionCall call(any_array(scores, "scores"), transform, beta, epsilon, slope, offsets, layout);
  const Weights w = weights_of(weights, call.scores);
  const std::int64_t k = list_length(length);
  const auto admitted = optional_beside<std::uint8_t>(mask, "mask", call.scores);
  const bool group = w.array.ndim == 3;
  const Best best(out, scores, group ? Shape{call.scores.batch, w.samples, k} : Shape{call.scores.batch, k});
  run(call, w.samples, num_threads, [&](int threads) {
    fuse_topk(call.scores, w.array.span<const float>(), w.samples, k, call.options, admitted, best.values(),
              best.indices(), threads);
  });
  return best.tuple(type);
}

py::object transform_scores_fast_path(const Arguments<8>& arguments) {
  const py::handle scores = arguments[0];
  return may_run(scores, scores) && !wants_gradient({scores}) ? transform_scores_of(arguments) : py::none();
}

py::object fuse_scores_fast_path(const Arguments<9>& arguments) {
  const py::handle scores = arguments[0], weights = arguments[1];
  return may_run(scores, weights) && !wants_gradient({scores, weights}) ? fuse_scores_of(arguments) : py::none();
}

py::object fuse_topk_fast_path(const Arguments<13>& arguments) {
  const py::handle scores = arguments[1], weights = arguments[2];
  return may_run(scores, weights) && !wants_gradient({scores, weights}) ? fuse_topk_of(arguments) : py::none();
}
}  // namespace

void bind_fusion(py::module_& module) {
  py::dict names;  // name → whether it takes scores ≥ 0 alone, by value
  for (const TransformTraits& traits : transforms) names[py::str(std::string(traits.name))] = traits.nonnegative;
  module.attr("transforms") = names;
  def_positional<&transform_scores_fast_path>(module, "transform_scores_fast_path",
                                              "scores, transform, beta, epsilon, slope, offsets, layout, num_threads");
  def_positional<&fuse_scores_fast_path>(
      module, "fuse_scores_fast_path",
      "scores, weights, transform, beta, epsilon, slope, offsets, layout, num_threads");
  def_positional<&fuse_topk_fast_path>(
      module, "fuse_topk_fast_path",
      "type, scores, weights, k, transform, mask, beta, epsilon, slope, offsets, layout, out, num_threads");
}
}  // namespace pygrade::inline v0_2::bindings
