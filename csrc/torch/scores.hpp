// The arguments shared by all ops on task predictions.
#pragma once

#include "pygrade/fusion.hpp"
#include "tensors.hpp"

namespace pygrade::inline v0_2::torch_ops {

// Scores and options of a call: scores[B, N, T], or [M, T] with offsets[B + 1], in either order in memory; `transform`
// is the value of the C++ enum. Not copyable: scores and options point into what it holds.
class FusionInput {
 public:
  FusionInput(const Tensor& scores, std::int64_t transform, double beta, double epsilon, const MaybeTensor& slope,
              const MaybeTensor& offsets);
  FusionInput(const FusionInput&) = delete;
  FusionInput& operator=(const FusionInput&) = delete;

  bool jagged() const { return scores.offsets != nullptr; }

 private:
  Tensor held_;
  Input<std::int64_t> offsets_;

 public:
  Scores scores;
  FusionOptions options;

 private:
  Input<float> slope_;
};

// weights[B, T] (samples = 1) or [B, G, T].
struct Weights {
  Weights(const Tensor& given, const Scores& scores);

  bool group;
  Input<float> input;
  std::int64_t samples;
};

// An optional tensor with one value per candidate: [B, N], or jagged [M].
template <class T>
Input<T> beside_scores(const MaybeTensor& given, const char* name, const Scores& scores) {
  return scores.offsets != nullptr ? Input<T>(given, name, {scores.rows})
                                   : Input<T>(given, name, {scores.batch, scores.candidates});
}

// k, from 1 to 2^31 - 1.
std::int64_t list_length(std::int64_t k);

// The number of threads of a call: one for a few microseconds of work, unless the caller asks for more.
int thread_count(const FusionInput& call, std::int64_t samples, std::int64_t num_threads);

}  // namespace pygrade::inline v0_2::torch_ops
