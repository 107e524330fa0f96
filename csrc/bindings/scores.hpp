// The arguments that every op on task predictions takes.
#pragma once

#include "arrays.hpp"
#include "pygrade/fusion.hpp"

namespace pygrade::bindings {

// scores[B, N, T], or [M, T] where offsets[B + 1] is not None; task-major: [B, T, N] or [T, M]. The arrays must outlive
// the result.
Scores scores_of(py::handle scores, py::handle offsets, bool task_major);

// slope[T], or None for 1; it must outlive the result.
FusionOptions fusion_options(int transform, float beta, float epsilon, py::handle slope, const Scores& scores);

// The shape [*lead, candidates of a batch, *trail] of an array beside the scores is [B, N] dense and [M] jagged.
Array beside_scores(py::handle value, const char* name, Dtype dtype, const Scores& scores);

// G of weights[B, T] (1) or [B, G, T].
struct Weights {
  Array array;
  std::int64_t samples;
};
Weights weights_of(py::handle weights, const Scores& scores);

}  // namespace pygrade::bindings
