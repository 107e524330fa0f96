// A whole page: the features of a user from a store, candidates, predictions, fusion weights, ranking.
//
// `Pipeline` serves the artifact that `pygrade pipeline` publishes, over the store that it filled; pygrade.Pipeline
// calls this code. Any number of threads may call `rank` at once, each with a workspace of its own, also while another
// thread reloads the artifact or adds feedback. After the first requests of a size it allocates nothing.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/features.hpp"
#include "pygrade/file_content.hpp"
#include "pygrade/function_ref.hpp"
#include "pygrade/mtl.hpp"
#include "pygrade/policy.hpp"
#include "pygrade/prerank.hpp"
#include "pygrade/ranker.hpp"
#include "pygrade/store.hpp"

namespace pygrade::inline v0_2 {
namespace detail {
template <class Value, class Memory>
class HotSwap;
}

// The files of an artifact: their paths below it, "policy/policy.json", and contents.
using ArtifactFiles = std::vector<std::pair<std::string, FileContent>>;

// The manifest of an artifact and the files that it names, read into memory; Models::parse checks the hashes of these
// bytes. Models keep the memory of what they use in place, the index. Files may be of any size.
PYGRADE_API ArtifactFiles read_artifact(const std::string& directory);

// The parts of an artifact.
struct PYGRADE_API Models {
  std::string version;  // of the artifact, 12 digits, and of its store; "": of none
  std::shared_ptr<const Features> features;
  std::shared_ptr<const Prerank> prerank;     // null: PipelineOptions::retrieve, or requests with item_ids
  std::shared_ptr<const MultiTaskModel> mtl;  // null: PipelineOptions::predict, or requests with predictions
  std::shared_ptr<const Policy> policy;
  // Other policies of the same tasks and features, which a request may choose; they change with the rest in one step.
  std::vector<std::shared_ptr<const Policy>> alternatives = {};
  std::shared_ptr<const void> attached = {};  // the owner's, such as names and prices that belong to these models

  // Loads an artifact that `pygrade pipeline` wrote; without mtl if its policy fuses the user's own predictions.
  // ArtifactError names the file that is missing, damaged or of another artifact, or the part that does not fit.
  static Models load(const std::string& directory);
  static Models parse(const ArtifactFiles& files, std::string_view name = "artifact");

  // ArtifactError if parts are of different schemas, tasks or features.
  void check() const;
};

// The inputs of a model for n candidates of one request, in the order of the multi-task model's columns.
struct ModelRows {
  std::size_t rows = 0;                       // n
  std::span<const float> request_dense;       // [Du] normalized
  std::span<const std::int64_t> request_ids;  // [Fu]
  std::span<const float> dense;               // [n, Di + Dx] normalized; empty without PipelineOptions::item_features
  std::span<const std::int64_t> ids;          // [n, Fi]; empty without PipelineOptions::item_features
  std::span<const std::int64_t> item_ids;     // [n]
  const FeatureRequest* request = nullptr;    // user, time, scenario, context; null: of an unknown user
  std::size_t first = 0;                      // place of the first row among the request's candidates
  void* user_data = nullptr;                  // of the request
};

struct PipelineOptions {
  std::optional<std::uint32_t> seed = {};  // of the exploration, below 2^31; by default from the system
  std::optional<double> ttl = {};          // seconds that a history lives without an event; nothing: for ever
  std::size_t cache = 1'000'000;           // items and users whose attributes are remembered, at most
  bool any_version = false;                // read the store's current version, whatever it is; else that of the models
  // A model of the caller's, where Models::mtl is null: rows → probabilities[n, T], NaN if unknown. Called by many
  // threads at once, and once for each set of models, for the items of an unknown user.
  std::function<void(const ModelRows& rows, std::span<float> probabilities)> predict = {};
  // false: `predict` needs no features of items, and none are read from the store. Without effect on Models::mtl.
  bool item_features = true;
  // A search of the caller's in place of the artifact's: writes at most items.size() candidates, best first, and
  // returns how many. `seen` and `eligible` as in PipelineRequest.
  std::function<std::size_t(const FeatureBuffer& user, std::span<const std::int64_t> seen,
                            std::optional<std::span<const std::int64_t>> eligible, std::span<std::int64_t> items)>
      retrieve = {};
};

// One request. All spans and texts belong to the caller and live until `rank` returns.
struct PipelineRequest {
  FeatureRequest user = {};                                    // user, time, scenario, context
  std::size_t candidates = 500;                                // that are searched for among all items
  std::span<const std::int64_t> seen = {};                     // items to leave out of the search
  std::optional<std::span<const std::int64_t>> eligible = {};  // the only items to search
  // The candidates, without a search: n distinct ids from 0 on.
  std::optional<std::span<const std::int64_t>> item_ids = {};
  // [n, T] of item_ids in place of a model's, NaN: unknown, ranks last. Then features of items are read only if the
  // policy's correction has item columns of them that are not given.
  std::optional<std::span<const float>> predictions = {};
  // Columns [n] of item_ids by name, in place of what the store has: features of items (Features::item_features and
  // cross_features, in their units: after the transform), and item columns of the policies' corrections, which are
  // else those features of items that have their names (FeatureInputs).
  std::span<const ItemColumn> item_features = {};
  // Request to the ranker beside what the pipeline finds, of item_ids where it is of candidates: rules, values,
  // explore, draw, prices, categories, embeddings, page_terms, pins, demoted. No store has categories or embeddings:
  // the page of a search is sorted.
  Request page = {};
  void* user_data = nullptr;  // for `predict`: ModelRows::user_data
  // Rules of the candidates, and their prices: functions that live until `rank` returns, so no lambda in place. Without
  // prices a policy that needs them takes the item feature "item_value", 0 where it is unknown, if the schema has it.
  std::optional<StoredFunctionRef<PageRules(std::span<const std::int64_t>)>> rules = {};
  std::optional<StoredFunctionRef<std::span<const float>(std::span<const std::int64_t>)>> item_values = {};
  std::size_t policy = 0;  // 0: Models::policy; i: Models::alternatives[i - 1]
  bool compared = false;   // reads what any of these needs of items, for PageWorkspace::item_columns and prices
  // Fills in the columns of history, of a policy that reads some, among the context[F] and the item columns[n, I] of
  // the candidates. False if they are not there: then the policy `without_history` makes the page, see
  // Degraded::history.
  std::optional<StoredFunctionRef<bool(std::span<const std::int64_t>, std::span<float>, std::span<float>)>> history =
      {};
  std::size_t without_history = 0;  // as `policy`; of the same item columns; `policy` itself: such a request fails
  // Time that the request has from `arrival` on, by default from the call on; see Degraded::deadline.
  std::optional<std::chrono::microseconds> deadline = {};
  std::optional<std::chrono::steady_clock::time_point> arrival = {};  // when it came: waiting counts, too
};

// Where `rank` writes; k is the size of items.
struct PipelineBuffer {
  std::span<std::int64_t> items = {};   // [k] best first; -1 in padding
  std::span<float> scores = {};         // [k] -inf in padding; NaN of an item without a prediction
  std::span<float> weights = {};        // [T] the served weights, or empty
  std::span<float> concentration = {};  // [T] the policy's output, NaN in a fallback, or empty
  std::span<PageEffect> effects = {};   // [k] of a page that is searched, or empty
};

enum class Degraded : std::uint8_t {
  none = 0,
  store = 1,     // the store failed: all features are defaults, the weights the static ones
  deadline = 2,  // time ran out: the items or predictions given, else an unknown user's, by the static weights
  version = 3,   // the store lost the models' version: the features are those of its current one
  history = 4    // columns of history were not there: a ranking that reads none made the page
};

// The steps of a page, as in Python's ServedPage.seconds.
enum Step : std::uint8_t { step_user, step_prerank, step_items, step_predictions, step_ranking, steps };

struct ServedPage {
  Page page;                    // weights, draw, policy's version, mixture_weight
  std::int32_t filled = 0;      // items on the page
  std::int32_t candidates = 0;  // that were ranked
  Degraded degraded = Degraded::none;
  std::array<char, 16> artifact_version{};                  // ends with 0
  float history = std::numeric_limits<float>::quiet_NaN();  // known events of the user, if a feature says so
  std::array<float, steps> seconds{};                       // by step
};

// The memory of one request at a time; what `rank` found stays in it until the next call.
class PYGRADE_API PageWorkspace {
 public:
  PageWorkspace();
  ~PageWorkspace();
  PageWorkspace(PageWorkspace&&) noexcept;
  PageWorkspace& operator=(PageWorkspace&&) noexcept;

  std::span<const std::int64_t> item_ids() const;  // [n] the candidates
  std::size_t unknown_items() const;               // of these, without levels in a policy that has some
  std::span<const float> predictions() const;      // [n, T]
  const FeatureBuffer& features() const;
  // Input and output of the ranker, for a log: rows and indices are places in item_ids().
  const Request& request() const;
  const PageBuffer& buffer() const;
  // Request::items of these candidates for another policy: what the request gave, features of items, levels.
  void item_columns(const Policy& policy, std::vector<float>& rows) const;
  // The models that serve and the policy that ranked the request, within a Pipeline::Lease; std::logic_error without
  // one.
  const Models& models() const;
  const Policy& policy() const;

 private:
  friend class Pipeline;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Since the start, over all threads and reloads.
struct PipelineCounters {
  FeatureCounters features;
  RankerCounters ranker;
  std::uint64_t degraded_store = 0, degraded_deadline = 0, degraded_version = 0;  // pages
  std::uint64_t reloads = 0;
};

class PYGRADE_API Pipeline {
 public:
  Pipeline(Models models, std::shared_ptr<FeatureCenter> center, const PipelineOptions& options = {});
  // From an artifact and the store that was filled for it. ArtifactError if the artifact is damaged, or the store's
  // current version is of another one; StoreError if the store does not answer.
  static std::unique_ptr<Pipeline> load(const std::string& artifact, std::shared_ptr<Store> store,
                                        const PipelineOptions& options = {});
  static std::unique_ptr<Pipeline> load(Models models, std::shared_ptr<Store> store,
                                        const PipelineOptions& options = {});
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  // Throws std::invalid_argument (SchemaError for names of columns) for arguments that do not fit, if there is neither
  // a model nor predictions, and if no candidate is left; then the buffer is untouched and no page is counted. A store
  // that fails is no error, see Degraded.
  ServedPage rank(const PipelineRequest& request, const PipelineBuffer& buffer, PageWorkspace& workspace);

  // One page for each request, in as many threads as there are workspaces; the pages do not depend on the number.
  // Throws what the first request that failed threw, after the others are done.
  void rank(std::span<const PipelineRequest> requests, std::span<const PipelineBuffer> buffers,
            std::span<ServedPage> pages, std::span<PageWorkspace> workspaces);

  // Holds the models in force for the requests of a workspace, see below.
  class Lease;

  // Adds feedback for the features of later requests, see FeatureCenter::update.
  std::size_t update(const FeedbackEvents& events);

  // Requests that start after this returns are served by these models: all of them change in one step, and the version
  // of the store that is read with them. Requests under way end with what they began with, and no request waits; this
  // returns when none uses the models before, and frees them. What is remembered of items stays if features and version
  // are the same. ArtifactError if the store does not hold the models' version, unless any_version.
  void publish(Models models);
  void reload(const std::string& artifact) { publish(Models::load(artifact)); }

  Models models() const;
  std::size_t num_tasks() const { return num_tasks_.load(std::memory_order_relaxed); }
  std::shared_ptr<FeatureCenter> center() const;
  PipelineCounters counters() const;

 private:
  struct State;
  struct Totals;
  struct Nothing {};

  std::unique_ptr<const State> make_state(Models models, std::shared_ptr<FeatureCenter> center) const;
  void retire(std::unique_ptr<const State> state);
  ServedPage rank(const PipelineRequest& request, const PipelineBuffer& buffer, PageWorkspace& workspace,
                  std::optional<std::uint64_t> draw);

  const PipelineOptions options_;
  const std::unique_ptr<Totals> totals_;
  std::atomic<std::uint64_t> stream_;  // the next draw
  std::mutex publishing_;              // between those that publish
  std::unique_ptr<detail::HotSwap<State, Nothing>> states_;
  std::atomic<std::size_t> num_tasks_{0};  // of the state in force
};

// All that a workspace ranks is by one set of models while it has a lease; `rank` takes one for each
// request that comes without. `publish` waits for the end of every lease of the models before: keep it short, and
// publish nothing meanwhile in the same thread. It ends before the workspace.
class PYGRADE_API Pipeline::Lease {
 public:
  // std::logic_error if the workspace has one.
  Lease(const Pipeline& pipeline, PageWorkspace& workspace);
  ~Lease();
  Lease(Lease&& other) noexcept : work_(std::exchange(other.work_, nullptr)) {}
  Lease& operator=(Lease&&) = delete;

  const Models& models() const;

 private:
  PageWorkspace::Impl* work_;
};
}  // namespace pygrade::inline v0_2
