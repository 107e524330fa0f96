#include "pygrade/mixture.hpp"

#include <algorithm>
#include <stdexcept>
#include <tuple>

#include "fusion.hpp"
#include "serving/policy.hpp"

namespace pygrade::inline v0_2 {
PiecewiseLinear::PiecewiseLinear(std::span<const float> at, std::span<const float> to) {
  if (at.size() < 2 || to.size() != at.size()) throw std::invalid_argument("x and y must have K >= 2 knots each");
  x.assign(at.begin(), at.end() - 1);
  y.assign(to.begin(), to.end() - 1);
  for (std::size_t i = 0; i < x.size(); ++i) slope.push_back((to[i + 1] - to[i]) / (at[i + 1] - at[i]));
}

void PiecewiseLinear::map(const float* values, std::int64_t stride, std::span<float> result) const {
  PYGRADE_KERNELS(policy_kernels)
      .piecewise_linear(values, stride, static_cast<std::int64_t>(result.size()), {x.data(), y.data(), slope.data()},
                        static_cast<std::int64_t>(x.size()), result.data());
}

bool Baseline::scores_as(const Baseline& other) const {
  const auto parts = [](const Baseline& b) {
    return std::tie(b.transform, b.weights, b.logarithm, b.priced, b.calibration, b.corrected, b.given);
  };
  return parts(*this) == parts(other);
}

bool Baseline::takes_logarithm() const { return logarithm || traits_of(transform).nonnegative; }

Scores Baseline::amounts(std::span<const float> predictions, std::span<const float> item_values,
                         Workspace& workspace) const {
  const std::size_t tasks = weights.size(), rows = predictions.size() / tasks;
  const auto count = static_cast<std::int64_t>(rows);
  const auto width = static_cast<std::int64_t>(tasks);
  if (calibration.empty() && priced.empty())
    return Scores::dense(predictions.data(), ScoreType::float32, 1, count, width);
  workspace.predictions.resize(tasks * rows);
  for (std::size_t t = 0; t < tasks; ++t) {
    const auto column = std::span(workspace.predictions).subspan(t * rows, rows);
    if (!calibration.empty())
      calibration[t].map(predictions.data() + t, width, column);
    else
      for (std::size_t i = 0; i < rows; ++i) column[i] = predictions[i * tasks + t];
    if (!priced.empty() && priced[t])
      for (std::size_t i = 0; i < rows; ++i) column[i] *= item_values[i];
  }
  return Scores::dense(workspace.predictions.data(), ScoreType::float32, 1, count, width, Layout::task_major);
}

void Baseline::weights_at(const WeightChange& change, std::span<float> result) const {
  for (std::size_t t = 0; t < weights.size(); ++t) {
    const float weight = change.values.empty() ? weights[t] : change.values[t];
    result[t] = change.multipliers.empty() ? weight : weight * change.multipliers[t];
  }
}

void Baseline::scores(std::span<const float> predictions, const WeightChange& change,
                      std::span<const float> item_values, const FusionOptions& formula, Workspace& workspace,
                      std::span<float> result) const {
  const Scores scores = amounts(predictions, item_values, workspace);
  workspace.weights.resize(weights.size());
  weights_at(change, workspace.weights);
  FusionOptions options = formula;
  options.transform = transform;
  detail::fuse_floats(scores, workspace.weights, options, result);
  options.transform = Transform::log;
  if (takes_logarithm_of(workspace.weights))  // in place: a request is loaded before it is written
    transform_scores(Scores::dense(result.data(), ScoreType::float32, 1, static_cast<std::int64_t>(result.size()), 1),
                     options, result);
}

const Baseline* Mixture::expected_value() const {
  const Baseline* found = nullptr;
  for (const Baseline* entry : {counted_challenger(), counted_baseline()})
    if (entry != nullptr && entry->is_expected_value() && (found == nullptr || (entry->corrected && !found->corrected)))
      found = entry;
  return found;
}

void Mixture::mix(std::span<const float> scores, std::span<float> result) const {
  const float weights[] = {static_cast<float>(1.0 - mixture_weight), static_cast<float>(mixture_weight)};
  const auto pair = Scores::dense(scores.data(), ScoreType::float32, 1, static_cast<std::int64_t>(result.size()), 2,
                                  Layout::task_major);
  detail::fuse_floats(pair, weights, {.transform = Transform::zscore, .epsilon = epsilon}, result);
}
}  // namespace pygrade::inline v0_2
