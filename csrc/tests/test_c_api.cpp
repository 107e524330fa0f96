#include <cstring>
#include <thread>

#include "check.hpp"
#include "pygrade/pygrade.h"
#include "serving.hpp"

using namespace pygrade::tests;

// The layout of ABI version 1. A change here is a change of the ABI: see the stability rule in pygrade.h.
static_assert(PYGRADE_ABI_VERSION == 1);
static_assert(sizeof(void*) != 8 ||
              (sizeof(pygrade_ranker_options) == 32 && sizeof(pygrade_request) == 248 && sizeof(pygrade_page) == 184 &&
               sizeof(pygrade_counters) == 64 && sizeof(pygrade_log_ids) == 64 && sizeof(pygrade_mixture) == 80 &&
               sizeof(pygrade_policy_source) == 64 && sizeof(pygrade_formula) == 48 && sizeof(pygrade_batch) == 56));
static_assert(sizeof(void*) != 8 || (offsetof(pygrade_request, draw) == 112 && offsetof(pygrade_page, seed) == 64));
static_assert(sizeof(void*) != 8 ||
              (offsetof(pygrade_request, values) == 128 && offsetof(pygrade_page, mixture_weight) == 88));
static_assert(sizeof(void*) != 8 ||
              (offsetof(pygrade_request, error) == 144 && offsetof(pygrade_ranker_options, error) == 16 &&
               offsetof(pygrade_request, items) == 160 && offsetof(pygrade_request, item_ids) == 200));

namespace {
pygrade_ranker* create(const Artifact& artifact = Artifact().draw(), const pygrade_ranker_options* options = nullptr) {
  const std::string json = artifact.json();
  const std::string tensors = artifact.safetensors();
  pygrade_ranker* ranker = nullptr;
  CHECK_EQUAL(pygrade_ranker_create(json.data(), json.size(), tensors.data(), tensors.size(), options, &ranker),
              PYGRADE_OK);
  return ranker;
}

const std::vector<float> context = {0.5f, -1.0f};

pygrade_request request_of(const std::vector<float>& predictions) {
  pygrade_request request{};
  request.size = sizeof request;
  request.context = context.data();
  request.features = context.size();
  request.predictions = predictions.data();
  request.candidates = predictions.size() / 3;
  request.tasks = 3;
  return request;
}

pygrade_page page_of(PageMemory& memory) {
  pygrade_page page{};
  page.size = sizeof page;
  page.k = memory.values.size();
  page.values = memory.values.data();
  page.indices = memory.indices.data();
  page.weights = memory.weights.data();
  page.concentration = memory.concentration.data();
  return page;
}

void check_fails(pygrade_status status, pygrade_status expected, const std::string& reason) {
  CHECK_EQUAL(status, expected);
  const std::string message = pygrade_last_error();
  CHECK(message.find(reason) != std::string::npos);
  if (message.find(reason) == std::string::npos) CHECK_EQUAL(message, reason);
}
}  // namespace

TEST(a_page_equals_the_cpp_one) {
  pygrade_ranker* ranker = create();
  const auto predictions = make_predictions(30);
  PageMemory got(6), expected(6);
  pygrade_request request = request_of(predictions);
  request.scenario = "search";
  request.scenario_size = 6;
  request.flags = PYGRADE_REQUEST_EXPLORE | PYGRADE_REQUEST_DRAW;
  request.draw = 77;
  pygrade_page page = page_of(got);
  CHECK_EQUAL(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_OK);
  CHECK_EQUAL(std::string(pygrade_last_error()), "");
  pygrade::Ranker direct(make_policy());
  const auto same = direct.rank(
      {.context = context, .predictions = predictions, .scenario = "search", .explore = true, .draw = 77}, expected);
  CHECK_EQUAL(got.indices, expected.indices);
  CHECK_EQUAL(got.values, expected.values);
  CHECK_EQUAL(got.weights, expected.weights);
  CHECK_EQUAL(got.concentration, expected.concentration);
  CHECK(page.filled == 6 && page.explored == 1 && page.seed == 77 && page.fallback == PYGRADE_FALLBACK_NONE);
  CHECK_EQUAL(std::string(page.policy_version), same.version());
  pygrade_counters counters{};
  counters.size = sizeof counters;
  CHECK_EQUAL(pygrade_ranker_counters(ranker, &counters, nullptr, 0), PYGRADE_OK);
  CHECK(counters.requests == 1 && counters.explored == 1 && counters.fallback_global == 0);
  pygrade_ranker_free(ranker);
}

TEST(a_mixture_is_told_and_what_does_not_fit_it_is_refused) {
  pygrade_ranker* ranker = create(mixed_artifact());
  const auto predictions = make_predictions(30), prices = make_predictions(30, 1, 3);
  PageMemory got(6);
  pygrade_request request = request_of(predictions);
  request.item_values = prices.data();
  pygrade_page page = page_of(got);
  CHECK_EQUAL(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_OK);
  pygrade_mixture mixture{};
  mixture.size = sizeof mixture;
  CHECK_EQUAL(pygrade_ranker_mixture(ranker, &mixture, nullptr, 0), PYGRADE_OK);
  CHECK(mixture.mixture_weight == 0.25f && mixture.verdict == PYGRADE_VERDICT_BETTER);
  CHECK_EQUAL(std::string(mixture.baseline), "expected value");
  pygrade_log_ids ids{};
  ids.size = sizeof ids;
  std::size_t length = 0;
  const auto refused = [&](auto change, const std::string& reason) {
    pygrade_page other = page;
    change(other);
    check_fails(pygrade_ranker_log_rows(ranker, &request, &other, &ids, nullptr, 0, &length), PYGRADE_INVALID_ARGUMENT,
                reason);
  };
  refused([](auto& p) { p.mixture_weight = nan_value; }, "page.mixture_weight");
  refused([](auto& p) { p.verdict = 6; }, "page.verdict");
  refused([](auto& p) { std::memset(p.baseline, 'x', sizeof p.baseline); }, "page.baseline");
  request.item_values = nullptr;
  check_fails(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_INVALID_ARGUMENT, "item_values is missing");
  check_fails(pygrade_ranker_mixture(ranker, nullptr, nullptr, 0), PYGRADE_INVALID_ARGUMENT, "mixture is NULL");
  pygrade_ranker_free(ranker);
}

TEST(item_columns_that_do_not_fit_are_refused) {
  pygrade_ranker* ranker = create(corrected_artifact().draw());
  const auto predictions = make_predictions(30), prices = make_predictions(30, 1, 3), items = make_predictions(30, 3);
  PageMemory got(6);
  pygrade_request request = request_of(predictions);
  request.item_values = prices.data();
  request.items = items.data();
  request.item_columns = 3;
  pygrade_page page = page_of(got);
  check_fails(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_INVALID_ARGUMENT, "items has 90 values");
  request.item_columns = 129;
  check_fails(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_INVALID_ARGUMENT,
              "request.item_columns is 129; expected 0 to 128");
  pygrade_ranker_free(ranker);
}

TEST(log_rows_equal_the_cpp_ones) {
  pygrade_ranker* ranker = create();
  auto predictions = make_predictions(5);
  predictions[4] = nan_value;
  PageMemory memory(3);
  pygrade_request request = request_of(predictions);
  request.scenario = "search";
  request.scenario_size = 6;
  request.flags = PYGRADE_REQUEST_EXPLORE | PYGRADE_REQUEST_DRAW;
  request.draw = 77;
  pygrade_page page = page_of(memory);
  CHECK_EQUAL(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_OK);
  const std::vector<std::int64_t> items = {7, 8, 9, 10, 11};
  pygrade_log_ids ids{};
  ids.size = sizeof ids;
  ids.request_id = "r,1";
  ids.request_id_size = 3;
  ids.item_id = items.data();
  ids.timestamp = 99;
  ids.flags = PYGRADE_LOG_TIMESTAMP;

  PageMemory same(3);
  const auto policy = make_policy();
  pygrade::Ranker direct(policy);
  const pygrade::Request asked{
      .context = context, .predictions = predictions, .scenario = "search", .explore = true, .draw = 77};
  std::string header, rows;
  append_log_header(*policy, header);
  append_log_rows(*policy, asked, same, direct.rank(asked, same), {"r,1", {}, items, 99}, rows);

  std::size_t length = 0;
  std::string text(header.size(), 'x');
  CHECK_EQUAL(pygrade_ranker_log_header(ranker, text.data(), text.size(), &length, nullptr, 0), PYGRADE_OK);
  CHECK_EQUAL(length, header.size());
  CHECK_EQUAL(text, header);
  check_fails(pygrade_ranker_log_rows(ranker, &request, &page, &ids, nullptr, 0, &length), PYGRADE_BUFFER_TOO_SMALL,
              "bytes; capacity is");
  CHECK_EQUAL(length, rows.size());
  text.assign(length, 'x');
  check_fails(pygrade_ranker_log_rows(ranker, &request, &page, &ids, text.data(), length - 1, &length),
              PYGRADE_BUFFER_TOO_SMALL, "bytes; capacity is");
  CHECK_EQUAL(text, std::string(length, 'x'));
  CHECK_EQUAL(pygrade_ranker_log_rows(ranker, &request, &page, &ids, text.data(), length, &length), PYGRADE_OK);
  CHECK_EQUAL(text, rows);
  CHECK(rows.find(",77,") != std::string::npos && rows.find(policy->version() + ",dirichlet,99") != std::string::npos);

  const auto refused = [&](auto change, const std::string& reason) {
    pygrade_page other = page;
    pygrade_log_ids whose = ids;
    change(other, whose);
    check_fails(pygrade_ranker_log_rows(ranker, &request, &other, &whose, text.data(), text.size(), &length),
                PYGRADE_INVALID_ARGUMENT, reason);
  };
  refused([](auto& p, auto&) { p.filled = 4; }, "page.filled");
  refused([](auto& p, auto&) { p.filled = -1; }, "page.filled");
  refused([](auto& p, auto&) { p.weights = nullptr; }, "page.weights");
  for (const std::int32_t place : {-1, 5, INT32_MAX}) {
    const std::int32_t indices[] = {0, place, 1};
    refused([&](auto& p, auto&) { p.indices = const_cast<std::int32_t*>(indices); }, "indices[1] is ");
  }
  refused([](auto& p, auto&) { p.policy_version[3] = '"'; }, "page.policy_version");
  refused([](auto&, auto& i) { i.flags = 2; }, "ids.flags");
  refused([](auto&, auto& i) { i.request_id_size = SIZE_MAX; }, "ids.request_id_size");
  refused([](auto&, auto& i) { i.user_id = "", i.user_id_size = SIZE_MAX; }, "ids.user_id_size");
  refused([](auto&, auto& i) { i.size = 8; }, "ids.size is 8; expected its sizeof, at least 64");
  check_fails(pygrade_ranker_log_header(ranker, nullptr, 9, &length, nullptr, 0), PYGRADE_INVALID_ARGUMENT,
              "text or length");
  check_fails(pygrade_ranker_log_rows(ranker, &request, &page, &ids, text.data(), 9, nullptr), PYGRADE_INVALID_ARGUMENT,
              "text or length");
  check_fails(pygrade_ranker_log_rows(ranker, &request, &page, nullptr, text.data(), 9, &length),
              PYGRADE_INVALID_ARGUMENT, "ids is NULL");
  pygrade_ranker_free(ranker);
}

TEST(names_and_versions_can_be_read) {
  pygrade_ranker* ranker = create();
  CHECK_EQUAL(pygrade_abi_version(), PYGRADE_ABI_VERSION);
  CHECK(std::strlen(pygrade_version()) >= 5 && std::strlen(pygrade_isa()) >= 4);
  CHECK_EQUAL(pygrade_ranker_num_tasks(ranker), std::size_t{3});
  CHECK_EQUAL(pygrade_ranker_num_features(ranker), std::size_t{2});
  CHECK_EQUAL(std::string(pygrade_ranker_task(ranker, 2)), "order");
  CHECK_EQUAL(std::string(pygrade_ranker_feature(ranker, 0)), "hour");
  CHECK(pygrade_ranker_task(ranker, 3) == nullptr && pygrade_ranker_feature(nullptr, 0) == nullptr);
  CHECK(pygrade_ranker_num_tasks(nullptr) == 0);
  pygrade_ranker_free(ranker);
  pygrade_ranker_free(nullptr);
}

TEST(failures_have_a_status_and_a_text) {
  pygrade_ranker* ranker = nullptr;
  check_fails(pygrade_ranker_load("no-such-directory", nullptr, &ranker), PYGRADE_NOT_FOUND, "no-such-directory");
  check_fails(pygrade_ranker_load(nullptr, nullptr, &ranker), PYGRADE_INVALID_ARGUMENT, "directory is NULL");
  check_fails(pygrade_ranker_load("x", nullptr, nullptr), PYGRADE_INVALID_ARGUMENT, "ranker is NULL");
  check_fails(pygrade_ranker_create("{", 1, "", 0, nullptr, &ranker), PYGRADE_BAD_ARTIFACT, "policy.json: byte 1");
  pygrade_ranker_options options{sizeof options, 64, 0, nullptr, 0};
  check_fails(pygrade_ranker_load("x", &options, &ranker), PYGRADE_INVALID_ARGUMENT, "options.flags");
  options = {3, 0, 0, nullptr, 0};
  check_fails(pygrade_ranker_load("x", &options, &ranker), PYGRADE_INVALID_ARGUMENT, "options.size is 3");
  CHECK(ranker == nullptr);
  std::thread([] { CHECK_EQUAL(std::string(pygrade_last_error()), ""); }).join();  // per thread
  CHECK(pygrade_last_error()[0] != '\0');
}

TEST(requests_that_do_not_fit_are_refused) {
  pygrade_ranker* ranker = create();
  const auto predictions = make_predictions(4);
  PageMemory memory(2);
  const auto refused = [&](auto change, const std::string& reason) {
    pygrade_request request = request_of(predictions);
    pygrade_page page = page_of(memory);
    change(request, page);
    check_fails(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_INVALID_ARGUMENT, reason);
    CHECK(memory.indices[0] == -7 && page.filled == 0 && page.policy_version[0] == '\0');
  };
  const std::int32_t number = 1;
  refused([](auto& r, auto&) { r.size = 0; }, "request.size is 0; expected its sizeof, at least 232, here 248");
  refused([](auto& r, auto&) { r.tasks = 4; }, "request.tasks is 4; expected 3");
  refused([](auto& r, auto&) { r.features = 1; }, "request.features is 1; expected 2");
  refused([](auto& r, auto&) { r.candidates = SIZE_MAX; }, "request.candidates");
  refused([](auto& r, auto&) { r.predictions = nullptr; }, "request.predictions");
  refused([](auto& r, auto&) { r.flags = 16; }, "request.flags is 16 with the unknown bits 16; expected bits of 15");
  refused([](auto& r, auto&) { r.reserved = 1; }, "request.reserved is 1; expected 0");
  refused([&](auto& r, auto&) { r.groups = &number; }, "group_columns");
  refused([&](auto& r, auto&) { r.groups = r.caps = &number, r.group_columns = 65; }, "group_columns");
  refused([](auto& r, auto&) { r.scenario = "x", r.scenario_size = SIZE_MAX; }, "scenario_size");
  for (const float wrong : {nan_value, INFINITY, -INFINITY}) {
    const std::vector<float> boosts = {0.0f, 0.0f, wrong, 0.0f};
    refused([&](auto& r, auto&) { r.boost_add = boosts.data(); }, "boost_add is");
    refused([&](auto& r, auto&) { r.boost_mul = boosts.data(); }, "boost_mul is");
  }
  refused([](auto&, auto& p) { p.k = 0; }, "page.k is 0; expected 1 to 2147483647");
  refused([](auto&, auto& p) { p.k = SIZE_MAX; }, "page.k");
  refused([](auto&, auto& p) { p.values = nullptr; }, "page.values");
  refused([](auto&, auto& p) { p.size = 8; }, "page.size is 8");
  pygrade_request request = request_of(predictions);
  pygrade_page page = page_of(memory);
  check_fails(pygrade_ranker_rank(nullptr, &request, &page), PYGRADE_INVALID_ARGUMENT, "ranker is NULL");
  check_fails(pygrade_ranker_rank(ranker, nullptr, &page), PYGRADE_INVALID_ARGUMENT, "request is NULL");
  check_fails(pygrade_ranker_rank(ranker, &request, nullptr), PYGRADE_INVALID_ARGUMENT, "page is NULL");
  check_fails(pygrade_ranker_counters(ranker, nullptr, nullptr, 0), PYGRADE_INVALID_ARGUMENT, "counters is NULL");
  pygrade_ranker_free(ranker);
}

TEST(newer_callers_are_served_while_they_ask_for_nothing_new) {
  struct Newer {
    pygrade_request known;
    std::uint64_t more;
  };
  pygrade_ranker* ranker = create();
  const auto predictions = make_predictions(4);
  PageMemory memory(2);
  Newer request{request_of(predictions), 0};
  request.known.size = sizeof request;
  pygrade_page page = page_of(memory);
  CHECK_EQUAL(pygrade_ranker_rank(ranker, &request.known, &page), PYGRADE_OK);
  request.more = 1;
  check_fails(pygrade_ranker_rank(ranker, &request.known, &page), PYGRADE_INVALID_ARGUMENT,
              "request has a member at byte 248 of 256, from a newer header; this library knows 248 bytes");
  pygrade_ranker_free(ranker);
}

TEST(older_callers_lack_members_that_are_neither_read_nor_written) {
  pygrade_ranker* ranker = create();
  const auto predictions = make_predictions(4);
  PageMemory got(2), expected(2);
  pygrade_request request = request_of(predictions);
  pygrade_page page = page_of(expected);
  CHECK_EQUAL(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_OK);
  request.pins = reinterpret_cast<const std::int32_t*>(1);  // what stands behind an older struct is anything
  request.size = offsetof(pygrade_request, pins);
  page = page_of(got);
  page.size = offsetof(pygrade_page, effects);
  page.missing_items = 77;
  CHECK_EQUAL(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_OK);
  CHECK(page.filled == 2 && page.missing_items == 77 && page.size == offsetof(pygrade_page, effects));
  CHECK_EQUAL(got.values, expected.values);
  struct {
    pygrade_counters counters;
    std::uint64_t after;
  } memory{};
  memory.counters.size = offsetof(pygrade_counters, missing_items);
  memory.counters.missing_items = 5;
  memory.after = 6;
  CHECK_EQUAL(pygrade_ranker_counters(ranker, &memory.counters, nullptr, 0), PYGRADE_OK);
  CHECK(memory.counters.requests == 2 && memory.counters.missing_items == 5 && memory.after == 6);
  char error[64];
  memory.counters.size = 7;
  CHECK_EQUAL(pygrade_ranker_counters(ranker, &memory.counters, error, sizeof error), PYGRADE_INVALID_ARGUMENT);
  CHECK_EQUAL(std::string(error), "counters.size is 7; expected its sizeof, at least 56, here 64");
  pygrade_ranker_free(ranker);
}

TEST(item_columns_that_the_policy_reads_and_a_request_lacks_are_counted) {
  pygrade_ranker* ranker = create(corrected_artifact().draw());
  const auto predictions = make_predictions(30), prices = make_predictions(30, 1, 3);
  PageMemory memory(6);
  pygrade_request request = request_of(predictions);
  request.item_values = prices.data();
  pygrade_policy* policy = nullptr;
  CHECK_EQUAL(pygrade_ranker_policy(ranker, &policy, nullptr, 0), PYGRADE_OK);
  request.item_columns = pygrade_policy_num_items(policy);
  pygrade_policy_free(policy);
  const auto items = make_predictions(30, request.item_columns);
  pygrade_counters counters{};
  counters.size = sizeof counters;
  for (const bool given : {false, true}) {
    request.items = given ? items.data() : nullptr;
    pygrade_page page = page_of(memory);
    CHECK_EQUAL(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_OK);
    CHECK_EQUAL(page.missing_items, given ? 0 : static_cast<std::int32_t>(request.item_columns));
    CHECK_EQUAL(pygrade_ranker_counters(ranker, &counters, nullptr, 0), PYGRADE_OK);
    CHECK_EQUAL(counters.missing_items, std::uint64_t{1});
  }
  pygrade_ranker_free(ranker);
}

TEST(pins_and_demotions_are_those_of_cpp) {
  pygrade_ranker* ranker = create();
  const auto predictions = make_predictions(8);
  PageMemory got(4), expected(4);
  pygrade_request request = request_of(predictions);
  const std::vector<std::int32_t> pins = {-1, 7, -1, -1};
  std::vector<std::uint8_t> demoted(8, 0);
  demoted[3] = 1;
  request.pins = pins.data();
  request.demoted = demoted.data();
  pygrade_page page = page_of(got);
  CHECK_EQUAL(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_OK);
  pygrade::Ranker direct(make_policy());
  direct.rank({.context = context, .predictions = predictions, .pins = pins, .demoted = demoted}, expected);
  CHECK(got.indices[1] == 7);
  CHECK_EQUAL(got.indices, expected.indices);
  CHECK_EQUAL(got.values, expected.values);
  pygrade_ranker_free(ranker);
}

TEST(a_policy_is_reloaded) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("pygrade_test_c_api_" + std::to_string(std::random_device{}()));
  Artifact artifact;
  artifact.draw().write(folder);
  const std::string path = folder.string();
  pygrade_ranker_options options{sizeof options, PYGRADE_OPTION_SEED, 9, nullptr, 0};
  pygrade_ranker* ranker = nullptr;
  CHECK_EQUAL(pygrade_ranker_load(path.c_str(), &options, &ranker), PYGRADE_OK);
  const char* task = pygrade_ranker_task(ranker, 0);
  artifact.seed = 2;
  artifact.draw().write(folder);
  CHECK_EQUAL(pygrade_ranker_reload(ranker, path.c_str(), nullptr, 0), PYGRADE_OK);
  CHECK_EQUAL(std::string(task), "click");  // still valid
  const auto predictions = make_predictions(4);
  PageMemory memory(2);
  pygrade_request request = request_of(predictions);
  pygrade_page page = page_of(memory);
  CHECK_EQUAL(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_OK);
  CHECK_EQUAL(std::string(page.policy_version), make_policy(2)->version());
  artifact.features = {"other", "intent"};
  artifact.draw().write(folder);
  check_fails(pygrade_ranker_reload(ranker, path.c_str(), nullptr, 0), PYGRADE_BAD_ARTIFACT, "other tasks or features");
  pygrade_ranker_free(ranker);
  std::filesystem::remove_all(folder);
}

TEST(a_failing_call_writes_its_text_into_the_buffer_that_it_was_given) {
  char text[24];
  const auto given = [&](auto call) {
    std::memset(text, 'x', sizeof text);
    call();
    return std::string(text, strnlen(text, sizeof text));
  };
  pygrade_ranker* ranker = nullptr;
  pygrade_ranker_options options{sizeof options, PYGRADE_OPTION_SEED, 1, text, sizeof text};
  CHECK_EQUAL(given([&] { pygrade_ranker_load("no-such-directory/of-all", &options, &ranker); }),
              "no-such-directory/of-al");  // cut to fit
  CHECK_EQUAL(given([&] { pygrade_ranker_create("{", 1, "", 0, &options, &ranker); }), "policy/policy.json: byt");
  options.size = offsetof(pygrade_ranker_options, error);  // so short that it has no buffer
  CHECK_EQUAL(given([&] { pygrade_ranker_load("no-such-directory", &options, &ranker); }), std::string(24, 'x'));
  ranker = create();
  const auto predictions = make_predictions(4);
  PageMemory memory(2);
  pygrade_request request = request_of(predictions);
  request.error = text;
  request.error_size = sizeof text;
  pygrade_page page = page_of(memory);
  CHECK_EQUAL(given([&] { pygrade_ranker_rank(ranker, &request, &page); }), std::string(24, 'x'));
  request.candidates = SIZE_MAX;
  CHECK_EQUAL(given([&] { pygrade_ranker_rank(ranker, &request, &page); }), "request.candidates is 1");
  CHECK(std::string(pygrade_last_error())
            .starts_with("request.candidates is 18446744073709551615; expected 0 to 2147483647"));
  request.error_size = 0;
  CHECK_EQUAL(given([&] { pygrade_ranker_rank(ranker, &request, &page); }), std::string(24, 'x'));
  CHECK_EQUAL(given([&] { pygrade_ranker_swap(ranker, nullptr, text, sizeof text); }), "policy is NULL");
  CHECK_EQUAL(given([&] { pygrade_ranker_swap(ranker, nullptr, nullptr, 24); }), std::string(24, 'x'));
  pygrade_ranker_free(ranker);
}

TEST(a_batch_is_each_request_alone) {
  pygrade_ranker_options options{sizeof options, PYGRADE_OPTION_SEED, 5, nullptr, 0};
  pygrade_ranker *ranker = create(Artifact().draw(), &options), *other = create(Artifact().draw(), &options);
  const auto predictions = make_predictions(300);
  constexpr std::size_t count = 20;
  std::vector<PageMemory> memory(count, PageMemory(3)), alone(count, PageMemory(3));
  std::vector<pygrade_request> requests(count);
  std::vector<pygrade_page> pages(count);
  for (std::size_t b = 0; b < count; ++b) {
    requests[b] = request_of(predictions);
    requests[b].predictions += 45 * b;
    requests[b].candidates = 15;
    requests[b].flags = b % 2 ? PYGRADE_REQUEST_EXPLORE : 0;
    pages[b] = page_of(memory[b]);
  }
  pygrade_batch batch{};
  batch.size = sizeof batch;
  batch.requests = requests.data();
  batch.pages = pages.data();
  batch.count = count;
  batch.num_threads = 2;
  CHECK_EQUAL(pygrade_ranker_rank_batch(ranker, &batch), PYGRADE_OK);
  for (std::size_t b = 0; b < count; ++b) {
    pygrade_page page = page_of(alone[b]);
    CHECK_EQUAL(pygrade_ranker_rank(other, &requests[b], &page), PYGRADE_OK);
    CHECK_EQUAL(memory[b].values, alone[b].values);
    CHECK_EQUAL(memory[b].indices, alone[b].indices);
    CHECK_EQUAL(memory[b].weights, alone[b].weights);
    CHECK(pages[b].seed == page.seed && pages[b].filled == 3 && pages[b].explored == page.explored);
    CHECK_EQUAL(std::string(pages[b].policy_version), std::string(page.policy_version));
  }

  char text[64] = "";
  batch.error = text;
  batch.error_size = sizeof text;
  const auto refused = [&](auto change, const std::string& reason) {
    auto broken = requests;
    auto changed = batch;
    changed.requests = broken.data();
    std::vector<PageMemory> untouched(count, PageMemory(3));
    for (std::size_t b = 0; b < count; ++b) pages[b] = page_of(untouched[b]);
    change(changed, broken);
    check_fails(pygrade_ranker_rank_batch(ranker, &changed), PYGRADE_INVALID_ARGUMENT, reason);
    CHECK(std::string(text).find(reason) != std::string::npos);
    for (std::size_t b = 0; b < count; ++b) CHECK(pages[b].filled == 0 && untouched[b].indices[0] == -7);
  };
  const std::int32_t groups[15] = {}, caps[] = {-2};
  const std::vector<float> negative(45, -1.0f);
  refused([](auto& b, auto&) { b.num_threads = 0; }, "batch.num_threads");
  refused([](auto& b, auto&) { b.flags = 1; }, "batch.flags");
  refused([](auto& b, auto&) { b.count = SIZE_MAX; }, "batch.count");
  refused([](auto& b, auto&) { b.pages = nullptr; }, "batch.requests or batch.pages");
  refused([](auto&, auto& r) { r[3].tasks = 4; }, "request 3: request.tasks");
  refused([](auto&, auto& r) { r[7].size = offsetof(pygrade_request, values); },
          "request 7: request.size is 128; expected 248");
  refused([&](auto&, auto& r) { r[19].predictions = negative.data(); }, "request 19: predictions is negative");
  refused([&](auto&, auto& r) { r[2].groups = groups, r[2].caps = caps, r[2].group_columns = 1; },
          "request 2: caps[0] is -2");
  refused([&](auto&, auto&) { pages[1].k = 0; }, "request 1: page.k");
  batch.count = 0;
  CHECK_EQUAL(pygrade_ranker_rank_batch(ranker, &batch), PYGRADE_OK);
  pygrade_counters counters{};
  counters.size = sizeof counters;
  CHECK_EQUAL(pygrade_ranker_counters(ranker, &counters, nullptr, 0), PYGRADE_OK);
  CHECK_EQUAL(counters.requests, count);
  pygrade_ranker_free(ranker);
  pygrade_ranker_free(other);
}

TEST(the_structs_of_a_batch_may_be_newer_than_the_library) {
  struct Newer {
    pygrade_request known;
    std::uint64_t more;
  };
  pygrade_ranker* ranker = create();
  const auto predictions = make_predictions(8);
  std::vector<PageMemory> memory(2, PageMemory(2)), alone(2, PageMemory(2));
  Newer requests[2] = {{request_of(predictions), 0}, {request_of(predictions), 0}};
  requests[1].known.predictions += 12;
  pygrade_page pages[2];
  for (std::size_t b = 0; b < 2; ++b) {
    requests[b].known.size = sizeof(Newer);
    requests[b].known.candidates = 4;
    pages[b] = page_of(memory[b]);
    pygrade_page same = page_of(alone[b]);
    CHECK_EQUAL(pygrade_ranker_rank(ranker, &requests[b].known, &same), PYGRADE_OK);
  }
  pygrade_batch batch{};
  batch.size = sizeof batch;
  batch.requests = &requests[0].known;
  batch.pages = pages;
  batch.count = 2;
  batch.num_threads = 1;
  CHECK_EQUAL(pygrade_ranker_rank_batch(ranker, &batch), PYGRADE_OK);
  for (std::size_t b = 0; b < 2; ++b) CHECK_EQUAL(memory[b].values, alone[b].values);
  requests[1].more = 1;
  check_fails(pygrade_ranker_rank_batch(ranker, &batch), PYGRADE_INVALID_ARGUMENT,
              "request 1: request has a member at byte 248 of 256");
  pygrade_ranker_free(ranker);
}

TEST(a_policy_in_memory_is_looked_at_and_swapped_in) {
  Artifact artifact = mixed_artifact();
  pygrade_ranker* ranker = create(artifact);
  artifact.seed = 2;
  artifact.draw();
  const std::string json = artifact.json(), tensors = artifact.safetensors();
  const auto expected = parse(artifact);
  char text[64] = "";
  pygrade_policy_source source{};
  source.size = sizeof source;
  source.json = json.data();
  source.json_size = json.size();
  source.tensors = tensors.data();
  source.tensors_size = tensors.size();
  source.error = text;
  source.error_size = sizeof text;
  pygrade_policy *policy = nullptr, *served = nullptr;
  CHECK_EQUAL(pygrade_policy_load(&source, &policy), PYGRADE_OK);
  CHECK_EQUAL(std::string(pygrade_policy_version(policy)), expected->version());
  CHECK_EQUAL(std::string(pygrade_policy_schema_hash(policy)), expected->schema_hash());
  const auto names = [&](auto size, auto name) {
    std::vector<std::string> result;
    for (std::size_t i = 0; i < size(policy); ++i) result.emplace_back(name(policy, i));
    CHECK(name(policy, size(policy)) == nullptr && name(nullptr, 0) == nullptr && size(nullptr) == 0);
    return result;
  };
  CHECK(names(pygrade_policy_num_tasks, pygrade_policy_task) == expected->tasks());
  CHECK(names(pygrade_policy_num_features, pygrade_policy_feature) == expected->features());
  CHECK(names(pygrade_policy_num_scenarios, pygrade_policy_scenario) == expected->scenarios());
  CHECK(!expected->scenarios().empty());
  CHECK(names(pygrade_policy_num_items, pygrade_policy_item).empty());
  CHECK(*pygrade_policy_unproven(policy) == 0 && *pygrade_policy_unproven(nullptr) == 0);
  CHECK_EQUAL(pygrade_stable_id("cust_3", 6), 6868201402090471445);
  CHECK_EQUAL(pygrade_stable_id(nullptr, 6), 0);
  pygrade_formula formula{};
  formula.size = sizeof formula;
  CHECK_EQUAL(pygrade_policy_formula(policy, &formula, nullptr, 0), PYGRADE_OK);
  CHECK_EQUAL(std::string(formula.transform), expected->transform());
  CHECK(formula.beta == expected->beta() && formula.epsilon == expected->epsilon());
  CHECK(formula.num_inputs == expected->num_inputs() &&
        std::equal(formula.slope, formula.slope + 3, expected->slope().begin()));
  CHECK_EQUAL(formula.flags, static_cast<std::uint32_t>(PYGRADE_POLICY_TRADE_OFFS));
  for (const char* scenario : {"search", "other", static_cast<const char*>(nullptr)}) {
    std::vector<float> weights(3);
    const std::size_t size = scenario == nullptr ? 0 : std::strlen(scenario);
    CHECK_EQUAL(pygrade_policy_static_weights(policy, scenario, size, weights.data(), nullptr, 0), PYGRADE_OK);
    std::optional<std::string_view> name;
    if (scenario != nullptr) name = scenario;
    const auto fallback = expected->fallback(name).weights;
    CHECK_EQUAL(weights, std::vector<float>(fallback.begin(), fallback.end()));
  }

  CHECK_EQUAL(pygrade_ranker_swap(ranker, policy, text, sizeof text), PYGRADE_OK);
  pygrade_policy_free(policy);
  CHECK_EQUAL(pygrade_ranker_policy(ranker, &served, nullptr, 0), PYGRADE_OK);
  CHECK_EQUAL(std::string(pygrade_policy_version(served)), expected->version());

  artifact = Artifact();
  artifact.features = {"other", "intent"};
  artifact.draw();
  const std::string other_json = artifact.json(), other_tensors = artifact.safetensors();
  source.json = other_json.data();
  source.json_size = other_json.size();
  source.tensors = other_tensors.data();
  source.tensors_size = other_tensors.size();
  policy = nullptr;
  CHECK_EQUAL(pygrade_policy_load(&source, &policy), PYGRADE_OK);
  check_fails(pygrade_ranker_swap(ranker, policy, text, sizeof text), PYGRADE_INVALID_ARGUMENT,
              "other tasks or features");
  CHECK(std::string(text).find("other tasks or features") != std::string::npos);
  pygrade_policy_free(policy);

  policy = nullptr;
  source.json_size = 1;
  check_fails(pygrade_policy_load(&source, &policy), PYGRADE_BAD_ARTIFACT, "policy.json: byte 1");
  CHECK(std::string(text).starts_with("policy/policy.json: byte 1"));
  source.directory = "no-such-directory";
  check_fails(pygrade_policy_load(&source, &policy), PYGRADE_INVALID_ARGUMENT, "expected one of them");
  source.json = nullptr;
  source.tensors = nullptr;
  check_fails(pygrade_policy_load(&source, &policy), PYGRADE_NOT_FOUND, "no-such-directory");
  source.directory = nullptr;
  check_fails(pygrade_policy_load(&source, &policy), PYGRADE_INVALID_ARGUMENT, "source.json or source.tensors");
  check_fails(pygrade_policy_load(nullptr, &policy), PYGRADE_INVALID_ARGUMENT, "source is NULL");
  CHECK(policy == nullptr);
  check_fails(pygrade_policy_formula(nullptr, &formula, nullptr, 0), PYGRADE_INVALID_ARGUMENT, "policy is NULL");
  check_fails(pygrade_policy_formula(served, nullptr, nullptr, 0), PYGRADE_INVALID_ARGUMENT, "formula is NULL");
  check_fails(pygrade_policy_static_weights(served, "x", SIZE_MAX, nullptr, nullptr, 0), PYGRADE_INVALID_ARGUMENT,
              "weights");
  check_fails(pygrade_ranker_policy(nullptr, &policy, nullptr, 0), PYGRADE_INVALID_ARGUMENT, "ranker is NULL");
  check_fails(pygrade_ranker_swap(nullptr, served, nullptr, 0), PYGRADE_INVALID_ARGUMENT, "ranker is NULL");
  CHECK_EQUAL(std::string(pygrade_policy_version(nullptr)), "");
  pygrade_policy_free(served);
  pygrade_policy_free(nullptr);
  pygrade_ranker_free(ranker);
}
