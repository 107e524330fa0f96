// The C ABI of the pipeline.
#include <algorithm>

#include "pygrade/pipeline.h"
#include "pygrade/pipeline.hpp"
#include "serving/c_abi.hpp"
#include "util/pool.hpp"

using namespace pygrade;
using namespace pygrade::c_abi;

struct pygrade_workspace {
  PageWorkspace workspace;
};

struct pygrade_pipeline {
  explicit pygrade_pipeline(std::unique_ptr<Pipeline> made) : pipeline(std::move(made)) {}

  const std::unique_ptr<Pipeline> pipeline;
  detail::Pool<PageWorkspace> workspaces;  // of calls that bring none
};

namespace pygrade::inline v0_2::c_abi {
PYGRADE_STRUCT(pygrade_pipeline_options, error_size)
PYGRADE_STRUCT(pygrade_pipeline_info, item_features)
PYGRADE_STRUCT(pygrade_user_request, waited_us)
PYGRADE_STRUCT(pygrade_user_page, predictions)
PYGRADE_STRUCT(pygrade_user_batch, error_size)
PYGRADE_STRUCT(pygrade_events, error_size)
PYGRADE_STRUCT(pygrade_pipeline_counters, degraded_version)
}  // namespace pygrade::inline v0_2::c_abi

namespace {
using Items = std::span<const std::int64_t>;
constexpr std::size_t limit = std::numeric_limits<std::int32_t>::max();

struct Options {
  PipelineOptions pipeline;
  StoreOptions store;
};

Options options_of(const pygrade_pipeline_options* given) {
  Options options;
  if (given == nullptr) return options;
  const auto known = read_struct(given, "options");
  constexpr std::uint32_t flags = PYGRADE_PIPELINE_SEED | PYGRADE_PIPELINE_TTL | PYGRADE_PIPELINE_ANY_VERSION |
                                  PYGRADE_PIPELINE_READ_ONLY | PYGRADE_PIPELINE_NO_ITEM_FEATURES;
  require_flags("options.flags", known.flags, flags);
  require_range("options.reserved", known.reserved, 0, 0);
  if (known.flags & PYGRADE_PIPELINE_SEED) options.pipeline.seed = known.seed;
  if (known.flags & PYGRADE_PIPELINE_TTL) {
    require_range("options.ttl", known.ttl, std::numeric_limits<double>::min(), 3.2e9);
    options.pipeline.ttl = known.ttl;
  }
  if (known.cache > 0) options.pipeline.cache = known.cache;
  options.pipeline.any_version = known.flags & PYGRADE_PIPELINE_ANY_VERSION;
  options.pipeline.item_features = !(known.flags & PYGRADE_PIPELINE_NO_ITEM_FEATURES);
  require(options.pipeline.item_features || known.predict != nullptr,
          "options.flags has PYGRADE_PIPELINE_NO_ITEM_FEATURES without options.predict");
  options.store.read_only = known.flags & PYGRADE_PIPELINE_READ_ONLY;
  if (known.store_timeout_ms > 0) options.store.timeout = std::chrono::milliseconds(known.store_timeout_ms);
  if (known.predict != nullptr)
    options.pipeline.predict = [predict = known.predict, user = known.user](const ModelRows& rows,
                                                                            std::span<float> probabilities) {
      const std::size_t count = rows.rows;
      const pygrade_model_rows given_rows{sizeof(pygrade_model_rows),
                                          count,
                                          rows.request_dense.size(),
                                          rows.request_ids.size(),
                                          count == 0 ? 0 : rows.dense.size() / count,
                                          count == 0 ? 0 : rows.ids.size() / count,
                                          rows.request_dense.data(),
                                          rows.request_ids.data(),
                                          rows.dense.data(),
                                          rows.ids.data(),
                                          rows.item_ids.data(),
                                          rows.request == nullptr ? 0 : rows.request->user_id,
                                          rows.request == nullptr ? 0 : rows.request->timestamp,
                                          rows.request != nullptr,
                                          0,
                                          rows.first,
                                          rows.user_data};
      if (predict(user, &given_rows, probabilities.data()) != 0) throw std::runtime_error("options.predict failed");
    };
  return options;
}

ArtifactFiles files_of(const pygrade_file* files, std::size_t count) {
  require(files != nullptr || count == 0, "files is NULL");
  ArtifactFiles copies;
  for (const pygrade_file& file : std::span(files, count)) {
    require(file.path != nullptr && (file.content != nullptr || file.content_size == 0), "a file has a NULL member");
    const auto* bytes = static_cast<const std::byte*>(file.content);
    copies.emplace_back(file.path, FileContent(std::vector<std::byte>(bytes, bytes + file.content_size)));
  }
  return copies;
}

std::unique_ptr<pygrade_pipeline> make(Models models, const char* store, const Options& options) {
  require(store != nullptr, "store is NULL");
  if (options.pipeline.predict) models.mtl = nullptr;
  return std::make_unique<pygrade_pipeline>(
      Pipeline::load(std::move(models), open_store(store, options.store), options.pipeline));
}

void publish(pygrade_pipeline* pipeline, Models models) {
  if (pipeline->pipeline->models().mtl == nullptr) models.mtl = nullptr;  // the caller's model stays
  pipeline->pipeline->publish(std::move(models));
}

// A request with the memory that it needs beside the caller's.
struct UserRequest {
  std::vector<ContextValue> context;
  std::vector<ItemColumn> columns;
  std::vector<std::string_view> categories;
  pygrade_page_rules rules{};
  const pygrade_user_request* given = nullptr;
  PipelineRequest request;

  // The rules that the caller's function gives for the candidates.
  struct Ask {
    UserRequest& of;
    PageRules operator()(Items items) const {
      of.rules = {};
      of.rules.size = sizeof of.rules;
      if (of.given->rules(of.given->user, items.data(), items.size(), &of.rules) != 0)
        throw std::runtime_error("request.rules failed");
      return rules_of(of.rules, items.size());
    }
  } asking{*this};
  struct Prices {
    UserRequest& of;
    std::span<const float> operator()(Items items) const { return optional_span(of.rules.item_values, items.size()); }
  } pricing{*this};

  struct History {
    UserRequest& of;
    bool operator()(Items items, std::span<float> row, std::span<float> rows) const {
      return of.given->history(of.given->history_user, items.data(), items.size(), row.data(), row.size(), rows.data(),
                               items.empty() ? 0 : rows.size() / items.size()) == 0;
    }
  } reading{*this};

  UserRequest() = default;
  UserRequest(const UserRequest&) = delete;
  UserRequest& operator=(const UserRequest&) = delete;

  // A request of a page of k places.
  void read(const pygrade_user_request& from, std::size_t tasks, std::size_t places) {
    constexpr std::uint32_t flags = PYGRADE_USER_EXPLORE | PYGRADE_USER_DRAW | PYGRADE_USER_ELIGIBLE |
                                    PYGRADE_USER_NO_PAGE_TERMS | PYGRADE_USER_AS_LOGGED;
    require_flags("request.flags", from.flags, flags);
    if (from.scenario != nullptr) require_range("request.scenario_size", from.scenario_size, 0, longest_text);
    require(from.context != nullptr || from.context_size == 0, "request.context is NULL");
    require_range("request.candidates", from.candidates, 0, limit);
    require_range("request.items", from.items, 0, limit);
    if (from.embeddings != nullptr) require_range("request.embedding_size", from.embedding_size, 1, 4096);
    require(from.item_features != nullptr || from.item_features_size == 0, "request.item_features is NULL");
    require(from.item_ids != nullptr || (from.predictions == nullptr && from.item_features_size == 0),
            "request.predictions or request.item_features is given without request.item_ids");
    require(from.eligible != nullptr || from.eligible_size == 0 || !(from.flags & PYGRADE_USER_ELIGIBLE),
            "request.eligible is NULL");
    given = &from;
    for (const pygrade_context& entry : std::span(from.context, from.context_size)) {
      require(entry.name != nullptr, "a name of request.context is NULL");
      ContextValue value{.name = entry.name};
      if (entry.text == nullptr)
        value.number = entry.number;
      else
        value.text = std::string_view(entry.text, entry.text_size);
      context.push_back(value);
    }
    request.user = {from.user_id, from.timestamp, {}, context};
    if (from.scenario != nullptr) request.user.scenario = std::string_view(from.scenario, from.scenario_size);
    if (from.candidates > 0) request.candidates = from.candidates;
    if (from.item_ids != nullptr) request.item_ids = std::span(from.item_ids, from.items);
    request.seen = optional_span(from.seen, from.seen_size);
    if (from.flags & PYGRADE_USER_ELIGIBLE) request.eligible = optional_span(from.eligible, from.eligible_size);
    if (from.rules != nullptr) {
      request.rules = asking;
      request.item_values = pricing;
    }
    request.page.explore = from.flags & PYGRADE_USER_EXPLORE;
    if (from.flags & PYGRADE_USER_DRAW) request.page.draw = from.draw;
    request.page.values = optional_span(from.values, from.tasks);
    if (from.deadline_us > 0) request.deadline = std::chrono::microseconds(from.deadline_us);
    if (from.waited_us > 0) {
      constexpr std::uint64_t day = 86'400'000'000;  // who waited longer is as late
      request.arrival = std::chrono::steady_clock::now() - std::chrono::microseconds(std::min(from.waited_us, day));
    }
    if (from.predictions != nullptr) request.predictions = std::span(from.predictions, from.items * tasks);
    for (const pygrade_item_column& column : std::span(from.item_features, from.item_features_size)) {
      require(column.name != nullptr && (column.values != nullptr || from.items == 0),
              "an entry of request.item_features has a NULL member");
      columns.push_back({column.name, {column.values, from.items}});
    }
    request.item_features = columns;
    request.user_data = from.user_data;
    request.page.page_terms = (from.flags & PYGRADE_USER_NO_PAGE_TERMS) == 0;
    request.page.as_logged = (from.flags & PYGRADE_USER_AS_LOGGED) != 0;
    for (const char* name : optional_span(from.categories, from.items)) categories.emplace_back(name ? name : "");
    request.page.categories = categories;
    request.page.embeddings = optional_span(from.embeddings, from.items * from.embedding_size);
    request.page.production_scores = optional_span(from.production_scores, from.items);
    request.page.pins = optional_span(from.pins, places);
    request.page.demoted = optional_span(from.demoted, from.items);
    if (from.history != nullptr) request.history = reading;
  }
};

PipelineBuffer buffer_of(const pygrade_user_page& page, std::size_t tasks) {
  require_range("page.k", page.k, 1, limit);
  require(page.items != nullptr && page.scores != nullptr, "page.items or page.scores is NULL");
  return {{page.items, page.k},
          {page.scores, page.k},
          optional_span(page.weights, tasks),
          optional_span(page.concentration, tasks)};
}

void write_page(const ServedPage& served, const PageWorkspace* workspace, pygrade_user_page& page,
                pygrade_user_page* to) {
  page.filled = served.filled;
  page.candidates = served.candidates;
  page.missing_predictions = served.page.missing_predictions;
  page.degraded = static_cast<std::int32_t>(served.degraded);
  page.fallback = static_cast<std::int32_t>(served.page.fallback);
  page.explored = served.page.explored;
  page.seed = served.page.seed;
  page.searched = served.page.searched;
  page.missing_items = served.page.missing_items;
  std::memset(page.policy_version, 0, sizeof page.policy_version);
  served.page.version().copy(page.policy_version, sizeof page.policy_version - 1);
  std::memcpy(page.artifact_version, served.artifact_version.data(), sizeof page.artifact_version);
  page.mixture_weight = served.page.mixture_weight;
  page.verdict = static_cast<std::int32_t>(served.page.verdict);
  std::memcpy(page.baseline, served.page.baseline_name.data(), sizeof page.baseline);
  page.history = served.history;
  std::ranges::copy(served.seconds, page.seconds);
  page.candidate_ids = workspace == nullptr ? nullptr : workspace->item_ids().data();
  page.predictions = workspace == nullptr ? nullptr : workspace->predictions().data();
  write_struct(page, to);
}
}  // namespace

pygrade_status pygrade_pipeline_load(const char* artifact, const char* store, const pygrade_pipeline_options* options,
                                     pygrade_pipeline** pipeline) {
  return guarded(error_of(options), [&] {
    require(artifact != nullptr && pipeline != nullptr, "artifact or pipeline is NULL");
    const Options known = options_of(options);
    *pipeline = make(Models::load(artifact), store, known).release();
  });
}

pygrade_status pygrade_pipeline_create(const pygrade_file* files, size_t count, const char* store,
                                       const pygrade_pipeline_options* options, pygrade_pipeline** pipeline) {
  return guarded(error_of(options), [&] {
    require(pipeline != nullptr, "pipeline is NULL");
    const Options known = options_of(options);
    *pipeline = make(Models::parse(files_of(files, count)), store, known).release();
  });
}

pygrade_status pygrade_pipeline_reload(pygrade_pipeline* pipeline, const char* artifact, char* error,
                                       size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(pipeline != nullptr && artifact != nullptr, "pipeline or artifact is NULL");
    publish(pipeline, Models::load(artifact));
  });
}

pygrade_status pygrade_pipeline_reload_files(pygrade_pipeline* pipeline, const pygrade_file* files, size_t count,
                                             char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(pipeline != nullptr, "pipeline is NULL");
    publish(pipeline, Models::parse(files_of(files, count)));
  });
}

void pygrade_pipeline_free(pygrade_pipeline* pipeline) { delete pipeline; }

pygrade_status pygrade_pipeline_describe(const pygrade_pipeline* pipeline, pygrade_pipeline_info* info, char* error,
                                         size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(pipeline != nullptr, "pipeline is NULL");
    auto known = read_struct(info, "info");
    const Models models = pipeline->pipeline->models();
    std::memset(known.version, 0, sizeof known.version);
    std::memset(known.schema_hash, 0, sizeof known.schema_hash);
    models.version.copy(known.version, sizeof known.version - 1);
    models.features->hash().copy(known.schema_hash, sizeof known.schema_hash - 1);
    known.items = models.prerank->num_items();
    known.request_features = models.features->request_features().size();
    known.item_features = models.features->item_features().size() + models.features->cross_features().size();
    write_struct(known, info);
  });
}

pygrade_status pygrade_pipeline_policy(const pygrade_pipeline* pipeline, pygrade_policy** policy, char* error,
                                       size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(pipeline != nullptr && policy != nullptr, "pipeline or policy is NULL");
    *policy = new pygrade_policy{pipeline->pipeline->models().policy};
  });
}

pygrade_status pygrade_pipeline_feature(const pygrade_pipeline* pipeline, size_t index, char* name, size_t capacity,
                                        char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(pipeline != nullptr && name != nullptr, "pipeline or name is NULL");
    const Models models = pipeline->pipeline->models();
    const auto& names = models.features->request_features();
    require(!names.empty(), "the artifact has no features of the user and the context");
    require_range("index", index, 0, names.size() - 1);
    if (names[index].size() + 1 > capacity)
      throw TooSmall("the name and its 0 have " + std::to_string(names[index].size() + 1) + " bytes; capacity is " +
                     std::to_string(capacity));
    std::memcpy(name, names[index].c_str(), names[index].size() + 1);
  });
}

pygrade_status pygrade_workspace_create(pygrade_workspace** workspace, char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(workspace != nullptr, "workspace is NULL");
    *workspace = new pygrade_workspace;
  });
}

void pygrade_workspace_free(pygrade_workspace* workspace) { delete workspace; }

pygrade_status pygrade_pipeline_rank(pygrade_pipeline* pipeline, const pygrade_user_request* request,
                                     pygrade_user_page* page) {
  return guarded(error_of(request), [&] {
    require(pipeline != nullptr, "pipeline is NULL");
    const auto given = read_struct(request, "request");
    auto known = read_struct(page, "page");
    thread_local std::vector<ContextValue> context;  // these keep their memory
    thread_local std::vector<ItemColumn> columns;
    UserRequest user;
    user.context.swap(context);
    user.context.clear();
    user.columns.swap(columns);
    user.columns.clear();
    const std::size_t tasks = pipeline->pipeline->num_tasks();
    user.read(given, tasks, known.k);
    auto buffer = buffer_of(known, tasks);
    std::vector<PageEffect> effects;
    if (known.effects != nullptr) effects.resize(known.k), buffer.effects = effects;
    std::optional<detail::Loan<detail::Pool<PageWorkspace>>> loan;
    if (given.workspace == nullptr) loan.emplace(pipeline->workspaces);
    PageWorkspace& workspace = loan ? **loan : given.workspace->workspace;
    const ServedPage served = pipeline->pipeline->rank(user.request, buffer, workspace);
    if (served.page.searched) write_effects(effects, known.effects);
    write_page(served, loan ? nullptr : &workspace, known, page);
    user.context.swap(context);
    user.columns.swap(columns);
  });
}

pygrade_status pygrade_pipeline_rank_batch(pygrade_pipeline* pipeline, const pygrade_user_batch* batch) {
  return guarded(error_of(batch), [&] {
    require(pipeline != nullptr, "pipeline is NULL");
    const auto known = read_struct(batch, "batch");
    require_flags("batch.flags", known.flags, 0);
    require_range("batch.num_threads", known.num_threads, 1, std::numeric_limits<std::int32_t>::max());
    require(known.count == 0 || (known.requests != nullptr && known.pages != nullptr),
            "batch.requests or batch.pages is NULL");
    const std::size_t count = known.count, tasks = pipeline->pipeline->num_tasks();
    std::vector<pygrade_user_request> copies(count);
    std::vector<pygrade_user_page> written(count);
    std::vector<UserRequest> users(count);
    std::vector<PipelineRequest> requests(count);
    std::vector<PipelineBuffer> buffers(count);
    std::vector<ServedPage> pages(count);
    std::vector<std::vector<PageEffect>> effects(count);
    for (std::size_t r = 0; r < count; ++r) {
      copies[r] = read_struct(element(known.requests, r, "request"), "request");
      written[r] = read_struct(element(known.pages, r, "page"), "page");
      buffers[r] = buffer_of(written[r], tasks);
      if (written[r].effects != nullptr) effects[r].resize(written[r].k), buffers[r].effects = effects[r];
      users[r].read(copies[r], tasks, written[r].k);
      requests[r] = users[r].request;
    }
    std::vector<PageWorkspace> workspaces(
        std::clamp<std::size_t>(static_cast<std::size_t>(known.num_threads), 1, std::max<std::size_t>(count, 1)));
    for (auto& workspace : workspaces) workspace = std::move(*pipeline->workspaces.acquire());
    pipeline->pipeline->rank(requests, buffers, pages, workspaces);
    for (auto& workspace : workspaces)
      pipeline->workspaces.release(std::make_unique<PageWorkspace>(std::move(workspace)));
    for (std::size_t r = 0; r < count; ++r) {
      if (pages[r].page.searched) write_effects(effects[r], written[r].effects);
      write_page(pages[r], nullptr, written[r], element(known.pages, r, "page"));
    }
  });
}

pygrade_status pygrade_pipeline_update(pygrade_pipeline* pipeline, const pygrade_events* events) {
  return guarded(error_of(events), [&] {
    require(pipeline != nullptr, "pipeline is NULL");
    const auto known = read_struct(events, "events");
    require(known.count == 0 || (known.user_id != nullptr && known.item_id != nullptr && known.time != nullptr),
            "events.user_id, events.item_id or events.time is NULL");
    require(known.num_outcomes == 0 || (known.outcomes != nullptr && known.values != nullptr),
            "events.outcomes or events.values is NULL");
    std::vector<std::string_view> scenario;
    if (known.scenario != nullptr)
      for (const char* text : std::span(known.scenario, known.count)) {
        require(text != nullptr, "a text of events.scenario is NULL; expected \"\" for none");
        scenario.emplace_back(text);
      }
    std::vector<FeedbackEvents::Outcome> outcomes;
    for (std::size_t i = 0; i < known.num_outcomes; ++i) {
      require(known.outcomes[i] != nullptr && (known.values[i] != nullptr || known.count == 0),
              "a name of events.outcomes or a column of events.values is NULL");
      outcomes.push_back({known.outcomes[i], {known.values[i], known.count}});
    }
    FeedbackEvents given;
    given.user_id = {known.user_id, known.count};
    given.item_id = {known.item_id, known.count};
    given.event_time = {known.time, known.count};
    given.scenario = scenario;
    given.outcomes = outcomes;
    pipeline->pipeline->update(given);
  });
}

pygrade_status pygrade_pipeline_count(const pygrade_pipeline* pipeline, pygrade_pipeline_counters* counters,
                                      char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(pipeline != nullptr, "pipeline is NULL");
    auto known = read_struct(counters, "counters");
    const PipelineCounters now = pipeline->pipeline->counters();
    known.requests = now.ranker.requests;
    known.degraded_store = now.degraded_store;
    known.degraded_deadline = now.degraded_deadline;
    known.degraded_version = now.degraded_version;
    known.fallback_scenario = now.ranker.fallback_scenario;
    known.fallback_global = now.ranker.fallback_global;
    known.explored = now.ranker.explored;
    known.missing_predictions = now.ranker.missing_predictions;
    known.empty_pages = now.ranker.empty_pages;
    known.store_errors = now.features.store_errors;
    known.user_misses = now.features.user_misses;
    known.item_misses = now.features.item_misses;
    known.updates = now.features.updates;
    known.reloads = now.reloads;
    write_struct(known, counters);
  });
}
