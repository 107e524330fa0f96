// Parts served together: the models of an artifact, the policies of arms and shadows, and what belongs to them.
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pygrade/history_store.hpp"
#include "pygrade/pipeline.hpp"
#include "service/columns.hpp"
#include "service/config.hpp"
#include "service/metrics.hpp"
#include "util/id_table.hpp"
#include "util/safetensors.hpp"

namespace pygrade::inline v0_2::detail {
// The distribution of a task's predictions when the artifact was published.
struct Reference {
  std::array<float, drift_bins - 1> bounds{};  // bin b holds bounds[b - 1] <= p < bounds[b]
  std::array<double, drift_bins> shares{};
  std::size_t bin_of(float prediction) const {
    std::size_t bin = 0;
    for (const float bound : bounds) bin += prediction >= bound;
    return bin;
  }
};

// Names of items by their ids.
class ItemNames {
 public:
  ItemNames() = default;
  // The content of a file that `pygrade pipeline` wrote: item_id[n] ascending, start[n + 1], text. SafetensorsError.
  explicit ItemNames(FileContent content);
  std::optional<std::string_view> of(std::int64_t item) const;

 private:
  FileContent content_;
  TensorValues<std::int64_t> ids_, start_;
  std::string_view text_;
  IdTable places_;
};

// The policy of an arm or a shadow.
struct Served {
  std::string name;
  std::shared_ptr<const Policy> policy;
  std::vector<float> values = {};  // [T] of the tasks, NaN: the policy's; or none
  float mixture_weight = 1.0f;
  std::vector<std::string> ranking = {};  // names of what makes the scores, see ranked_by
  bool allow_identical = false;           // it may rank as another one
  // Columns of history in the store, if the policy reads some, and the ranking that reads none, where they are not.
  std::shared_ptr<StoredHistory> history = {};
  std::shared_ptr<const Policy> plain = {};
  std::size_t plain_place = 0;  // of a pipeline's arm, as PipelineRequest::policy
  // `mixture_weight`, or nothing where a baseline ranks alone.
  std::optional<float> share() const { return mixture_weight > 0.0f ? std::optional(mixture_weight) : std::nullopt; }
};

struct Release {
  std::string artifact;                  // version; "": of a policy's run
  std::vector<std::string> tasks;        // T, of the policies
  std::vector<std::string> log_tasks;    // of the features' log
  std::vector<std::string> outcomes;     // columns that an event must have: y_ and m_
  std::vector<Served> arms, shadows;     // alternatives 1 … and after them
  std::vector<ScenarioCells> scenarios;  // those of the policies, then "other", then "none"
  TaskCells drift;
  std::vector<Reference> references;        // [T], or none
  std::vector<std::vector<Cell>> feedback;  // [arms][log_tasks]
  std::shared_ptr<const ItemNames> names;   // null: items have none
  std::optional<Columns> context;           // of a policy's run: what the policies call the request's features
  Columns items;                            // their corrections' names for those of items
  bool needs_predictions = false;           // there is no model
  // Rankers of the arms' and the shadows' policies: they rank the pages of a policy's run, and all comparisons.
  std::vector<std::unique_ptr<Ranker>> rankers;
  std::vector<std::unique_ptr<Ranker>> plain_rankers;  // of Served::plain, of the arms; null where there is none
  std::vector<std::shared_ptr<const StoredHistory>> histories;  // one for each layout that an arm or a shadow reads
  std::shared_ptr<HistoryStore> history_store;                  // null: none reads history, or callers send its columns

  // Arms that rank identically, shadows that do, and shadows that rank as all arms: a sentence each, of those that may
  // or may not do so.
  std::vector<std::string> identical_arms(bool allowed) const;

  bool is_policy() const { return context.has_value(); }
  const Served& served(std::size_t place) const {  // as rankers
    return place < arms.size() ? arms[place] : shadows[place - arms.size()];
  }
  const ScenarioCells& scenario(std::optional<std::string_view> name) const;
  static std::shared_ptr<const Release> of(const Models& models) {
    return std::static_pointer_cast<const Release>(models.attached);
  }
};

// Where the parts of a release come from, and what was found there.
class Sources {
 public:
  // ArtifactError if the run holds neither what `pygrade pipeline` publishes nor what `pygrade train` writes.
  Sources(const std::filesystem::path& run, const ServiceConfig& config);

  bool is_policy() const { return policy_.has_value(); }  // the run holds a policy alone

  // A text that changes when a part does.
  struct Identity {
    std::string artifact, policies;
    bool operator==(const Identity&) const = default;
  };
  Identity identity() const;

  // Loads what differs from `before` (null: everything). ArtifactError or std::invalid_argument names the part.
  Models load(const Models* before, bool artifact_changed, Metrics& metrics) const;
  // Loads a policy's run.
  std::shared_ptr<const Release> load(Metrics& metrics) const;

 private:
  std::shared_ptr<Release> make_release(const std::shared_ptr<const Policy>& own,
                                        const std::vector<std::string>& log_tasks, Metrics& metrics) const;
  void add_history(Served& served, Release& release) const;
  std::vector<Reference> read_references(const std::string& version, const std::vector<std::string>& tasks) const;

  const std::filesystem::path run_;
  std::optional<std::filesystem::path> policy_;  // the directory of a policy's run
  const ServiceConfig& config_;
  mutable std::shared_ptr<HistoryStore> history_store_;  // opened by the first release that needs one
};
}  // namespace pygrade::inline v0_2::detail
