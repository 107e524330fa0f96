// Runs of a policy alone, whose requests bring predictions: pages, rules, logs and memory.
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <map>
#include <new>
#include <set>
#include <thread>
#include <tuple>

#include "check.hpp"
#include "service/json_writer.hpp"
#include "service_run.hpp"
#include "serving.hpp"
#include "util/safetensors.hpp"

namespace {
std::atomic<std::int64_t> held{0}, most{0};  // bytes

[[gnu::noinline]] void release(void* memory) {
  held -= static_cast<std::int64_t>(malloc_usable_size(memory));
  std::free(memory);
}
}  // namespace

void* operator new(std::size_t size) {
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  const std::int64_t now = held += static_cast<std::int64_t>(malloc_usable_size(memory));
  if (now > most) most = now;
  return memory;
}
void operator delete(void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }

namespace {
using namespace pygrade;
using namespace pygrade::tests;
using detail::Json;
using detail::JsonWriter;
namespace fs = std::filesystem;

const std::vector<std::string> tasks = {"click", "cart", "order"};

Artifact table_policy(unsigned seed = 1) {
  Artifact artifact;
  artifact.seed = seed;
  artifact.features = {"hour", "intent", "device=app", "device=web"};
  return artifact.draw();
}

template <class T>
std::string list_text(const std::vector<T>& values) {
  return JsonWriter().list(values).take();
}
std::string list_text(const std::vector<std::uint8_t>& flags) {
  return JsonWriter().list(flags, [](std::uint8_t flag) { return flag != 0; }).take();
}

// A request of n items, with more keys as JSON.
struct Asked {
  explicit Asked(std::size_t count, unsigned seed = 7) : predictions(make_predictions(count, 3, seed)) {
    for (std::size_t i = 0; i < count; ++i) items.push_back(static_cast<std::int64_t>(1000 + 3 * i));
  }
  std::vector<float> column(std::size_t task) const {
    std::vector<float> values;
    for (std::size_t i = 0; i < items.size(); ++i) values.push_back(predictions[i * 3 + task]);
    return values;
  }
  std::string lists() const {
    std::string text = R"("items": )" + list_text(items) + R"(, "predictions": {)";
    for (std::size_t t = 0; t < 3; ++t) text += (t ? ", \"" : "\"") + tasks[t] + "\": " + list_text(column(t));
    return text + "}";
  }
  std::string json(const std::string& more = R"("user": 3)") const { return "{" + more + ", " + lists() + "}"; }

  std::vector<std::int64_t> items;
  std::vector<float> predictions;
};

std::vector<float> scores_of(const Json& page) {
  std::vector<float> scores;
  for (const Json& score : page.at("scores").items) scores.push_back(static_cast<float>(score.number));
  return scores;
}

std::string post_text(Service& service, const std::string& body) {
  return service.handle({"POST", "/v1/rank", body}).body;
}

constexpr const char* with_context =
    R"("user": "ann", "k": 10, "context": {"hour": 3.5, "intent": 2, "device": "web"}, "scenario": "search")";
}  // namespace

TEST(a_page_of_a_policy_s_run_is_the_ranker_s) {
  const PolicyRun run(table_policy());
  const auto service = run.serve();
  const Asked asked(100);
  const Json page = post(*service, "/v1/rank", asked.json(with_context));
  Ranker ranker(run.policy);
  const std::vector<float> context = {3.5f, 2.0f, 0.0f, 1.0f};
  PageMemory expected(10);
  ranker.rank({.context = context, .predictions = asked.predictions, .scenario = "search"}, expected);
  CHECK_EQUAL(scores_of(page), expected.values);
  const auto items = page.integers_at("items");
  for (std::size_t i = 0; i < 10; ++i)
    CHECK_EQUAL(items[i], asked.items[static_cast<std::size_t>(expected.indices[i])]);
  for (std::size_t t = 0; t < 3; ++t)
    CHECK_EQUAL(static_cast<float>(page.at("weights").finite_at(tasks[t])), expected.weights[t]);
  CHECK_EQUAL(text_at(page, "policy"), run.policy->version());
  CHECK_EQUAL(text_at(page, "user"), std::string("known"));
  CHECK_EQUAL(text_at(page, "artifact"), std::string("null"));
  CHECK_EQUAL(text_at(page, "fallback"), std::string("null"));
  CHECK_EQUAL(json_of(service->handle({"GET", "/readyz", ""})).boolean_at("ready"), true);

  // The directory of a policy is a run, too.
  Service alone(run.folder / "policy", "{}");
  CHECK_EQUAL(scores_of(post(alone, "/v1/rank", asked.json(with_context))), expected.values);
  CHECK(page.strings_at("ranked_by") == std::vector<std::string>{"policy"});
  CHECK(page.find("unknown_keys") == nullptr && page.find("missing_predictions") == nullptr);
  const Json mistyped = post(*service, "/v1/rank", asked.json(R"("user": "ann", "contxt": {}, "context": {"hou": 3})"));
  CHECK(mistyped.strings_at("unknown_keys") == (std::vector<std::string>{"contxt", "context.hou"}));
  const Json unseen = post(*service, "/v1/rank", asked.json(R"("user": "ann", "context": {"device": "mobil"})"));
  CHECK(unseen.strings_at("unknown_keys") == std::vector<std::string>{"context.device=mobil"});
  const Json blank = post(*service, "/v1/rank", asked.json(R"("user": "ann", "context": {"device": " "})"));
  CHECK(blank.find("unknown_keys") == nullptr);
  // Nothing is known of the user: the static weights.
  const Json unknown = post(*service, "/v1/rank", asked.json());
  CHECK_EQUAL(text_at(unknown, "user"), std::string("unknown"));
  CHECK_EQUAL(text_at(unknown, "fallback"), std::string("global"));
  const Json late = post(*service, "/v1/rank", asked.json(std::string(with_context) + R"(, "deadline_ms": 0)"));
  CHECK_EQUAL(text_at(late, "degraded"), std::string("deadline"));
  CHECK_EQUAL(text_at(late, "fallback"), std::string("scenario"));
}

TEST(a_text_that_the_policy_does_not_know_is_one_of_the_rarer_values) {
  Artifact artifact = table_policy();
  artifact.features = {"hour", "intent", "device=app", "device=(other)"};
  const PolicyRun run(artifact.draw());
  const auto service = run.serve();
  const Asked asked(20);
  const auto served = [&](const char* device) {
    return post(*service, "/v1/rank",
                asked.json(R"("user": "ann", "context": {"hour": 3.5, "device": ")" + std::string(device) + "\"}"));
  };
  const Json page = served("tv");
  CHECK(page.find("unknown_keys") == nullptr);
  CHECK(scores_of(page) == scores_of(served("(other)")) && scores_of(page) != scores_of(served("app")));
}

TEST(names_missing_predictions_and_columns_are_read) {
  const PolicyRun run(table_policy());
  const auto service = run.serve();
  const Json page =
      post(*service, "/v1/rank",
           R"({"user": "ann", "k": 3, "items": ["a", 7, "\u00e9"], "predictions": {"click": [0.5, 0.2, null],)"
           R"( "cart": [0.1, 0.1, 0.1], "order": [0.01, 0.02, 0.5], "view": [1, 2]}})");
  CHECK(page.at("scores").items[2].type == Json::Type::null);
  std::set<std::string> items;  // as they were given
  for (const Json& item : page.at("items").items)
    items.insert(item.type == Json::Type::number ? std::to_string(item.integer) : item.string);
  CHECK_EQUAL(page.at("items").items[2].string, std::string("\u00e9"));
  CHECK(items == (std::set<std::string>{"a", "7", "\u00e9"}));
  CHECK(page.at("missing_predictions").keys == std::vector<std::string>{"click"});
  CHECK_EQUAL(page.at("missing_predictions").at("click").integer, 1);
  CHECK(page.strings_at("unknown_keys") == std::vector<std::string>{"predictions.view"});
  CHECK_EQUAL(metric(*service, "pygrade_unknown_keys_total"), 1.0);
  CHECK_EQUAL(metric(*service, "pygrade_missing_predictions_total"), 1.0);
}

TEST(every_wrong_request_of_a_policy_s_run_is_named) {
  const PolicyRun run(table_policy());
  const auto service = run.serve(R"({"max_candidates": 20, "max_ids": 5})");
  const Asked asked(3);
  const std::string lists = asked.lists();
  const auto refuses = [&](const std::string& body, const std::string& argument, const std::string& message) {
    check_error(*service, body, argument, message);
  };
  const auto rules = [&](const std::string& given, const std::string& argument, const std::string& message) {
    refuses(R"({"user": 1, "rules": )" + given + ", " + lists + "}", argument, message);
  };
  refuses(R"({"user": 1})", "items", "items is missing");
  refuses(R"({"user": 1, "items": [1]})", "predictions",
          "this run has no model: expected a list for each of the tasks");
  refuses(R"({"user": 1, "items": [1], "predictions": {"click": [1]}})", "predictions", "lacks the task 'cart'");
  refuses(R"({"user": 1, "items": [1], "predictions": {"p_click": [1]}})", "predictions",
          "lacks the task 'click'; expected a list for each of click, cart, order; nothing reads predictions.p_click");
  refuses(R"({"kunde": 1, "skus": [1]})", "user", "user is missing; nothing reads kunde, skus");
  refuses(R"({"user": 1, "skus": [1]})", "items", "expected the candidates of the page; nothing reads skus");
  refuses(R"({"user": 1, "items": [1], "values": [3]})", "values", "prices of items are item_values");
  refuses(R"({"user": 1, "items": [1], "predictions": {"click": [1], "cart": [1, 2], "order": [1]}})",
          "predictions.cart", "a list of 2; expected one value for each of the 1 items");
  refuses(R"({"user": 1, "items": [1], "predictions": {"click": [-1], "cart": [1], "order": [1]}})", "predictions",
          "negative");
  refuses(R"({"user": 1, "items": [1], "predictions": {"click": ["x"]}})", "predictions.click[0]", "expected a number");
  refuses(R"({"user": 1, "items": [1], "predictions": {"click": [1e300]}})", "predictions.click[0]",
          "expected a number");
  refuses(R"({"user": 1, "items": [1], "predictions": {"click": [NaN]}})", "body", "expected null where");
  refuses(R"({"user": 1, "items": [1], "predictions": [1]})", "predictions", "a list of 1; expected an object");
  refuses(R"({"items": [1], "predictions": {"click": [1], "cart": [1], "order": [1]}})", "user", "user is missing");
  refuses(R"({"user": 1, "items": [5, 6, 5], "predictions": {"click": [1, 1, 1], "cart": [1, 1, 1],)"
          R"( "order": [1, 1, 1]}})",
          "items", "items holds 5 more than once");
  refuses(R"({"user": 1, "items": ["7", 7], "predictions": {"click": [1, 1], "cart": [1, 1], "order": [1, 1]}})",
          "items", "items holds '7' more than once");
  refuses(R"({"user": 1, "items": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]})", "items",
          "items is a list of 21; expected a list of at most 20");
  refuses(R"({"user": 1, "seen": [0,1,2,3,4,5]})", "seen", "seen is a list of 6; expected a list of at most 5");
  refuses(R"({"user": 1, "context": {"hour": "late"}, )" + lists + "}", "context.hour", "is a text; expected a number");
  refuses(R"({"user": 1, "context": {"device": 3}, )" + lists + "}", "context.device", "is a number; expected a text");
  refuses(R"({"user": 1, "context": {"hour": [3]}, )" + lists + "}", "context.hour",
          "expected a number, a text or null");
  refuses(R"({"user": 1, "item_values": [1], )" + lists + "}", "item_values", "one value for each of the 3 items");
  rules(R"({"mask": [true]})", "rules.mask", "one value for each of the 3 items");
  rules(R"({"mask": [1, 1, 1]})", "rules.mask[0]", "expected true or false");
  rules(R"({"mask": []})", "rules.mask", "one value for each of the 3 items");
  rules(R"({"boost_mul": [1, 2, "x"]})", "rules.boost_mul[2]", "expected a number");
  rules(R"({"boost_mul": [1, 2, -1]})", "rules.boost_mul[2]", "is -1; expected a number from 0");
  rules(R"({"boost_add": [1, 2, 3, 4]})", "rules.boost_add", "a list of 4");
  rules(R"({"demote": [1000, "nobody's"]})", "rules.demote", "names 'nobody's', which is none of items");
  rules(R"({"pins": [{"item": "nobody's", "position": 1}]})", "rules.pins", "names 'nobody's', which is none of items");
  rules(R"({"groups": {"seller": [1, 2]}})", "rules.groups.seller", "a list of 2");
  rules(R"({"groups": {"seller": [1, 2, 2.5]}})", "rules.groups.seller[2]", "expected a whole number");
  rules(R"({"caps": {"seller": 1}})", "rules.caps", "names 'seller', which is none of rules.groups");
  rules(R"({"caps": {"seller": -2}})", "rules.caps.seller", "expected a whole number from -1");
  const std::string sellers = R"({"groups": {"seller": [1, 2, 2]}, )";
  rules(sellers + R"("cap_slots": {"seller": 0}})", "rules.cap_slots", "rules.cap_slots[0] is 0; expected -1");
  rules(sellers + R"("decay": {"seller": 0}})", "rules.decay", "expected a factor in (0, 1]");
  rules(R"({"pins": [{"item": 1000}]})", "rules.pins[0].position", "is missing");
  rules(R"({"pins": [{"position": 1}]})", "rules.pins[0].item", "is missing");
  rules(R"({"pins": [{"item": 5, "position": 1}]})", "rules.pins", "names 5, which is none of items");
  rules(R"({"pins": [{"item": 1000, "position": 10}]})", "rules.pins", "expected positions from 0 to 9");
  rules(R"({"pins": [{"item": 1000, "position": 1}, {"item": 1003, "position": 1}]})", "rules.pins",
        "expected each once");
  check_error(*run.serve(R"({"strict": true})"), R"({"user": 1, "kk": 3})", "kk",
              "kk is unknown; expected some of user");
  check_error(*run.serve(R"({"strict": true})"), R"({"user": 1, "context": {"age": 3}})", "context.age",
              "no column of the policy's context");
  CHECK_THROWS(ArtifactError, "holds neither artifact", Service(run.folder / "none", "{}"));
}

TEST(rules_are_those_of_the_ranking) {
  const PolicyRun run(table_policy());
  const auto service = run.serve();
  const Asked asked(40);
  std::vector<float> mul(40), add(40);
  std::vector<std::uint8_t> mask(40);
  std::vector<std::int32_t> groups(40);
  for (std::size_t i = 0; i < 40; ++i) {
    mul[i] = 1.0f + 0.25f * static_cast<float>(i % 3);
    add[i] = 0.5f * static_cast<float>(i % 2);
    mask[i] = i % 5 != 0;
    groups[i] = static_cast<std::int32_t>(i % 4) - 1;
  }
  const std::string rules = R"({"boost_mul": )" + list_text(mul) + R"(, "boost_add": )" + list_text(add) +
                            R"(, "mask": )" + list_text(mask) + R"(, "groups": {"seller": )" + list_text(groups) +
                            R"(}, "caps": {"seller": 2}})";
  const Json page = post(*service, "/v1/rank", asked.json(R"("user": 3, "rules": )" + rules));
  const std::vector<std::int32_t> caps = {2};
  PageMemory expected(10);
  Ranker ranker(run.policy);
  ranker.rank({.predictions = asked.predictions, .rules = {mask, mul, add, groups, caps}}, expected);
  CHECK_EQUAL(scores_of(page), expected.values);
  for (std::size_t i = 0; i < 10; ++i)
    CHECK_EQUAL(page.integers_at("items")[i], asked.items[static_cast<std::size_t>(expected.indices[i])]);

  // With pins: without any that changes something, the same page.
  const auto with_pins = [&](const std::string& pins, const std::string& others) {
    return post(*service, "/v1/rank", asked.json(R"("user": 3, "rules": {"pins": )" + pins + others + "}"));
  };
  const auto top = page.integers_at("items");
  const std::string same = "[{\"item\": " + std::to_string(top[4]) + ", \"position\": 4}]";
  CHECK_EQUAL(with_pins(same, ", " + rules.substr(1, rules.size() - 2)).integers_at("items"), top);
  // The last two take their places, whatever their scores, and the others move on.
  PageMemory all(40);
  ranker.rank({.predictions = asked.predictions}, all);
  std::vector<std::int64_t> order;
  for (const auto index : all.indices) order.push_back(asked.items[static_cast<std::size_t>(index)]);
  const std::string pins = "[{\"item\": " + std::to_string(order[39]) +
                           ", \"position\": 3}, {\"item\": " + std::to_string(order[38]) + ", \"position\": 0}]";
  const Json pinned = with_pins(pins, "");
  std::vector<std::int64_t> wanted = {order[38], order[0], order[1], order[39]};
  wanted.insert(wanted.end(), order.begin() + 2, order.begin() + 8);
  CHECK_EQUAL(pinned.integers_at("items"), wanted);
  CHECK_EQUAL(pinned.integers_at("pinned"), (std::vector<std::int64_t>{order[38], order[39]}));
  CHECK_EQUAL(scores_of(pinned)[0], all.values[38]);
  // Caps count pins and hold for them; the mask comes before everything.
  for (std::size_t i = 0; i < 40; ++i) {
    const bool is_last = asked.items[i] == order[39] || asked.items[i] == order[38];
    groups[i] = is_last || asked.items[i] == order[0] ? 5 : -1;
    mask[i] = asked.items[i] != order[38];
  }
  const std::string capped = R"(, "groups": {"g": )" + list_text(groups) + R"(}, "caps": {"g": 1})";
  const Json one = with_pins(pins, capped);
  CHECK_EQUAL(one.integers_at("pinned"), std::vector<std::int64_t>{order[38]});
  CHECK_EQUAL(one.integers_at("items")[0], order[38]);
  CHECK_EQUAL(one.integers_at("items")[1], order[1]);  // order[0] is of the same group
  const Json masked = with_pins(pins, capped + R"(, "mask": )" + list_text(mask));
  CHECK_EQUAL(masked.integers_at("pinned"), std::vector<std::int64_t>{order[39]});
  // Demoted items come last, in their order, unless they are pinned; caps hold for them.
  const std::string demote = R"(, "demote": )" + list_text(std::vector<std::int64_t>{order[2], order[0], order[38]});
  const Json demoted = with_pins("[{\"item\": " + std::to_string(order[38]) + ", \"position\": 1}]", demote);
  wanted = {order[1], order[38]};
  wanted.insert(wanted.end(), order.begin() + 3, order.begin() + 11);
  CHECK_EQUAL(demoted.integers_at("items"), wanted);
  CHECK_EQUAL(demoted.integers_at("demoted"), std::vector<std::int64_t>{});
  const Json whole =
      post(*service, "/v1/rank", asked.json(R"("user": 3, "k": 40, "rules": {)" + demote.substr(2) + "}"));
  CHECK_EQUAL(whole.integers_at("demoted"), (std::vector<std::int64_t>{order[0], order[2], order[38]}));
  CHECK_EQUAL(whole.integers_at("items")[37], order[0]);
  CHECK_EQUAL(whole.integers_at("items")[39], order[38]);
  CHECK(whole.find("pinned") == nullptr);
  // A page that is shorter than a pin's place ends with it.
  const Asked few(3);
  const Json shorter =
      post(*service, "/v1/rank", few.json(R"("user": 3, "rules": {"pins": [{"item": 1000, "position": 9}]})"));
  CHECK_EQUAL(shorter.integers_at("items").size(), std::size_t{3});
  CHECK_EQUAL(shorter.integers_at("items")[2], 1000);
}

TEST(arms_and_shadows_of_a_policy_s_run) {
  const PolicyRun run(table_policy());
  table_policy(2).write(run.folder / "other");
  const auto service =
      run.serve(R"({"arms": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "policy": "other"}],)"
                R"( "shadow": [{"name": "s", "policy": "other"}]})");
  const Asked asked(30);
  std::map<std::string, int> arms;
  for (int user = 0; user < 200; ++user)
    ++arms[text_at(post(*service, "/v1/rank", asked.json("\"user\": \"u" + std::to_string(user) + "\"")), "arm")];
  CHECK(arms["a"] > 60 && arms["b"] > 60 && arms["a"] + arms["b"] == 200);
  const Json b = post(*service, "/v1/rank", asked.json(R"("user": 1, "arm": "b")"));
  CHECK_EQUAL(text_at(b, "policy"), parse(table_policy(2))->version());
  CHECK_EQUAL(metric(*service, R"(pygrade_shadow_pages_total{shadow="s"})"), 201.0);
  const Json update =
      post(*service, "/v1/update", R"({"events": [{"user": "u1", "item": "x", "task": "order", "request_id": "r"}]})");
  CHECK_EQUAL(update.at("events").integer, 1);
  Artifact foreign;
  foreign.features = {"hour"};
  foreign.evidence_feature = "hour";
  foreign.draw().write(run.folder / "foreign");
  CHECK_THROWS(ArtifactError, "arm 'a' has a policy of other tasks or features",
               run.serve(R"({"arms": [{"name": "a", "policy": "foreign"}]})"));
}

// A policy that serves "best", with two more rankings, over the first of which it has its verdict.
Artifact ranked_policy(const char* served = "[0, 0, 1]", const std::string& unproven = "") {
  const std::map<std::string, std::string> plain = {{"value_tasks", "[]"}, {"calibration", "[]"}};
  const auto ranking = [&](const std::string& name, const std::string& weights) {
    auto entry = plain;
    entry["name"] = "\"" + name + "\"";
    entry["weights"] = weights;
    return entry;
  };
  Artifact artifact;
  artifact.mixture = mixture_json(ranking("best", served), "0");
  artifact.values = R"({"order": 3})";
  artifact.replaced["verdict"] =
      Artifact::object({{"verdict", "\"better\""},
                        {"sentence", "\"Test the new ranking\""},
                        {"control", "\"expected value\""},
                        {"unproven", detail::json_quote(unproven)},
                        {"baselines", "[" + baseline_json(ranking("expected value", "[1, 0, 2]")) + ", " +
                                          baseline_json(ranking("production", "[0, 1, 0]")) + "]"}});
  return artifact.draw();
}

TEST(an_arm_serves_a_ranking_of_the_training) {
  const PolicyRun run(ranked_policy());
  const Asked asked(30);
  const auto ask = [&](Service& service, const char* path, const std::string& arm) {
    return post(service, path, asked.json(R"("user": 1, "k": 30, "arm": ")" + arm + '"'));
  };
  const auto service = run.serve(R"({"arms": [{"name": "new", "share": 0.4}, {"name": "control", "share": 0.3,)"
                                 R"( "ranking": "control"}, {"name": "used", "share": 0.3, "ranking": "production"}],)"
                                 R"( "shadow": [{"name": "s", "ranking": "expected value"}]})");
  const auto order_of = [&](std::vector<float> weights) {
    std::vector<std::pair<float, std::int64_t>> order;
    for (std::size_t i = 0; i < 30; ++i) {
      float score = 0.0f;
      for (std::size_t t = 0; t < 3; ++t) score += weights[t] * asked.predictions[3 * i + t];
      order.emplace_back(-score, asked.items[i]);
    }
    std::ranges::sort(order);
    std::vector<std::int64_t> items;
    for (const auto& entry : order) items.push_back(entry.second);
    return items;
  };
  const Json arms = json_of(get(*service, "/v1/status")).at("arms");
  const std::tuple<const char*, const char*, std::vector<float>> rankings[] = {
      {"new", "best", {0, 0, 3}}, {"control", "expected value", {1, 0, 2}}, {"used", "production", {0, 1, 0}}};
  for (std::size_t a = 0; a < 3; ++a) {
    const auto& [arm, ranking, weights] = rankings[a];
    std::vector<std::int64_t> items;
    const Json page = ask(*service, "/v1/rank", arm);
    for (const Json& item : page.at("items").items) items.push_back(item.integer);
    CHECK_EQUAL(items, order_of(weights));
    CHECK(page.strings_at("ranked_by") == std::vector<std::string>{ranking});
    CHECK(page.at("weights").type == Json::Type::null && page.at("mixture_weight").type == Json::Type::null);
    const Json why = ask(*service, "/v1/explain", arm).object_at("ranking");
    CHECK_EQUAL(why.at("by").items.at(0).string, std::string(ranking));
    CHECK_EQUAL(arms.items[a].at("ranking").items.at(0).string, std::string(ranking));
    CHECK_EQUAL(text_at(arms.items[a], "verdict"), std::string(a > 0 ? "null" : "better"));
  }
  CHECK(get(*service, "/metrics")
            .body.find(R"(arm="control",policy=")" + run.policy->version() +
                       R"(",mixture_weight="0.000000",ranking="expected value"})") != std::string::npos);
  CHECK(ask(*service, "/v1/rank", "control").find("values") == nullptr);
  CHECK_THROWS(std::invalid_argument, "ranking is 'older'; expected 'control', 'best', 'expected value', 'production'",
               run.serve(R"({"arms": [{"name": "a", "ranking": "older"}]})"));
  CHECK_THROWS(std::invalid_argument, "arm 'a': ranking is given, and the policy has no rankings",
               PolicyRun(table_policy()).serve(R"({"arms": [{"name": "a", "ranking": "control"}]})"));
}

TEST(arms_that_rank_alike_are_refused) {
  const PolicyRun run(ranked_policy());
  const auto refuses = [&](const std::string& config, const std::string& message) {
    CHECK_THROWS(std::invalid_argument, message, run.serve(config));
  };
  const auto two = [](const std::string& a, const std::string& b) {
    return R"({"arms": [{"name": "a", "share": 0.5)" + a + R"(}, {"name": "b", "share": 0.5)" + b + "}]}";
  };
  refuses(two("", ""), "arm 'b' ranks as arm 'a': by best of policy " + run.policy->version());
  refuses(two(R"(, "ranking": "control")", R"(, "ranking": "expected value")"), "allow_identical = true");
  refuses(two("", R"(, "mixture_weight": 0)"), "ranks as arm 'a'");  // as the policy's own
  refuses(two("", R"(, "explore": 0.1)"), "ranks as arm 'a'");
  refuses(R"({"shadow": [{"name": "s"}]})", "shadow 's' ranks as the only arm");
  refuses(R"({"shadow": [{"name": "s", "mixture_weight": 1}, {"name": "t", "mixture_weight": 1}]})",
          "shadow 't' ranks as shadow 's'");
  // Another training whose plain ranking is the same.
  auto other = ranked_policy();
  other.seed = 2;
  other.draw().write(run.folder / "other");
  refuses(two(R"(, "ranking": "production")", R"(, "ranking": "production", "policy": "other")"), "ranks as arm 'a'");
  CHECK(run.serve(two("", R"(, "values": {"click": 2})"))->warnings().empty());
  refuses(two("", R"(, "mixture_weight": 0.5)"),
          "ranks as arm 'a'");  // an expected value ranks alone by the policy's values
  auto plain = ranked_policy();
  plain.values = "{}";
  CHECK(PolicyRun(plain).serve(two("", R"(, "mixture_weight": 0.5)"))->warnings().empty());
  const auto told = run.serve(two("", R"(, "allow_identical": true)"));
  CHECK(told->warnings().at(0).starts_with("arm 'b' ranks as arm 'a'"));
  CHECK_EQUAL(json_of(get(*told, "/v1/status")).at("warnings").items.at(0).string, told->warnings()[0]);

  // A new policy that would make them alike is not served.
  const auto service = run.serve(two("", R"(, "ranking": "control")"));
  auto same = ranked_policy("[1, 0, 2]");
  same.values = "{}";
  same.write(run.folder / "policy");
  CHECK(!service->refresh());
  CHECK(text_at(json_of(get(*service, "/readyz")), "reload_error").find("ranks as arm 'a'") != std::string::npos);
  CHECK_EQUAL(text_at(post(*service, "/v1/rank", Asked(3).json()), "policy"), run.policy->version());
}

TEST(a_policy_that_is_not_proved_is_refused) {
  const PolicyRun run(ranked_policy());
  const auto service = run.serve(), told = run.serve(R"({"allow_unproven": true})");
  ranked_policy("[0, 0, 1]", "production is not reproduced: about -5 %").write(run.folder / "policy");
  CHECK_EQUAL(Policy::load(run.folder / "policy")->mixture()->unproven,
              std::string("production is not reproduced: about -5 %"));
  CHECK_EQUAL(Policy::load(run.folder / "policy")->version(), run.policy->version());
  constexpr const char* reason = "which is not proven: production is not reproduced: about -5 %; to serve it";
  CHECK_THROWS(ArtifactError, reason, run.serve());
  CHECK_THROWS(ArtifactError, reason, run.serve(R"({"arms": [{"name": "a", "ranking": "control"}]})"));
  CHECK(!service->refresh());
  CHECK(text_at(json_of(get(*service, "/readyz")), "reload_error").find(reason) != std::string::npos);
  CHECK_EQUAL(service->handle({"POST", "/v1/rank", Asked(3).json()}).status, 200);
  CHECK(told->refresh());
  CHECK(told->warnings().at(0).find("about -5 %") != std::string::npos);
}

TEST(a_shadow_reads_item_columns_of_its_own) {
  const auto policy_of = [](std::vector<std::string> columns) {
    Artifact artifact = corrected_artifact("1");
    artifact.correction->items = std::move(columns);
    return artifact.draw();
  };
  const PolicyRun run(policy_of({"stock", "age"}));
  const Artifact other = policy_of({"weight", "stock"});
  other.write(run.folder / "other");
  const auto service = run.serve(R"({"shadow": [{"name": "s", "policy": "other"}]})");
  const Asked asked(4);
  post(*service, "/v1/rank",
       asked.json(R"("user": 1, "k": 4, "item_values": [1, 2, 3, 4], "item_features": {"stock": [1, 2, 3, 4],)"
                  R"( "weight": [4, 3, 2, 1], "age": [5, 5, 5, 6]})"));
  const std::vector<float> prices = {1, 2, 3, 4}, items = {4, 1, 3, 2, 2, 3, 1, 4};
  PageMemory expected(4);
  Ranker ranker(parse(other));
  ranker.rank({.predictions = asked.predictions, .item_values = prices, .items = items}, expected);
  double sum = 0.0;
  for (const float score : expected.values) sum += static_cast<double>(score);
  CHECK_NEAR(metric(*service, R"(pygrade_shadow_own_score_sum{shadow="s"})"), sum / 4.0, 1e-5 * std::fabs(sum));
}

TEST(a_new_policy_is_served_and_the_old_one_goes) {
  PolicyRun run(table_policy());
  const auto service = run.serve();
  const Asked asked(10);
  const auto version = [&] { return text_at(post(*service, "/v1/rank", asked.json()), "policy"); };
  CHECK_EQUAL(version(), run.policy->version());
  CHECK(!service->refresh());
  run.put(table_policy(5));
  CHECK(service->refresh());
  CHECK_EQUAL(version(), run.policy->version());
  std::ofstream(run.folder / "policy" / "policy.json") << "{";
  CHECK(!service->refresh());
  CHECK_EQUAL(version(), run.policy->version());
}

TEST(pages_during_reloads_are_of_one_policy) {
  PolicyRun run(table_policy(1));
  const auto service = run.serve();
  const Asked asked(20);
  const std::vector<float> context = {3.5f, 2.0f, 0.0f, 1.0f};
  std::map<std::string, std::vector<float>> scores;  // by version
  for (const unsigned seed : {1u, 2u}) {
    const auto policy = parse(table_policy(seed));
    PageMemory expected(10);
    Ranker(policy).rank({.context = context, .predictions = asked.predictions, .scenario = "search"}, expected);
    scores[policy->version()] = expected.values;
  }
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0}, asked_for{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      while (!done || asked_for < 100) {
        const Json page = post(*service, "/v1/rank", asked.json(with_context));
        wrong += scores_of(page) != scores.at(text_at(page, "policy"));
        ++asked_for;
      }
    });
  for (unsigned i = 0; i < 20; ++i) {
    run.put(table_policy(i % 2 == 0 ? 2 : 1));
    CHECK(service->refresh());
  }
  done = true;
  for (auto& thread : threads) thread.join();
  CHECK_EQUAL(wrong.load(), 0);
}

TEST(reloads_leave_no_old_models) {
  const ServiceRun run;
  const auto service = run.serve();
  const auto ask = [&] { CHECK_EQUAL(service->handle({"POST", "/v1/rank", R"({"user": 1})"}).status, 200); };
  ask();
  run.publish("second");
  CHECK(service->refresh());
  ask();
  const std::int64_t before = held;
  for (int i = 0; i < 6; ++i) {
    run.point_to(i % 2 == 0 ? "first" : "second");
    run.store->switch_to(Models::load(test_artifact(i % 2 == 0 ? "first" : "second")).version);
    CHECK(service->refresh());
    if (i < 5) ask();  // else a context waits that served the models before
  }
  const std::int64_t grown = held - before;
  const std::int64_t start = held;
  const Models models = Models::load(test_artifact("second"));
  const std::int64_t size = held - start;  // of one set of models
  CHECK(grown < size / 2);
}

TEST(some_pages_are_shuffled_and_logged_so) {
  const PolicyRun run(table_policy());
  const auto plain = run.serve(), service = run.serve(R"({"explore": {"shuffle": 0.1}, "max_explore": 0.15})");
  const Asked asked(30);
  int shuffled = 0, moved = 0;
  std::vector<int> first(10, 0);  // times that the best item takes each place
  for (int i = 0; i < 3000; ++i) {
    const std::string body = asked.json(R"("user": 3, "request_id": "r)" + std::to_string(i) + "\"");
    const Json page = post(*service, "/v1/rank", body);
    CHECK(!page.boolean_at("explored"));
    const auto items = page.integers_at("items"), wanted = post(*plain, "/v1/rank", body).integers_at("items");
    const bool is_shuffled = text_at(page, "exploration") == "shuffle";
    shuffled += is_shuffled;
    if (!is_shuffled) CHECK_EQUAL(items, wanted);
    moved += items != wanted;
    CHECK(std::set(items.begin(), items.end()) == std::set(wanted.begin(), wanted.end()));
    if (is_shuffled) ++first[static_cast<std::size_t>(std::ranges::find(items, wanted[0]) - items.begin())];
  }
  CHECK_NEAR(shuffled, 300.0, 70.0);
  CHECK(moved >= shuffled - 1);
  for (const int count : first) CHECK_NEAR(count, shuffled / 10.0, 22.0);
  CHECK_EQUAL(text_at(post(*service, "/v1/rank", asked.json(R"("user": 3, "explore": false, "request_id": "r7")")),
                      "exploration"),
              std::string("none"));
  CHECK_THROWS(std::invalid_argument, "max_explore is 0.1", run.serve(R"({"explore": {"shuffle": 0.2}})"));
}

namespace {
// A safetensors file of tensors by name, each with dtype, shape and bytes.
class Tensors {
 public:
  template <class T>
  Tensors& add(const std::string& name, const char* type, const std::vector<std::int64_t>& shape,
               const std::vector<T>& values) {
    JsonWriter entry;
    entry.begin_object().field("dtype", type).known_key("shape").begin_list();
    for (const auto size : shape) entry.value(size);
    entry.end_list().known_key("data_offsets").begin_list().value(data_.size());
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    header_ += "," + detail::json_quote(name) + ":" + entry.value(data_.size()).end_list().end_object().take();
    return *this;
  }
  std::string file(const std::string& request, const std::string& tasks_text = "") const {
    JsonWriter metadata;
    metadata.begin_object().field("request", std::string_view(request));
    if (!tasks_text.empty()) metadata.field("tasks", std::string_view(tasks_text));
    return Artifact::frame("{\"__metadata__\":" + metadata.end_object().take() + header_ + "}") + data_;
  }

 private:
  std::string header_, data_;
};

Response post_tensors(Service& service, std::string_view body, const char* path = "/v1/rank") {
  return service.handle({.method = "POST", .path = path, .body = body, .content_type = "application/safetensors"});
}

// A page's text without what differs from call to call.
std::string page_text(std::string text) {
  const auto at = text.find(",\"seconds\"");
  return text.substr(0, at);
}
}  // namespace

TEST(tensors_give_the_page_of_the_same_json) {
  Artifact artifact = corrected_artifact("1");
  artifact.correction->items = {"stock", "brand=a"};
  const PolicyRun run(artifact.draw());
  const auto service = run.serve();
  constexpr std::size_t n = 30;
  const Asked asked(n);
  std::vector<float> prices(n), stock(n), boosts(n, 1.5f);
  std::vector<std::uint8_t> mask(n);
  std::vector<std::int64_t> sellers(n);
  for (std::size_t i = 0; i < n; ++i) {
    prices[i] = static_cast<float>(i + 1);
    stock[i] = static_cast<float>(i % 7);
    mask[i] = i % 4 != 0;
    sellers[i] = static_cast<std::int64_t>(i % 5);
  }
  const std::string scalars =
      R"("user": "ann", "k": 8, "request_id": "r", "timestamp": 5, "scenario": "search", "context": {"hour": 2})";
  const std::string json = post_text(
      *service, asked.json(scalars + R"(, "item_values": )" + list_text(prices) + R"(, "item_features": {"stock": )" +
                           list_text(stock) + R"(}, "rules": {"mask": )" + list_text(mask) + R"(, "boost_mul": )" +
                           list_text(boosts) + R"(, "groups": {"seller": )" + list_text(sellers) +
                           R"(}, "caps": {"seller": 2}})"));
  const std::string request = "{" + scalars + R"(, "rules": {"caps": {"seller": 2}}})";
  const auto tensors = [&] {
    return Tensors()
        .add("items", "I64", {n}, asked.items)
        .add("item_values", "F32", {n}, prices)
        .add("item_features.stock", "F32", {n}, stock)
        .add("mask", "BOOL", {n}, mask)
        .add("boost_mul", "F32", {n}, boosts)
        .add("groups.seller", "I64", {n}, sellers);
  };
  const auto same = [&](std::string_view body) {
    const Response response = post_tensors(*service, body);
    CHECK_EQUAL(page_text(response.body), page_text(json));
  };
  for (std::size_t shift = 0; shift < 4; ++shift) {  // aligned or not
    const std::string body =
        std::string(shift, ' ') + tensors().add("predictions", "F32", {n, 3}, asked.predictions).file(request);
    same(std::string_view(body).substr(shift));
  }
  std::vector<float> turned = asked.predictions;  // order, click, cart
  for (std::size_t i = 0; i < n; ++i) std::rotate(&turned[3 * i], &turned[3 * i + 2], &turned[3 * i] + 3);
  same(tensors().add("predictions", "F32", {n, 3}, turned).file(request, R"(["order", "click", "cart"])"));
  same(tensors()
           .add("predictions.order", "F32", {n}, asked.column(2))
           .add("predictions.click", "F32", {n}, asked.column(0))
           .add("predictions.cart", "F32", {n}, asked.column(1))
           .file(request));
  const std::vector<float> context = {2.0f, nan_value};
  same(tensors()
           .add("predictions", "F32", {n, 3}, asked.predictions)
           .add("context", "F32", {2}, context)
           .file(R"({"user": "ann", "k": 8, "request_id": "r", "timestamp": 5, "scenario": "search", )"
                 R"("rules": {"caps": {"seller": 2}}})"));

  // The answer as tensors.
  const std::string body = tensors().add("predictions", "F32", {n, 3}, asked.predictions).file(request);
  ServiceRequest wanted{.method = "POST", .path = "/v1/rank", .body = body};
  wanted.content_type = "Application/safetensors; x=1";
  wanted.accept = "text/plain, application/safetensors;q=0.9";
  const Response made = service->handle(wanted);
  CHECK_EQUAL(std::string(made.content_type), std::string("application/safetensors"));
  const auto content = std::as_bytes(std::span(made.body));
  detail::TensorMetadata metadata;
  const auto parts = detail::read_safetensors(content, &metadata);
  const Json page = Json::parse(json), rest = Json::parse(detail::find_text(metadata, "page"));
  const auto& items = detail::find_tensor(parts, "items");
  std::vector<std::int64_t> ids(items.bytes.size() / 8);
  std::memcpy(ids.data(), items.bytes.data(), items.bytes.size());
  CHECK_EQUAL(ids, page.integers_at("items"));
  const std::int64_t length[] = {static_cast<std::int64_t>(ids.size())};
  CHECK_EQUAL(detail::float_tensor(parts, "scores", length), scores_of(page));
  CHECK_EQUAL(text_at(rest, "policy"), text_at(page, "policy"));
  CHECK(rest.find("items") == nullptr);
}

TEST(wrong_tensors_are_named) {
  const PolicyRun run(table_policy());
  const auto service = run.serve(R"({"max_candidates": 4})");
  const std::vector<std::int64_t> items = {1, 2};
  const std::vector<float> six(6, 0.5f), wide(15, 0.5f);
  const auto refuses = [&](const std::string& body, const std::string& argument, const std::string& message) {
    check_error(post_tensors(*service, body), argument, message);
  };
  const std::string user = R"({"user": 1})";
  refuses("", "body", "no safetensors file");
  refuses("{\"user\": 1}", "body", "no safetensors file");
  refuses(Tensors().add("items", "I64", {2}, items).file("{"), "body", "no JSON");
  refuses(Tensors().add("items", "I64", {2}, items).file(user), "predictions", "predictions is missing");
  refuses(Tensors().add("items", "F32", {6}, six).file(user), "items", "expected I64");
  refuses(Tensors().add("items", "I64", {1, 2}, items).file(user), "items", "expected one dimension of at most 4");
  refuses(Tensors().add("items", "I64", {2}, std::vector<std::int64_t>{1, -1}).file(user), "items", "holds -1");
  const auto with = [&](const std::vector<std::int64_t>& shape, const std::vector<float>& values) {
    return Tensors().add("items", "I64", {2}, items).add("predictions", "F32", shape, values).file(user);
  };
  CHECK_EQUAL(post_tensors(*service, with({2, 3}, six)).status, 200);
  refuses(with({6}, six), "predictions", "expected [N, 3]");
  refuses(with({3, 2}, six), "predictions", "the shape [3, 2]; expected [N, 3]");
  refuses(with({5, 3}, wide), "predictions", "N up to 4");
  refuses(with({0, 3}, {}), "predictions.click", "a list of 0; expected one value for each of the 2 items");
  refuses(with({1, 3}, {1, 1, 1}), "predictions", "predictions has 1 rows; expected one for each of the 2 items");
  refuses(with({2, 3}, {1, 1, 1, 1, 1, INFINITY}), "predictions", "holds inf");
  refuses(Tensors()
              .add("items", "I64", {2}, items)
              .add("predictions.click", "F32", {2}, std::vector<float>{0.5f, 0.5f})
              .file(user),
          "predictions", "lacks the task 'cart'");
  refuses(Tensors().add("items", "I64", {2}, items).add("mask", "F32", {2}, std::vector<float>{0.5f, 0.5f}).file(user),
          "mask", "expected U8 or BOOL");
  // A name of a tensor in the metadata, too.
  const auto twice = [&](const char* metadata, const char* argument) {
    refuses(Tensors()
                .add("items", "I64", {2}, items)
                .add("predictions", "F32", {2, 3}, six)
                .add("groups.g", "I64", {2}, items)
                .add("boost_add", "F32", {2}, std::vector<float>{0.5f, 0.5f})
                .file(metadata),
            argument, "stands in the metadata, too");
  };
  twice(R"({"user": 1, "items": [1]})", "items");
  twice(R"({"user": 1, "predictions": {}})", "predictions");
  twice(R"({"user": 1, "rules": {"boost_add": [1, 2]}})", "boost_add");
  twice(R"({"user": 1, "rules": {"groups": {"g": [1, 2]}}})", "groups.g");
  const auto more = [&](const char* name, const std::vector<std::int64_t>& shape) {
    return Tensors()
        .add("items", "I64", {2}, items)
        .add("predictions", "F32", {2, 3}, six)
        .add(name, "F32", shape, six)
        .file(user);
  };
  refuses(more("embeddings", {3, 2}), "embeddings", "a list of 3; expected one value for each of the 2 items");
  refuses(more("boost_add", {6}), "boost_add", "expected one dimension of at most 4");
  check_error(post_tensors(*run.serve(R"({"strict": true})"), more("decay", {6})), "decay",
              "boost_mul, boost_add, item_values");
}

TEST(a_batch_is_its_requests) {
  const PolicyRun run(table_policy());
  const auto service = run.serve(R"({"max_batch": 3})");
  const Asked few(5), many(20, 9);
  const auto one = [&](const Asked& asked, const char* id) {
    return asked.json(std::string(with_context) + R"(, "timestamp": 1, "request_id": ")" + id + "\"");
  };
  const std::string first = one(few, "a"), second = one(many, "b");
  const Response response =
      service->handle({"POST", "/v1/rank", R"({"requests": [)" + first + ", {\"user\": 1}, " + second + "]}"});
  CHECK_EQUAL(response.status, 200);
  const Json pages = json_of(response).at("pages");
  CHECK_EQUAL(pages.items.size(), std::size_t{3});
  CHECK_EQUAL(pages.items[0].integers_at("items"), post(*service, "/v1/rank", first).integers_at("items"));
  CHECK_EQUAL(pages.items[2].integers_at("items"), post(*service, "/v1/rank", second).integers_at("items"));
  CHECK_EQUAL(text_at(pages.items[1].at("error"), "argument"), std::string("items"));
  check_error(*service, R"({"requests": [1, 2, 3, 4]})", "requests", "a list of 4; expected a list of at most 3");
  check_error(*service, R"({"requests": [], "user": 1})", "user", "stands beside requests");
  check_error(*service, R"({"user": 1, "requests": []})", "requests", "stands beside other keys");
  check_error(*service, R"({"requests": [{"user": 1}, {]})", "body", "no JSON");
  CHECK_EQUAL(metric(*service, R"(pygrade_arm_pages_total{arm="main"})"), 4.0);
  // The header's id numbers the pages.
  const std::string anonymous = R"({"requests": [)" + few.json() + ", " + many.json() + "]}";
  ServiceRequest headed{.method = "POST", .path = "/v1/rank", .body = anonymous};
  headed.request_id = "h";
  CHECK_EQUAL(text_at(json_of(service->handle(headed)).at("pages").items[1], "request_id"), std::string("h.1"));
}

TEST(weights_are_what_scores_are_made_of) {
  // A policy of the context alone needs no predictions.
  Artifact alone;
  alone.context_only = true;
  const PolicyRun run(alone.draw());
  const auto service = run.serve();
  const Json found = post(*service, "/v1/weights", R"({"context": {"hour": 3, "intent": 1}, "scenario": "search"})");
  const Asked asked(12);
  const Json page =
      post(*service, "/v1/rank", asked.json(R"("user": 1, "context": {"hour": 3, "intent": 1}, "scenario": "search")"));
  for (const auto& task : tasks) {
    CHECK_EQUAL(found.at("weights").finite_at(task), page.at("weights").finite_at(task));
    CHECK_EQUAL(found.at("scores").items[0].at("weights").finite_at(task), page.at("weights").finite_at(task));
  }
  CHECK_EQUAL(text_at(found, "user"), std::string("known"));
  CHECK_EQUAL(text_at(post(*service, "/v1/weights", "{}"), "fallback"), std::string("global"));
  CHECK_EQUAL(json_of(service->handle({"POST", "/v1/weights", R"({"requests": [{}, {}]})"})).at("weights").items.size(),
              std::size_t{2});
  CHECK_EQUAL(service->handle({"POST", "/v1/weights", R"({"explore": true})"}).status, 400);
  const PolicyRun other(table_policy());
  CHECK_EQUAL(other.serve()->handle({"POST", "/v1/weights", R"({"user": 1})"}).status, 400);
  const auto arms =
      run.serve(R"({"arms": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "allow_identical": true}]})");
  CHECK_EQUAL(arms->handle({"POST", "/v1/weights", "{}"}).status, 400);
  CHECK_EQUAL(text_at(post(*arms, "/v1/weights", R"({"arm": "b"})"), "arm"), std::string("b"));
}

TEST(a_correction_s_closed_form_is_the_correction) {
  Artifact artifact = corrected_artifact("1");
  artifact.correction->form = "\"\"";
  artifact.correction->amounts = "[false, false, false]";
  const auto policy = parse(artifact.draw());
  const Correction& correction = *policy->correction();
  constexpr std::size_t n = 20, variables = 5;
  std::vector<float> predictions = make_predictions(n);
  for (std::size_t i = 0; i < n; ++i) predictions[3 * i + 1] *= 0.5f * predictions[3 * i];
  const std::vector<float> context = {0.5f, nan_value};
  std::vector<float> items(2 * n);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = i % 3 == 0 ? nan_value : static_cast<float>(i % 5) - 2.0f;
  Correction::Workspace workspace;
  std::vector<float> corrected(3 * n);
  correction.apply(context, predictions, items, workspace, corrected);
  const auto shifts = correction.shifts(context, predictions, items);
  CHECK_EQUAL(shifts.size(), 3 * (1 + variables));
  // Root without maps: odds of the corrected prediction … p · exp(shift), see the reference.
  const auto& parts = correction.parts();
  std::vector<double> u(n * variables);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t v = 0; v < variables; ++v) {
      const auto p = [&](std::size_t t) { return static_cast<double>(predictions[3 * i + t]); };
      double value = 0.0;
      if (v >= 3) {
        const float known = items[2 * i + v - 3];
        if (std::isnan(known)) continue;
        value = static_cast<double>(known);
      } else {
        const double q = v == 1 ? std::clamp(p(1) / (p(0) + 1e-7), 1e-4, 0.95) : std::clamp(p(v), 1e-6, 1 - 1e-6);
        value = std::log(q / (1 - q));
      }
      u[i * variables + v] =
          std::clamp((value - static_cast<double>(parts.l_mean[v])) / static_cast<double>(parts.l_std[v]), -4.0, 4.0);
    }
  for (std::size_t i = 0; i < n; ++i) {
    double shift = shifts[0];
    for (std::size_t v = 0; v < variables; ++v) shift += shifts[1 + v] * u[i * variables + v];
    const double wanted = std::min(static_cast<double>(predictions[3 * i]) * std::exp(shift), 1.0);
    CHECK_NEAR(static_cast<double>(corrected[3 * i]), wanted, 1e-4 * wanted);
  }
}

TEST(a_body_takes_little_memory_and_leaves_less) {
  const PolicyRun run(table_policy());
  const auto service = run.serve();
  const Asked asked(10);
  CHECK_EQUAL(service->handle({"POST", "/v1/rank", asked.json()}).status, 200);
  const auto cost = [&](const std::string& body, int status) {
    const std::int64_t before = held;
    most = before;
    CHECK_EQUAL(service->handle({"POST", "/v1/rank", body}).status, status);
    return std::pair(most - before, held - before);
  };
  const auto zeros = [&](std::size_t count) {
    std::string body = asked.json();
    body.pop_back();
    body += R"(, "seen": [0)";
    for (std::size_t i = 1; i < count; ++i) body += ",0";
    return body + "]}";
  };
  const auto [peak, left] = cost(zeros(500'000), 400);
  CHECK(peak < 6 << 20);
  CHECK(left < 4 << 20);
  const auto [allowed_peak, allowed_left] = cost(zeros(200'000), 200);
  CHECK(allowed_peak < 6 << 20);
  CHECK(allowed_left < 4 << 20);
  for (const char* unit : {"[", "{\"a\":", "0,", "\"\\n\",", "[],", "{},", "\"a\":0,"}) {
    std::string body = R"({"user": 1, "x": [)";
    while (body.size() + 8 < 1 << 20) body += unit;
    CHECK(cost(body, 400).first < 8 << 20);
  }
}
