#include "pygrade/fusion.hpp"

#include <pybind11/stl.h>

#include "dispatch.hpp"
#include "families.hpp"
#include "scores.hpp"

namespace pygrade::bindings {

namespace {

void require_size(const Array& array, std::int64_t size, const char* name) {
  if (array.size() != size)
    throw py::value_error(std::string(name) + " holds " + std::to_string(array.size()) + " values; want " +
                          std::to_string(size));
}

Array output(py::handle value, const char* name, Dtype dtype) {
  const Array a = any_array(value, name);
  if (a.dtype != dtype)
    throw py::type_error(std::string(name) + " is " + dtype_name(a.dtype) + "; want " + dtype_name(dtype));
  return a;
}

// The at_once functions take the arguments of the public ones.
py::object transform_scores_at_once(const Arguments<8>& arguments) {
  const auto& [scores, transform, beta, epsilon, slope, offsets, layout, num_threads] = arguments;
  if (!may_run(scores, scores) || wants_gradient({scores})) return py::none();
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

py::object fuse_scores_at_once(const Arguments<9>& arguments) {
  const auto& [scores, weights, transform, beta, epsilon, slope, offsets, layout, num_threads] = arguments;
  if (!may_run(scores, weights) || wants_gradient({scores, weights})) return py::none();
  const FusionCall call(any_array(scores, "scores"), transform, beta, epsilon, slope, offsets, layout);
  const Weights w = weights_of(weights, call.scores);
  py::object fused = new_array(scores, Dtype::float32, fused_shape(call.scores, w));
  const Array f = any_array(fused, "fused");
  run(call, w.samples, num_threads, [&](int threads) {
    fuse_scores(call.scores, w.array.span<const float>(), w.samples, call.options, f.span<float>(), threads);
  });
  return fused;
}

py::object fuse_topk_at_once(const Arguments<13>& arguments) {
  const auto& [type, scores, weights, length, transform, mask, beta, epsilon, slope, offsets, layout, out,
               num_threads] = arguments;
  if (!may_run(scores, weights)) return py::none();
  const FusionCall call(any_array(scores, "scores"), transform, beta, epsilon, slope, offsets, layout);
  const Weights w = weights_of(weights, call.scores);
  const std::int64_t k = list_length(length);
  const auto admitted = optional_beside<std::uint8_t>(mask, "mask", Dtype::boolean, call.scores);
  const bool group = w.array.ndim == 3;
  const Best best(out, scores, group ? Shape{call.scores.batch, w.samples, k} : Shape{call.scores.batch, k});
  run(call, w.samples, num_threads, [&](int threads) {
    fuse_topk(call.scores, w.array.span<const float>(), w.samples, k, call.options, admitted, best.values(),
              best.indices(), threads);
  });
  return best.tuple(type);
}

}  // namespace

void bind_fusion(py::module_& module) {
  module.attr("transforms") = py::tuple(py::cast(transform_names));
  module.def(
      "transform_scores",
      [](py::handle scores, int transform, float beta, float epsilon, py::handle slope, py::handle offsets,
         bool task_major, py::handle values, int num_threads) {
        const Scores s = scores_of(scores, offsets, task_major);
        const FusionOptions options = fusion_options(transform, beta, epsilon, slope, s);
        const Array v = output(values, "values", Dtype::float32);
        const py::gil_scoped_release release;
        transform_scores(s, options, v.span<float>(), num_threads);
      },
      py::arg("scores"), py::arg("transform"), py::arg("beta"), py::arg("epsilon"), py::arg("slope"),
      py::arg("offsets"), py::arg("task_major"), py::arg("values"), py::arg("num_threads"));
  module.def(
      "fuse_scores",
      [](py::handle scores, py::handle weights, int transform, float beta, float epsilon, py::handle slope,
         py::handle offsets, bool task_major, py::handle fused, int num_threads) {
        const Scores s = scores_of(scores, offsets, task_major);
        const Weights w = weights_of(weights, s);
        const FusionOptions options = fusion_options(transform, beta, epsilon, slope, s);
        const Array f = output(fused, "fused", Dtype::float32);
        const py::gil_scoped_release release;
        fuse_scores(s, w.array.span<const float>(), w.samples, options, f.span<float>(), num_threads);
      },
      py::arg("scores"), py::arg("weights"), py::arg("transform"), py::arg("beta"), py::arg("epsilon"),
      py::arg("slope"), py::arg("offsets"), py::arg("task_major"), py::arg("fused"), py::arg("num_threads"));
  module.def(
      "fuse_topk",
      [](py::handle scores, py::handle weights, std::int64_t k, int transform, py::handle mask, float beta,
         float epsilon, py::handle slope, py::handle offsets, bool task_major, py::handle values, py::handle indices,
         int num_threads) {
        const Scores s = scores_of(scores, offsets, task_major);
        const Weights w = weights_of(weights, s);
        const FusionOptions options = fusion_options(transform, beta, epsilon, slope, s);
        const auto admitted = optional_beside<std::uint8_t>(mask, "mask", Dtype::boolean, s);
        const Array v = output(values, "values", Dtype::float32);
        const Array i = output(indices, "indices", Dtype::int32);
        require_size(v, s.batch * w.samples * k, "values");
        require_size(i, s.batch * w.samples * k, "indices");
        const py::gil_scoped_release release;
        fuse_topk(s, w.array.span<const float>(), w.samples, k, options, admitted, v.span<float>(),
                  i.span<std::int32_t>(), num_threads);
      },
      py::arg("scores"), py::arg("weights"), py::arg("k"), py::arg("transform"), py::arg("mask"), py::arg("beta"),
      py::arg("epsilon"), py::arg("slope"), py::arg("offsets"), py::arg("task_major"), py::arg("values"),
      py::arg("indices"), py::arg("num_threads"));
  def_at_once<&transform_scores_at_once>(
      module, "transform_scores_at_once",
      "transform_scores_at_once(scores: object, transform: object, beta: object, epsilon: object, slope: object, "
      "offsets: object, layout: object, num_threads: object) -> object");
  def_at_once<&fuse_scores_at_once>(
      module, "fuse_scores_at_once",
      "fuse_scores_at_once(scores: object, weights: object, transform: object, beta: object, epsilon: object, slope: "
      "object, offsets: object, layout: object, num_threads: object) -> object");
  def_at_once<&fuse_topk_at_once>(module, "fuse_topk_at_once",
                                  "fuse_topk_at_once(type: object, scores: object, weights: object, k: object, "
                                  "transform: object, mask: object, beta: object, epsilon: object, slope: object, "
                                  "offsets: object, layout: object, out: object, num_threads: object) -> object");
}

}  // namespace pygrade::bindings
