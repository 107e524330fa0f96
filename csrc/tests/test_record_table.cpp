// Records of a table: of any events, in any order and any cut.
#include <algorithm>
#include <numeric>
#include <random>

#include "check.hpp"
#include "feature_files.hpp"
#include "features/record_table.hpp"

using namespace pygrade;
using namespace pygrade::tests;
using detail::null_code;

namespace {

using Ints = std::vector<std::int64_t>;
constexpr std::int64_t hour = 3'600'000, begin = 1'700'000'000'000;

const detail::Schema schema = detail::Schema::parse(schema_text);

detail::RecordTable table_of(const std::vector<std::string>& key) { return {schema, schema.table(key)}; }

// Events in order of time.
struct Events {
  Ints keys, time, item;
  std::vector<Ints> values, known;  // of each outcome

  Events() : values(schema.outcomes.size()), known(schema.outcomes.size()) {}

  static Events random(std::size_t count, std::int64_t keys, std::int64_t span, unsigned seed) {
    std::mt19937 rng(seed);
    Events made;
    for (std::size_t e = 0; e < count; ++e) {
      made.keys.push_back(rng() % 20 == 0 ? null_code : static_cast<std::int64_t>(rng() % keys) * 7 - 3);
      made.time.push_back(begin + static_cast<std::int64_t>(rng() % span));
      made.item.push_back(static_cast<std::int64_t>(rng() % 50));
      for (std::size_t o = 0; o < schema.outcomes.size(); ++o) {
        made.values[o].push_back(static_cast<std::int64_t>(rng() % 3));
        made.known[o].push_back(static_cast<std::int64_t>(rng() % 2));
      }
    }
    std::ranges::sort(made.time);
    return made;
  }

  // The events at these places.
  Events at(const std::vector<std::size_t>& places) const {
    Events some;
    const auto take = [&](const Ints& from, Ints& to) {
      for (const std::size_t place : places) to.push_back(from[place]);
    };
    take(keys, some.keys);
    take(time, some.time);
    take(item, some.item);
    for (std::size_t o = 0; o < values.size(); ++o) {
      take(values[o], some.values[o]);
      take(known[o], some.known[o]);
    }
    return some;
  }

  Events between(std::size_t first, std::size_t last) const {
    std::vector<std::size_t> places(last - first);
    std::iota(places.begin(), places.end(), first);
    return at(places);
  }

  detail::EventColumns columns() const {
    detail::EventColumns made{time, item, {}, {}};
    for (std::size_t o = 0; o < values.size(); ++o) {
      made.values.emplace_back(values[o]);
      made.known.emplace_back(detail::is_measure(schema.outcomes[o]) ? std::span<const std::int64_t>(known[o])
                                                                     : std::span<const std::int64_t>());
    }
    return made;
  }
};

void apply(detail::RecordTable& table, const Events& events) { table.apply(events.keys, events.columns()); }

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

const std::vector<std::vector<std::string>> keys_of_tables = {{"user_id"}, {"item_id"}, {"item.author"}};

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
  for (const auto& key : keys_of_tables) {
    const Events events = Events::random(6'000, 5'000, 400 * hour, 3);  // more keys than a block of records holds
    auto whole = table_of(key);
    apply(whole, events);
    std::vector<std::size_t> order(events.keys.size());
    std::iota(order.begin(), order.end(), 0u);
    std::ranges::shuffle(order, std::mt19937(4));
    auto shuffled = table_of(key);
    apply(shuffled, events.at(order));
    CHECK(sorted_records(shuffled) == sorted_records(whole));
    auto merged = table_of(key);
    for (const auto& [first, last] : {std::pair{4'000u, 6'000u}, {0u, 1'000u}, {1'000u, 4'000u}}) {
      auto piece = table_of(key);
      apply(piece, events.at({order.begin() + first, order.begin() + last}));
      const auto [keys, records] = sorted_records(piece);
      merged.merge(keys, records.data());
    }
    CHECK(sorted_records(merged) == sorted_records(whole));
  }
}

TEST(an_unknown_key_has_the_empty_record) {
  auto table = table_of({"user_id"});
  apply(table, Events::random(50, 3, 9 * hour, 5));
  Ints records(2 * table.layout().width());
  bool known[2] = {true, true};
  table.get(Ints{12'345, null_code}, records.data(), known);
  CHECK(!known[0] && !known[1]);
  const auto empty = table.layout().empty();
  CHECK(std::ranges::equal(std::span(records).first(empty.size()), empty));
}

}  // namespace
