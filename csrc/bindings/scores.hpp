// The arguments shared by all ops on task predictions.
#pragma once

#include <array>
#include <optional>

#include "../src/fusion.hpp"
#include "dispatch.hpp"

namespace pygrade::inline v0_2::bindings {
// An array with one value per candidate: [B, N], [N] of a single request, or jagged [M]; an empty span for None.
template <class T>
std::span<const T> optional_beside(py::handle value, const char* name, const Scores& scores, bool single = false) {
  const Shape shape{scores.batch, scores.candidates};
  return optional_span<const T>(value, name,
                                scores.offsets != nullptr ? Shape{scores.rows}
                                : single                  ? shape.tail()
                                                          : shape);
}

// A number ≥ 0.
float require_non_negative(py::handle value, const char* name);

// k as an integer ≥ 1.
std::int64_t list_length(py::handle k);

// weights[B, T] (samples = 1) or [B, G, T].
struct Weights {
  Array array;
  std::int64_t samples;
};
Weights weights_of(py::handle weights, const Scores& scores);

// Scores and options of a call with the arguments of the public functions: scores[B, N, T], or [M, T] with
// offsets[B + 1], task-major [B, T, N] or [T, M], of a single request [N, T] or [T, N]; transform and layout by name,
// slope a number or an array. The arrays must outlive it. Not copyable: the options may point into it.
struct FusionCall {
  FusionCall(const Array& given, py::handle transform, py::handle beta, py::handle epsilon, py::handle slope,
             py::handle offsets, py::handle layout, bool single = false);
  FusionCall(const FusionCall&) = delete;
  FusionCall& operator=(const FusionCall&) = delete;

  Scores scores;
  FusionOptions options;

 private:
  std::array<float, max_tasks> slopes_;
};

// Calls work(threads). A few microseconds of work are not worth a second thread or releasing the interpreter's lock.
template <class Work>
void run(const FusionCall& call, std::int64_t samples, py::handle num_threads, Work&& work) {
  const bool brief = detail::is_brief(call.scores, call.options, samples);
  const int threads = brief && num_threads.is_none() ? 1 : thread_count(num_threads);
  std::optional<py::gil_scoped_release> release;
  if (!brief) release.emplace();
  work(threads);
}
}  // namespace pygrade::inline v0_2::bindings
