// Mixture of a policy and a simple baseline, and how far the log proves the policy better than it.
// pygrade/policy/mixture.py has the formulas; the bits are those of the ops of <pygrade/fusion.hpp>.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/fusion.hpp"

namespace pygrade::inline v0_2 {
// Comparison of the policy with its baseline on the log; none: there is no mixture.
enum class Verdict : std::uint8_t { none, better, undecided, worse, undecidable, untested };

// The verdicts' names in policies and in Python, by their value.
inline constexpr std::array<std::string_view, 6> verdict_names{"",      "better",      "undecided",
                                                               "worse", "undecidable", "untested"};

// A piecewise linear map: y[i] + (p - x[i]) · slope[i] in the segment x[i] <= p < x[i + 1]; the last one has no end.
struct PYGRADE_API PiecewiseLinear {
  // K knots, x ascending: at least two of each, else std::invalid_argument.
  PiecewiseLinear(std::span<const float> x, std::span<const float> y);
  // result[i] of values[i · stride].
  void map(const float* values, std::int64_t stride, std::span<float> result) const;

  bool operator==(const PiecewiseLinear&) const = default;

  std::vector<float> x, y, slope;  // [K - 1] segments
};

// Replacement of a ranking's weights in a request. All [T], or none.
struct WeightChange {
  std::span<const float> values = {};       // of the tasks, may be below 0; none: the weights
  std::span<const float> multipliers = {};  // of the weights; none: 1
};

// A ranking that needs no policy.
struct PYGRADE_API Baseline {
  static constexpr std::size_t max_name = 63;                               // bytes
  static constexpr std::string_view production_score = "production score";  // name of the ranking by it

  // Working memory of `scores`, reused.
  struct Workspace {
    std::vector<float> weights, predictions;
  };

  // Amounts that the weights count, task by task: predictions[N, T], corrected ones if it is `corrected`, calibrated
  // and, with item_values[N], priced. In `predictions` or in the workspace.
  Scores amounts(std::span<const float> predictions, std::span<const float> item_values, Workspace& workspace) const;

  // Its weights in a request, into result[T].
  void weights_at(const WeightChange& change, std::span<float> result) const;

  // One score for each row of predictions[N, T], corrected ones if it is `corrected`, for other values of the tasks
  // and, if tasks are priced, item_values[N]. `formula` gives beta, epsilon and slope. No logarithm is taken where a
  // weight is below 0. std::invalid_argument as of fuse_scores.
  void scores(std::span<const float> predictions, const WeightChange& change, std::span<const float> item_values,
              const FusionOptions& formula, Workspace& workspace, std::span<float> result) const;

  // Whether it takes a logarithm, so that predictions must not be negative.
  bool takes_logarithm() const;

  // Whether a score with these weights[T] is a logarithm: the sum of amounts ≥ 0.
  bool takes_logarithm_of(std::span<const float> at) const {
    return logarithm && std::ranges::none_of(at, [](float weight) { return weight < 0.0f; });
  }

  // Whether it is an expected value, which holds for other values of the tasks: no other baseline has weights below 0.
  bool is_expected_value() const {
    return transform == Transform::identity &&
           (logarithm || corrected || std::ranges::any_of(weights, [](float weight) { return weight < 0.0f; }));
  }

  // Whether it scores as another one of the same correction, whatever they are called.
  bool scores_as(const Baseline& other) const;

  std::string name;
  Transform transform = Transform::identity;
  std::vector<float> weights;                  // [T]
  bool logarithm = false;                      // of the score
  std::vector<bool> priced{};                  // [T] whether the item's value multiplies the prediction; empty: none
  std::vector<PiecewiseLinear> calibration{};  // [T], or empty
  bool corrected = false;                      // takes predictions that the policy's correction corrected
  bool given = false;                          // its scores are Request::production_scores
};

struct PYGRADE_API Mixture {
  static constexpr float epsilon = 1e-6f;  // added to the deviation of scores: small, as expected values are

  // With w = mixture_weight: (1 - w) · z(base) + w · z(other) of base[N] and other[N], which follow each other in
  // scores[2, N].
  void mix(std::span<const float> scores, std::span<float> result) const;

  // Whose scores count: the challenger unless mixture_weight is 0, the baseline unless it is 1. Null: it does not.
  const Baseline* counted_challenger() const { return challenger && mixture_weight > 0.0 ? &*challenger : nullptr; }
  const Baseline* counted_baseline() const { return mixture_weight < 1.0 ? &baseline : nullptr; }
  // Whether the scores of the policy's network count.
  bool uses_network() const { return !challenger && mixture_weight > 0.0; }
  // The expected value among the baselines that count. It alone ranks a request with values of its own if the policy
  // has no trade-offs. Of two, the one of corrected predictions, else the challenger. Null: there is none.
  const Baseline* expected_value() const;

  double mixture_weight = 1.0;  // 0: the baseline alone, 1: the policy, or the challenger, alone
  Baseline baseline = {};
  Verdict verdict = Verdict::untested;
  std::string sentence = {};                // the verdict for people
  std::optional<Baseline> challenger = {};  // in the place of the policy's network
  std::vector<Baseline> baselines = {};     // the others that the training tried, see Policy::with_ranking
  std::string control = {};                 // name of the one that the verdict is over; "": the baseline
  std::string unproven = {};                // why the log does not prove that it may be served; "": it does
};
}  // namespace pygrade::inline v0_2
