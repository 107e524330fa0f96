#include <time.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "../../devtools/allocations.hpp"
#include "check.hpp"
#include "pipeline_artifact.hpp"
#include "pygrade/pipeline.h"
#include "pygrade/pipeline.hpp"
#include "serving.hpp"
#include "versioned_store.hpp"

namespace {
using namespace pygrade;
using namespace pygrade::tests;
namespace fs = std::filesystem;

constexpr std::size_t k = 5;
constexpr std::int64_t now = 1'700'003'000'000;

const Models& first() {
  static const Models models = Models::load(test_artifact("first"));
  return models;
}
const Models& second() {
  static const Models models = Models::load(test_artifact("second"));
  return models;
}

std::string meta(const Models& models, const std::string& version) {
  return R"({"schema": ")" + models.features->hash() + R"(", "version": ")" + version + R"("})";
}

// Events of some users on some items, the more the higher `round` is.
std::size_t add_events(Pipeline& pipeline, std::int64_t round) {
  std::vector<std::int64_t> users, items, times;
  std::vector<std::string_view> scenarios;
  std::vector<double> click, like, order;
  for (std::int64_t i = 0; i < 40; ++i) {
    users.push_back(i % 5);
    items.push_back((i * 7 + round) % 120);
    times.push_back(now - 1'000'000 + 1000 * i + round);
    scenarios.push_back(i % 2 ? "feed" : "search");
    click.push_back(static_cast<double>((i + round) % 2));
    like.push_back(static_cast<double>((i + round) % 3 == 0));
    order.push_back(static_cast<double>((i + round) % 7 == 0));
  }
  const FeedbackEvents::Outcome outcomes[] = {{"y_click", click}, {"y_like", like}, {"y_order", order}};
  return pipeline.update({users, items, times, scenarios, outcomes});
}

struct System {
  std::shared_ptr<VersionedStore> store;
  std::unique_ptr<Pipeline> pipeline;

  explicit System(const PipelineOptions& options = {.seed = 1}) : store(new_store()) {
    pipeline = Pipeline::load(first(), store, options);
    add_events(*pipeline, 0);
  }
  static std::shared_ptr<VersionedStore> new_store() {
    auto store = std::make_shared<VersionedStore>(first().version);
    store->put(first().version, "meta", 0, meta(first(), first().version));
    return store;
  }
};

struct Answer {
  ServedPage page;
  std::vector<std::int64_t> items = std::vector<std::int64_t>(k, -7);
  std::vector<float> scores = std::vector<float>(k), weights = std::vector<float>(3), concentration = weights;

  PipelineBuffer buffer() { return {items, scores, weights, concentration}; }
  bool same(const Answer& other) const {
    return items == other.items && std::memcmp(scores.data(), other.scores.data(), k * sizeof(float)) == 0 &&
           std::memcmp(weights.data(), other.weights.data(), weights.size() * sizeof(float)) == 0;
  }
};

PipelineRequest request_of(std::int64_t user) {
  PipelineRequest request;
  request.user = {user, now, "feed", {}};
  request.candidates = 40;
  return request;
}

Answer rank(Pipeline& pipeline, const PipelineRequest& request, PageWorkspace& workspace) {
  Answer answer;
  answer.page = pipeline.rank(request, answer.buffer(), workspace);
  return answer;
}

Answer rank(Pipeline& pipeline, const PipelineRequest& request) {
  PageWorkspace workspace;
  return rank(pipeline, request, workspace);
}

TEST(a_page_is_full_sorted_and_the_same_in_any_workspace) {
  System system;
  PageWorkspace workspace;
  const Answer page = rank(*system.pipeline, request_of(3), workspace);
  CHECK_EQUAL(page.page.filled, static_cast<std::int32_t>(k));
  CHECK_EQUAL(page.page.candidates, 40);
  CHECK(page.page.degraded == Degraded::none);
  CHECK(std::ranges::is_sorted(page.scores, std::greater()));
  CHECK_EQUAL(std::string(page.page.artifact_version.data()), first().version);
  CHECK_EQUAL(std::string(page.page.page.version()), first().policy->version());
  CHECK_EQUAL(page.page.history, 8.0f);
  CHECK_EQUAL(workspace.item_ids().size(), std::size_t{40});
  CHECK_EQUAL(workspace.predictions().size(), std::size_t{120});
  CHECK(workspace.request().predictions.data() == workspace.predictions().data());
  CHECK(&workspace.buffer().indices[0] != nullptr);
  for (std::size_t i = 0; i < k; ++i)
    CHECK_EQUAL(workspace.item_ids()[static_cast<std::size_t>(workspace.buffer().indices[i])], page.items[i]);
  CHECK(rank(*system.pipeline, request_of(3), workspace).same(page));
  CHECK(rank(*system.pipeline, request_of(3)).same(page));
  rank(*system.pipeline, request_of(4), workspace);
  CHECK(rank(*system.pipeline, request_of(3), workspace).same(page));
}

TEST(rules_are_asked_for_the_candidates) {
  System system;
  const Answer page = rank(*system.pipeline, request_of(3));
  std::vector<std::uint8_t> mask;
  const auto rules = [&](std::span<const std::int64_t> items) {
    mask.assign(items.size(), 1);
    for (std::size_t i = 0; i < items.size(); ++i) mask[i] = items[i] != page.items[0];
    PageRules found;
    found.mask = mask;
    return found;
  };
  PipelineRequest request = request_of(3);
  request.rules = rules;
  const Answer without = rank(*system.pipeline, request);
  CHECK(std::equal(without.items.begin(), without.items.end() - 1, page.items.begin() + 1));
}

// Functions that a request refers to must outlive the expression that names them: no lambda in place.
template <class Member, class Callable>
constexpr bool takes = std::is_assignable_v<Member&, Callable>;
using Rules = decltype(PipelineRequest::rules);
using RulesLambda = decltype([](std::span<const std::int64_t>) { return PageRules(); });
static_assert(takes<Rules, RulesLambda&> && takes<Rules, const RulesLambda&>);
static_assert(!takes<Rules, RulesLambda> && !takes<Rules, const RulesLambda>);
static_assert(!takes<Rules, FunctionRef<PageRules(std::span<const std::int64_t>)>>);
using PricesLambda = decltype([](std::span<const std::int64_t>) { return std::span<const float>(); });
static_assert(takes<decltype(PipelineRequest::item_values), PricesLambda&>);
static_assert(!takes<decltype(PipelineRequest::item_values), PricesLambda>);

TEST(what_does_not_fit_is_refused_before_anything_is_written) {
  System system;
  PageWorkspace workspace;
  Answer answer;
  const auto refused = [&](const PipelineRequest& request, PipelineBuffer buffer, const char* text) {
    try {
      system.pipeline->rank(request, buffer, workspace);
      CHECK(false);
    } catch (const std::invalid_argument& error) {
      CHECK(std::string(error.what()).find(text) != std::string::npos);
    }
    CHECK_EQUAL(answer.items[0], std::int64_t{-7});
  };
  PipelineBuffer buffer = answer.buffer();
  refused(request_of(3), {}, "k >= 1");
  buffer.weights = buffer.weights.first(2);
  refused(request_of(3), buffer, "one place for each task");
  buffer = answer.buffer();
  PipelineRequest request = request_of(3);
  request.candidates = 0;
  refused(request, buffer, "candidates is 0");
  const std::int64_t twice[] = {4, 7, 4}, negative[] = {4, -1};
  request = request_of(3);
  request.item_ids = twice;
  refused(request, buffer, "item_ids holds 4 more than once");
  request.item_ids = negative;
  refused(request, buffer, "item_ids holds -1");
  request.item_ids = std::span<const std::int64_t>();
  refused(request, buffer, "no candidate is left");
  request = request_of(3);
  request.eligible = std::span<const std::int64_t>();
  refused(request, buffer, "no candidate is left");
  const ContextValue context[] = {{.name = "c_nothing"}};
  request = request_of(3);
  request.user.context = context;
  refused(request, buffer, "c_nothing");
  const float values[] = {1.0f, HUGE_VALF, 1.0f};
  request = request_of(3);
  request.page.values = values;
  refused(request, buffer, "values");
  CHECK_EQUAL(system.pipeline->counters().ranker.requests, std::uint64_t{0});
}

TEST(without_time_an_unknown_users_items_are_served) {
  System system;
  PipelineRequest request = request_of(3);
  request.deadline = std::chrono::microseconds(0);
  const Answer page = rank(*system.pipeline, request);
  CHECK(page.page.degraded == Degraded::deadline);
  CHECK_EQUAL(page.page.filled, static_cast<std::int32_t>(k));
  CHECK(page.page.page.fallback != Fallback::none);
  CHECK_EQUAL(system.pipeline->counters().degraded_deadline, std::uint64_t{1});
  request.seen = page.items;
  const Answer others = rank(*system.pipeline, request);
  for (const auto item : others.items) CHECK(std::ranges::find(page.items, item) == page.items.end());
  request.seen = {};
  const std::int64_t two[] = {page.items[3], page.items[1]}, unknown[] = {1'000'000'000'000};
  request.eligible = two;
  const Answer some = rank(*system.pipeline, request);
  CHECK_EQUAL(some.page.filled, 2);
  CHECK_EQUAL(some.items[0] + some.items[1], two[0] + two[1]);
  request.eligible = unknown;
  CHECK_EQUAL(rank(*system.pipeline, request).items[0], unknown[0]);
  request.eligible = {};
  request.item_ids = two;
  CHECK_EQUAL(rank(*system.pipeline, request).page.filled, 2);
  request = request_of(3);
  request.deadline = std::chrono::seconds(100);
  CHECK(rank(*system.pipeline, request).same(rank(*system.pipeline, request_of(3))));
}

TEST(models_and_version_of_the_store_change_in_one_step) {
  System system;
  const Answer before = rank(*system.pipeline, request_of(3));
  const std::string next = second().version;
  system.store->put(next, "meta", 0, meta(second(), next));
  system.store->switch_to(next);  // a version without history
  CHECK(rank(*system.pipeline, request_of(3)).same(before));
  system.pipeline->publish(second());
  const Answer after = rank(*system.pipeline, request_of(3));
  CHECK_EQUAL(std::string(after.page.artifact_version.data()), next);
  CHECK_EQUAL(std::string(after.page.page.version()), second().policy->version());
  CHECK_EQUAL(after.page.history, 0.0f);
  system.pipeline->publish(first());
  CHECK(rank(*system.pipeline, request_of(3)).same(before));
  system.store->drop(first().version);  // its own version is gone: the current one is read
  const Answer other = rank(*system.pipeline, request_of(3));
  CHECK_EQUAL(other.page.history, 0.0f);
  CHECK(other.page.degraded == Degraded::version);
  CHECK(other.page.page.fallback == Fallback::none);  // the features are those of a version, if not of the wanted one
  CHECK_THROWS(ArtifactError, "does not hold version " + first().version, system.pipeline->publish(first()));
  const auto counters = system.pipeline->counters();
  CHECK_EQUAL(counters.degraded_version, std::uint64_t{1});
  CHECK_EQUAL(counters.reloads, std::uint64_t{2});
  CHECK_EQUAL(counters.ranker.requests, std::uint64_t{5});
  CHECK_EQUAL(counters.features.reads, std::uint64_t{5});
}

// Models that say where they were freed.
Models watched(Models models, std::atomic<int>& freed, std::thread::id& freed_by) {
  models.attached = std::shared_ptr<const void>(&freed, [&](const void*) {
    freed_by = std::this_thread::get_id();
    ++freed;
  });
  return models;
}

TEST(the_publisher_frees_the_models_before) {
  System system({.seed = 1, .any_version = true});
  std::atomic<int> freed{0};
  std::thread::id freed_by;
  std::vector<PageWorkspace> idle(8);
  for (int i = 0; i < 8; ++i) {
    system.pipeline->publish(watched(first(), freed, freed_by));
    rank(*system.pipeline, request_of(i), idle[static_cast<std::size_t>(i)]);
    CHECK_EQUAL(freed.load(), i);  // idle workspaces hold none
  }
  std::atomic<bool> leased{false}, done{false};
  std::thread thread([&] {
    PageWorkspace workspace;
    Pipeline::Lease lease(*system.pipeline, workspace);
    CHECK_THROWS(std::logic_error, "has a lease", Pipeline::Lease(*system.pipeline, workspace));
    leased = true;
    while (system.pipeline->counters().reloads < 8 || !done) std::this_thread::yield();
    CHECK_EQUAL(freed.load(), 7);
    rank(*system.pipeline, request_of(3), workspace);
    CHECK(lease.models().attached.get() == &freed && &workspace.models() == &lease.models());
    CHECK_EQUAL(workspace.policy().version(), first().policy->version());
  });
  while (!leased) std::this_thread::yield();
  std::thread other([&] {  // sees the new models while the publisher waits
    while (rank(*system.pipeline, request_of(3)).page.artifact_version.data() != second().version)
      std::this_thread::yield();
    done = true;
  });
  system.pipeline->publish(second());
  CHECK_EQUAL(freed.load(), 8);
  CHECK(freed_by == std::this_thread::get_id());
  thread.join();
  other.join();
  CHECK_THROWS(std::logic_error, "has no lease", idle[0].models());
}

TEST(what_is_remembered_of_items_survives_models_of_the_same_features) {
  System system({.seed = 1, .any_version = true});
  const auto center = system.pipeline->center();
  const Models again = Models::load(test_artifact("first"));
  CHECK(again.features != first().features);
  CHECK_EQUAL(again.features->fingerprint(), first().features->fingerprint());
  system.pipeline->publish(again);
  CHECK(system.pipeline->center() == center);
}

TEST(the_callers_model_and_search_take_the_places_of_the_artifacts) {
  Models models = first();
  const auto model = models.mtl;
  const auto prerank = models.prerank;
  models.mtl = nullptr;
  models.prerank = nullptr;
  PipelineOptions options{.seed = 1};
  bool fails = false;
  std::vector<std::optional<std::int64_t>> users;
  options.predict = [&](const ModelRows& rows, std::span<float> out) {
    if (fails) throw std::runtime_error("no model");
    CHECK_EQUAL(rows.item_ids.size(), rows.rows);
    users.push_back(rows.request == nullptr ? std::nullopt : std::optional(rows.request->user_id));
    model->predict_request(rows.request_dense, rows.request_ids, rows.dense, rows.ids, out);
  };
  options.retrieve = [&](const FeatureBuffer& user, std::span<const std::int64_t> seen,
                         std::optional<std::span<const std::int64_t>> eligible, std::span<std::int64_t> items) {
    std::vector<float> vector(prerank->width());
    prerank->user_vector(user.request_dense, user.request_ids, user.sequences, vector);
    return prerank->search(vector, seen, eligible, items);
  };
  System system;
  const auto own = Pipeline::load(models, system.store, options);
  CHECK(rank(*own, request_of(3)).same(rank(*system.pipeline, request_of(3))));
  CHECK(users == (std::vector<std::optional<std::int64_t>>{std::nullopt, 3}));  // first what an unknown user gets
  fails = true;
  CHECK_THROWS(std::runtime_error, "no model", rank(*own, request_of(3)));
}

// Models without the artifact's network, as of a run with --mtl own.
Models own_models() {
  Models models = first();
  models.mtl = nullptr;
  return models;
}

TEST(what_predict_is_given) {
  System system;
  PipelineOptions options{.seed = 1};
  options.item_features = false;
  struct Call {
    std::size_t first, rows;
  };
  options.predict = [](const ModelRows& rows, std::span<float> out) {
    CHECK(rows.dense.empty() && rows.ids.empty() && !rows.request_dense.empty());
    if (rows.request == nullptr) {
      CHECK(rows.user_data == nullptr);
      std::ranges::fill(out, 0.1f);
      return;
    }
    static_cast<std::vector<Call>*>(rows.user_data)->push_back({rows.first, rows.rows});
    for (std::size_t i = 0; i < out.size(); ++i)  // by the place among the candidates
      out[i] = 1.0f / static_cast<float>(2 + rows.first + i / 3);
  };
  const auto own = Pipeline::load(own_models(), system.store, options);
  std::vector<std::int64_t> items(300);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = static_cast<std::int64_t>(1000 - i);
  std::vector<Call> calls;
  PipelineRequest request = request_of(3);
  request.item_ids = items;
  request.user_data = &calls;
  const Answer whole = rank(*own, request);
  CHECK_EQUAL(calls.size(), std::size_t{1});
  request.deadline = std::chrono::seconds(100);
  const Answer blocks = rank(*own, request);
  CHECK(blocks.same(whole));
  CHECK_EQUAL(whole.items[0], std::int64_t{1000});
  CHECK(calls.size() > 2);
  std::size_t next = 0;
  for (const Call& call : std::span(calls).subspan(1)) {
    CHECK_EQUAL(call.first, next);
    next += call.rows;
  }
  CHECK_EQUAL(next, items.size());
}

// A policy of the artifact's tasks and features that corrects by the item columns age and stock and by levels of items.
std::shared_ptr<const Policy> leveled_policy(unsigned seed, const std::string& column,
                                             const std::string& keys = "item_keys") {
  Artifact made = corrected_artifact("0.5");
  made.seed = seed;
  made.tasks = first().policy->tasks();
  made.features = first().policy->features();
  made.evidence_feature = made.features[0];
  made.indicators = {};
  made.value_tasks = {};
  made.mixture = "null";
  made.scenario_values = made.values = "{}";
  made.correction->items = {"age", column, "level of click", "level of like", "level of order"};
  made.correction->indicators = "[]";
  made.correction->indicator_count = 0;
  made.draw();
  // Keys are splitmix64 of the ids 1 and 2; the values are 1, 0, -1 and 0.5, 0.25, 0.
  made.replaced["correction"] = Artifact::object(
      {{"items", R"(["age", ")" + column + R"(", "level of click", "level of like", "level of order"])"},
       {"parents", made.correction->parents},
       {"amounts", made.correction->amounts},
       {"indicators", made.correction->indicators},
       {"form", made.correction->form},
       {"levels", R"({")" + keys + R"(": "5QULEB0WklaKFCs6lzjS2w==", "values": "AACAPwAAAAAAAIC/AAAAPwAAgD4AAAAA"})"}});
  return parse(made);
}

TEST(columns_and_levels_of_items_reach_the_corrections) {
  Models models = first();
  models.policy = leveled_policy(1, "stock");
  models.alternatives = {leveled_policy(2, "price")};
  CHECK_THROWS(ArtifactError, "train the policy again", leveled_policy(1, "stock", "keys"));
  System system;
  const auto pipeline = Pipeline::load(models, system.store, {.seed = 1});
  const std::int64_t items[] = {2, 7, 1};
  const float age[] = {1.0f, 2.0f, 3.0f}, price[] = {4.0f, 5.0f, 6.0f};
  const ItemColumn columns[] = {{"age", age}, {"price", price}};
  PipelineRequest request = request_of(3);
  request.item_ids = items;
  PageWorkspace workspace;
  const Answer levels = rank(*pipeline, request, workspace);
  const auto row = [&](std::size_t i) { return workspace.request().items.subspan(5 * i, 5); };
  CHECK_EQUAL(workspace.request().items.size(), std::size_t{15});
  CHECK_EQUAL(workspace.unknown_items(), std::size_t{1});
  CHECK(std::isnan(row(0)[0]) && std::isnan(row(0)[1]));
  CHECK(std::ranges::equal(row(0).last(3), std::vector<float>{0.5f, 0.25f, 0.0f}));
  CHECK(std::ranges::equal(row(1).last(3), std::vector<float>{0.0f, 0.0f, 0.0f}));
  CHECK(std::ranges::equal(row(2).last(3), std::vector<float>{1.0f, 0.0f, -1.0f}));
  request.item_features = columns;
  const Answer given = rank(*pipeline, request, workspace);
  CHECK(!given.same(levels));
  CHECK(row(1)[0] == 2.0f && std::isnan(row(1)[1]));
  // A ranker that is told the ids looks them up, too, where the caller gave no levels.
  Ranker ranker(models.policy, {.seed = 1});
  Request by_id = workspace.request();
  std::vector<float> rows(by_id.items.begin(), by_id.items.end());
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (i % 5 > 1) rows[i] = nan_value;
  PageMemory page(3), without(3);
  by_id.items = rows;
  ranker.rank(by_id, without);
  by_id.item_ids = items;
  ranker.rank(by_id, page);
  CHECK(std::ranges::equal(page.values, std::span(given.scores).first(3)) && page.values != without.values);
  std::string log;
  append_log_header(*models.policy, log);
  CHECK(log.find("i_stock") != log.npos && log.find("i_level") == log.npos);
  by_id.item_ids = std::span(items).first(2);
  CHECK_THROWS(std::invalid_argument, "item_ids has", ranker.rank(by_id, page));

  request.policy = 1;  // it has other columns
  CHECK(!rank(*pipeline, request, workspace).same(given));
  CHECK(row(1)[0] == 2.0f && row(1)[1] == 5.0f);
}

TEST(history_is_filled_in_for_the_candidates_or_another_policy_ranks) {
  Models models = first();
  models.policy = leveled_policy(1, "stock");
  models.alternatives = {leveled_policy(2, "price")};
  System system;
  const auto pipeline = Pipeline::load(models, system.store, {.seed = 1});
  const std::size_t features = models.policy->features().size(), width = models.policy->items().size();
  PipelineRequest request = request_of(3);
  bool there = true;
  std::vector<std::int64_t> asked;
  const auto fill = [&](std::span<const std::int64_t> ids, std::span<float> context, std::span<float> columns) {
    asked.assign(ids.begin(), ids.end());
    CHECK(context.size() == features && columns.size() == ids.size() * width);
    context[1] = 7.0f;
    columns[width] = 3.0f;  // of the second candidate
    return there;
  };
  request.history = fill;
  request.without_history = 1;
  PageWorkspace workspace;
  const Answer filled = rank(*pipeline, request, workspace);
  CHECK(std::ranges::equal(asked, workspace.item_ids()) && asked.size() == 40);
  CHECK(workspace.request().context[1] == 7.0f && workspace.request().items[width] == 3.0f);
  CHECK(filled.page.degraded == Degraded::none && filled.page.page.version() == models.policy->version());
  there = false;
  const Answer without = rank(*pipeline, request, workspace);
  CHECK(without.page.degraded == Degraded::history);
  CHECK_EQUAL(without.page.page.version(), models.alternatives[0]->version());
  asked.clear();
  request.deadline = std::chrono::microseconds(0);
  const Answer late = rank(*pipeline, request, workspace);
  CHECK(late.page.degraded == Degraded::deadline && asked.empty());
  CHECK_EQUAL(late.page.page.version(), models.alternatives[0]->version());
  request.without_history = 2;
  CHECK_THROWS(std::invalid_argument, "without_history", rank(*pipeline, request));
}

TEST(a_deadline_counts_from_the_arrival) {
  System system;
  PipelineRequest request = request_of(3);
  request.deadline = std::chrono::seconds(100);
  request.arrival = std::chrono::steady_clock::now();
  CHECK(rank(*system.pipeline, request).page.degraded == Degraded::none);
  *request.arrival -= std::chrono::seconds(101);
  CHECK(rank(*system.pipeline, request).page.degraded == Degraded::deadline);
  CHECK_EQUAL(system.pipeline->counters().features.reads, std::uint64_t{1});  // nothing was read for it
}

TEST(draws_follow_each_other_over_reloads_and_batches) {
  System system;
  system.store->put(second().version, "meta", 0, meta(second(), second().version));
  PipelineRequest request = request_of(3);
  request.page.explore = true;
  const std::uint64_t start = std::uint64_t{1} << 32;
  CHECK_EQUAL(rank(*system.pipeline, request).page.page.seed, start);
  system.pipeline->publish(second());
  CHECK_EQUAL(rank(*system.pipeline, request).page.page.seed, start + 1);
  const std::vector<PipelineRequest> requests(4, request);
  for (std::size_t threads : {1, 3}) {
    std::vector<Answer> answers(4);
    std::vector<PipelineBuffer> buffers;
    for (auto& answer : answers) buffers.push_back(answer.buffer());
    std::vector<ServedPage> pages(4);
    std::vector<PageWorkspace> workspaces(threads);
    const std::uint64_t next = rank(*system.pipeline, request).page.page.seed + 1;
    system.pipeline->rank(requests, buffers, pages, workspaces);
    for (std::size_t r = 0; r < 4; ++r) CHECK_EQUAL(pages[r].page.seed, next + r);
    for (std::size_t r = 0; r < 4; ++r) {
      PipelineRequest again = request;
      again.page.draw = next + r;
      CHECK(rank(*system.pipeline, again).same(answers[r]));
    }
  }
}

TEST(a_batch_reports_its_first_error_after_the_others) {
  System system;
  std::vector<PipelineRequest> requests(5, request_of(3));
  requests[1].candidates = 0;
  requests[3].eligible = std::span<const std::int64_t>();
  std::vector<Answer> answers(5);
  std::vector<PipelineBuffer> buffers;
  for (auto& answer : answers) buffers.push_back(answer.buffer());
  std::vector<ServedPage> pages(5);
  std::vector<PageWorkspace> workspaces(2);
  try {
    system.pipeline->rank(requests, buffers, pages, workspaces);
    CHECK(false);
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()).find("candidates is 0") != std::string::npos);
  }
  for (const std::size_t r : {0, 2, 4}) CHECK(answers[r].same(rank(*system.pipeline, request_of(3))));
}

TEST(distinct_ids_are_found_among_many) {
  System system;
  std::vector<std::int64_t> items(5000);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = static_cast<std::int64_t>(i) << 32;
  PipelineRequest request = request_of(3);
  request.item_ids = items;
  CHECK_EQUAL(rank(*system.pipeline, request).page.candidates, 5000);
  items[4999] = items[17];
  CHECK_THROWS(std::invalid_argument, "item_ids holds 73014444032 more than once", rank(*system.pipeline, request));
}

TEST(a_warm_workspace_allocates_nothing) {
  System system;
  PageWorkspace workspace;
  Answer answer;
  const auto page = [&](std::int64_t user) { system.pipeline->rank(request_of(user), answer.buffer(), workspace); };
  for (std::int64_t user = 0; user < 8; ++user) page(user);
  const std::uint64_t before = allocations;
  for (std::int64_t user = 0; user < 8; ++user) page(user);
  CHECK_EQUAL(allocations - before, std::uint64_t{0});
}

TEST(a_damaged_artifact_names_the_file) {
  const ArtifactFiles good = read_artifact(test_artifact("first"));
  CHECK_EQUAL(Models::parse(good).version, first().version);
  for (std::size_t f = 0; f < good.size(); ++f) {
    ArtifactFiles bad = good;
    const std::span<const std::byte> content = good[f].second;
    std::vector<std::byte> damaged(content.begin(), content.end());
    damaged[damaged.size() / 2] ^= std::byte{1};
    bad[f].second = std::move(damaged);
    try {
      Models::parse(bad);
      CHECK(false);
    } catch (const ArtifactError& error) {
      CHECK(std::string(error.what()).find(good[f].first) != std::string::npos);
    }
    bad = good;
    bad.erase(bad.begin() + static_cast<std::ptrdiff_t>(f));
    CHECK_THROWS(ArtifactMissing, "is missing", Models::parse(bad));
  }
  CHECK_THROWS(ArtifactMissing, "does not exist", Models::load(test_artifact("nothing")));
  Models mixed = first();
  mixed.policy = nullptr;
  CHECK_THROWS(ArtifactError, "policy", mixed.check());
  const auto store = System::new_store();
  CHECK_THROWS(ArtifactError, "publish again", Pipeline::load(second(), store));
  CHECK_EQUAL(Pipeline::load(second(), store, {.any_version = true})->num_tasks(), std::size_t{3});
}

// Every page of threads that rank while others publish and add feedback is one that a single thread makes; only pages
// during an update may see the user before it and the items after it. PYGRADE_TEST_PAGES=1000000 makes so many.
TEST(pages_under_updates_and_reloads_are_whole) {
  constexpr std::int64_t rounds = 6, users = 4;
  std::vector<Answer> wanted;  // [models, round, user]
  for (const Models* models : {&first(), &second()}) {
    System system({.seed = 1, .any_version = true});
    system.pipeline->publish(*models);
    for (std::int64_t round = 0; round <= rounds; ++round) {
      if (round > 0) add_events(*system.pipeline, round);
      for (std::int64_t user = 0; user < users; ++user) wanted.push_back(rank(*system.pipeline, request_of(user)));
    }
  }
  System system({.seed = 1, .any_version = true});
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0}, pages{0}, checked{0};
  std::atomic<std::int64_t> begun{0}, ended{0};  // rounds of feedback
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      PageWorkspace workspace;
      for (std::int64_t i = t; !done; ++i) {
        const std::int64_t user = i % users, round = ended;
        const Answer page = rank(*system.pipeline, request_of(user), workspace);
        const bool other = page.page.artifact_version.data() != first().version;
        if (begun == round) {
          ++checked;
          wrong += !wanted[static_cast<std::size_t>(((other ? rounds + 1 : 0) + round) * users + user)].same(page);
        }
        ++pages;
      }
    });
  for (std::int64_t round = 1; round <= rounds; ++round) {
    const int made = pages;
    system.pipeline->publish(round % 2 ? second() : first());
    while (pages < made + 20) std::this_thread::yield();
    begun = round;
    add_events(*system.pipeline, round);
    ended = round;
  }
  const char* const asked = std::getenv("PYGRADE_TEST_PAGES");
  for (const int wanted_pages = asked == nullptr ? 0 : std::atoi(asked); pages < wanted_pages;) {
    system.pipeline->publish(first());
    system.pipeline->publish(second());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  done = true;
  for (auto& thread : threads) thread.join();
  CHECK_EQUAL(wrong.load(), 0);
  CHECK(checked > 0);
  CHECK_EQUAL(system.pipeline->counters().ranker.requests, static_cast<std::uint64_t>(pages.load()));
}

// Ranks the same pages through C, over a store that is read from a directory or, here, from memory by way of C++.
TEST(the_c_abi_refuses_what_the_cpp_api_refuses) {
  pygrade_pipeline* pipeline = nullptr;
  char error[200] = "";
  pygrade_pipeline_options options{};
  options.size = sizeof options;
  options.error = error;
  options.error_size = sizeof error;
  const std::string path = test_artifact("first").string();
  CHECK_EQUAL(pygrade_pipeline_load("/nothing", "lmdb:/nothing", &options, &pipeline), PYGRADE_NOT_FOUND);
  CHECK(std::strstr(error, "/nothing/manifest.json does not exist") != nullptr);
  CHECK_EQUAL(pygrade_pipeline_load(path.c_str(), "lmdb:/nothing", &options, &pipeline), PYGRADE_STORE_FAILED);
  CHECK(std::strstr(error, "lmdb:/nothing") != nullptr);
  CHECK_EQUAL(pygrade_pipeline_load(path.c_str(), "nowhere", &options, &pipeline), PYGRADE_INVALID_ARGUMENT);
  CHECK(std::strstr(pygrade_last_error(), "nowhere") != nullptr);
  options.flags = 1u << 31;
  CHECK_EQUAL(pygrade_pipeline_load(path.c_str(), "nowhere", &options, &pipeline), PYGRADE_INVALID_ARGUMENT);
  CHECK(std::strstr(error, "options.flags is 2147483648 with the unknown bits 2147483648; expected bits of 31") !=
        nullptr);
  options.flags = 0;
  options.size = 3;
  CHECK_EQUAL(pygrade_pipeline_load(path.c_str(), "nowhere", &options, &pipeline), PYGRADE_INVALID_ARGUMENT);
  const pygrade_file files[] = {{"manifest.json", "{}", 2}};
  CHECK_EQUAL(pygrade_pipeline_create(files, 1, "lmdb:/nothing", nullptr, &pipeline), PYGRADE_BAD_ARTIFACT);
  CHECK_EQUAL(pygrade_pipeline_rank(nullptr, nullptr, nullptr), PYGRADE_INVALID_ARGUMENT);
  CHECK_EQUAL(pygrade_pipeline_update(nullptr, nullptr), PYGRADE_INVALID_ARGUMENT);
  CHECK_EQUAL(pygrade_pipeline_reload(nullptr, path.c_str(), nullptr, 0), PYGRADE_INVALID_ARGUMENT);
  pygrade_pipeline_free(nullptr);
  pygrade_workspace_free(nullptr);
  CHECK(pipeline == nullptr);
}
}  // namespace
