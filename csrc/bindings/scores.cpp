#include "scores.hpp"

namespace pygrade::bindings {

Scores scores_of(py::handle scores, py::handle offsets, bool task_major) {
  const Array s = any_array(scores, "scores");
  ScoreType type = ScoreType::float32;
  if (s.dtype == Dtype::float16) {
    type = ScoreType::float16;
  } else if (s.dtype == Dtype::bfloat16) {
    type = ScoreType::bfloat16;
  } else if (s.dtype != Dtype::float32) {
    throw py::type_error(std::string("scores is ") + dtype_name(s.dtype) + "; want float32, float16 or bfloat16");
  }
  const int wanted = offsets.is_none() ? 3 : 2;
  if (s.ndim != wanted)
    throw py::value_error("scores has " + std::to_string(s.ndim) +
                          " dimensions; want [B, N, T], or [M, T] with offsets");
  const Layout layout = task_major ? Layout::task_major : Layout::item_major;
  const auto last = static_cast<std::size_t>(wanted - 1);
  const std::int64_t tasks = s.shape[task_major ? last - 1 : last];
  const std::int64_t rows = s.shape[task_major ? last : last - 1];
  if (offsets.is_none()) return Scores::dense(s.data, type, s.shape[0], rows, tasks, layout);
  const Array o = array(offsets, "offsets", Dtype::int64, {any_size});
  if (o.shape[0] < 1) throw py::value_error("offsets is empty; want [B + 1]");
  return Scores::jagged(s.data, type, rows, tasks, o.span<const std::int64_t>(), layout);
}

FusionOptions fusion_options(int transform, float beta, float epsilon, py::handle slope, const Scores& scores) {
  if (transform < 0 || transform > 5) throw py::value_error("transform is not a known code");
  FusionOptions options{static_cast<Transform>(transform), beta, epsilon};
  if (!slope.is_none())
    options.slope = static_cast<const float*>(array(slope, "slope", Dtype::float32, {scores.tasks}).data);
  return options;
}

Array beside_scores(py::handle value, const char* name, Dtype dtype, const Scores& scores) {
  if (scores.offsets != nullptr) return array(value, name, dtype, {scores.rows});
  return array(value, name, dtype, {scores.batch, scores.candidates});
}

Weights weights_of(py::handle weights, const Scores& scores) {
  const Array w = any_array(weights, "weights");
  if (w.ndim == 3)
    return {array(weights, "weights", Dtype::float32, {scores.batch, any_size, scores.tasks}), w.shape[1]};
  return {array(weights, "weights", Dtype::float32, {scores.batch, scores.tasks}), 1};
}

}  // namespace pygrade::bindings
