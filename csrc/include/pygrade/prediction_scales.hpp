// The scales in which callers give predictions: those of the table that a policy learned from. They become the
// probabilities and amounts that the policy reads. pygrade/logs/prediction_scale.py finds them when a table becomes a
// log, pygrade/reference/prediction_scale.py has the formulas.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/mixture.hpp"

namespace pygrade::inline v0_2 {
// Scale on which the column of one task was read.
struct PredictionScale {
  enum class Kind : std::uint8_t { probability, percent, logit, log, score };
  static constexpr std::array<std::string_view, 5> names{"probability", "percent", "logit", "log", "score"};

  Kind kind = Kind::probability;
  bool amount = false;           // of a task whose feedback is no event: any number >= 0, and a logarithm of it
  std::int64_t given = -1;       // task whose event it presumes, and whose prediction multiplies it; -1: none
  std::string column;            // of the training table
  double low = 0.0, high = 0.0;  // seen there
  std::vector<float> x, y;       // of a score: knots of its map to log odds, or to the logarithm of an amount
  std::optional<PiecewiseLinear> map = {};  // of these
};

class PYGRADE_API PredictionScales {
 public:
  // Scales of a policy that states none: predictions are taken as they are.
  PredictionScales() = default;
  // One for each of the tasks; a task without one is taken as it is. std::invalid_argument if `given` names no task of
  // probabilities or runs in a circle, or if a score has no map. json: the scales as logs hold them.
  PredictionScales(std::vector<std::string> tasks, std::vector<std::optional<PredictionScale>> scales,
                   std::string json);

  bool empty() const { return scales_.empty(); }
  // Whether predictions change; else `read` copies them.
  bool converts() const { return converts_; }

  // Whether one of predictions[N, T], as a caller gives them, is missing, see is_missing. std::invalid_argument names
  // the first one that the scale of its task can't have.
  bool check(std::span<const float> predictions) const;

  // given[N, T] → result[N, T], probabilities and amounts; NaN where a prediction is missing.
  void read(std::span<const float> given, std::span<float> result) const;

  // JSON of policies and logs: task → scale.
  const std::string& json() const { return json_; }

 private:
  std::vector<std::string> tasks_;
  std::vector<std::optional<PredictionScale>> scales_;  // [T], or empty
  std::vector<std::size_t> order_;                      // of tasks, each after the one that it presumes
  std::vector<float> low_, high_;  // [block, T] the numbers that a column may hold; rows are equal, for vectors
  bool converts_ = false;
  std::string json_ = "{}";
};
}  // namespace pygrade::inline v0_2
