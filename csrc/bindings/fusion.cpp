#include "pygrade/fusion.hpp"

#include <optional>

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

}  // namespace

void bind_fusion(py::module_& module) {
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
        Array m;
        if (!mask.is_none()) m = beside_scores(mask, "mask", Dtype::boolean, s);
        const std::span<const std::uint8_t> admitted =
            mask.is_none() ? std::span<const std::uint8_t>() : m.span<const std::uint8_t>();
        const Array v = output(values, "values", Dtype::float32);
        const Array i = output(indices, "indices", Dtype::int32);
        require_size(v, s.batch * w.samples * k, "values");
        require_size(i, s.batch * w.samples * k, "indices");
        // A few microseconds of work are not worth handing the lock over and back.
        std::optional<py::gil_scoped_release> release;
        if (s.rows * s.tasks * w.samples > 50'000) release.emplace();
        fuse_topk(s, w.array.span<const float>(), w.samples, k, options, admitted, v.span<float>(),
                  i.span<std::int32_t>(), num_threads);
      },
      py::arg("scores"), py::arg("weights"), py::arg("k"), py::arg("transform"), py::arg("mask"), py::arg("beta"),
      py::arg("epsilon"), py::arg("slope"), py::arg("offsets"), py::arg("task_major"), py::arg("values"),
      py::arg("indices"), py::arg("num_threads"));
}

}  // namespace pygrade::bindings
