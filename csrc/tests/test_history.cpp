// Histories in a store: bytes, order of writes, what fails.
#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "check.hpp"
#include "memory_store.hpp"
#include "pygrade/features.hpp"
#include "pygrade/history.h"
#include "pygrade/history_store.hpp"
#include "serving.hpp"
#include "serving/history_record.hpp"

using namespace pygrade;
using namespace pygrade::tests;

namespace {
constexpr std::int64_t start = 1'700'000'000'000, second = 1'000;
using Clock = std::chrono::steady_clock;

History::Spec spec_of() {
  History::Spec spec;
  spec.tasks = {"click", "order"};
  spec.categories = true;
  spec.exposure_delay_ms = second;
  spec.feedback_delay_ms = 5 * second;
  spec.half_life = 80 * second;
  spec.expected.assign(History::groups * 2, 1.25f);
  spec.user = {2.0f, 3.0f};
  spec.item = {4.0f, 5.0f};
  spec.category = {6.0f, 7.0f};
  return spec;
}

std::shared_ptr<StoredHistory> make_history() { return std::make_shared<StoredHistory>(History(spec_of())); }

struct Shown {
  std::int64_t user;
  std::vector<History::Exposure> rows;
};

// Pages of three users, fewer than push out old ones; `events` of their rows within the time that they
// count.
std::vector<Shown> make_pages(const History& history, std::size_t count, std::vector<HistoryEvent>& events,
                              std::int64_t pause = second) {
  std::mt19937 random(7);
  std::vector<Shown> pages;
  for (std::size_t p = 0; p < count; ++p) {
    Shown& page = pages.emplace_back(Shown{static_cast<std::int64_t>(p % 3), {}});
    const std::int64_t time = start + static_cast<std::int64_t>(p) * pause,
                       request = history_key(1'000 + static_cast<std::int64_t>(p));
    for (std::int32_t slot = 0; slot < 4; ++slot) {
      const std::int64_t item = history_key(static_cast<std::int64_t>((p + static_cast<std::size_t>(slot) * 5) % 20));
      const float predictions[] = {0.1f * static_cast<float>(1 + slot), 0.05f};
      page.rows.push_back(history.exposure(time, request, item, history_key(slot % 2), slot, predictions));
      for (std::size_t task = 0; task < 2; ++task)
        if (random() % 3 == 0)
          events.push_back({page.user, request, item, time + static_cast<std::int64_t>(random() % 5) * second, task});
    }
  }
  return pages;
}

// Columns of requests of all users at a time.
std::vector<float> read_all(HistoryStore& store, StoredHistory& history, std::int64_t now) {
  std::vector<std::int64_t> items, categories;
  for (std::int64_t item = 0; item < 25; ++item) {
    items.push_back(history_key(item));
    categories.push_back(history_key(item % 2));
  }
  std::vector<float> all;
  HistoryBuffer buffer;
  for (std::int64_t user = 0; user < 4; ++user) {
    store.read(history, user, now, items, categories, buffer);
    all.insert(all.end(), buffer.context.begin(), buffer.context.end());
    all.insert(all.end(), buffer.columns.begin(), buffer.columns.end());
  }
  return all;
}

// Columns by one after the other, without a store.
std::vector<float> expected(const History& history, std::span<const Shown> pages, std::span<const HistoryEvent> events,
                            std::int64_t now) {
  std::map<std::int64_t, History::User> users;
  std::map<std::int64_t, History::Item> items;
  for (const Shown& page : pages)
    for (const auto& row : page.rows) {
      history.add_exposure(users[page.user], row);
      history.add_exposure(items[row.item], row);
    }
  for (const auto& event : events) {
    History::Exposure row;
    if (history.add_feedback(users[event.user], event.request, event.item, event.task, event.time, row))
      history.add_feedback(items[row.item], row, event.task);
  }
  std::vector<float> all;
  const std::size_t width = history.item_columns().size();
  for (std::int64_t user = 0; user < 4; ++user) {
    std::vector<std::int64_t> keys, categories;
    std::vector<float> context(history.context_columns().size()), columns(25 * width);
    for (std::int64_t item = 0; item < 25; ++item) {
      keys.push_back(history_key(item));
      categories.push_back(history_key(item % 2));
      const auto found = items.find(keys.back());
      history.read(found == items.end() ? nullptr : &found->second, history.last_step(now),
                   std::span(columns).subspan(static_cast<std::size_t>(item) * width, history.own_columns()));
    }
    History::Workspace workspace;
    history.read(&users[user], now, keys, categories, workspace, context, columns);
    all.insert(all.end(), context.begin(), context.end());
    all.insert(all.end(), columns.begin(), columns.end());
  }
  return all;
}

// A store whose calls can fail.
class FailingStore final : public Store {
 public:
  std::shared_ptr<Store> store = open_store("memory:", {.create = true});
  std::atomic<bool> fails{false};
  std::atomic<int> reads{0}, updates{0};
  std::atomic<std::int64_t> poison{0};  // a key whose updates fail

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
           std::optional<Clock::time_point> deadline) override {
    check();
    for (const auto& query : queries) reads += static_cast<int>(query.keys.size());
    store->get(queries, read, deadline);
  }
  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override {
    check();
    for (const auto& query : queries)
      if (poison != 0 && std::ranges::find(query.keys, poison.load()) != query.keys.end())
        throw StoreError("test: poisoned");
    ++updates;
    store->update(queries, change, ttl);
  }
  void put(std::string_view table, std::span<const std::int64_t> keys, std::span<const std::string_view> values,
           const std::string& version, std::optional<double> ttl) override {
    store->put(table, keys, values, version, ttl);
  }
  void begin(const std::string& version) override { check(), store->begin(version); }
  void switch_to(const std::string& version) override { check(), store->switch_to(version); }
  std::optional<std::string> current() override { return check(), store->current(); }
  const std::string& url() const override { return store->url(); }

 private:
  void check() const {
    if (fails) throw StoreUnreachableError("test: the store is down");
  }
};
}  // namespace

TEST(records_come_back_and_damaged_ones_are_refused) {
  const History history(spec_of());
  std::vector<HistoryEvent> events;
  History::User user;
  History::Item item;
  for (const Shown& page : make_pages(history, 300, events))
    for (auto row : page.rows) {
      row.item = 5;
      row.events = static_cast<std::uint32_t>(row.time / second % 4);
      history.add_exposure(user, row);
      history.add_exposure(item, row);
      history.compact(item, row.time);
    }
  CHECK_EQUAL(user.shown.size(), History::max_shown);
  CHECK(!item.total.empty() && !item.recent[0].empty() && !item.steps.empty());
  const auto round_trip = [](const auto& value) {
    std::string record, again;
    detail::write_record(value, 2, record);
    std::remove_cvref_t<decltype(value)> read;
    detail::read_record(record, "a table", 2, read);
    detail::write_record(read, 2, again);
    CHECK(record == again);
    CHECK_THROWS(DamagedRecordError, "a table", detail::read_record(record, "a table", 3, read));
    CHECK_THROWS(DamagedRecordError, "a table", detail::read_record(record + '\0', "a table", 2, read));
    for (std::size_t size = 1; size < record.size(); size += 1 + record.size() / 97)
      try {  // a whole number of rows is a record, too
        detail::read_record(record.substr(0, size), "a table", 2, read);
        CHECK(size % 43 == 2);
      } catch (const DamagedRecordError&) {
      }
    record[0] = 9;
    CHECK_THROWS(DamagedRecordError, "a table", detail::read_record(record, "a table", 2, read));
    detail::read_record({}, "a table", 2, read);
    return read;
  };
  CHECK(round_trip(user).shown.empty());
  CHECK(round_trip(item).total.empty());
  std::string record;
  detail::write_record(item, 2, record);
  History::Item read;
  detail::read_record(record, "a table", 2, read);
  CHECK(read.first == item.first && read.epoch == item.epoch && read.total == item.total && read.recent == item.recent);
  user.shown[1].predicted[0] = -1.0f;
  detail::write_record(user, 2, record);
  CHECK_THROWS(DamagedRecordError, "row", detail::read_record(record, "a table", 2, user));
}

TEST(order_and_repetition_of_writes_do_not_matter) {
  const auto history = make_history();
  std::vector<HistoryEvent> events;
  const auto pages = make_pages(history->history(), 120, events);
  const std::int64_t end = start + 126 * second;
  const auto wanted = expected(history->history(), pages, events, end);
  CHECK(std::ranges::any_of(wanted, [](float value) { return value != 0.0f; }));
  for (const unsigned seed : {0u, 1u, 2u}) {
    const auto own = make_history();
    HistoryStore store(open_store("memory:", {.create = true}), {.gather = std::chrono::milliseconds(1)});
    auto order = pages;
    auto feedback = events;
    std::mt19937 random(seed);
    if (seed > 0) std::ranges::shuffle(order, random), std::ranges::shuffle(feedback, random);
    for (const int time : {0, 1}) {
      for (const Shown& page : order) CHECK(store.add_exposures(own, page.user, page.rows));
      const std::size_t counted = store.add_feedback(own, feedback);
      CHECK(time == 0 ? counted == events.size() : counted == 0);
    }
    CHECK(read_all(store, *own, end) == wanted);
    const HistoryCounters counters = store.counters();
    CHECK_EQUAL(counters.pages, 240u);
    CHECK_EQUAL(counters.events, events.size());
    CHECK_EQUAL(counters.ignored, events.size());
    CHECK(counters.dropped == 0 && counters.errors == 0 && store.waiting() == 0);
  }
}

TEST(a_page_in_the_steady_state_reads_one_record) {
  const auto history = make_history();
  const auto failing = std::make_shared<FailingStore>();
  HistoryStore store(failing);
  std::vector<HistoryEvent> events;
  for (const Shown& page : make_pages(history->history(), 20, events))
    store.add_exposures(history, page.user, page.rows);
  store.flush();
  const auto first = read_all(store, *history, start + 60 * second);
  CHECK_EQUAL(failing->reads.exchange(0), 25 + 4);
  CHECK(read_all(store, *history, start + 60 * second) == first);
  CHECK_EQUAL(failing->reads.exchange(0), 4);
  const auto later = read_all(store, *history, start + 70 * second);  // another step
  CHECK_EQUAL(failing->reads.exchange(0), 25 + 4);
  CHECK(later != first);
}

TEST(an_exposure_that_counts_is_waited_for_and_a_younger_one_is_not) {
  const auto history = make_history();
  const auto failing = std::make_shared<FailingStore>();
  HistoryStore store(
      failing,
      {.wait = std::chrono::milliseconds(50), .gather = std::chrono::hours(1), .retry = std::chrono::milliseconds(1)});
  std::vector<HistoryEvent> events;
  const auto pages = make_pages(history->history(), 1, events);
  store.add_exposures(history, pages[0].user, pages[0].rows);
  read_all(store, *history, start + second - 1);
  CHECK_EQUAL(failing->updates.load(), 0);
  CHECK(read_all(store, *history, start + second) == expected(history->history(), pages, {}, start + second));
  CHECK_EQUAL(failing->updates.load(), 1);
}

TEST(pages_that_are_not_written_yet_push_out_old_ones) {
  const auto history = make_history();
  const auto failing = std::make_shared<FailingStore>();
  HistoryStore store(failing, {.gather = std::chrono::hours(1)});
  std::vector<HistoryEvent> events;
  auto pages = make_pages(history->history(), 3 * 52, events, 10 * second);  // 208 rows of each user
  const std::int64_t last = pages.back().rows[0].time;
  for (std::size_t p = 0; p < pages.size(); ++p) {
    if (p + 6 == pages.size()) store.flush();
    store.add_exposures(history, pages[p].user, pages[p].rows);
  }
  const std::int64_t now = pages[pages.size() - 6].rows[0].time + second - 1;
  CHECK(read_all(store, *history, now) == expected(history->history(), pages, {}, now));
  CHECK_EQUAL(failing->updates.load(), 1);
  CHECK(read_all(store, *history, last + second) == expected(history->history(), pages, {}, last + second));
}

TEST(a_store_that_fails_is_named_and_what_it_missed_is_written_later) {
  const auto history = make_history();
  const auto failing = std::make_shared<FailingStore>();
  failing->fails = true;
  HistoryStore store(failing, {.queue_rows = 40,
                               .wait = std::chrono::milliseconds(20),
                               .gather = std::chrono::milliseconds(1),
                               .retry = std::chrono::milliseconds(1)});
  std::vector<HistoryEvent> events;
  const auto pages = make_pages(history->history(), 12, events);
  for (const Shown& page : pages) store.add_exposures(history, page.user, page.rows);
  CHECK_EQUAL(store.counters().dropped, 2u);  // of 4 rows each
  CHECK_THROWS(StoreError, "down", store.add_feedback(history, events));
  CHECK_THROWS(StoreError, "down", store.remove_user(1));
  CHECK_THROWS(StoreUnreachableError, "test: the store is down", read_all(store, *history, start + 60 * second));
  CHECK(store.counters().errors > 0 && !store.last_error().empty() && store.waiting() == 10);
  failing->fails = false;
  store.add_feedback(history, events);
  const auto kept = std::span(pages).first(10);
  CHECK(read_all(store, *history, start + 60 * second) ==
        expected(history->history(), kept, events, start + 60 * second));
  CHECK(store.last_error().empty() && store.waiting() == 0);
}

TEST(a_record_that_cannot_be_written_costs_its_pages_alone) {
  const auto history = make_history();
  const auto failing = std::make_shared<FailingStore>();
  std::vector<HistoryEvent> events;
  const auto pages = make_pages(history->history(), 3, events);
  failing->poison = pages[1].rows[0].item;
  HistoryStore store(failing, {.gather = std::chrono::hours(1)});
  for (const Shown& page : pages) store.add_exposures(history, page.user, page.rows);
  store.flush();
  CHECK_EQUAL(store.counters().dropped, 1u);
  CHECK_EQUAL(store.counters().pages, 2u);
  const std::vector<Shown> kept{pages[0], pages[2]};
  CHECK(read_all(store, *history, start + 60 * second) == expected(history->history(), kept, {}, start + 60 * second));
}

TEST(who_is_forgotten_is_unknown_and_items_keep_what_they_earned) {
  const auto memory = open_store("memory:", {.create = true});
  const auto history = make_history();
  std::vector<HistoryEvent> events;
  const auto pages = make_pages(history->history(), 30, events);
  const std::int64_t now = start + 60 * second;
  {
    HistoryStore store(memory);
    for (const Shown& page : pages) store.add_exposures(history, page.user, page.rows);
    store.add_feedback(history, events);
    auto other = spec_of();
    other.half_life *= 2;
    const auto older = std::make_shared<StoredHistory>(History(other));
    CHECK(older->layout() != history->layout());
    for (const Shown& page : pages) store.add_exposures(older, page.user, page.rows);
  }
  HistoryStore store(memory, {});  // which has written nothing yet
  store.remove_user(1);
  store.remove_user(77);
  HistoryBuffer buffer;
  const std::int64_t item = pages[0].rows[0].item, category = pages[0].rows[0].category;
  for (const std::int64_t user : {0, 1, 2}) {
    store.read(*history, user, now, std::span(&item, 1), std::span(&category, 1), buffer);
    CHECK_EQUAL(buffer.user_known, user != 1);
    CHECK(buffer.columns[2 * 2] > 0.0f);  // item_shown
  }
  HistoryStore salted(memory, {.salt = "another"});
  salted.read(*history, 0, now, std::span(&item, 1), std::span(&category, 1), buffer);
  CHECK(!buffer.user_known);
}

TEST(threads_that_show_and_read_lose_nothing) {
  const auto history = make_history();
  std::vector<HistoryEvent> events;
  const auto pages = make_pages(history->history(), 140, events, second / 20);
  const std::int64_t now = start + 30 * second;
  HistoryStore store(open_store("memory:", {.create = true}), {.gather = std::chrono::milliseconds(1)});
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::size_t p = t; p < pages.size(); p += 4) {
        store.add_exposures(history, pages[p].user, pages[p].rows);
        if (p % 16 == t) read_all(store, *history, pages[p].rows[0].time);
      }
    });
  for (auto& thread : threads) thread.join();
  store.add_feedback(history, events);
  CHECK(read_all(store, *make_history(), now) == expected(history->history(), pages, events, now));
}

TEST(the_c_abi_fills_in_what_the_cpp_store_reads) {
  const History rule(spec_of());
  Artifact artifact = corrected_artifact("1.0");
  artifact.features.insert(artifact.features.begin() + 1, rule.context_columns().begin(), rule.context_columns().end());
  auto& names = artifact.correction->items;
  names.insert(names.end(), rule.item_columns().rbegin(), rule.item_columns().rend());
  artifact.history = R"({"tasks": ["click", "order"], "categories": true,
    "exposure_delay_ms": 1000, "feedback_delay_ms": 5000, "half_life": 80000, "expected": [[1.25, 1.25], [1.25, 1.25], [1.25, 1.25], [1.25, 1.25], [1.25, 1.25], [1.25, 1.25]],
    "user": [2, 3], "item": [4, 5], "category": [6, 7]})";
  artifact.draw();
  const std::string json = artifact.json(), tensors = artifact.safetensors();
  pygrade_policy_source source{};
  source.size = sizeof source;
  source.json = json.data(), source.json_size = json.size();
  source.tensors = tensors.data(), source.tensors_size = tensors.size();
  pygrade_policy* policy = nullptr;
  CHECK_EQUAL(pygrade_policy_load(&source, &policy), PYGRADE_OK);
  CHECK_EQUAL(std::string(pygrade_last_error()), "");
  pygrade_ranker* ranker = nullptr;
  CHECK_EQUAL(pygrade_ranker_create(json.data(), json.size(), tensors.data(), tensors.size(), nullptr, &ranker),
              PYGRADE_OK);
  pygrade_history* history = nullptr;
  CHECK_EQUAL(pygrade_history_open("nowhere:", policy, nullptr, &history), PYGRADE_INVALID_ARGUMENT);
  CHECK_EQUAL(pygrade_history_open("memory:", policy, nullptr, &history), PYGRADE_OK);

  const std::size_t rows = 9, width = names.size(), features = artifact.features.size();
  const auto predictions = make_predictions(rows);
  const std::vector<float> prices(rows, 1.0f);
  const char* categories[] = {"a", "b", nullptr, "a", "b", "", "a", "b", "c"};
  std::vector<std::int64_t> items(rows);
  for (std::size_t i = 0; i < rows; ++i) items[i] = static_cast<std::int64_t>(i);
  std::vector<float> context(features, 0.5f), columns(rows * width, 0.25f);
  pygrade_request request{};
  request.size = sizeof request;
  request.context = context.data(), request.features = features;
  request.predictions = predictions.data(), request.candidates = rows, request.tasks = 3;
  request.items = columns.data(), request.item_columns = width;
  request.item_values = prices.data();
  request.categories = categories;
  PageMemory memory(4);
  pygrade_page page{};
  page.size = sizeof page;
  page.k = 4;
  page.values = memory.values.data(), page.indices = memory.indices.data();
  page.weights = memory.weights.data(), page.concentration = memory.concentration.data();
  pygrade_log_ids ids{};
  ids.size = sizeof ids;
  ids.request_id = "r1", ids.request_id_size = 2, ids.user_id = "ann", ids.user_id_size = 3;
  ids.item_id = items.data();
  CHECK_EQUAL(pygrade_history_read(history, &request, &ids, context.data(), columns.data()), PYGRADE_INVALID_ARGUMENT);
  CHECK(std::string(pygrade_last_error()).find("timestamp") != std::string::npos);
  ids.timestamp = start, ids.flags = PYGRADE_LOG_TIMESTAMP;
  CHECK_EQUAL(pygrade_history_read(history, &request, &ids, context.data(), columns.data()), PYGRADE_OK);
  CHECK(context[0] == 0.5f && context[1] == 0.0f && context.back() == 0.5f && columns[0] == 0.25f &&
        columns[2] == 0.0f);
  CHECK_EQUAL(pygrade_ranker_rank(ranker, &request, &page), PYGRADE_OK);
  std::int32_t taken = 0;
  CHECK_EQUAL(pygrade_history_add_exposures(history, ranker, &request, &page, &ids, &taken), PYGRADE_OK);
  CHECK_EQUAL(taken, 1);
  const std::int64_t seen = page.indices[0];
  std::vector<pygrade_history_event> events(2);
  for (auto& event : events) {
    event.size = sizeof event;
    event.user_id = "ann", event.user_id_size = 3, event.request_id = "r1", event.request_id_size = 2;
    event.task = "click", event.item_id = seen, event.timestamp = start + second;
  }
  events[1].task = "cart";  // which the history does not count
  std::size_t counted = 9;
  char error[100];
  for (const std::size_t wanted : {1u, 0u}) {
    CHECK_EQUAL(pygrade_history_add_feedback(history, events.data(), 2, &counted, error, sizeof error), PYGRADE_OK);
    CHECK_EQUAL(counted, wanted);
  }
  events[1].task = "shares";
  CHECK_EQUAL(pygrade_history_add_feedback(history, events.data(), 2, nullptr, error, sizeof error),
              PYGRADE_INVALID_ARGUMENT);
  CHECK(std::string(error).find("task") != std::string::npos);

  ids.timestamp = start + 60 * second;
  const auto read = [&](std::string_view item) {
    CHECK_EQUAL(pygrade_history_read(history, &request, &ids, context.data(), columns.data()), PYGRADE_OK);
    const auto place = std::ranges::find(names, item) - names.begin();
    return columns[static_cast<std::size_t>(seen) * width + static_cast<std::size_t>(place)];
  };
  const auto log1p_of = [](double x) { return static_cast<float>(std::log1p(x)); };
  CHECK_EQUAL(read("seen"), log1p_of(1.0));
  CHECK_EQUAL(read("seen_click"), log1p_of(1.0));
  CHECK_EQUAL(read("seen_order"), 0.0f);
  CHECK_EQUAL(read("item_shown"), log1p_of(1.0));
  CHECK_EQUAL(context[1 + 2], log1p_of(4.0));  // user_shown
  CHECK_EQUAL(pygrade_history_remove_user(history, "", 0, error, sizeof error), PYGRADE_INVALID_ARGUMENT);
  CHECK_EQUAL(pygrade_history_remove_user(history, "ann", 3, error, sizeof error), PYGRADE_OK);
  CHECK_EQUAL(read("seen"), 0.0f);
  CHECK_EQUAL(read("item_shown"), log1p_of(1.0));
  CHECK_EQUAL(context[1 + 2], 0.0f);
  pygrade_history_close(history);
  pygrade_history_close(nullptr);
  pygrade_ranker_free(ranker);
  pygrade_policy_free(policy);
}

TEST(arguments_are_refused_by_name) {
  const auto history = make_history();
  CHECK_THROWS(std::invalid_argument, "store", HistoryStore(nullptr));
  HistoryStore store(open_store("memory:", {.create = true}));
  HistoryBuffer buffer;
  const std::int64_t items[] = {1, 2};
  CHECK_THROWS(std::invalid_argument, "categories", store.read(*history, 1, start, items, {}, buffer));
  CHECK_THROWS(std::invalid_argument, "categories", store.read(*history, 1, start, items, std::span(items, 1), buffer));
  const HistoryEvent event{.task = 2};
  CHECK_THROWS(std::invalid_argument, "task", store.add_feedback(history, std::span(&event, 1)));
}
