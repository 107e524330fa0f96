// Features of a log's requests: each sees the events strictly before it, in whatever order and chunks they come.
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

  static Feedback random(std::size_t count, unsigned seed) {
    std::mt19937 rng(seed);
    Feedback made;
    for (std::size_t e = 0; e < count; ++e) {
      made.user.push_back(static_cast<std::int64_t>(rng() % 4));
      made.item.push_back(static_cast<std::int64_t>(4 + rng() % 6));
      made.time.push_back(begin + static_cast<std::int64_t>(rng() % 40) * hour);
      made.scenario.push_back(rng() % 5 == 0 ? null_code : static_cast<std::int64_t>(rng() % 2));
      for (const std::string& column : schema.outcome_columns)
        made.outcomes[column].push_back(static_cast<double>(rng() % 2));
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
  std::vector<std::unique_ptr<detail::RecordTable>> made;
  std::vector<detail::RecordTable*> all;
};

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
  const Ints columns = feedback.columns(places_of(300));
  for (std::size_t t = 0; t < all.all.size(); ++t) {
    all.all[t]->apply(detail::event_keys(columns.data(), 300, t), detail::event_columns(schema, columns.data(), 300));
    Ints keys(all.all[t]->keys().begin(), all.all[t]->keys().end());
    for (const std::int64_t key : keys) {
      const auto* const wanted = all.all[t]->record(all.all[t]->find(Ints{key})[0]);
      const auto* const found = whole.all[t]->record(whole.all[t]->find(Ints{key})[0]);
      CHECK(std::equal(wanted, wanted + all.all[t]->layout().width(), found));  // later events are in, too
    }
    CHECK(keys.size() == whole.all[t]->keys().size());
  }
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
