#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <sstream>
#include <thread>

#include "check.hpp"
#include "pygrade/dirichlet.hpp"
#include "pygrade/lambdaloss.hpp"
#include "pygrade/ranker.hpp"
#include "serving.hpp"
#include "util/json.hpp"

using namespace pygrade;
using namespace pygrade::tests;

namespace {
std::atomic<std::size_t> allocations{0}, live_bytes{0};

// A thread that sets `pause_at` stops in that allocation, counted from there, until `resumed`.
thread_local int pause_at = 0;
std::atomic<bool> paused{false}, resumed{false};

void* counted(std::size_t size, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  live_bytes.fetch_add(malloc_usable_size(memory), std::memory_order_relaxed);
  if (pause_at > 0 && --pause_at == 0) {
    paused = true;
    paused.notify_all();
    resumed.wait(false);
  }
  return memory;
}

void release(void* memory) {
  live_bytes.fetch_sub(malloc_usable_size(memory), std::memory_order_relaxed);
  std::free(memory);
}

const std::vector<float> context = {0.5f, -1.0f};

// Whether a child process ends with `work` true, within seconds.
template <class Work>
bool child_succeeds(Work&& work) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);
    _exit(work() ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status == 0;
}
}  // namespace

void* operator new(std::size_t size) { return counted(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { release(memory); }

TEST(a_page_is_the_ranking_under_the_policy_s_weights) {
  for (const char* name : {"zlog", "log", "identity", "zscore", "rank", "log1p"}) {
    const auto policy = make_policy(1, name);
    Ranker ranker(policy);
    const auto predictions = make_predictions(100);
    std::vector<float> boost(100, 1.0f);
    boost[3] = 50.0f;
    std::vector<std::uint8_t> mask(100, 1);
    mask[4] = 0;
    Request request{.context = context, .predictions = predictions};
    request.rules.boost_mul = boost;
    request.rules.mask = mask;
    PageMemory got(10), expected(10);
    const Page page = ranker.rank(request, got);

    std::vector<float> inputs(policy->num_inputs());
    Policy::Workspace workspace;
    policy->request_inputs(context, predictions, workspace, inputs);
    policy->evaluate(inputs, {}, workspace, expected.concentration, expected.weights);
    const auto code = static_cast<Transform>(std::string_view(name) == "identity" ? 0
                                             : std::string_view(name) == "log"    ? 1
                                             : std::string_view(name) == "zscore" ? 2
                                             : std::string_view(name) == "zlog"   ? 3
                                             : std::string_view(name) == "rank"   ? 4
                                                                                  : 5);
    rank(Scores::dense(predictions.data(), ScoreType::float32, 1, 100, 3), expected.weights, 10,
         {code, 1e-7f, 1e-3f, policy->slope().data()}, request.rules, expected.values, expected.indices);
    CHECK_EQUAL(got.indices, expected.indices);
    CHECK_EQUAL(got.values, expected.values);
    CHECK_EQUAL(got.weights, expected.weights);
    CHECK_EQUAL(got.concentration, expected.concentration);
    CHECK_EQUAL(page.filled, 10);
    CHECK_EQUAL(page.version(), policy->version());
    CHECK(page.fallback == Fallback::none && !page.explored && page.seed == 0);
  }
}

namespace {
const std::vector<float> asked_values = {nan_value, nan_value, 60.0f};
}  // namespace

TEST(scores_are_what_a_page_ranks_by) {
  for (const char* name : {"zlog", "identity", "rank"}) {
    Ranker ranker(make_policy(1, name));
    const auto predictions = make_predictions(100);
    const Request request{.context = context, .predictions = predictions, .explore = true};
    std::vector<float> scores(100);
    const std::span<float> rows[] = {scores};
    ranker.score({&request, 1}, rows);
    CHECK(ranker.counters().requests == 0);
    PageMemory memory(100);
    ranker.rank({.context = context, .predictions = predictions}, memory);
    for (std::size_t i = 0; i < 100; ++i)
      CHECK(memory.values[i] == scores[static_cast<std::size_t>(memory.indices[i])]);
    const std::span<float> short_rows[] = {std::span(scores).first(99)};
    CHECK_THROWS(std::invalid_argument, "one place for each candidate", ranker.score({&request, 1}, short_rows));
  }
}

TEST(missing_features_fall_back_and_are_counted) {
  const auto policy = make_policy();
  Ranker ranker(policy);
  const auto predictions = make_predictions(20);
  const std::vector<float> gap = {1.0f, nan_value};
  const std::vector<float> broken = {std::numeric_limits<float>::infinity(), nan_value};
  const auto rank_with = [&](Ranker& r, std::span<const float> features, std::optional<std::string_view> scenario) {
    PageMemory memory(5);
    const Page page = r.rank({.context = features, .predictions = predictions, .scenario = scenario}, memory);
    const auto expected = policy->fallback(scenario).weights;
    if (page.fallback != Fallback::none) {
      CHECK_EQUAL(memory.weights, std::vector<float>(expected.begin(), expected.end()));
      CHECK(std::isnan(memory.concentration[0]) && std::isnan(memory.concentration[2]));
    }
    return page.fallback;
  };
  CHECK(rank_with(ranker, broken, "search") == Fallback::scenario);
  CHECK(rank_with(ranker, broken, "other") == Fallback::global);
  CHECK(rank_with(ranker, {}, {}) == Fallback::global);
  CHECK(rank_with(ranker, context, "search") == Fallback::none);
  CHECK(rank_with(ranker, gap, {}) == Fallback::none);
  const RankerCounters counted = ranker.counters();
  CHECK_EQUAL(counted.requests, 5u);
  CHECK_EQUAL(counted.fallback_scenario, 1u);
  CHECK_EQUAL(counted.fallback_global, 2u);
}

TEST(candidates_with_a_missing_prediction_rank_last_and_leave_the_others_alone) {
  const auto whole = make_predictions(12);
  std::vector<float> without;
  for (std::size_t i = 0; i < whole.size(); ++i)
    if (i / 3 != 4 && i / 3 != 9) without.push_back(whole[i]);
  for (const char* transform : {"zlog", "identity", "log1p"})
    for (const float missing : missing_values) {
      Ranker ranker(make_policy(1, transform));
      auto predictions = whole;
      predictions[4 * 3 + 1] = missing;
      predictions[9 * 3] = missing;
      predictions[9 * 3 + 1] = -1.0f;  // is not looked at
      PageMemory got(13), expected(10);
      const Page page = ranker.rank({.context = context, .predictions = predictions}, got);
      ranker.rank({.context = context, .predictions = without}, expected);
      CHECK_EQUAL(got.weights, expected.weights);
      for (std::size_t i = 0; i < 10; ++i) {
        const int j = expected.indices[i];
        CHECK_EQUAL(got.indices[i], j < 4 ? j : j < 8 ? j + 1 : j + 2);
        CHECK_NEAR(got.values[i], expected.values[i], 1e-6);
      }
      CHECK_EQUAL(got.indices[10], 4);
      CHECK_EQUAL(got.indices[11], 9);
      CHECK_EQUAL(got.indices[12], -1);
      CHECK(std::isnan(got.values[10]) && std::isnan(got.values[11]));
      CHECK_EQUAL(page.missing_predictions, 2);
      CHECK_EQUAL(page.filled, 12);
      CHECK_EQUAL(ranker.counters().missing_predictions, 2u);
    }
}

TEST(requests_without_usable_candidates_get_what_there_is) {
  for (const float missing : missing_values) {
    Ranker ranker(make_policy());
    PageMemory empty(2), unusable(2);
    const Page page = ranker.rank({.context = context}, empty);
    CHECK(page.filled == 0 && page.fallback == Fallback::global);
    CHECK_EQUAL(empty.indices, (std::vector<std::int32_t>{-1, -1}));
    const std::vector<float> row = {missing, 0.5f, 0.5f};
    CHECK(ranker.rank({.context = context, .predictions = row}, unusable).fallback == Fallback::global);
    CHECK_EQUAL(unusable.indices, (std::vector<std::int32_t>{0, -1}));
    CHECK_EQUAL(ranker.counters().empty_pages, 1u);
  }
}

TEST(the_stream_goes_on_under_the_next_seed) {
  Ranker one(make_policy()), two(make_policy());
  const auto predictions = make_predictions(3);
  const Request request{.context = context, .predictions = predictions, .explore = true};
  PageMemory memory(1);
  CHECK(one.rank(request, memory).seed >> 32 !=
        two.rank(request, memory).seed >> 32);  // seeds from the system are equal with probability 2^-31
  CHECK_THROWS(std::invalid_argument, "seed must be below 2^31", Ranker(make_policy(), {.seed = 1u << 31}));
}

TEST(a_warm_ranker_allocates_nothing) {
  auto predictions = make_predictions(500);
  std::vector<std::int32_t> groups(500);
  for (std::size_t i = 0; i < groups.size(); ++i) groups[i] = static_cast<std::int32_t>(i % 40);
  const std::vector<std::int32_t> caps = {2};
  Ranker ranker(make_policy());
  PageMemory memory(50);
  Request plain{.context = context, .predictions = predictions, .scenario = "search"};
  Request capped = plain;
  capped.rules.groups = groups;
  capped.rules.caps = caps;
  capped.explore = true;
  auto gaps = predictions;
  gaps[10] = nan_value;
  Request with_gaps = plain;
  with_gaps.predictions = gaps;
  Request lost = plain;
  lost.context = {};
  const auto prices = make_predictions(500, 1), items = make_predictions(500, 2);
  Artifact alone = corrected_artifact();
  alone.mixture = "null";
  Ranker mixed(parse(mixed_artifact())), corrected(parse(corrected_artifact().draw())), network(parse(alone.draw()));
  for (Request* request : {&plain, &capped, &with_gaps, &lost}) {
    request->item_values = prices;
    request->items = items;
  }
  for (int round = 0; round < 3; ++round) {
    const std::size_t before = allocations.load();
    for (const Request* request : {&plain, &capped, &with_gaps, &lost})
      for (Ranker* each : {&ranker, &mixed, &corrected, &network}) each->rank(*request, memory);
    if (round > 0) CHECK_EQUAL(allocations.load() - before, std::size_t{0});
  }
}

TEST(policies_are_swapped_while_threads_rank) {
  const std::shared_ptr<const Policy> policies[] = {make_policy(1), make_policy(2)};
  const auto predictions = make_predictions(40);
  const Request request{.context = context, .predictions = predictions};
  std::vector<float> weights[2];
  for (int i : {0, 1}) {
    PageMemory memory(4);
    Ranker(policies[i]).rank(request, memory);
    weights[i] = memory.weights;
  }
  CHECK(weights[0] != weights[1]);

  Ranker ranker(make_policy(1));
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0}, pages[2] = {0, 0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      PageMemory memory(4);
      while (!stop) {
        const Page page = ranker.rank(request, memory);
        const bool second = page.version() == policies[1]->version();
        wrong += memory.weights != weights[second];
        ++pages[second];
      }
    });
  int swaps = 0;
  while (swaps < 300 || ((pages[0] < 50 || pages[1] < 50) && swaps < 1'000'000)) {
    ranker.swap(make_policy(++swaps % 2 ? 2 : 1));  // a new policy each time, so that the old one is freed
    std::this_thread::yield();
  }
  stop = true;
  threads.clear();
  CHECK_EQUAL(wrong.load(), 0);
  CHECK(pages[0] > 0 && pages[1] > 0);
  CHECK_EQUAL(ranker.counters().requests, static_cast<std::uint64_t>(pages[0] + pages[1]));
  CHECK_EQUAL(ranker.policy()->version(), policies[swaps % 2]->version());
}

TEST(a_policy_is_swapped_in_a_child_forked_while_a_thread_ranked) {
  auto ranker = std::make_unique<Ranker>(make_policy(1));
  const auto next = make_policy(2);
  const auto predictions = make_predictions(4);
  const Request request{.context = context, .predictions = predictions};
  PageMemory memory(2);
  std::jthread thread([&] {
    PageMemory other(2);
    pause_at = 2;  // the slot is the first allocation; in the second the policy is in use
    ranker->rank(request, other);
  });
  paused.wait(false);
  CHECK(child_succeeds([&] {
    const auto before = ranker->counters().requests;
    ranker->swap(next);
    const Page page = ranker->rank(request, memory);
    const bool swapped = page.version() == next->version() && ranker->counters().requests == before + 1;
    ranker.reset();
    return swapped;
  }));
  resumed = true;
  resumed.notify_all();
}

TEST(a_policy_is_swapped_in_a_child_forked_while_a_thread_swapped) {
  Ranker ranker(make_policy(1));
  const std::shared_ptr<const Policy> policies[] = {make_policy(1), make_policy(2)};
  std::jthread thread([&](const std::stop_token& stop) {
    for (int i = 0; !stop.stop_requested(); ++i) ranker.swap(policies[i % 2]);
  });
  bool good = true;
  for (int i = 0; i < 20 && good; ++i)
    good = child_succeeds([&] {
      ranker.swap(policies[i % 2]);
      return ranker.policy() == policies[i % 2];
    });
  CHECK(good);
}

TEST(memory_of_large_calls_is_given_back_when_they_end) {
  constexpr std::int64_t candidates = 800'000;  // more than 64 MiB of working memory for each request
  Ranker ranker(make_policy());
  PageMemory memory(2);
  const auto few = make_predictions(4);
  ranker.rank({.context = context, .predictions = few}, memory);
  std::vector<float> predictions(2 * candidates * 3, 0.5f), values(2);
  std::vector<std::int32_t> indices(2);
  const std::vector<float> weights(6, 0.3f);
  const auto scores = Scores::dense(predictions.data(), ScoreType::float32, 2, candidates, 3);
  const auto kept = [&](auto&& call) {
    const std::size_t before = live_bytes;
    call();
    return static_cast<std::int64_t>(live_bytes - before);
  };
  CHECK(kept([&] { rank(scores, weights, 1, {}, {}, values, indices, 2); }) < 1 << 20);
  std::vector<float> gradient(predictions.size()), loss(1);
  CHECK(kept([&] { lambda_loss(predictions, predictions, {}, weights, 1, 1.0f, loss, gradient, true); }) < 1 << 20);
  predictions[7] = nan_value;
  const auto half = std::span(predictions).first(candidates * 3);
  CHECK(kept([&] { ranker.rank({.context = context, .predictions = half}, memory); }) < 1 << 20);
}

TEST(many_threads_share_a_ranker) {
  Ranker ranker(make_policy(), {.seed = 3});
  const auto predictions = make_predictions(30);
  std::vector<std::vector<std::uint64_t>> seeds(6);
  {
    std::vector<std::jthread> threads;
    for (auto& of_thread : seeds)
      threads.emplace_back([&] {
        PageMemory memory(4);
        for (int i = 0; i < 50; ++i)
          of_thread.push_back(
              ranker.rank({.context = context, .predictions = predictions, .explore = true}, memory).seed);
      });
  }
  std::vector<std::uint64_t> all;
  for (const auto& of_thread : seeds) all.insert(all.end(), of_thread.begin(), of_thread.end());
  std::ranges::sort(all);
  CHECK(std::ranges::adjacent_find(all) == all.end());
  CHECK_EQUAL(all.back() - all.front(), std::uint64_t{299});
  CHECK_EQUAL(ranker.counters().explored, 300u);
}

TEST(a_batch_is_each_request_alone) {
  Ranker ranker(make_policy());
  const auto predictions = make_predictions(3000);
  std::vector<Request> requests;
  for (std::size_t b = 0; b < 600; ++b)
    requests.push_back({.context = context, .predictions = std::span(predictions).subspan(b * 15, 15)});
  std::vector<PageMemory> memory(600, PageMemory(4));
  const std::vector<PageBuffer> buffers(memory.begin(), memory.end());
  std::vector<Page> pages(600);
  ranker.rank(requests, buffers, pages, 3);
  for (std::size_t b = 0; b < 600; ++b) {
    PageMemory alone(4);
    ranker.rank(requests[b], alone);
    CHECK(memory[b].indices == alone.indices && memory[b].values == alone.values && pages[b].filled == 4);
  }
  CHECK_THROWS(std::invalid_argument, "one entry for each request",
               ranker.rank(requests, buffers, std::span(pages).first(1)));
  auto negative = std::vector<float>(predictions.begin(), predictions.begin() + 15);
  negative[14] = -0.5f;
  requests[599].predictions = negative;
  const auto before = ranker.counters().requests;
  CHECK_THROWS(std::invalid_argument, "negative at candidate 4, task 2", ranker.rank(requests, buffers, pages, 3));
  CHECK_EQUAL(ranker.counters().requests, before);
  negative[13] = nan_value;  // a candidate with a NaN is not transformed
  ranker.rank(requests, buffers, pages);
}

TEST(a_batch_explores_by_the_next_draws_in_order_whatever_the_number_of_threads) {
  const auto predictions = make_predictions(3000);
  std::vector<Request> requests;
  for (std::size_t b = 0; b < 600; ++b)
    requests.push_back(
        {.context = context, .predictions = std::span(predictions).subspan(b * 15, 15), .explore = b % 3 != 0});
  requests[1].draw = 77;
  std::vector<float> first;
  for (const int threads : {1, 3}) {
    Ranker ranker(make_policy(), {.seed = 4});
    std::vector<PageMemory> memory(600, PageMemory(4));
    const std::vector<PageBuffer> buffers(memory.begin(), memory.end());
    std::vector<Page> pages(600);
    ranker.rank(requests, buffers, pages, threads);
    CHECK_EQUAL(pages[1].seed, 77u);
    CHECK_EQUAL(pages[2].seed, std::uint64_t{4} << 32);
    CHECK_EQUAL(pages[599].seed, (std::uint64_t{4} << 32) + 398);
    CHECK(!pages[0].explored && pages[0].seed == 0);
    CHECK_EQUAL(ranker.reserve_draws(1), (std::uint64_t{4} << 32) + 399);
    std::vector<float> weights;
    for (const auto& of_page : memory) weights.insert(weights.end(), of_page.weights.begin(), of_page.weights.end());
    if (threads == 1) first = weights;
    CHECK_EQUAL(weights, first);
  }
}

TEST(draws_that_are_reserved_together_have_one_seed) {
  Ranker ranker(make_policy(), {.seed = (1u << 31) - 1});
  const std::uint64_t start = (std::uint64_t{1} << 63) - (std::uint64_t{1} << 32);
  CHECK_EQUAL(ranker.reserve_draws(0xfffffffe), start);
  CHECK_EQUAL(ranker.reserve_draws(1), start + 0xfffffffe);
  CHECK_EQUAL(ranker.reserve_draws(3), 0u);  // one is left of the last seed; the first follows it
  CHECK_EQUAL(ranker.reserve_draws(2), 3u);
}

TEST(the_pages_of_a_lease_and_of_a_batch_are_of_one_version) {
  const std::shared_ptr<const Policy> policies[] = {make_policy(1), make_policy(2)};
  const auto predictions = make_predictions(200);
  Ranker ranker(policies[0]);
  std::atomic<int> wrong{0}, batches[2] = {0, 0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 2; ++t)
      threads.emplace_back([&](const std::stop_token& stop) {
        std::vector<Request> requests(40, {.context = context, .predictions = predictions});
        std::vector<PageMemory> memory(40, PageMemory(4));
        const std::vector<PageBuffer> buffers(memory.begin(), memory.end());
        std::vector<Page> pages(40);
        while (!stop.stop_requested()) {
          Ranker::Lease lease(ranker);
          const std::string version = lease.policy()->version();
          lease.rank(requests, buffers, pages, 2);
          pages.push_back(lease.rank(requests[0], buffers[0]));
          for (const Page& page : pages) wrong += page.version() != version;
          pages.pop_back();
          ++batches[version == policies[1]->version()];
        }
      });
    for (int swaps = 0; swaps < 100 || ((batches[0] < 5 || batches[1] < 5) && swaps < 100'000);) {
      ranker.swap(policies[++swaps % 2]);
      std::this_thread::yield();
    }
  }
  CHECK_EQUAL(wrong.load(), 0);
  CHECK(batches[0] > 0 && batches[1] > 0);
}

namespace {
// Percentages of clicks, logits of carts given a click, and an amount.
constexpr const char* scales_json =
    R"({"click": {"kind": "percent", "amount": false, "given": null, "column": "ctr", "low": 1, "high": 40, "x": [],)"
    R"( "y": []}, "cart": {"kind": "logit", "amount": false, "given": "click", "column": "c", "low": -9, "high": 0,)"
    R"( "x": [], "y": []}, "order": {"kind": "probability", "amount": true, "given": null, "column": "spent",)"
    R"( "low": 0, "high": 80, "x": [], "y": []}})";
}  // namespace

TEST(predictions_on_scales_rank_and_are_logged_as_those_of_a_log) {
  Artifact artifact;
  artifact.scales = scales_json;
  const auto policy = parse(artifact.draw());
  std::string compact = scales_json;
  std::erase(compact, ' ');
  CHECK(policy->scales().converts());
  CHECK_EQUAL(policy->scales().json(), compact);
  std::vector<float> raw = make_predictions(300);
  for (std::size_t i = 0; i < raw.size(); i += 3) raw[i + 1] = 8.0f * raw[i + 1] - 6.0f;
  raw[33] = nan_value;
  std::vector<float> read(raw.size());
  policy->scales().read(raw, read);
  CHECK_EQUAL(read[0], raw[0] / 100.0f);
  CHECK(std::abs(read[1] - read[0] / (1.0f + std::exp(-raw[1]))) < 1e-6f * read[1] && read[2] == raw[2]);
  Ranker ranker(policy);
  const Request request{.context = context, .predictions = raw};
  Request logged = request;
  logged.predictions = read;
  logged.as_logged = true;
  PageMemory memory(10), expected(10);
  const Page page = ranker.rank(request, memory), same = ranker.rank(logged, expected);
  CHECK_EQUAL(memory.indices, expected.indices);
  CHECK_EQUAL(memory.values, expected.values);
  CHECK_EQUAL(page.missing_predictions, 1);
  std::string rows, wanted;
  append_log_rows(*policy, request, memory, page, {}, rows);
  append_log_rows(*policy, logged, expected, same, {}, wanted);
  CHECK_EQUAL(rows, wanted);
  const Request both[] = {request, logged};
  PageMemory first(10), second(10);
  const PageBuffer buffers[] = {first, second};
  Page pages[2];
  ranker.rank(both, buffers, pages);
  CHECK_EQUAL(first.values, second.values);
  const auto before = allocations.load();
  ranker.rank(request, memory);
  CHECK_EQUAL(allocations.load(), before);

  raw[3 * 7] = 120.0f;
  CHECK_THROWS(
      std::invalid_argument,
      "predictions is 120 at candidate 7, task 'click'; expected a percentage from 0 to 100: the policy was trained "
      "on percentages (column 'ctr', 1 to 40)",
      ranker.rank(request, memory));
  raw[3 * 7] = 1.0f;
  raw[3 * 9 + 2] = -2.0f;
  CHECK_THROWS(std::invalid_argument,
               "request 0: predictions is -2 at candidate 9, task 'order'; expected an amount >= 0",
               ranker.rank(both, buffers, pages));
}

TEST(scales_that_are_none_are_refused) {
  const auto refused = [](const std::string& from, const std::string& to, const char* message) {
    Artifact artifact;
    artifact.scales = scales_json;
    artifact.scales.replace(artifact.scales.find(from), from.size(), to);
    CHECK_THROWS(ArtifactError, message, parse(artifact.draw()));
  };
  refused("\"percent\"", "\"odds\"", "'kind' of a scale is not known here");
  refused("\"percent\"", "\"score\"", "'scales' is wrong: x and y must have K >= 2 knots each");
  refused("\"given\": \"click\"", "\"given\": \"like\"", "'scales' names \"like\", which is not a task");
  refused("\"given\": \"click\"", "\"given\": \"order\"", "given a task without probabilities");
  refused("\"given\": null", "\"given\": \"cart\"", "in a circle");
  refused("\"x\": []", "\"x\": [1, 1]", "knots that do not rise");
}

TEST(a_policy_of_another_schema_is_not_swapped_in) {
  Ranker ranker(make_policy());
  Artifact other;
  other.features = {"hour"};
  other.draw();
  CHECK_THROWS(std::invalid_argument, "other tasks or features",
               ranker.swap(Policy::parse(other.json(), bytes(other.safetensors()))));
  CHECK_THROWS(std::invalid_argument, "policy is null", ranker.swap(nullptr));
  ranker.swap(ranker.policy());
}

TEST(sizes_that_do_not_fit_are_refused_and_nothing_is_counted) {
  Ranker ranker(make_policy());
  const auto predictions = make_predictions(4);
  const std::vector<float> negative = {0.5f, -0.5f, 0.5f};
  const auto refused = [&](const Request& request, const std::string& reason) {
    PageMemory memory(2);
    CHECK_THROWS(std::invalid_argument, reason, ranker.rank(request, memory));
    CHECK(memory.indices[0] == -7 && std::isnan(memory.weights[0]));
  };
  refused({.context = predictions, .predictions = predictions}, "context has");
  refused({.context = context, .predictions = std::span(predictions).first(4)}, "predictions has");
  refused({.context = context, .predictions = negative}, "negative");
  const std::vector<std::uint8_t> mask(3);
  Request masked{.context = context, .predictions = predictions};
  masked.rules.mask = mask;
  refused(masked, "mask");
  refused({.context = context, .predictions = predictions, .values = std::span(predictions).first(3)},
          "values is given");
  refused({.context = context, .predictions = predictions, .item_values = context}, "item_values has");
  Ranker mixed(parse(mixed_artifact()));
  const auto mixed_refused = [&](const std::vector<float>& values, const std::vector<float>& prices,
                                 std::span<const float> scores, const std::string& reason) {
    PageMemory memory(2);
    Request request{.context = context, .predictions = scores, .values = values, .item_values = prices};
    CHECK_THROWS(std::invalid_argument, reason, mixed.rank(request, memory));
    const PageBuffer buffers[] = {memory};
    Page pages[1];
    CHECK_THROWS(std::invalid_argument, reason, mixed.rank({&request, 1}, buffers, pages));
    CHECK(memory.indices[0] == -7 && mixed.counters().requests == 0);
  };
  const std::vector<float> prices(4, 1.0f);
  mixed_refused({1, -1, 1}, prices, predictions, "values is -1.000000 for task cart");
  mixed_refused({0, 0, 0}, prices, predictions, "values is 0 for every task");
  mixed_refused({}, {}, predictions, "item_values is missing");
  mixed_refused({}, {1, -1, 1, 1}, predictions, "item_values is -1.000000 at candidate 1");
  mixed_refused({}, {1, 1, 1, nan_value}, predictions, "item_values is nan at candidate 3");
  mixed_refused({}, {1}, negative, "predictions is negative at candidate 0, task 1");
  PageMemory memory(2);
  PageBuffer buffer = memory;
  buffer.indices = buffer.indices.first(1);
  CHECK_THROWS(std::invalid_argument, "values and indices", ranker.rank({.predictions = predictions}, buffer));
  buffer = memory;
  buffer.weights = buffer.weights.first(1);
  CHECK_THROWS(std::invalid_argument, "weights and concentration", ranker.rank({.predictions = predictions}, buffer));
  CHECK_EQUAL(ranker.counters().requests, 0u);
}

TEST(log_rows_hold_the_request) {
  const auto policy = make_policy();
  Ranker ranker(policy, {.seed = 5});
  std::vector<float> predictions = {0.5f, 0.25f, 0.125f, nan_value, 0.5f, 0.5f, 0.75f, 0.5f, 0.25f};
  const std::vector<float> features = {-HUGE_VALF, nan_value};
  const std::vector<std::int64_t> items = {101, 102, 103};
  Request request{.context = features, .predictions = predictions, .scenario = "a,\"b\""};
  PageMemory memory(2);
  const Page page = ranker.rank(request, memory);
  std::string text;
  append_log_header(*policy, text);
  CHECK_EQUAL(
      text,
      "request_id,user_id,item_id,position,x_hour,x_intent,p_click,p_cart,p_order,y_click,y_cart,y_order,"
      "scenario,w_click,w_cart,w_order,a_click,a_cart,a_order,seed,policy_version,exploration,timestamp,mixture_weight,"
      "baseline,verdict\n");
  text.clear();
  append_log_rows(*policy, request, memory, page, {"r1", "u1", items, 99}, text);
  const std::string tail = ",\"a,\"\"b\"\"\"," + std::string("0.33333334,0.33333334,0.33333334,,,,0,") +
                           policy->version() + ",none,99,1,,\n";
  CHECK_EQUAL(text, "r1,u1,101,1,,,0.5,0.25,0.125,0,0,0" + tail + "r1,u1,103,0,,,0.75,0.5,0.25,0,0,0" + tail);
}

TEST(policies_rank_the_recorded_page) {
  for (const char* name : {"../../tests/vectors/policy", "consumer/policy"}) {
    const std::filesystem::path folder = std::filesystem::path(PYGRADE_TEST_FOLDER) / name;
    std::stringstream text;
    text << std::ifstream(folder / "page.json").rdbuf();
    const auto record = detail::Json::parse(text.str());
    const auto append = [](auto&& self, const detail::Json& value, std::vector<float>& to) -> void {
      if (value.type == detail::Json::Type::number) to.push_back(static_cast<float>(value.number));
      if (value.type == detail::Json::Type::null) to.push_back(nan_value);
      for (const auto& item : value.items) self(self, item, to);
    };
    const auto floats = [&](const detail::Json& value) {
      std::vector<float> result;
      append(append, value, result);
      return result;
    };
    const auto ranker = Ranker::load(folder);
    const auto features = floats(record.at("context")), predictions = floats(record.at("predictions"));
    const auto optional = [&](const char* key) {
      return record.find(key) == nullptr ? std::vector<float>() : floats(record.at(key));
    };
    const auto values = optional("values"), item_values = optional("item_values"), items = optional("items");
    for (const char* kind : {"served", "explored", "fallback"}) {
      const auto& expected = record.at(kind);
      Request request{.context = features,
                      .predictions = predictions,
                      .scenario = record.string_at("scenario"),
                      .values = values,
                      .item_values = item_values,
                      .items = items};
      if (kind == std::string("fallback")) request.context = {};
      if (const auto* draw = expected.find("draw")) {
        request.explore = true;
        request.draw = static_cast<std::uint64_t>(draw->number);
      }
      PageMemory memory(expected.at("indices").items.size(), ranker->policy()->tasks().size());
      ranker->rank(request, memory);
      CHECK_EQUAL(std::vector<float>(memory.indices.begin(), memory.indices.end()), floats(expected.at("indices")));
      CHECK_EQUAL(memory.values, floats(expected.at("values")));
      CHECK_EQUAL(memory.weights, floats(expected.at("weights")));
      if (expected.find("concentration")) CHECK_EQUAL(memory.concentration, floats(expected.at("concentration")));
    }
  }
}

namespace {
const std::vector<float> event_values = {1.0f, 0.5f, 20.0f};  // of baseline_json

Scores dense(std::span<const float> data, std::size_t columns) {
  return Scores::dense(data.data(), ScoreType::float32, 1, static_cast<std::int64_t>(data.size() / columns),
                       static_cast<std::int64_t>(columns));
}

std::vector<float> priced(std::span<const float> rows, std::span<const float> prices, std::size_t task) {
  std::vector<float> result(rows.begin(), rows.end());
  for (std::size_t i = 0; i < prices.size(); ++i) result[3 * i + task] *= prices[i];
  return result;
}

// log Σ v p.
std::vector<float> expected_value(std::span<const float> rows, std::span<const float> weights) {
  std::vector<float> result(rows.size() / 3);
  fuse_scores(dense(rows, 3), weights, 1, {}, result);
  transform_scores(dense(result, 1), {.transform = Transform::log}, result);
  return result;
}

struct Given {
  std::vector<float> context, predictions, prices, items, values;

  Request request() const {
    return {.context = context, .predictions = predictions, .values = values, .item_values = prices, .items = items};
  }
  std::size_t rows() const { return prices.size(); }
};

Given given_request(std::size_t rows) {
  return {context, make_predictions(rows), make_predictions(rows, 1, 3), make_predictions(rows, 2, 4), {}};
}

// Scores of the policies of corrected_artifact, made of the ops and of Correction.
std::vector<float> corrected_scores(const Policy& policy, const Given& given, std::span<const float> weights) {
  std::vector<float> corrected(given.predictions.size());
  Correction::Workspace workspace;
  policy.correction()->apply(given.context, given.predictions, given.items, workspace, corrected);
  const auto& values = given.values.empty() ? event_values : given.values;
  const auto challenger = expected_value(priced(corrected, given.prices, 1), values);
  if (!given.values.empty() && policy.mixture()->counted_challenger() != nullptr) return challenger;
  std::vector<float> fused(given.rows());
  fuse_scores(dense(priced(corrected, given.prices, 2), 3), weights, 1, {.transform = Transform::zlog}, fused);
  if (!policy.mixture()) return fused;
  std::vector<float> calibrated = given.predictions;
  for (std::size_t i = 0; i < calibrated.size(); ++i)
    policy.mixture()->baseline.calibration[i % 3].map(&calibrated[i], 1, std::span(calibrated).subspan(i, 1));
  const auto base = expected_value(priced(calibrated, given.prices, 2), values);
  if (!given.values.empty()) return base;
  const auto& other = policy.mixture()->challenger ? challenger : fused;
  if (policy.mixture()->mixture_weight == 1.0) return other;
  std::vector<float> pair(base), mixed(given.rows());
  pair.insert(pair.end(), other.begin(), other.end());
  policy.mixture()->mix(pair, mixed);
  return mixed;
}

std::shared_ptr<const Policy> corrected_policy(const char* mixture_weight, bool challenger) {
  Artifact artifact = corrected_artifact(mixture_weight);
  if (!challenger) artifact.mixture = mixture_json({}, mixture_weight);
  return parse(artifact.draw());
}
}  // namespace

TEST(a_page_is_of_corrected_predictions_challengers_and_prices) {
  Artifact alone = corrected_artifact();
  alone.mixture = "null";
  std::vector<std::shared_ptr<const Policy>> policies = {parse(alone.draw())};
  for (const char* mixture_weight : {"0", "0.25", "1"})
    for (const bool challenger : {true, false}) policies.push_back(corrected_policy(mixture_weight, challenger));
  for (const auto& policy : policies)
    for (const bool valued : {false, true}) {
      if (valued && policy->expected_value() == nullptr) continue;
      Given given = given_request(45);
      if (valued) given.values = {2.0f, 0.0f, 0.5f};
      given.items[7] = nan_value;
      for (const float intent : {0.5f, nan_value}) {  // with one feature the network is asked, too
        given.context = {1.0f, intent};
        PageMemory got(45), expected(45);
        Ranker ranker(policy);
        const Page page = ranker.rank(given.request(), got);
        CHECK(page.fallback == Fallback::none);
        const auto scores = corrected_scores(*policy, given, got.weights);
        rank(dense(scores, 1), std::vector<float>{1}, 45, {}, {}, expected.values, expected.indices);
        CHECK_EQUAL(got.indices, expected.indices);
        for (std::size_t i = 0; i < 45; ++i)
          CHECK_NEAR(got.values[i], expected.values[i], 1e-6 * (1.0 + std::fabs(expected.values[i])));
      }
      // No context: static weights, and the correction takes its mean. A batch gives the same pages.
      given.context = {};
      PageMemory got(45), expected(45), again(45);
      Ranker ranker(policy);
      const Page page = ranker.rank(given.request(), got);
      CHECK(page.fallback == Fallback::global);
      const auto scores = corrected_scores(*policy, given, got.weights);
      rank(dense(scores, 1), std::vector<float>{1}, 45, {}, {}, expected.values, expected.indices);
      CHECK_EQUAL(got.indices, expected.indices);
      const std::vector<float> nothing(2, nan_value);
      given.context = nothing;
      const Request request = given.request();
      const PageBuffer buffer = again;
      Page other;
      ranker.rank(std::span(&request, 1), std::span(&buffer, 1), std::span(&other, 1));
      CHECK_EQUAL(again.values, got.values);
    }
}

TEST(item_columns_and_prices_that_do_not_fit_are_refused) {
  const auto policy = corrected_policy("0.25", true);
  Ranker ranker(policy), plain(make_policy());
  PageMemory memory(3);
  const auto refused = [&](const auto& change, const char* reason) {
    Given given = given_request(4);
    change(given);
    CHECK_THROWS(std::invalid_argument, reason, ranker.rank(given.request(), memory));
  };
  refused([](Given& g) { g.items.pop_back(); }, "expected 4 × 2");
  refused([](Given& g) { g.prices.clear(); }, "item_values is missing; the policy or its baseline prices tasks");
  refused([](Given& g) { g.predictions[3] = -1.0f; }, "predictions is negative at candidate 1");
  refused([](Given& g) { g.values = {0, 0, 0}; }, "values is 0 for every task");
  CHECK_EQUAL(ranker.counters().requests, 0u);
  Given given = given_request(4);
  plain.rank(given.request(), memory);  // a policy without a correction ignores item columns
  given.predictions[3] = -1.0f;         // what is corrected takes no logarithm of the predictions
  Ranker(corrected_policy("1", true)).rank(given.request(), memory);

  Artifact other = corrected_artifact();
  other.correction->items = {"age"};
  CHECK_THROWS(std::invalid_argument, "other item columns", (ranker.swap(parse(other.draw())), 0));
  ranker.swap(make_policy());
}

TEST(the_log_has_item_columns_and_prices) {
  const auto policy = corrected_policy("0.25", true);
  Ranker ranker(policy);
  Given given = given_request(2);
  given.items = {0.5f, nan_value, -HUGE_VALF, 2.0f};
  given.prices = {3.0f, 4.0f};
  PageMemory memory(2);
  const Page page = ranker.rank(given.request(), memory);
  std::string header, rows;
  append_log_header(*policy, header);
  append_log_rows(*policy, given.request(), memory, page, {.request_id = "r"}, rows);
  CHECK(header.find(",y_order,i_age,i_stock,value,scenario,") != header.npos);
  CHECK(header.ends_with(",verdict,v_click,v_cart,v_order\n"));
  CHECK(rows.ends_with(",better,,,\n"));
  CHECK(rows.find(",0,0,0,0.5,,3,,") != rows.npos && rows.find(",0,0,0,,2,4,,") != rows.npos);
  Given unknown = given;
  unknown.items.clear();
  rows.clear();
  append_log_rows(*policy, unknown.request(), memory, page, {.request_id = "r"}, rows);
  CHECK(rows.find(",0,0,0,,,3,,") != rows.npos);
  unknown.values = {2.0f, nan_value, 0.0f};  // an expected value alone ranks by them
  rows.clear();
  append_log_rows(*policy, unknown.request(), memory, page, {.request_id = "r"}, rows);
  CHECK(rows.ends_with(",better,2,0.5,0\n"));
  unknown.items = {1.0f};
  CHECK_THROWS(std::invalid_argument, "items must have",
               (append_log_rows(*policy, unknown.request(), memory, page, {.request_id = "r"}, rows), 0));
}
