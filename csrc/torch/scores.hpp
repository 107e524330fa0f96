// The arguments shared by all ops on task predictions.
#pragma once

#include "pygrade/fusion.hpp"
#include "pygrade/ranking.hpp"
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

// The leading sizes of what each candidate has: [B, N], or [M] with offsets.
struct Rows {
  bool jagged;
  std::int64_t batch, candidates;  // jagged: 1, M
};
inline Rows rows_of(const Scores& scores) {
  if (scores.offsets != nullptr) return {true, 1, scores.rows};
  return {false, scores.batch, scores.candidates};
}

// An optional tensor with one value per candidate, or `last` of them.
template <class T>
Input<T> per_candidate(const MaybeTensor& given, const char* name, const Rows& rows) {
  return rows.jagged ? Input<T>(given, name, {rows.candidates}) : Input<T>(given, name, {rows.batch, rows.candidates});
}
template <class T>
Input<T> per_candidate(const MaybeTensor& given, const char* name, const Rows& rows, std::int64_t last) {
  return rows.jagged ? Input<T>(given, name, {rows.candidates, last})
                     : Input<T>(given, name, {rows.batch, rows.candidates, last});
}

// The rules of a page, see <pygrade/request.def>.
class RulesInput {
 public:
  RulesInput(
#define PYGRADE_RULE(type, name, rows, width, json, text) const MaybeTensor &name,
#include "pygrade/request.def"
      const Rows& rows);
  PageRules rules() const;

 private:
  enum Size : std::uint8_t { one, candidates, group_columns };
  template <class T>
  Input<T> read(const MaybeTensor& given, const char* name, const Rows& rows, Size size, Size width);

  std::int64_t columns_;
#define PYGRADE_RULE(type, name, rows, width, json, text) Input<type> name##_;
#include "pygrade/request.def"
};

// k, from 1 to 2^31 - 1.
std::int64_t list_length(std::int64_t k);

// The number of threads of a call: one for a few microseconds of work, unless the caller asks for more.
int thread_count(const FusionInput& call, std::int64_t samples, std::int64_t num_threads);
}  // namespace pygrade::inline v0_2::torch_ops
