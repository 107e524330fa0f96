#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>
#include <thread>

#include "check.hpp"
#include "service/config.hpp"
#include "service/metrics.hpp"
#include "service_run.hpp"
#include "serving.hpp"

namespace {
using namespace pygrade;
using namespace pygrade::tests;
using detail::Json;
namespace fs = std::filesystem;

constexpr const char* tasks[] = {"click", "like", "order"};

std::vector<std::int64_t> items_of(const Json& page) { return page.integers_at("items"); }

TEST(every_wrong_request_is_named) {
  const ServiceRun run;
  const auto service = run.serve(R"({"max_k": 100, "max_candidates": 200, "max_events": 3})");
  check_error(*service, "{", "body", "no JSON");
  check_error(*service, "", "body", "no JSON");
  check_error(*service, "[]", "body", "body is a list of 0; expected a JSON object");
  check_error(*service, "{}", "user", "user is missing");
  check_error(*service, R"({"user": "x"})", "user", "user is \"x\"; expected a whole number");
  check_error(*service, R"({"user": 1.5})", "user", "user is 1.5; expected a whole number");
  check_error(*service, R"({"user": 1e30})", "user", "expected a whole number");
  check_error(*service, R"({"user": 1, "k": 0})", "k", "k is 0; expected a whole number from 1 to 100");
  check_error(*service, R"({"user": 1, "k": 101})", "k", "k is 101; expected a whole number from 1 to 100");
  check_error(*service, R"({"user": 1, "k": "5"})", "k", "k is \"5\"; expected a whole number");
  check_error(*service, R"({"user": 1, "candidates": 201})", "candidates", "candidates is 201");
  check_error(*service, R"({"user": 1, "items": 5})", "items", "items is 5; expected a list of at most 200");
  check_error(*service, R"({"user": 1, "items": [1, -2]})", "items[1]",
              "items[1] is -2; expected a whole number from 0");
  check_error(*service, R"({"user": 1, "items": [7, 7]})", "items", "items holds 7 more than once");
  check_error(*service, R"({"user": 1, "items": []})", "items", "no candidate is left");
  check_error(*service, R"({"user": 1, "eligible": [3], "seen": [3]})", "items", "no candidate is left");
  check_error(*service, R"({"user": 1, "seen": {}})", "seen", "seen is an object; expected a list");
  check_error(*service, R"({"user": 1, "context": {"c_nope": 1}})", "context", "context names 'c_nope'");
  check_error(*service,
              R"({"user": 1, "context": {"c_nope": 1}, "items": [1, 2], "predictions": )"
              R"({"click": [0.1, 0.2], "like": [0.1, 0.2], "order": [0.1, 0.2]}})",
              "context", "context names 'c_nope'", "/v1/weights");
  check_error(*service, R"({"user": 1, "context": {"c_nope": [1]}})", "context.c_nope", "a number, a text or null");
  check_error(*service, R"({"user": 1, "context": []})", "context", "context is a list of 0; expected an object");
  check_error(*service, R"({"user": 1, "scenario": ""})", "scenario", "a text of 1 to 256 bytes");
  check_error(*service, R"({"user": 1, "timestamp": "now"})", "timestamp", "a whole number");
  check_error(*service, R"({"user": 1, "explore": 1})", "explore", "explore is 1; expected true or false");
  check_error(*service, R"({"user": 1, "values": {"clack": 1}})", "values",
              "names the task 'clack'; expected one of click");
  check_error(*service, R"({"user": 1, "values": {"click": 1e31}})", "values.click", "values.click is 1e");
  check_error(*service, R"({"user": 1, "deadline_ms": NaN})", "body", "no number of JSON; expected null");
  check_error(*service, R"({"user": 1, "arm": "b"})", "arm", "arm is \"b\"; expected one of main");
  check_error(*service, R"({"user": 1, "item_values": [1]})", "item_values", "without items");
  check_error(*service, R"({"user": 1, "items": [1], "item_values": [1, 2]})", "item_values", "one value for each");
  check_error(*service, R"({"user": 1, "user": 2})", "body", "a key occurs twice");
  check_error(*service, R"({"events": 1})", "events", "events is 1; expected a list of at most 3", "/v1/update");
  check_error(*service, R"({"events": [1, 2, 3, 4]})", "events[0]", "expected a JSON object", "/v1/update");
  check_error(*service, "{}", "events", "events is missing", "/v1/update");
  check_error(*service, R"({"events": [{"user": 1, "task": "click"}]})", "events[0].item", "is missing", "/v1/update");
  check_error(*service, R"({"events": [{"user": 1, "item": 1, "task": "clack"}]})", "events[0].task",
              "names the task 'clack'", "/v1/update");
  check_error(*service, R"({"events": [{"user": 1, "item": 1, "measures": {"x": 1}}]})", "events[0].measures",
              "names 'x', which no feature reads", "/v1/update");
  CHECK_EQUAL(service->handle({"GET", "/v1/rank", ""}).status, 405);
  CHECK_EQUAL(service->handle({"POST", "/livez", ""}).status, 405);
  CHECK_EQUAL(service->handle({"GET", "/nothing", ""}).status, 404);
  CHECK_EQUAL(service->handle({"", "", ""}).status, 404);
  CHECK_EQUAL(service->handle({"POST", "/v1/rank", std::string(2'000'000, ' ')}).status, 413);
  CHECK_EQUAL(metric(*service, R"(pygrade_requests_total{endpoint="/v1/rank",status="413"})"), 1.0);
}

TEST(predictions_of_a_request_stand_in_for_the_model) {
  const ServiceRun run;
  const auto service = run.serve();
  const std::vector<std::int64_t> items = {5, 6, 7, 8};
  const std::vector<float> predictions = {0.5f, 0.25f, 0.125f, 0.25f, 0.5f, 0.0625f, 0.125f, 0.5f, 0.25f, 1, 1, 1};
  const std::string lists = R"("items": [5, 6, 7, 8], "predictions": {"click": [0.5, 0.25, 0.125, 1],)"
                            R"( "like": [0.25, 0.5, 0.5, 1], "order": [0.125, 0.0625, 0.25, 1]})";
  const Json page = post(*service, "/v1/rank",
                         R"({"user": 3, "k": 3, "timestamp": 1700000000000, "rules": {"mask": [true, true, true,)"
                         R"( false]}, )" +
                             lists + "}");
  CHECK_EQUAL(text_at(page, "user"), std::string("unknown"));  // this store holds no events
  auto pipeline = Pipeline::load(test_artifact("first"), run.store);
  std::vector<std::int64_t> got(3);
  std::vector<float> scores(3);
  const std::vector<std::uint8_t> mask = {1, 1, 1, 0};
  const auto rules = [&](std::span<const std::int64_t>) { return PageRules{mask, {}, {}, {}, {}}; };
  PageWorkspace workspace;
  PipelineRequest request;
  request.user = {3, 1'700'000'000'000, {}, {}};
  request.item_ids = items;
  request.predictions = predictions;
  request.rules = rules;
  pipeline->rank(request, {got, scores, {}, {}}, workspace);
  CHECK_EQUAL(items_of(page), got);
  for (std::size_t i = 0; i < 3; ++i) CHECK_EQUAL(static_cast<float>(page.at("scores").items[i].number), scores[i]);
  check_error(*service, R"({"user": 3, "predictions": {"click": [1], "like": [1], "order": [1]}})", "predictions",
              "without items");
  check_error(*service, R"({"user": 3, "rules": {"caps": {}, "mask": [true]}})", "rules", "without items");
  check_error(*service, R"({"user": 3, "item_features": {"x": [1]}})", "item_features", "without items");
}

TEST(names_have_the_ids_of_python) {  // as in tests/util/test_hashing.py
  const std::pair<const char*, std::int64_t> ids[] = {{"cust_3", 6868201402090471445},
                                                      {"7", 7},
                                                      {"0", 0},
                                                      {"9223372036854775807", 9223372036854775807},
                                                      {"9223372036854775808", 7004913841709326405},
                                                      {"007", 6827728056401007908},
                                                      {"-3", 4380771024531319718},
                                                      {"", 6510301506637419378},
                                                      {"\u00fc", 1988230250601838762}};
  for (const auto& [name, id] : ids) CHECK_EQUAL(stable_id(name), id);
}

TEST(feedback_changes_features_and_is_logged) {
  const ServiceRun run;
  const auto service = run.serve(R"({"feedback": "feedback"})");
  const std::string events =
      R"({"events": [{"user": 3, "item": 7, "task": "click", "timestamp": 1700000000000, "request_id": "r", )"
      R"("scenario": "feed", "event_id": "e1"}, {"user": 3, "item": 7, "task": "like", "timestamp": 1700000001000, )"
      R"("request_id": "r", "scenario": "feed", "amount": 2.5}, )"
      R"({"user": 3, "item": 8, "task": null, "timestamp": 1700000000000, "scenario": "feed"}]})";
  const Json done = post(*service, "/v1/update", events);
  CHECK_EQUAL(done.at("events").integer, 3);
  CHECK_EQUAL(done.at("rows").integer, 2);  // click and like of one page's item are one row
  CHECK_EQUAL(metric(*service, R"(pygrade_feedback_events_total{arm="main",task="click"})"), 1.0);
  service->drain();
  std::string text;
  for (const auto& entry : fs::directory_iterator(run.folder / "feedback")) {
    std::ifstream file(entry.path());
    text.append(std::istreambuf_iterator<char>(file), {});
  }
  CHECK_EQUAL(std::ranges::count(text, '\n'), 3);
  const Json line = Json::parse(text.substr(0, text.find('\n')));
  CHECK_EQUAL(text_at(line, "event_id"), std::string("e1"));
  CHECK_EQUAL(text_at(line, "arm"), std::string("main"));
  run.store->fail(true);
  const Response failed = service->handle({"POST", "/v1/update", events});
  CHECK_EQUAL(failed.status, 503);
  const Json degraded = post(*service, "/v1/rank", R"({"user": 3})");
  CHECK_EQUAL(text_at(degraded, "degraded"), std::string("store"));
  CHECK(text_at(degraded, "fallback") != "null");
}

TEST(a_deadline_gives_the_page_of_an_unknown_user) {
  const ServiceRun run;
  const auto service = run.serve();
  const Json page = post(*service, "/v1/rank", R"({"user": 3, "deadline_ms": 0.0})");
  CHECK_EQUAL(text_at(page, "degraded"), std::string("deadline"));
  CHECK_EQUAL(items_of(page).size(), std::size_t{10});
  CHECK_EQUAL(metric(*service, R"(pygrade_degraded_pages_total{reason="deadline"})"), 1.0);
  const auto hurried = run.serve(R"({"deadline_ms": 0.1})");
  CHECK_EQUAL(hurried->handle({"POST", "/v1/rank", R"({"user": 3})"}).status, 200);
}

TEST(arms_have_their_shares_and_stay) {
  constexpr int users = 2000;
  const auto arms_of = [](const std::string& config_json) {
    const auto config = detail::ServiceConfig::parse(config_json, "");
    std::vector<std::size_t> arms;
    for (int user = 0; user < users; ++user) arms.push_back(detail::arm_of(config, user));
    return arms;
  };
  const ServiceRun run;
  const std::string arms =
      R"("arms": [{"name": "a", "share": 0.7}, {"name": "b", "share": 0.3, "allow_identical": true}])";
  const auto service = run.serve("{" + arms + "}");
  const auto dealt = arms_of("{" + arms + "}"), anew = arms_of(R"({"salt": "two", )" + arms + "}");
  double of_b = 0.0;
  for (std::size_t user = 0; user < 50; ++user) {
    const Json page = post(*service, "/v1/rank", R"({"k": 1, "user": )" + std::to_string(user) + "}");
    CHECK_EQUAL(text_at(page, "arm"), std::string(dealt[user] == 0 ? "a" : "b"));
    of_b += static_cast<double>(dealt[user]);
  }
  CHECK_EQUAL(metric(*service, R"(pygrade_arm_pages_total{arm="b"})"), of_b);
  CHECK_NEAR(static_cast<double>(std::ranges::count(dealt, 1u)), 0.3 * users, 4.0 * std::sqrt(0.21 * users));
  int same = 0;
  for (std::size_t user = 0; user < users; ++user) same += dealt[user] == anew[user];
  CHECK_NEAR(same, 0.58 * users, 4.0 * std::sqrt(0.25 * users));
  CHECK_EQUAL(text_at(post(*service, "/v1/rank", R"({"user": 1, "arm": "b"})"), "arm"), std::string("b"));
}

TEST(wrong_configurations_are_named) {
  const ServiceRun run;
  const auto refuses = [&](const std::string& config, const std::string& message) {
    CHECK_THROWS(std::invalid_argument, message, run.serve(config));
  };
  refuses("{", "config is no JSON");
  refuses(R"({"port": 80})", "port is unknown; expected some of store");
  refuses(R"({"max_k": 0})", "max_k is 0");
  refuses(R"({"arms": []})", "arms is empty");
  refuses(R"({"arms": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.4}]})", "together; expected 1");
  refuses(R"({"arms": [{"name": "a b"}]})", "arms[0].name is \"a b\"; expected letters");
  refuses(R"({"arms": [{"share": 1}]})", "arms[0].name is missing");
  refuses(R"({"arms": [{"name": "a", "share": 0.5}, {"name": "a", "share": 0.5}]})", "distinct names");
  refuses(R"({"arms": [{"name": "a", "explore": 0.5}]})", "max_explore is 0.1");
  refuses(R"({"arms": [{"name": "a", "mixture_weight": 2}]})", "arms[0].mixture_weight is 2");
  refuses(R"({"arms": [{"name": "a", "mixture_weight": 1, "ranking": "control"}]})",
          "arms[0].mixture_weight is given with ranking");
  refuses(R"({"arms": [{"name": "a", "values": {"clack": 2}}]})", "arm 'a': values names 'clack'");
  refuses(R"({"shadow": [{"name": "main"}]})", "which is an arm");
  refuses(R"({"shadow": [{"name": "s", "share": 1}]})", "shadow[0].share is unknown");
  CHECK_THROWS(ArtifactError, "policy.json", run.serve(R"({"shadow": [{"name": "s", "policy": "nowhere"}]})"));
  CHECK_THROWS(ArtifactError, "holds neither artifact", Service(run.folder / "none", "{}", run.store));
}

TEST(exploration_is_capped) {
  const ServiceRun run;
  const auto service = run.serve(R"({"max_explore": 0.25, "seed": 1})");
  int explored = 0;
  for (int i = 0; i < 100; ++i) {
    const Json page = post(*service, "/v1/rank", R"({"user": 1, "explore": true})");
    explored += page.boolean_at("explored");
    CHECK(explored <= 0.25 * (i + 1));
  }
  CHECK_EQUAL(explored, 25);
  CHECK_EQUAL(metric(*service, R"(pygrade_arm_capped_pages_total{arm="main"})"), 75.0);
  const double effective = metric(*service, R"(pygrade_exploration_effective_samples{arm="main",target="narrower"})");
  CHECK(effective > 1.0 && effective <= 25.0);
  const auto share = run.serve(R"({"max_explore": 1, "arms": [{"name": "main", "explore": 0.2}]})");
  int of_arm = 0;
  for (int i = 0; i < 500; ++i) of_arm += post(*share, "/v1/rank", R"({"user": 1, "k": 1})").boolean_at("explored");
  CHECK_NEAR(of_arm, 100.0, 40.0);
  CHECK(!post(*share, "/v1/rank", R"({"user": 1, "explore": false})").boolean_at("explored"));
}

TEST(shadows_are_compared_and_never_served) {
  const ServiceRun run;
  const std::string policy = (test_artifact("second") / "policy").string();
  const auto plain = run.serve();
  const auto service = run.serve(
      R"({"exposures": "exposures", "shadow": [{"name": "same", "allow_identical": true}, {"name": "other", "allow_identical": true,)"
      R"( "policy": ")" +
      policy + R"("}]})");
  for (int user = 0; user < 20; ++user) {
    const std::string body = R"({"timestamp": 1700000000000, "user": )" + std::to_string(user) + "}";
    CHECK_EQUAL(items_of(post(*service, "/v1/rank", body)), items_of(post(*plain, "/v1/rank", body)));
  }
  CHECK_EQUAL(metric(*service, R"(pygrade_shadow_pages_total{shadow="same"})"), 20.0);
  CHECK_NEAR(metric(*service, R"(pygrade_shadow_replaced_sum{shadow="same"})"), 0.0, 1e-9);
  CHECK_NEAR(metric(*service, R"(pygrade_shadow_overlap_sum{shadow="same"})"), 20.0, 1e-9);
  CHECK_NEAR(metric(*service, R"(pygrade_shadow_correlation_sum{shadow="same"})"), 20.0, 1e-9);
  CHECK_NEAR(metric(*service, R"(pygrade_shadow_own_score_sum{shadow="same"})"),
             metric(*service, R"(pygrade_shadow_served_score_sum{shadow="same"})"), 1e-6);
  CHECK(metric(*service, R"(pygrade_shadow_own_score_sum{shadow="other"})") >=
        metric(*service, R"(pygrade_shadow_served_score_sum{shadow="other"})") - 1e-6);
  CHECK_EQUAL(metric(*service, R"(pygrade_arm_pages_total{arm="main"})"), 20.0);
  service->drain();
  int lines = 0;
  for (const auto& entry : fs::directory_iterator(run.folder / "exposures" / "shadow")) {
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line); ++lines) Json::parse(line).finite_at("shadow_replaced");
  }
  CHECK_EQUAL(lines, 40);
  int files = 0;
  for (const auto& entry : fs::directory_iterator(run.folder / "exposures"))
    files += entry.path().extension() == ".parquet";
  CHECK_EQUAL(files, 1);
  CHECK_EQUAL(metric(*service, "pygrade_exposures_total"), 20.0);
}

// That an explained item's parts add up to its score. Whether it is of a mixture.
bool check_sums(const Json& page, const Json& item) {
  double fused = 0.0;
  for (const char* task : tasks) fused += item.object_at("contributions").finite_at(task);
  if (page.object_at("ranking").string_at("score").starts_with("the logarithm")) fused = std::log(fused);
  CHECK_NEAR(fused, item.finite_at("fused"), 1e-5 * (1.0 + std::fabs(fused)));
  const Json& mixture = item.at("mixture");
  const bool is_mixed = mixture.type != Json::Type::null;
  const double sum = is_mixed ? mixture.finite_at("policy") + mixture.finite_at("baseline") : fused;
  double score = sum;
  if (const Json* boost = item.find("boost")) {
    const double factor = boost->finite_at("mul");
    score = (sum < 0.0 ? sum / factor : sum * factor) + boost->finite_at("add");
  }
  CHECK_NEAR(score, item.finite_at("score"), 1e-4 * (1.0 + std::fabs(score)));
  return is_mixed;
}

TEST(an_explanation_adds_up) {
  const ServiceRun run;
  const auto service = run.serve();
  const std::string body = R"({"user": 3, "k": 4, "timestamp": 1700000000000})";
  const Json page = post(*service, "/v1/explain", body);
  CHECK_EQUAL(items_of(page), items_of(post(*service, "/v1/rank", body)));
  CHECK_EQUAL(page.at("explanation").items.size(), std::size_t{4});
  for (const Json& item : page.at("explanation").items) {
    check_sums(page, item);
    for (const char* task : tasks) CHECK(item.object_at("predictions").finite_at(task) > 0.0);
  }
  CHECK_EQUAL(page.object_at("concentration").keys.size(), std::size_t{3});
  CHECK(!page.object_at("inputs").keys.empty());
  CHECK_EQUAL(page.object_at("static").at("items").items.size(), std::size_t{4});
  const Json degraded = post(*service, "/v1/explain", R"({"user": 3, "deadline_ms": 0})");
  CHECK(degraded.at("concentration").type == Json::Type::null);
  CHECK(degraded.at("inputs").type == Json::Type::null);
}

TEST(an_explanation_of_a_baseline_alone_is_of_that_baseline) {
  const ServiceRun run;
  const auto first = Policy::load(test_artifact("first") / "policy");
  for (const bool logarithm : {true, false}) {
    Artifact artifact;
    artifact.tasks = first->tasks();
    artifact.features = first->features();
    artifact.mixture =
        mixture_json({{"value_tasks", "[]"}, {"calibration", "[]"}, {"logarithm", logarithm ? "true" : "false"}}, "0");
    artifact.draw().write(run.folder / "untrusted");
    const auto service = run.serve(R"({"arms": [{"name": "a", "share": 1, "policy": "untrusted"}]})");
    const std::string items = R"("items": [1, 2, 3, 4, 5])";
    for (const char* rules : {"", R"(, "rules": {"boost_mul": [2, 1, 1, 0.5, 1], "boost_add": [0, 0, 1, 0, 0]})"}) {
      const Json page = post(*service, "/v1/explain", R"({"user": 3, "k": 4, )" + items + rules + "}");
      const Json& ranking = page.object_at("ranking");
      CHECK_EQUAL(ranking.at("by").items.size(), std::size_t{1});
      CHECK_EQUAL(ranking.at("by").items[0].string, std::string("expected value"));
      CHECK(!ranking.at("weighs").boolean);
      CHECK_EQUAL(ranking.string_at("score"), std::string(logarithm ? "the logarithm of the sum" : "the sum") +
                                                  " of the contributions, standardized over the candidates");
      CHECK(ranking.string_at("why").starts_with("expected value ranks alone; the weights do not count"));
      for (const Json& item : page.at("explanation").items) {
        CHECK(check_sums(page, item));
        CHECK_EQUAL(item.find("boost") != nullptr, *rules != 0);
        for (const char* task : tasks) CHECK(std::fabs(item.object_at("contributions").finite_at(task)) > 0.0);
      }
    }
  }
}

TEST(an_explanation_of_a_challenger_adds_up) {
  const ServiceRun run;
  const auto first = Policy::load(test_artifact("first") / "policy");
  for (const char* mixture_weight : {"0.25", "1"}) {
    Artifact artifact = corrected_artifact(mixture_weight);
    artifact.tasks = first->tasks();
    artifact.features = first->features();
    artifact.indicators = {artifact.features[0]};
    artifact.value_tasks = {};
    artifact.correction->indicators = "[0]";
    const std::map<std::string, std::string> plain = {
        {"value_tasks", "[]"}, {"calibration", "[]"}, {"logarithm", "false"}};
    auto corrected = plain;
    corrected["corrected"] = "true";
    artifact.mixture = mixture_json(plain, mixture_weight, baseline_json(corrected));
    artifact.draw().write(run.folder / "corrected");
    const auto service = run.serve(R"({"arms": [{"name": "a", "share": 1, "policy": "corrected"}]})");
    for (const char* asked : {"", R"(, "values": {")"}) {
      std::string body = R"({"user": 3, "k": 4, "timestamp": 1700000000000)" + std::string(asked);
      if (*asked != 0) body += first->tasks()[0] + R"(": 3})";
      const Json page = post(*service, "/v1/explain", body + "}");
      CHECK_EQUAL(page.at("explanation").items.size(), std::size_t{4});
      for (const Json& item : page.at("explanation").items)
        CHECK_EQUAL(check_sums(page, item), *asked == 0 && std::string_view(mixture_weight) != "1");
    }
  }
}

TEST(a_new_artifact_is_served_and_a_damaged_one_is_not) {
  const ServiceRun run;
  const auto service = run.serve();
  CHECK(!service->refresh());
  // The link moved before the store was filled: the old models go on.
  run.point_to("second");
  CHECK(!service->refresh());
  const Json waiting = json_of(get(*service, "/readyz"));
  CHECK(text_at(waiting, "reload_error").find("serves version " + run.version) != std::string::npos);
  CHECK_EQUAL(text_at(post(*service, "/v1/rank", R"({"user": 1})"), "artifact"), run.version);
  run.publish("second");
  fs::remove(run.folder / "artifact");
  run.point_to("second");
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  // A failed load is tried again at once if something changes.
  const fs::path copy = run.folder / "copy";
  fs::copy(test_artifact("second"), copy, fs::copy_options::recursive);
  run.link(copy);
  CHECK(service->refresh());
  CHECK(text_at(post(*service, "/v1/rank", R"({"user": 1})"), "artifact") != run.version);
  CHECK_EQUAL(text_at(json_of(get(*service, "/readyz")), "reload_error"), std::string("null"));
  CHECK_EQUAL(metric(*service, "pygrade_reloads_total"), 1.0);
  CHECK_EQUAL(metric(*service, "pygrade_reload_failures_total"), 1.0);

  const fs::path damaged = run.folder / "damaged";
  fs::copy(test_artifact("first"), damaged, fs::copy_options::recursive);
  std::ofstream(damaged / "mtl" / "mtl.json", std::ios::app) << " ";
  run.link(damaged);
  CHECK(!service->refresh());
  CHECK(text_at(json_of(get(*service, "/readyz")), "reload_error").find("mtl.json") != std::string::npos);
  CHECK_EQUAL(get(*service, "/readyz").status, 200);
  CHECK(text_at(post(*service, "/v1/rank", R"({"user": 1})"), "artifact") != run.version);
  CHECK(!service->refresh());  // not tried again before something changes, or some time is over
  CHECK_EQUAL(metric(*service, "pygrade_reload_failures_total"), 2.0);
  const Json status = json_of(get(*service, "/v1/status"));
  CHECK_EQUAL(status.at("reloads").items.size(), std::size_t{4});

  // The link is to what is served again: nothing is left to say.
  run.link(copy);
  CHECK(!service->refresh());
  CHECK_EQUAL(text_at(json_of(get(*service, "/readyz")), "reload_error"), std::string("null"));
}

TEST(a_new_policy_of_an_arm_is_served_without_a_new_artifact) {
  const ServiceRun run;
  run.write("online/status.json", R"({"version": "v2", "updates": 3, "estimate": NaN})");
  fs::create_directory_symlink(test_artifact("first") / "policy", run.folder / "online" / "policy");
  const auto service = run.serve(R"({"arms": [{"name": "online", "policy": "online/policy"}]})");
  const auto first = text_at(post(*service, "/v1/rank", R"({"user": 1})"), "policy");
  CHECK(!service->refresh());
  fs::create_directory_symlink(test_artifact("second") / "policy", run.folder / "new");
  fs::rename(run.folder / "new", run.folder / "online" / "policy");
  CHECK(service->refresh());
  const Json page = post(*service, "/v1/rank", R"({"user": 1})");
  CHECK(text_at(page, "policy") != first);
  CHECK_EQUAL(text_at(page, "artifact"), run.version);
  CHECK_EQUAL(metric(*service, R"(pygrade_online{field="updates"})"), 3.0);
  const Json status = json_of(get(*service, "/v1/status"));
  CHECK_EQUAL(text_at(status.object_at("online"), "version"), std::string("v2"));
  CHECK(status.object_at("online").at("estimate").type == Json::Type::null);
}

TEST(drain_ends_readiness_and_nothing_else) {
  const ServiceRun run;
  const auto service = run.serve(R"({"exposures": "exposures", "exposure_share": 1})");
  CHECK_EQUAL(get(*service, "/readyz").status, 200);
  post(*service, "/v1/rank", R"({"user": 1})");
  service->drain();
  CHECK_EQUAL(get(*service, "/readyz").status, 503);
  CHECK_EQUAL(service->handle({"GET", "/livez", ""}).status, 200);
  CHECK_EQUAL(service->handle({"POST", "/v1/rank", R"({"user": 1})"}).status, 200);
  CHECK_EQUAL(metric(*service, "pygrade_exposure_files_total"), 1.0);
  CHECK_EQUAL(metric(*service, "pygrade_ready"), 0.0);
}

TEST(pages_during_reloads_are_of_one_artifact) {
  const ServiceRun run;
  run.publish("second");
  run.publish("first");
  const auto service = run.serve();
  const std::string versions[] = {Models::load(test_artifact("first")).version,
                                  Models::load(test_artifact("second")).version};
  const std::string policies[] = {Policy::load(test_artifact("first") / "policy")->version(),
                                  Policy::load(test_artifact("second") / "policy")->version()};
  std::atomic<bool> done{false};
  std::atomic<int> pages{0}, wrong{0}, of_second{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      while (!done) {
        const Response response =
            service->handle({"POST", "/v1/rank", R"({"candidates": 20, "user": )" + std::to_string(t) + "}"});
        if (response.status != 200) {
          ++wrong;
          continue;
        }
        const Json page = json_of(response);
        const bool second = text_at(page, "artifact") == versions[1];
        wrong += text_at(page, "policy") != policies[second] || text_at(page, "artifact") != versions[second];
        of_second += second;
        ++pages;
      }
    });
  int reloads = 0;
  for (int i = 0; i < 12; ++i) {
    run.publish(i % 2 == 0 ? "second" : "first");
    reloads += service->refresh();
    const int before = pages;
    while (pages < before + 10) std::this_thread::yield();
  }
  done = true;
  threads.clear();
  CHECK_EQUAL(reloads, 12);
  CHECK_EQUAL(wrong.load(), 0);
  CHECK(of_second > 0 && of_second < pages);
}

TEST(metrics_count_steps_weights_and_drift) {
  const ServiceRun run;
  std::string entries;
  for (const char* task : tasks)
    entries += std::string(entries.empty() ? "" : ", ") + "\"" + task +
               R"(": {"bounds": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
                      "shares": [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]})";
  run.write("reference.json", R"({"versions": {")" + run.version + R"(": {)" + entries + "}}}");
  const auto service = run.serve();
  for (int i = 0; i < 16; ++i) post(*service, "/v1/rank", R"({"user": 1, "scenario": "feed"})");
  CHECK_EQUAL(metric(*service, R"(pygrade_step_seconds_count{step="predictions"})"), 16.0);
  CHECK(metric(*service, R"(pygrade_request_seconds_sum{endpoint="/v1/rank"})") > 0.0);
  CHECK(metric(*service, R"(pygrade_prediction_psi{task="click"})") > 0.1);
  double mean = 0.0, scenarios = 0.0;
  for (const char* scenario : {"feed", "other", ""}) {
    const double pages = metric(*service, std::string(R"(pygrade_scenario_pages_total{scenario=")") + scenario + "\"}");
    if (pages <= 0.0) continue;
    scenarios += pages;
    for (const char* task : tasks)
      mean +=
          metric(*service, std::string(R"(pygrade_weight_mean{scenario=")") + scenario + R"(",task=")" + task + "\"}");
  }
  CHECK_EQUAL(scenarios, 16.0);
  CHECK_NEAR(mean, 1.0, 1e-5);
  const std::vector<double> counts = {10, 20}, shares = {0.5, 0.5};
  CHECK_NEAR(detail::stability_index(counts, shares),
             (1.0 / 3 - 0.5) * std::log(2.0 / 3) + (2.0 / 3 - 0.5) * std::log(4.0 / 3), 1e-12);
  CHECK_EQUAL(detail::stability_index(shares, shares), 0.0);
  const Json status = json_of(service->handle({"GET", "/v1/status?x=1", ""}));
  CHECK_EQUAL(status.object_at("latency").object_at("/v1/rank").at("count").integer, 16);
  CHECK(status.object_at("latency").object_at("/v1/rank").finite_at("p99") > 0.0);
  CHECK(status.object_at("drift").finite_at("click") > 0.1);
}
}  // namespace
