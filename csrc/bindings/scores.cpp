#include "scores.hpp"

#include <limits>

namespace pygrade::inline v0_2::bindings {
namespace {
Scores scores_of(const Array& s, py::handle offsets, bool task_major, bool single) {
  ScoreType type = ScoreType::float32;
  if (s.dtype == Dtype::float16) {
    type = ScoreType::float16;
  } else if (s.dtype == Dtype::bfloat16) {
    type = ScoreType::bfloat16;
  } else if (s.dtype != Dtype::float32) {
    throw TypeMisfit(std::string("scores is ") + dtype_name(s.dtype) + "; expected float32, float16 or bfloat16");
  }
  const int wanted = offsets.is_none() && !single ? 3 : 2;
  if (s.ndim != wanted)
    throw ValueMisfit("scores has " + std::to_string(s.ndim) +
                      " dimensions; expected [B, N, T], or [M, T] with offsets");
  const Layout layout = task_major ? Layout::task_major : Layout::item_major;
  const auto last = static_cast<std::size_t>(wanted - 1);
  const std::int64_t tasks = s.shape[task_major ? last - 1 : last];
  const std::int64_t rows = s.shape[task_major ? last : last - 1];
  if (single) return Scores::dense(s.data, type, 1, rows, tasks, layout);
  if (offsets.is_none()) return Scores::dense(s.data, type, s.shape[0], rows, tasks, layout);
  const auto bounds = span_of<const std::int64_t>(offsets, "offsets");
  if (bounds.empty()) throw ValueMisfit("offsets is empty; expected [B + 1]");
  return Scores::jagged(s.data, type, rows, tasks, bounds, layout);
}

bool is_task_major(py::handle layout) {
  if (!is_text(layout, "item-major") && !is_text(layout, "task-major")) throw ValueMisfit("layout is not a known name");
  return is_text(layout, "task-major");
}

Transform transform_of(py::handle name) {
  for (std::size_t code = 0; code < transforms.size(); ++code)
    if (is_text(name, transforms[code].name)) return static_cast<Transform>(code);
  throw ValueMisfit("transform is not a known name");
}
}  // namespace

float require_non_negative(py::handle value, const char* name) {
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1.0 && PyErr_Occurred()) {
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
    PyErr_Clear();
    throw TypeMisfit(std::string(name) + " is not a number");
  }
  if (!(number >= 0.0)) throw ValueMisfit(std::string(name) + " is not a number >= 0");
  return static_cast<float>(number);
}

std::int64_t list_length(py::handle k) { return integer(k, "k", 1, std::numeric_limits<std::int32_t>::max()); }

Weights weights_of(py::handle weights, const Scores& scores) {
  const Array w = any_array(weights, "weights");
  const bool group = w.ndim == 3;
  check(w, "weights", Dtype::float32,
        group ? Shape{scores.batch, any_size, scores.tasks} : Shape{scores.batch, scores.tasks});
  return {w, group ? w.shape[1] : 1};
}

FusionCall::FusionCall(const Array& given, py::handle transform, py::handle beta, py::handle epsilon, py::handle slope,
                       py::handle offsets, py::handle layout, bool single)
    : scores(scores_of(given, offsets, is_task_major(layout), single)) {
  options = {transform_of(transform), require_non_negative(beta, "beta"), require_non_negative(epsilon, "epsilon")};
  if (options.transform != Transform::log1p) return;
  if (PyFloat_Check(slope.ptr()) || PyLong_Check(slope.ptr())) {
    slopes_.fill(require_non_negative(slope, "slope"));
    options.slope = slopes_.data();
  } else {
    options.slope = span_of<const float>(slope, "slope", {scores.tasks}).data();
  }
}
}  // namespace pygrade::inline v0_2::bindings
