#include <algorithm>
#include <atomic>
#include <thread>

#include "../../devtools/allocations.hpp"
#include "check.hpp"
#include "feature_files.hpp"
#include "features/attribute_cache.hpp"
#include "features/feature_json.hpp"
#include "features/numbers.hpp"
#include "versioned_store.hpp"

using namespace pygrade;
using namespace pygrade::tests;
using detail::null_code;

namespace {
constexpr std::int64_t day = 86'400'000, now = 1'700'000'000'000;
constexpr float unknown = std::numeric_limits<float>::quiet_NaN();

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

bool same_features(const FeatureBuffer& a, const FeatureBuffer& b) {
  return same_bits(a.request_dense, b.request_dense) && a.request_ids == b.request_ids && a.sequences == b.sequences &&
         same_bits(a.item_dense, b.item_dense) && a.item_ids == b.item_ids && same_bits(a.cross_dense, b.cross_dense);
}

// Events as (user, item, time, click, order, play); play NaN: unknown.
struct Event {
  std::int64_t user, item, time;
  double click, order, play;
};

struct Events {
  explicit Events(const std::vector<Event>& events) {
    for (const Event& e : events) {
      users.push_back(e.user);
      items.push_back(e.item);
      times.push_back(e.time);
      click.push_back(e.click);
      order.push_back(e.order);
      play.push_back(e.play);
      scenarios.emplace_back("feed");
    }
  }
  FeedbackEvents columns() {
    outcomes = {{"y_click", click}, {"y_form_order", order}, {"m_play", play}};
    return {users, items, times, scenarios, outcomes};
  }

  std::vector<std::int64_t> users, items, times;
  std::vector<double> click, order, play;
  std::vector<std::string_view> scenarios;
  std::vector<FeedbackEvents::Outcome> outcomes;
};

const std::vector<Event> history = {{1, 5, now - 2 * day, 1, 0, 3.0},
                                    {1, 6, now - 3'600'000, 1, 1, std::numeric_limits<double>::quiet_NaN()},
                                    {1, 9, now - 1'800'000, 0, 0, 1.0},
                                    {2, 5, now - 600'000, 1, 0, 0.0}};

FeatureRequest request(std::int64_t user = 1) { return {.user_id = user, .timestamp = now, .scenario = "feed"}; }

void check_refused(std::string json, const std::string& from, const std::string& to, const std::string& reason) {
  json.replace(json.find(from), from.size(), to);
  const std::string fitted = fitted_file().content();
  CHECK_THROWS(ArtifactError, reason, Features::parse(json, bytes(fitted), "folder"));
}

void check_fitted_refused(const FittedFile& file, const std::string& reason) {
  const std::string content = file.content();
  CHECK_THROWS(ArtifactError, reason, Features::parse(schema_text, bytes(content), "folder"));
}

// Reads the user and three items into a new buffer.
FeatureBuffer read(FeatureCenter& center, const FeatureRequest& wanted = request()) {
  constexpr std::int64_t items[] = {5, 6, 77};
  FeatureBuffer buffer;
  center.read(wanted, items, buffer);
  return buffer;
}
}  // namespace

// ---- numbers

TEST(codes_and_hashes_are_those_of_python) {
  CHECK_EQUAL(detail::text_code("größe"), -1613921676148213516);
  CHECK_EQUAL(detail::text_code(""), -5426141060434712860);
  const auto mixed = [](std::int64_t a, std::int64_t b) {
    detail::Mix mix;
    mix.add(a);
    mix.add(b);
    return mix.code();
  };
  CHECK_EQUAL(mixed(1, 2), -4838594755968170389);
  CHECK_EQUAL(mixed(-5, 7), 2977657682297242744);
  CHECK_EQUAL(mixed(null_code, 7), null_code);
  CHECK_EQUAL(mixed(7, null_code), null_code);
}

TEST(logarithms_and_fixed_point_are_those_of_python) {
  constexpr double known[][2] = {{0.0, 0.0},
                                 {1e-9, 0x1.12e0bffdb1b44p-30},
                                 {0.5, 0x1.9f323ecbf984cp-2},
                                 {1.0, 0x1.62e42fefa39efp-1},
                                 {3.75, 0x1.8ee290d0f2c69p+0},
                                 {1e6, 0x1.ba18abb1dedc8p+3},
                                 {1e300, 0x1.5963447f87fb5p+9}};
  for (const auto& [x, y] : known) CHECK_EQUAL(detail::log1p_of(x), y);
  CHECK(std::isnan(detail::log1p_of(std::numeric_limits<double>::infinity())));
  CHECK(std::isnan(detail::log1p_of(std::numeric_limits<double>::quiet_NaN())));
  CHECK_EQUAL(detail::to_fixed(1.5), 1'572'864);
  CHECK_EQUAL(detail::to_fixed(0x1p-21), 0);  // half to even
  CHECK_EQUAL(detail::to_fixed(0x3p-21), 2);
  CHECK_EQUAL(detail::to_fixed(-1e300), -(std::int64_t{1} << 51));
}

// So that any C library whose sine and cosine are right to ten digits gives the same float32.
TEST(sine_and_cosine_of_a_minute_are_far_from_the_middle_between_two_float32) {
  for (int minute = 0; minute < 1440; ++minute)
    for (const double value :
         {std::sin(2.0 * 3.141592653589793 / 1440.0 * minute), std::cos(2.0 * 3.141592653589793 / 1440.0 * minute)})
      CHECK_EQUAL(static_cast<float>(value * (1.0 - 5e-12)), static_cast<float>(value * (1.0 + 5e-12)));
}

// ---- files

TEST(a_schema_that_contradicts_itself_is_refused) {
  check_refused("{", "{", "", "folder/schema.json is no feature schema: byte 0");
  const auto refused = [](const char* from, const char* to, const char* reason) {
    check_refused(schema_text, from, to, reason);
  };
  refused("\"tasks\"", "\"task\"", "'tasks' is absent");
  refused("8.0", "\"8\"", "'utc_offset_hours' is not a number");
  refused("\"user_count\"", "\"hour_sin\"", "feature \"hour_sin\" is declared more than once");
  refused("\"hour_sin\"", "\"1h\"", "the name is no identifier");
  refused("\"kind\": \"dense\"", "\"kind\": \"wide\"",
          "'features'[0]: 'kind' is \"wide\"; expected one of dense, categorical");
  refused("time:hour_sin", "time:hour", "source is \"time:hour\"; expected one of time:hour_sin, time:hour_cos");
  refused("\"y_form_order\"", "\"y_order\"", "it reads y_order; the tasks are click, form_order");
  refused("\"y_form_order\"", "\"x\"", "expected y_TASK");
  refused("\"y_form_order\"", "\"\"", "source is \"\"; a rate needs an outcome");
  refused("\"items.price\": \"float\",", "", "it reads items.price, which dtypes does not name");
  refused("\"items.price\": \"float\"", "\"items.price\": \"str\"", "items.price is str; it needs float or int");
  refused("[\"item_id\"]", "[\"user_id\"]", "entity is \"item\"; its key makes it user or context");
  refused("[\"item_id\"]", "[\"video\"]", "key names \"video\"; expected user_id, item_id");
  refused("\"length\": 4", "\"length\": 0", "length is 0; expected 1 or more");
  refused("\"length\": 4", "\"length\": 4.5", "'length' is not a whole number");
  refused("\"length\": 4", "\"length\": 1e9", "'length' is not a whole number");
  refused("\"window_hours\": 24.0", "\"window_hours\": -1", "window_hours, smoothing must be 0 or more");
  refused("\"window_hours\": 24.0", "\"window_hours\": 1e300", "is too long");
  refused("\"smoothing\"", "\"weight\"", "unknown key \"weight\"");
  refused("\"source\": \"price\"", "\"source\": \"time:weekend\"", "a time is a dense feature of the context");
  refused("\"source\": \"item_id\"", "\"source\": \"user_id\"", "entity is \"item\"; user_id is of another one");
  refused("\"entity\": \"cross\"", "\"entity\": \"world\"", "'entity' is \"world\"; expected one of user, context");
  refused("[\"user_id\"]", "[\"user_id\", \"item_id\"]", "entity is \"user\"; its key makes it cross");
  refused("\"source\": \"price\"", "\"source\": \"price\", \"key\": [\"item_id\"]",
          "it is dense; only counts, rates and recencies have a key");
  refused("\"source\": \"y_form_order\"", "\"source\": \"y_form_order\", \"transform\": \"log1p\"",
          "transform 'log1p'");
  refused("\"source\": \"y_form_order\"", "\"source\": \"y_form_order\", \"transform\": \"age\"", "transform 'age'");
  refused("\"kind\": \"recency\"", "\"kind\": \"recency\", \"window_hours\": 2", "window_hours is 2; a recency has no");
  refused("\"kind\": \"recency\", \"source\": \"y_click\"", "\"kind\": \"recency\", \"source\": \"m_play\"",
          "source is \"m_play\"; a recency needs y_TASK");
  refused("\"entity\": \"user\", \"kind\": \"sequence\"", "\"entity\": \"context\", \"kind\": \"sequence\"",
          "entity is \"context\"; a sequence is of the user");
  refused("\"kind\": \"categorical\", \"source\": \"item_id\"", "\"kind\": \"dense\", \"source\": \"item_id\"",
          "item_id is categorical, not dense");
}

TEST(fitted_values_that_do_not_fit_are_refused) {
  FittedFile file = fitted_file();
  file.hash = "0123456789abcdef";
  check_fitted_refused(
      file, "folder/fitted.safetensors: it is of schema \"0123456789abcdef\"; expected " + make_features()->hash());
  file = fitted_file();
  file.doubles.erase("std.item_dense");
  check_fitted_refused(file, "tensor \"std.item_dense\" is absent");
  file = fitted_file();
  file.doubles["mean.cross_dense"].pop_back();
  check_fitted_refused(file, "mean or std of cross_dense has not 2 numbers");
  file = fitted_file();
  file.codes["vocabulary.tags"] = {5, 5};
  check_fitted_refused(file, "tensor \"vocabulary.tags\" does not ascend");
  file = fitted_file();
  file.doubles["vocabulary.tags"].assign(1, 1.0);
  file.codes.erase("vocabulary.tags");
  check_fitted_refused(file, "tensor \"vocabulary.tags\" is of another type or shape");
  CHECK_THROWS(ArtifactMissing, "schema.json does not exist", Features::load("/nowhere"));
}

TEST(arrays_of_other_sizes_are_refused) {
  const auto features = make_features();
  std::vector<float> items(8), crosses(3), rows(12), out(8), dense(16);
  CHECK_THROWS(std::invalid_argument, "cross_dense has 3 numbers; expected 4",
               features->normalize_rows(items, crosses, rows));
  const std::vector<std::string> names = {"c_age", "level=3", "level=x", "price"};
  const FeatureInputs inputs(*features, names, true), of_items(*features, names, false);
  CHECK(inputs.known(2) && !inputs.known(3) && !of_items.known(1) && of_items.known(3));
  CHECK_THROWS(std::invalid_argument, "ids has 3 numbers; expected 6",
               inputs.take_all(dense, std::vector<std::int64_t>(3), out));
}

// ---- reading and writing

TEST(feedback_that_does_not_fit_writes_nothing) {
  const auto features = make_features();
  const auto store = make_store(*features);
  FeatureCenter center(features, store);
  const auto refused = [&](auto change, const char* reason) {
    Events events(history);
    FeedbackEvents columns = events.columns();
    change(events, columns);
    CHECK_THROWS(SchemaError, reason, center.update(columns));
  };
  refused([](Events&, FeedbackEvents& c) { c.outcomes = c.outcomes.subspan(1); }, "feedback lacks y_click");
  refused([](Events&, FeedbackEvents& c) { c.scenario = {}; }, "feedback lacks scenario");
  refused([](Events&, FeedbackEvents& c) { c.item_id = c.item_id.subspan(1); }, "columns of different lengths");
  refused([](Events& e, FeedbackEvents&) { e.click[2] = 0.5; }, "feedback y_click is 0.5; expected 0 or 1");
  refused([](Events& e, FeedbackEvents&) { e.click[2] = std::nan(""); }, "feedback y_click is null on a shown row");
  refused([](Events& e, FeedbackEvents&) { e.play[2] = INFINITY; }, "feedback m_play holds an infinite number");
  refused(
      [](Events& e, FeedbackEvents& c) {
        e.outcomes[0].values = e.outcomes[0].values.subspan(1);
        c.outcomes = e.outcomes;
      },
      "feedback y_click has 3 values; expected 4");
  CHECK_EQUAL(store->updates, 0);
  store->tables["user." + features->hash()][1] = "short";
  Events events(history);
  CHECK_THROWS(DamagedRecordError, "a record of table 'user' has 5 bytes; this schema's have 224",
               center.update(events.columns()));
  CHECK_EQUAL(center.counters().store_errors, std::uint64_t{1});
  CHECK_EQUAL(center.counters().updates, std::uint64_t{0});
}

TEST(two_steps_give_what_one_gives) {
  const auto features = make_features();
  const auto store = make_store(*features);
  FeatureCenter center(features, store);
  Events events(history);
  center.update(events.columns());
  const FeatureBuffer whole = read(center);
  FeatureBuffer steps;
  constexpr std::int64_t items[] = {5, 6, 77}, twice[] = {6, 5, 6};
  center.read_user(request(), steps);
  CHECK(steps.item_dense.empty() && same_bits(steps.request_dense, whole.request_dense));
  center.read_items(twice, steps);
  CHECK(std::memcmp(steps.item_dense.data(), steps.item_dense.data() + 8, 16) == 0);
  CHECK(std::memcmp(steps.item_dense.data() + 4, whole.item_dense.data(), 16) == 0);
  center.read_items(items, steps);
  CHECK(same_features(steps, whole));
  CHECK(store->asked.find(" user.") == std::string::npos && store->asked.find(" item.") != std::string::npos);
  FeatureBuffer empty;
  CHECK_THROWS(std::invalid_argument, "holds no user", center.read_items(items, empty));
  FeatureCenter other(features, store);
  CHECK_THROWS(std::invalid_argument, "holds no user that this center has read", other.read_items(items, steps));
}

TEST(another_version_between_the_steps_is_read_whole) {
  const auto features = make_features();
  const auto store = make_store(*features), next = make_store(*features, "v2");
  FeatureCenter center(features, store);
  Events events(history);
  center.update(events.columns());
  FeatureBuffer buffer;
  center.read_user(request(), buffer);
  const auto before = buffer.request_dense;
  next->tables["item_static." + features->hash()][5] = row_of({71, bits_of(4.0), 100, 300, bits_of(1e12)});
  store->tables = next->tables;
  constexpr std::int64_t items[] = {5, 6, 77};
  center.read_items(items, buffer);
  FeatureCenter fresh(features, next);
  CHECK(!buffer.defaults && same_features(buffer, read(fresh)));
  CHECK(!same_bits(buffer.request_dense, before));
  CHECK_EQUAL(buffer.item_dense[0], 4.0f);
}

TEST(a_version_that_keeps_changing_gives_defaults) {
  const auto features = make_features();
  const auto store = make_store(*features);
  int turn = 0;
  store->before_get = [&] { store->tables["meta"] = make_store(*features, std::to_string(++turn))->tables["meta"]; };
  FeatureCenter center(features, store);
  CHECK(read(center).defaults);
  Events events(history);
  CHECK_THROWS(StoreError, "the current version changed 3 times during one update", center.update(events.columns()));
  store->before_get = nullptr;
  CHECK(!read(center).defaults);
}

TEST(a_store_that_fails_gives_default_features) {
  const auto features = make_features();
  const auto store = make_store(*features);
  FeatureCenter center(features, store);
  Events events(history);
  center.update(events.columns());
  FeatureBuffer buffer;
  constexpr std::int64_t items[] = {5, 6, 77};
  center.read_user(request(), buffer);
  store->before_get = [] { throw StoreError("gone"); };
  center.read_items(items, buffer);
  CHECK(buffer.defaults);
  CHECK_EQUAL(buffer.request_dense[3], 0.0f);
  CHECK_EQUAL(buffer.request_dense[5], 0.0f);  // the rate over all events is not known either
  CHECK(std::isnan(buffer.request_dense[7]) && std::isnan(buffer.item_dense[0]));
  CHECK_EQUAL(buffer.item_ids, (std::vector<std::int64_t>{1, 0, 0, 2, 0, 0, 0, 0, 0}));
  const FeatureBuffer defaults = read(center);
  CHECK(defaults.defaults && same_features(buffer, defaults));
  CHECK_EQUAL(center.counters().defaults, std::uint64_t{2});
  FeatureBuffer late;
  center.read_user(request(), late);
  store->before_get = nullptr;
  center.read_items(items, late);  // as the user was
  CHECK(late.defaults && same_features(late, defaults));
  center.read_items(items, buffer);  // whose user had been read
  CHECK(!buffer.defaults && same_features(buffer, read(center)));
  CHECK_EQUAL(center.counters().defaults, std::uint64_t{3});
  CHECK_EQUAL(center.counters().store_errors, std::uint64_t{3});
}

TEST(damage_gives_default_features) {
  const auto features = make_features();
  const auto good = make_store(*features)->tables;
  const auto store = make_store(*features);
  const std::string end = "." + features->hash();
  const auto damaged = [&](const std::string& table, std::int64_t key, const std::string& value) {
    FeatureCenter center(features, store);
    store->tables[table][key] = value;
    CHECK(read(center).defaults);
    CHECK_EQUAL(center.counters().store_errors, std::uint64_t{1});
    store->tables = good;
    CHECK(!read(center).defaults);
  };
  damaged("all" + end, 0, "");
  damaged("user" + end, 1, std::string(225, 'x'));
  damaged("item" + end, 6, std::string(15, 'x'));
  damaged("author" + end, 70, "x");
  damaged("item_static" + end, 5, "x");
  for (const char* meta : {"[]", "{}", "", "\xff", "{", "{\"schema\": []}", "{\"schema\": \"x\", \"version\": 5}"})
    damaged("meta", 0, meta);
  damaged("meta", 0, R"({"schema": "0123456789abcdef", "version": "v1"})");
  store->tables.erase("meta");
  FeatureCenter center(features, store);
  CHECK(read(center).defaults);
  CHECK_THROWS(SchemaMismatchError, "was not published by a FeatureCenter", center.read_version());
  store->tables["meta"][0] = R"({"schema": "x", "version": "v9"})";
  CHECK_THROWS(SchemaMismatchError, "version 'v9' was published for schema x; this center has", center.read_version());
}

TEST(any_bytes_of_the_right_size_are_read) {
  const auto features = make_features();
  const auto store = make_store(*features);
  const std::string end = "." + features->hash();
  for (const char fill : {'\xff', '\x7f', '\x80', '\0'}) {
    store->tables["all" + end][0] = std::string(40, fill);
    store->tables["user" + end][1] = std::string(224, fill);
    store->tables["item" + end][5] = std::string(16, fill);
    FeatureCenter center(features, store);
    FeatureRequest wanted = request();
    for (const std::int64_t time :
         {std::numeric_limits<std::int64_t>::min(), std::int64_t{-1}, now, std::numeric_limits<std::int64_t>::max()}) {
      wanted.timestamp = time;
      CHECK(!read(center, wanted).defaults);
    }
    Events events({{1, 5, std::numeric_limits<std::int64_t>::min(), 1, 0, 1e300},
                   {1, 5, std::numeric_limits<std::int64_t>::max(), 0, 1, -1e300}});
    CHECK_EQUAL(center.update(events.columns()), std::size_t{2});
  }
}

TEST(a_deadline_that_has_passed_gives_default_features) {
  const auto features = make_features();
  FeatureCenter center(features, make_store(*features));
  FeatureBuffer buffer;
  center.read(request(), {}, buffer, std::chrono::steady_clock::now() - std::chrono::seconds(1));
  CHECK(buffer.defaults);
  center.read(request(), {}, buffer, std::chrono::steady_clock::now() + std::chrono::hours(1));
  CHECK(!buffer.defaults);
}

TEST(attributes_are_asked_for_once) {
  const auto features = make_features();
  const auto store = make_store(*features);
  FeatureCenter center(features, store), small(features, store, {}, 2), none(features, store, {}, 0);
  read(center);
  const int first = store->gets;
  read(center);
  CHECK_EQUAL(store->gets, first + 1);
  CHECK(store->asked.find("item_static") == std::string::npos);
  store->tables["item_static." + features->hash()][5] = row_of({71, bits_of(4.0), 100, 300, bits_of(1e12)});
  CHECK_EQUAL(read(center).item_dense[0], 1.5f);
  CHECK_EQUAL(read(none).item_dense[0], 4.0f);
  for (int i = 0; i < 3; ++i) CHECK(same_features(read(small), read(none)));
}

TEST(rows_are_remembered_up_to_a_limit) {
  detail::RowMemory memory(2, 1000);
  const auto known = [&](std::int64_t first, std::int64_t last) {
    std::size_t found = 0;
    for (std::int64_t id = first; id < last; ++id) {
      std::int64_t row[2] = {0, 0};
      if (!memory.recall(id, row)) continue;
      CHECK(row[0] == id && row[1] == 2 * id);
      ++found;
    }
    return found;
  };
  const auto remember = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t id = first; id < last; ++id) {
      const std::int64_t row[2] = {id, 2 * id};
      memory.remember(id, row);
    }
  };
  remember(-200, 200);
  CHECK(known(-200, 200) >= 390 && !memory.crowded());  // a bucket may be full, by the seed
  remember(-200, 200);
  CHECK(!memory.crowded());
  remember(1000, 3000);
  CHECK(memory.crowded() && known(2990, 3000) >= 8 && known(-200, 3000) <= 1000);
  detail::RowMemory empty(2, 0);
  std::int64_t row[2] = {1, 2};
  empty.remember(1, row);
  CHECK(!empty.recall(1, row));
}

TEST(a_memory_grows_and_keeps_to_its_version) {
  detail::AttributeCache cache(1, 1, 1 << 20);
  cache.change_version("v1", true);
  const auto first = cache.version();
  for (std::int64_t id = 0; id < 3000; ++id) first->items.remember(id, &id);
  const auto larger = cache.version();
  CHECK(larger != first && larger == cache.version() && larger->description == "v1" && larger->other);
  cache.change_version("v1", false);
  CHECK(larger == cache.version());
  cache.change_version("v2", false);
  CHECK(cache.version()->description == "v2" && !cache.version()->other);
}

TEST(threads_recall_whole_rows_while_others_are_written) {
  constexpr std::size_t width = 40;
  detail::RowMemory memory(width, 64);
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::atomic<std::size_t> known{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      std::vector<std::int64_t> row(width);
      for (std::int64_t i = t; !done; ++i) {
        const std::int64_t id = i % 200;
        if (!memory.recall(id, row.data())) {
          std::ranges::fill(row, id);
          memory.remember(id, row.data());
          continue;
        }
        wrong += std::ranges::any_of(row, [&](std::int64_t value) { return value != id; });
        ++known;
      }
    });
  while (known < 20'000) std::this_thread::yield();
  done = true;
  for (auto& thread : threads) thread.join();
  CHECK_EQUAL(wrong.load(), 0);
}

TEST(a_warm_request_allocates_nothing) {
  const auto features = make_features();
  const auto store = make_store(*features);
  FeatureCenter center(features, store);
  Events events(history);
  center.update(events.columns());
  FeatureBuffer buffer;
  std::vector<std::int64_t> items(300);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = static_cast<std::int64_t>(i);
  const ContextValue context[] = {{.name = "c_device", .text = "a phone with a long name, beyond any small buffer"}};
  FeatureRequest wanted = request();
  wanted.context = context;
  const auto page = [&](std::size_t count) {
    center.read_user(wanted, buffer);
    center.read_items(std::span(items).first(count), buffer);
  };
  page(300);
  page(300);
  const auto before = allocations;
  for (const std::size_t count : {300, 1, 200, 300}) page(count);
  CHECK_EQUAL(allocations, before);
}

// Two versions that differ in everything, and threads that read, forget and switch.
TEST(threads_see_one_version_each) {
  const auto features = make_features();
  const auto store = std::make_shared<VersionedStore>("v1");
  std::vector<FeatureBuffer> expected;
  for (std::size_t v = 0; v < 2; ++v) {
    const std::string version = v == 0 ? "v1" : "v2";
    const auto one = make_store(*features, version);
    if (v == 1)
      for (auto& [id, row] : one->tables["item_static." + features->hash()])
        row = row_of({90 + id, bits_of(static_cast<double>(id)), 100, 200, bits_of(1e11)});
    FeatureCenter center(features, one);
    Events events(std::vector<Event>(history.begin() + static_cast<std::ptrdiff_t>(v), history.end()));
    center.update(events.columns());
    expected.push_back(read(center));
    for (const auto& [table, records] : one->tables)
      for (const auto& [key, value] : records) store->put(version, table, key, value);
  }
  FeatureCenter center(features, store, {}, 4);
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0}, seen[2] = {{0}, {0}};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      while (!done) {
        const FeatureBuffer found = read(center);
        const bool first = same_features(found, expected[0]), second = same_features(found, expected[1]);
        if (first || second)
          ++seen[second];
        else if (!found.defaults)
          ++wrong;
      }
    });
  }
  threads.emplace_back([&] {
    for (int turn = 0; !done; ++turn) {
      store->switch_to(turn % 2 == 0 ? "v2" : "v1");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (int i = 0; i < 200 && (seen[0] == 0 || seen[1] == 0 || i < 20); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  done = true;
  for (auto& thread : threads) thread.join();
  CHECK_EQUAL(wrong.load(), 0);
  CHECK(seen[0] > 0 && seen[1] > 0);
}
