// Records of any events, in any order and cut, and features of a log's requests, each of which sees those before it.
#include <algorithm>
#include <memory>
#include <numeric>
#include <random>

#include "check.hpp"
#include "feature_files.hpp"
#include "features/log_reader.hpp"

using namespace pygrade;
using namespace pygrade::tests;
using detail::null_code;

namespace {

using Ints = std::vector<std::int64_t>;
constexpr std::int64_t hour = 3'600'000, begin = 1'700'000'000'000;

const detail::Schema schema = detail::Schema::parse(schema_text);
const Ints user_ids{1, 2, 3}, user_rows{10, 11, 12};
const Ints item_ids{5, 6, 7, 8};
const Ints item_rows = [] {
  Ints rows(item_ids.size() * schema.item_width);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int64_t>(i % 7);
  return rows;
}();
const detail::LogReader reader(schema, {user_ids, user_rows}, {item_ids, item_rows});

struct Feedback {
  Ints user, item, time, scenario;
  std::map<std::string, std::vector<double>> outcomes;

  // Some of items that nobody knows, without a scenario, of measures that are unknown.
  static Feedback random(std::size_t count, unsigned seed, unsigned users = 4) {
    std::mt19937 rng(seed);
    Feedback made;
    for (std::size_t e = 0; e < count; ++e) {
      made.user.push_back(static_cast<std::int64_t>(rng() % users));
      made.item.push_back(static_cast<std::int64_t>(4 + rng() % 6));
      made.time.push_back(begin + static_cast<std::int64_t>(rng() % 40) * hour);
      made.scenario.push_back(rng() % 5 == 0 ? null_code : static_cast<std::int64_t>(rng() % 2));
      for (const std::string& column : schema.outcome_columns)
        made.outcomes[column].push_back(column.starts_with("m_") && rng() % 3 == 0 ? std::nan("")
                                                                                   : static_cast<double>(rng() % 2));
    }
    return made;
  }

  // As columns [width, e], of the events at these places.
  Ints columns(const std::vector<std::size_t>& places) const {
    const auto at = [&](const auto& from) {
      auto some = from;
      some.clear();
      for (const std::size_t place : places) some.push_back(from[place]);
      return some;
    };
    const Ints users = at(user), items = at(item), times = at(time), scenarios = at(scenario);
    std::map<std::string, std::vector<double>> values;
    std::vector<FeedbackEvents::Outcome> named;
    for (const auto& [name, column] : outcomes) named.push_back({name, values[name] = at(column)});
    Ints made(detail::event_width(schema) * places.size());
    reader.events({users, items, times, {}, named}, scenarios, made.data());
    return made;
  }
};

struct Tables {
  Tables() {
    for (const detail::Table& table : schema.tables) {
      made.push_back(std::make_unique<detail::RecordTable>(schema, table));
      all.push_back(made.back().get());
    }
  }
  void apply(const Feedback& feedback, const std::vector<std::size_t>& places) {
    const Ints columns = feedback.columns(places);
    for (std::size_t t = 0; t < all.size(); ++t)
      all[t]->apply(detail::event_keys(columns.data(), places.size(), t),
                    detail::event_columns(schema, columns.data(), places.size()));
  }
  std::vector<std::unique_ptr<detail::RecordTable>> made;
  std::vector<detail::RecordTable*> all;
};

// The records of all keys that have one, in order of the keys.
std::pair<Ints, Ints> sorted_records(const detail::RecordTable& table) {
  Ints keys(table.keys().begin(), table.keys().end());
  std::ranges::sort(keys);
  Ints records(keys.size() * table.layout().width());
  const auto known = std::make_unique<bool[]>(keys.size());
  table.get(keys, records.data(), known.get());
  CHECK(std::all_of(known.get(), known.get() + keys.size(), [](bool one) { return one; }));
  return {keys, records};
}

// Whether the tables have the same records.
bool same_records(const Tables& a, const Tables& b) {
  bool same = true;
  for (std::size_t t = 0; t < a.all.size(); ++t) same = same && sorted_records(*a.all[t]) == sorted_records(*b.all[t]);
  return same;
}

struct Requests {
  Ints user{1, 9, 2, 1}, time{begin, begin + 10 * hour, begin + 10 * hour, begin + 39 * hour};
  Ints scenario{0, null_code, 1, 0}, offsets{0, 2, 3, 3, 6}, item{5, 6, 99, 8, 7, 5};
  std::vector<double> age{0.5, std::numeric_limits<double>::quiet_NaN(), 3.0, -1.0};
  Ints device{1, null_code, 2, 1};

  detail::LogRequests part(std::size_t first, std::size_t last) {
    const auto cut = [&](const Ints& column) { return std::span(column).subspan(first, last - first); };
    starts.clear();
    for (std::size_t r = first; r <= last; ++r) starts.push_back(offsets[r] - offsets[first]);
    const auto row = static_cast<std::size_t>(offsets[first]), rows = static_cast<std::size_t>(starts.back());
    return {cut(user),
            cut(time),
            cut(scenario),
            starts,
            std::span(item).subspan(row, rows),
            {std::span(age).subspan(first, last - first), {}},
            {{}, cut(device)}};
  }
  Ints starts;
};

struct Made {
  Made(std::size_t requests, std::size_t rows)
      : request_dense(requests * reader.plan().request_features.size()),
        item_dense(rows * reader.plan().item_features.size()),
        cross_dense(rows * reader.plan().cross_features.size()),
        request_ids(requests * reader.plan().request_id_features.size()),
        sequences(requests * reader.plan().sequence_length),
        item_codes(rows * reader.plan().item_id_features.size()) {}
  detail::LogFeatures out() {
    return {request_dense.data(), request_ids.data(), sequences.data(),
            item_dense.data(),    item_codes.data(),  cross_dense.data()};
  }
  void add(const Made& more) {
    const auto join = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    join(request_dense, more.request_dense);
    join(item_dense, more.item_dense);
    join(cross_dense, more.cross_dense);
    join(request_ids, more.request_ids);
    join(sequences, more.sequences);
    join(item_codes, more.item_codes);
  }
  bool operator==(const Made& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
    };
    return same(request_dense, other.request_dense) && same(item_dense, other.item_dense) &&
           same(cross_dense, other.cross_dense) && request_ids == other.request_ids && sequences == other.sequences &&
           item_codes == other.item_codes;
  }
  std::vector<float> request_dense, item_dense, cross_dense;
  Ints request_ids, sequences, item_codes;
};

std::vector<std::size_t> places_of(std::size_t count) {
  std::vector<std::size_t> places(count);
  std::iota(places.begin(), places.end(), std::size_t{0});
  return places;
}

TEST(keys_are_numbered_in_the_order_in_which_they_come) {
  detail::KeyIndex index;
  std::vector<std::uint32_t> numbers(4);
  index.find(Ints{1, 2, 3, null_code}, numbers.data());
  CHECK_EQUAL(numbers, (std::vector<std::uint32_t>(4, detail::KeyIndex::none)));
  index.add(Ints{9, null_code, -9, 9}, numbers.data());
  CHECK_EQUAL(numbers, (std::vector<std::uint32_t>{0, detail::KeyIndex::none, 1, 0}));
  Ints many(100'000);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<std::int64_t>(i) << 32;  // equal low bits
  std::vector<std::uint32_t> of_many(many.size());
  index.add(many, of_many.data());
  CHECK_EQUAL(index.keys().size(), many.size() + 2);
  std::vector<std::uint32_t> again(many.size());
  index.find(many, again.data());
  CHECK(again == of_many && of_many.front() == 2 && of_many.back() == many.size() + 1);
  index.find(Ints{-9, 5, 9}, numbers.data());
  CHECK_EQUAL(numbers[0], 1u);
  CHECK_EQUAL(numbers[1], detail::KeyIndex::none);
  CHECK_EQUAL(numbers[2], 0u);
}

TEST(records_depend_on_the_set_of_events_alone) {
  const Feedback feedback = Feedback::random(6'000, 3, 5'000);  // more keys than a block of records holds
  Tables whole, shuffled, merged;
  whole.apply(feedback, places_of(6'000));
  auto order = places_of(6'000);
  std::ranges::shuffle(order, std::mt19937(4));
  shuffled.apply(feedback, order);
  CHECK(same_records(shuffled, whole));
  for (const auto& [first, last] : {std::pair{4'000, 6'000}, {0, 1'000}, {1'000, 4'000}}) {
    Tables piece;
    piece.apply(feedback, {order.begin() + first, order.begin() + last});
    for (std::size_t t = 0; t < piece.all.size(); ++t) {
      const auto [keys, records] = sorted_records(*piece.all[t]);
      merged.all[t]->merge(keys, records.data());
    }
  }
  CHECK(same_records(merged, whole));
}

TEST(an_unknown_key_has_the_empty_record) {
  Tables tables;
  tables.apply(Feedback::random(50, 5), places_of(50));
  for (const detail::RecordTable* table : tables.all) {
    Ints records(2 * table->layout().width());
    bool known[2] = {true, true};
    table->get(Ints{12'345, null_code}, records.data(), known);
    CHECK(!known[0] && !known[1]);
    const auto empty = table->layout().empty();
    CHECK(std::ranges::equal(std::span(records).first(empty.size()), empty));
  }
}

TEST(a_request_sees_the_events_strictly_before_it_in_any_order) {
  const Feedback feedback = Feedback::random(300, 1);
  Requests requests;
  auto places = places_of(300);
  std::ranges::shuffle(places, std::mt19937(2));
  Tables whole;
  Made at_once(4, 6);
  reader.read(whole.all, feedback.columns(places).data(), places.size(), requests.part(0, 4), at_once.out());
  Made alone(0, 0);
  for (std::size_t r = 0; r < 4; ++r) {
    std::vector<std::size_t> before;
    for (const std::size_t e : places_of(300))
      if (feedback.time[e] < requests.time[r]) before.push_back(e);
    Tables fresh;
    Made one(1, static_cast<std::size_t>(requests.offsets[r + 1] - requests.offsets[r]));
    reader.read(fresh.all, feedback.columns(before).data(), before.size(), requests.part(r, r + 1), one.out());
    alone.add(one);
  }
  CHECK(at_once == alone);
  CHECK(std::ranges::any_of(at_once.cross_dense, [](float value) { return value > 1.0f; }));
  Tables all;
  all.apply(feedback, places_of(300));
  CHECK(same_records(all, whole));  // later events are in, too
}

TEST(ids_are_codes) {
  Requests requests;
  Tables tables;
  Made made(4, 6);
  reader.read(tables.all, nullptr, 0, requests.part(0, 4), made.out());
  CHECK_EQUAL(made.item_codes[0], 5);  // item_id
  CHECK_EQUAL(made.item_codes[1], item_rows[schema.attribute(detail::Feature::Entity::item, "tags", "codes").place]);
  CHECK_EQUAL(made.item_codes[2 * reader.plan().item_id_features.size() + 1], null_code);  // of an unknown item
  CHECK_EQUAL(made.request_ids[2], 10);                                                    // level of user 1
}

TEST(what_does_not_fit_is_refused) {
  Requests requests;
  requests.time[3] = begin;
  Tables tables;
  Made made(4, 6);
  CHECK_THROWS(std::invalid_argument, "time of requests goes back",
               reader.read(tables.all, nullptr, 0, requests.part(0, 4), made.out()));
  CHECK_THROWS(std::invalid_argument, "attributes have other rows",
               detail::LogReader(schema, {user_ids, item_ids}, {item_ids, item_rows}));
  Feedback feedback = Feedback::random(3, 1);
  feedback.outcomes["y_click"][1] = 0.5;
  CHECK_THROWS(SchemaError, "feedback y_click is 0.5; want 0 or 1", feedback.columns(places_of(3)));
}

}  // namespace
