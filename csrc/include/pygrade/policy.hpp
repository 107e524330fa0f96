// A trained fusion policy, read from what `pygrade train` and `FusionPolicy.save` write: policy.json and the file of
// tensors that it names. pygrade/policy/network.py documents the network and its formulas.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/correction.hpp"
#include "pygrade/history.hpp"
#include "pygrade/mixture.hpp"
#include "pygrade/page_terms.hpp"
#include "pygrade/prediction_scales.hpp"

namespace pygrade::inline v0_2 {
// A policy file is damaged, of another format version, or does not match the other file. The message names file and
// fault.
class PYGRADE_API ArtifactError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The file does not exist.
class PYGRADE_API ArtifactMissing : public ArtifactError {
  using ArtifactError::ArtifactError;
};

// The id of an item or a user that a name stands for, ≥ 0, as everywhere in pygrade: a whole number from 0 to 2^63 - 1
// in plain decimal digits is itself, any other name 63 bits of its hash.
PYGRADE_API std::int64_t stable_id(std::string_view name);

// A column of a request's candidates.
struct ItemColumn {
  std::string_view name;
  std::span<const float> values;  // [N], NaN: unknown
};

namespace detail {
class ItemLevels;
}

// Immutable: any number of threads may use one concurrently. At most 64 tasks.
class PYGRADE_API Policy {
 public:
  static constexpr std::size_t max_tasks = 64;

  // Reads a directory that FusionPolicy.save wrote. Other processes may save into it meanwhile.
  static std::shared_ptr<const Policy> load(const std::string& directory);

  // The content of the two files of such a directory, both of the same save.
  struct Files {
    std::vector<std::byte> json, tensors;
  };
  static Files read(const std::string& directory);

  // A policy from the content of its files; `name` is the directory in messages.
  static std::shared_ptr<const Policy> parse(std::string_view json, std::span<const std::byte> safetensors,
                                             std::string_view name = "policy");

  const std::vector<std::string>& tasks() const { return tasks_; }          // T names, in the order of the predictions
  const std::vector<std::string>& features() const { return features_; }    // F names, in the order of the context
  const std::vector<std::string>& scenarios() const { return scenarios_; }  // those with their own static weights
  const std::string& version() const { return version_; }          // of all that is served, as in the logs: 12 digits
  const std::string& schema_hash() const { return schema_hash_; }  // of tasks, features and formula: 16 digits
  const std::string& transform() const { return transform_; }      // identity, log, zscore, zlog, rank or log1p
  float beta() const { return beta_; }                             // added to predictions before a logarithm
  float epsilon() const { return epsilon_; }                       // added to the standard deviation of a z-score
  std::span<const float> slope() const { return slope_; }          // [T] of log1p, log(1 + slope_t p_t)
  // F, those of indicators(), 2T of the predictions, T of the tasks' values.
  std::size_t num_inputs() const { return input_mean_.size(); }
  bool context_only() const { return context_only_; }  // no inputs from the predictions
  bool trade_offs() const { return trade_offs_; }      // the network reads the tasks' values
  bool corrected() const { return corrected_; }        // network and scores take corrected predictions
  // [T] tasks whose prediction the item's value multiplies in the policy's scores; empty: none.
  const std::vector<bool>& priced() const { return priced_; }
  // Places of the features that have an indicator, an input that is 1 where the feature is missing.
  const std::vector<std::size_t>& indicators() const { return indicators_; }
  const std::optional<Mixture>& mixture() const { return mixture_; }  // nullopt: the policy is served alone
  // Correction of predictions, for what takes corrected ones; nullopt: nothing does.
  const std::optional<Correction>& correction() const { return correction_; }
  std::span<const std::string> items() const;      // names of the correction's item columns
  std::span<const std::string> own_items() const;  // without levels of items, its last columns: what a log holds
  // Page terms of the correction; nullopt: what stands above an item does not count.
  const std::optional<PageTerms>& page_terms() const { return page_terms_; }
  // Columns that a log holds of itself, which serving makes as training did; nullopt: the policy reads none.
  const std::optional<History>& history() const { return history_; }
  // Its columns among the features, and among the item columns, that the policy reads.
  struct HistoryColumn {
    std::size_t place, column;  // among those of the policy, and of the history
  };
  std::span<const HistoryColumn> history_features() const { return history_features_; }
  std::span<const HistoryColumn> history_items() const { return history_items_; }
  // Puts those of a request [C] and of its candidates [N, I of the history] among features[F] and items[N, I].
  void put_history(std::span<const float> of_request, std::span<const float> of_items, std::span<float> features,
                   std::span<float> items) const;
  // Scales of the predictions that callers give; empty: they are taken as they are.
  const PredictionScales& scales() const { return scales_; }
  // Whether the page terms or the history read categories.
  bool takes_categories() const {
    return (page_terms_ && !page_terms_->categories.empty()) || (history_ && history_->spec().categories);
  }

  // Request::items of candidates with these ids[N] into `rows`[N, I]: the `given` columns by name, for those that are
  // not given the levels that a log showed of the items, else NaN. Empty if nothing is known. Others of `given` are
  // ignored. Returns how many items have no levels; 0 of a policy without any.
  std::size_t item_columns(std::span<const std::int64_t> item_ids, std::span<const ItemColumn> given,
                           std::vector<float>& rows) const;

  // Request::items of candidates with these ids[N], of which columns[N, I], or none, are known: in the place of levels
  // that are NaN those of the items. In `memory` if the policy has levels.
  std::span<const float> add_levels(std::span<const std::int64_t> item_ids, std::span<const float> columns,
                                    std::vector<float>& memory) const;

  // Baseline that alone ranks a request with values of its own: see Mixture::expected_value. Null with trade_offs(),
  // and if none does.
  const Baseline* expected_value() const;

  // [T] what an event of a task is worth if nothing else is said: of trade_offs() in the training, else by the
  // expected_value(). Empty: requests may give no values.
  std::span<const float> task_values() const;

  // Whether requests may give values of the tasks; takes_prices: if something prices tasks.
  bool takes_values() const { return !task_values().empty(); }
  bool takes_prices() const;

  // Whether an expected_value() ranks alone at the policy's own values: it has some, and no trade_offs().
  bool has_values() const { return has_values_ && !trade_offs_; }

  // Boosts added to the standardized score of a candidate for each of its items() columns, [I]; empty: nothing, and
  // scores are as they are. Of the scenario, else the policy's own; an unknown column adds nothing.
  std::span<const float> boosts(std::optional<std::string_view> scenario) const;

  // This policy with another share in the scores, see Mixture::mixture_weight. std::invalid_argument for a share
  // outside 0 … 1, and for one below 1 if there is no baseline.
  std::shared_ptr<const Policy> with_mixture_weight(double mixture_weight) const;

  // A ranking of the policy's training alone, without the policy's values, boosts and page terms: the baseline, the
  // challenger or another of the mixture's baselines by name, or "control": the one that the verdict is over.
  // "production score", and "production" where the training knew no weights of it: by Request::production_scores.
  // std::invalid_argument names those that there are.
  std::shared_ptr<const Policy> with_ranking(std::string_view name) const;

  // Weights served if features are missing: the scenario's static weights [T], or the global ones.
  struct Fallback {
    std::span<const float> weights;
    bool of_scenario;
  };
  Fallback fallback(std::optional<std::string_view> scenario) const;

  // Values of the tasks in a request.
  struct RequestValues {
    std::vector<float> values;       // [T]; empty: what ranks counts what it counts
    std::vector<float> multipliers;  // [T] of trade_offs(): the values over task_values(); else empty

    // Change of the weights: with trade_offs() all are multiplied, else values stand in the place of those that count.
    WeightChange change() const {
      return multipliers.empty() ? WeightChange{.values = values} : WeightChange{.multipliers = multipliers};
    }
  };

  // Values in force if a request gives `values` [T] (NaN, or empty: nothing): these, else the scenario's, the policy's
  // own, task_values(). std::invalid_argument if a number is infinite, if every task is worth 0, if the policy takes
  // none; and of trade_offs(), whose network has seen nothing else, if a value has another sign than in the training.
  void find_values(std::span<const float> values, std::optional<std::string_view> scenario,
                   RequestValues& memory) const;

  // Working memory; grows to the needs of the largest policy and request and is reused.
  struct Workspace {
    std::vector<float> activations;
    std::vector<float> logs;     // [N, T] log(p + beta) of the last request_inputs, not of context_only()
    std::vector<float> moments;  // [2, T] their means, and their squared deviations summed over the candidates
  };

  // context[F] and predictions[N, T] of one request, N ≥ 1, without NaN predictions (NaN features are unknown),
  // corrected if the policy is corrected() → raw inputs[num_inputs]: the context; 1 for the indicators() that are
  // unknown, 0 for the others; unless context_only() per task mean and std of log(p + beta) over the candidates, the
  // statistics of <pygrade/fusion.hpp>; with trade_offs() log(u + beta) of RequestValues::multipliers[T] (empty: 1). A
  // policy of the context alone needs no predictions, so that it can run beside the model that makes them.
  void request_inputs(std::span<const float> context, std::span<const float> predictions, Workspace& workspace,
                      std::span<float> inputs, std::span<const float> multipliers = {}) const;

  // Raw inputs → concentration[T], under the scenario's exploration factor (none or unknown: 1), and the weights[T] to
  // serve: the Dirichlet mean, projected onto the weight constraints. With an evidence prior the mean is shrunk towards
  // the weights of `fallback(scenario)`. Same bits on every instruction set.
  void evaluate(std::span<const float> inputs, std::optional<std::string_view> scenario, Workspace& workspace,
                std::span<float> concentration, std::span<float> weights) const;

 private:
  friend class PolicyReader;
  struct Layer {
    std::int64_t inputs = 0;
    std::int64_t outputs = 0;    // padded to a multiple of 16
    std::vector<float> weights;  // [inputs, outputs]: transposed, so that outputs are the vector lanes
    std::vector<float> bias;     // [outputs]
  };

  Policy() = default;
  std::size_t fill_levels(std::span<const std::int64_t> item_ids, std::span<float> rows) const;
  float shrinkage(std::span<const float> inputs) const;

  std::vector<std::string> tasks_, features_, scenarios_;
  std::string version_, schema_hash_, transform_;
  float beta_ = 1e-7f, epsilon_ = 1e-3f;
  std::vector<float> slope_;  // [T]
  float floor_ = 0.0f;
  float total_ = 0.0f;
  enum class Evidence { count, log, log1p } evidence_scale_ = Evidence::count;
  std::size_t evidence_input_ = 0;  // the feature that holds the evidence
  float evidence_prior_ = 0.0f;     // 0: no shrinkage
  bool context_only_ = false, trade_offs_ = false, corrected_ = false;
  std::vector<bool> priced_;             // [T], or empty
  std::vector<std::size_t> indicators_;  // places of features
  std::vector<float> input_mean_, input_std_;
  std::vector<float> lower_, upper_, static_weights_;  // [T] each
  std::vector<float> scenario_table_;                  // [scenarios, T]
  std::vector<std::string> explored_scenarios_;        // those with an exploration factor
  std::vector<float> exploration_;                     // factor on the concentration, of each of these
  std::vector<float> task_values_;                     // [T] in the training, of trade_offs_; else empty
  std::vector<std::string> valued_scenarios_;          // those with values of their own
  std::vector<float> own_values_;               // [1 + valued scenarios, T], first those of all others; NaN: none
  bool has_values_ = false;                     // there are values of its own
  std::vector<std::string> boosted_scenarios_;  // those with boosts of their own
  std::vector<float> boosts_;                   // [1 + boosted scenarios, I], first those of all others; or empty
  std::optional<Mixture> mixture_;
  std::optional<Correction> correction_;
  std::optional<PageTerms> page_terms_;
  PredictionScales scales_;
  std::optional<History> history_;
  std::vector<HistoryColumn> history_features_, history_items_;
  std::shared_ptr<const detail::ItemLevels> levels_;  // the last T item columns; null: none
  std::vector<Layer> layers_;
  std::size_t widest_ = 0;
};

// The weight vector closest to `weights` in KL divergence that sums to 1 and lies in the box lower[T] … upper[T], in
// place: clip(λ w, lower, upper). Weights that already comply do not change.
PYGRADE_API void project_weights(std::span<float> weights, std::span<const float> lower, std::span<const float> upper);
}  // namespace pygrade::inline v0_2
