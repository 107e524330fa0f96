// The parts of a Service.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "pygrade/exposures.hpp"
#include "pygrade/function_ref.hpp"
#include "pygrade/service.hpp"
#include "service/json_lines.hpp"
#include "service/json_writer.hpp"
#include "service/metrics.hpp"
#include "service/release.hpp"
#include "service/request.hpp"
#include "util/pool.hpp"

namespace pygrade::inline v0_2 {
namespace detail {
constexpr std::string_view json_type = "application/json";
constexpr std::string_view tensor_type = "application/safetensors";
constexpr auto retry_time = std::chrono::seconds(10);  // of a load that failed, if nothing changes

// The memory of one request at a time.
struct Context {
  std::size_t memory() const;  // bytes of what grows with a request, but for the workspace

  std::uint64_t generation = 0;            // of what the last request was served by
  std::shared_ptr<const Release> release;  // the same, of a policy's run
  PageWorkspace workspace;                 // of a pipeline
  FeatureBuffer user;                      // of a pipeline's request for weights
  RankInput input;
  std::string request_id, user_text;
  std::vector<float> values, scores, weights, concentration, policy_context, item_columns;
  HistoryBuffer history;
  std::vector<std::int64_t> item_keys, category_keys;  // of candidates, for their histories
  std::vector<std::int32_t> indices;
  std::vector<std::int64_t> items;
  std::vector<std::int32_t> pinned, demoted;  // candidates on the page
  std::vector<std::int32_t> pins;             // [k], or none
  std::vector<std::uint8_t> demoted_rows;     // [N], or none
  std::vector<PageEffect> effects;            // [k] of a page that is explained
  // Scratch memory of a comparison.
  std::vector<float> other_scores, other_weights, other_concentration, other_columns, other_context, other_values;
  std::vector<std::int32_t> other_indices;
  std::vector<std::int32_t> place;  // of a candidate on a page
  std::string lines;
  // Pages of a test's arms:
  std::vector<ExposurePage> arm_pages;
  std::vector<std::int32_t> arm_indices;        // [arms, k]
  std::vector<std::vector<float>> arm_columns;  // [arms] item columns
};

// Contexts that no request uses. They hold what is served of a policy's run, and nothing old: that goes outside of
// requests.
class ContextPool {
 public:
  ~ContextPool() { publish(0); }
  std::unique_ptr<Context> acquire() { return free_.acquire(); }
  void release(std::unique_ptr<Context> context) noexcept;
  // From now on contexts of another generation are old. Frees those that no request uses.
  void publish(std::uint64_t generation);
  std::uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

 private:
  std::atomic<std::uint64_t> generation_{0};
  Pool<Context> free_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Context>> old_;  // guarded by mutex_: they came back after what they hold was replaced
};

// A page that was made, and how.
struct Ranked {
  std::optional<Pipeline::Lease>
      lease;  // of a pipeline's models, first: it ends last, so that the publisher frees them
  std::shared_ptr<const Release> release;
  std::size_t arm = 0;
  ServedPage page;
  const Policy* policy = nullptr;          // that ranked the request, as the following
  Request request;                         // of the candidates
  std::span<const std::int64_t> item_ids;  // [N]
  std::span<const std::int32_t> indices;   // [k] places in item_ids
  bool user_known = false;
  std::size_t unknown_items = 0;  // candidates without levels, of a policy with them
};

enum class Exploration : std::uint8_t { none, drawn, shuffled };
}  // namespace detail

struct Service::Impl {
  Impl(const detail::ServiceConfig& config, std::shared_ptr<Store> store);

  bool refresh();
  void drain();

  Response answer(detail::Endpoint endpoint, const ServiceRequest& request, detail::Context& context);

  // --- pages (rank.cpp)
  detail::Ranked rank(const ServiceRequest& given, detail::Context& context, bool shown);
  std::string rank_body(const ServiceRequest& given, detail::Context& context);
  std::string rank_tensors(const ServiceRequest& given, detail::Context& context);
  detail::Ranked serve(const ServiceRequest& given, detail::Context& context);
  std::string weights_body(const ServiceRequest& given, detail::Context& context);
  void parse(const ServiceRequest& given, detail::Context& context, const detail::Release& release, bool page);
  std::string explain_body(const ServiceRequest& given, detail::Context& context);
  void count(const detail::Ranked& ranked, detail::Context& context);
  void log_exposure(const detail::Ranked& ranked, detail::Context& context);
  // --- the same candidates by other policies (compare.cpp)
  std::optional<Page> rank_by(std::size_t place, const detail::Ranked& ranked, Request request,
                              detail::Context& context, const ServiceRequest& given, const PageBuffer& buffer);
  void rank_arms(const detail::Ranked& ranked, detail::Context& context, const ServiceRequest& given, bool shown);
  void compare(const detail::Ranked& ranked, detail::Context& context, const ServiceRequest& given);
  detail::Exploration explores(const detail::Context& context, std::size_t arm, bool& capped);
  void rank_pipeline(detail::Ranked& ranked, detail::Context& context, bool explore, const ServiceRequest& given);
  void rank_policy(detail::Ranked& ranked, detail::Context& context, bool explore, const ServiceRequest& given);

  // --- histories (history.cpp)
  bool add_history(const detail::Release& release, const detail::Served& served, std::span<const std::int64_t> item_ids,
                   const ServiceRequest& given, detail::Context& context, std::span<float> features,
                   std::span<float> columns);
  void add_exposures(const detail::Ranked& ranked, const detail::Context& context);
  void add_feedback(const detail::UpdateInput& input, const detail::Release& release);
  Response remove_user(std::string_view segment);

  // --- what is served: in force now, and of the request of a policy's run, without a lock
  std::shared_ptr<const detail::Release> release() const;
  std::shared_ptr<const detail::Release> release(detail::Context& context) const;
  PipelineCounters counters() const;
  std::string store_url() const { return store == nullptr ? "" : store->url(); }
  void publish(Models models);
  void publish(std::shared_ptr<const detail::Release> release);

  // --- feedback (update.cpp)
  Response update(std::string_view body);

  // --- reports (status.cpp)
  std::string_view store_state() const;  // as /readyz says it; "": there is none
  bool ready() const;
  std::vector<std::string> warnings() const;
  void write_ready(detail::JsonWriter& out);  // keys of an open object, as write_status
  void write_status(detail::JsonWriter& out, std::span<const Gauge> gauges);
  detail::Series series();
  detail::Json test_reading() const;  // (test_page.cpp) ArtifactMissing, JsonError
  Response test_answer(const ServiceRequest& request) const;
  void write_arm(const detail::Metrics::Window& window, const detail::Release& release, std::size_t place,
                 detail::JsonWriter& out) const;
  void write_counters(const detail::Metrics::Window& window, const detail::Release& release,
                      std::span<const Gauge> gauges, detail::JsonWriter& out);
  void write_reloads(detail::JsonWriter& out);
  detail::Figures figures(const detail::Metrics::Window& window, const detail::Release& release);

  const detail::ServiceConfig config;
  const std::filesystem::path run;
  const detail::Sources sources;
  const detail::Naming naming;
  const std::shared_ptr<Store> store;  // null, as the pipeline: of a policy's run
  detail::Metrics metrics;
  std::unique_ptr<Pipeline> pipeline;
  mutable std::mutex publishing;                          // guards policy_release
  std::shared_ptr<const detail::Release> policy_release;  // of a policy's run
  detail::ContextPool contexts;
  std::vector<std::unique_ptr<ExposureLog>> exposures;  // [arms], or none
  std::unique_ptr<detail::JsonLines> feedback, shadow_log, removals;
  std::atomic<bool> draining{false};
  std::atomic<bool> store_checked{true};  // false: whether the store serves the artifact's version is not known yet
  std::atomic<std::uint64_t> pages{0}, explored{0}, next_request;
  std::atomic<std::uint64_t> missing_predictions{0};  // candidates of a policy's run
  std::atomic<std::uint64_t> stream{0};               // the next draw of a policy's run, see Page::seed

  // One load of models.
  struct Reload {
    std::int64_t timestamp;
    std::string artifact, error;  // error "": it succeeded
    std::vector<std::string> policies;
  };
  std::mutex refreshing;  // guards the following
  detail::Sources::Identity identity, failed;
  std::chrono::steady_clock::time_point next_try{};
  std::mutex telling;  // guards loads and last_error
  std::deque<Reload> loads;
  std::string last_error;

 private:
  void tell(const std::string& error);
  void check_store();
};

// The runs that are served: that without a name, if there is one, and those that requests name.
struct Service::Runs {
  Runs(const std::filesystem::path& run, std::string_view config_json, const std::shared_ptr<Store>& store);

  std::optional<std::string_view> handle_next(const ServiceRequest& request, std::shared_ptr<void>& batch,
                                              Response& response);
  bool refresh();
  void drain();
  std::vector<std::string> warnings();

  struct Run {
    Run(const detail::ServiceConfig& given, std::shared_ptr<Store> open) : config(given), store(std::move(open)) {}
    Impl* loaded() const { return impl.load(std::memory_order_acquire); }

    const detail::ServiceConfig config;
    const std::shared_ptr<Store> store;  // null: the run's own
    std::unique_ptr<Impl> owner;
    std::atomic<Impl*> impl{nullptr};  // null until the run could be loaded, then the same for ever
    std::string error;                 // why it could not; guarded by Runs::telling
    std::chrono::steady_clock::time_point next_try{};
  };

  std::mutex asking;  // guards gauges
  std::function<void(std::vector<Gauge>&)> gauges;

 private:
  struct Batch;
  std::exception_ptr load(Run& run);  // null: it succeeded
  Run& find(const std::optional<std::string>& name);
  Impl& loaded(Run& run);
  Impl& lead();  // the first that is loaded: it counts requests that are of no run
  std::string error_of(Run& run);
  std::optional<std::string_view> answer_next(detail::Endpoint endpoint, const ServiceRequest& request,
                                              std::shared_ptr<void>& batch, Response& response, Impl*& by);
  Response remove_user(std::string_view target);
  void write_all(detail::JsonWriter& out, FunctionRef<void(Run&)> write);
  Response ready_answer();
  std::string metrics_body();
  std::string status_body();
  std::vector<Gauge> read_gauges();

  const detail::ServiceConfig config;
  std::deque<Run> all;
  std::mutex refreshing, telling;
};

namespace detail {
std::size_t arm_for(const ServiceConfig& config, const Release& release, const Context& context);
// Values of the request, where it gives none the arm's.
void set_values(const Served& arm, const RankInput& input, std::vector<float>& values);

// Whether a header (Content-Type, Accept) names tensors in the safetensors format.
bool names_tensors(std::string_view header);

// JSON of an error.
Response error_response(int status, std::string_view argument, std::string_view message);

// A candidate as the caller knows it: its name, or the id if it has none.
std::variant<std::int64_t, std::string_view> item_of(const Ranked& ranked, const Context& context,
                                                     std::int32_t candidate);
// The rank and explain responses' common fields.
// `lists`: with the items and their scores.
void write_policy_share(const Policy& policy, const Request& request, const Page& page, std::span<const float> weights,
                        JsonWriter& out);
void write_unknown_keys(const UnknownKeys& unknown, JsonWriter& out);
void write_page(const Ranked& ranked, const Context& context, JsonWriter& out, bool lists = true);
std::string_view unless_none(std::string_view name);  // "" in place of "none"
}  // namespace detail
}  // namespace pygrade::inline v0_2
