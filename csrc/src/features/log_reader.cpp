#include "features/log_reader.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "features/feature_maker.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
constexpr std::size_t events_ahead = 8;  // events whose records are on their way from memory

std::span<const std::int64_t> row_of(const AttributeRows& known, std::int64_t id,
                                     const std::vector<std::int64_t>& unknown) {
  const auto found = std::ranges::lower_bound(known.ids, id);
  if (found == known.ids.end() || *found != id) return unknown;
  return known.rows.subspan(static_cast<std::size_t>(found - known.ids.begin()) * unknown.size(), unknown.size());
}

template <class T>
T* append(const std::vector<T>& row, T* out) {
  return std::ranges::copy(row, out).out;
}

// The records of the tables, and where events and requests find theirs.
class Past {
 public:
  Past(std::span<RecordTable* const> tables, const Schema& schema, const std::int64_t* events, std::size_t count)
      : tables_(tables), columns_(event_columns(schema, events, count)), order_(count) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::ranges::stable_sort(order_, {}, [&](std::size_t e) { return columns_.time[e]; });
    for (std::size_t t = 0; t < tables.size(); ++t)
      places_.push_back(tables[t]->places_for(event_keys(events, count, t)));
  }

  // Adds the events before a time.
  void advance(std::int64_t time) {
    while (next_ < order_.size() && columns_.time[order_[next_]] < time) add_next();
  }
  void finish() {
    while (next_ < order_.size()) add_next();
  }

 private:
  void add_next() {
    for (std::size_t t = 0; t < tables_.size(); ++t) {
      if (next_ + events_ahead < order_.size()) tables_[t]->prefetch(places_[t][order_[next_ + events_ahead]]);
      tables_[t]->add(columns_, order_[next_], places_[t][order_[next_]]);
    }
    ++next_;
  }

  std::span<RecordTable* const> tables_;
  EventColumns columns_;
  std::vector<std::size_t> order_;                  // events in order of time
  std::vector<std::vector<std::uint32_t>> places_;  // [tables][e]
  std::size_t next_ = 0;
};
}  // namespace

// Where the requests and their rows find attributes and records.
struct LogReader::Places {
  std::vector<const std::int64_t*> users, items;    // [R] and [n] rows of attributes
  std::vector<std::vector<std::uint32_t>> records;  // [tables][n], or [R] of tables that a request asks once
};

std::size_t event_width(const Schema& schema) {
  const auto measures = std::ranges::count_if(schema.outcomes, [](const auto& source) { return is_measure(source); });
  return 2 + schema.tables.size() + schema.outcomes.size() + static_cast<std::size_t>(measures);
}

EventColumns event_columns(const Schema& schema, const std::int64_t* events, std::size_t count) {
  std::size_t at = 0;
  const auto next = [&] { return std::span(events + count * at++, count); };
  EventColumns columns;
  columns.time = next();
  columns.item = next();
  at += schema.tables.size();
  for (std::size_t o = 0; o < schema.outcomes.size(); ++o) columns.values.push_back(next());
  for (const std::string& source : schema.outcomes)
    columns.known.push_back(is_measure(source) ? next() : std::span<const std::int64_t>());
  return columns;
}

LogReader::LogReader(Schema schema, AttributeRows users, AttributeRows items)
    : plan_(std::move(schema)), users_(users), items_(items) {
  if (users.rows.size() != users.ids.size() * plan_.empty_user.size() ||
      items.rows.size() != items.ids.size() * plan_.empty_item.size())
    throw std::invalid_argument("attributes have other rows than ids, or than the schema's columns");
}

const std::int64_t* LogReader::user(std::int64_t id) const { return row_of(users_, id, plan_.empty_user).data(); }
const std::int64_t* LogReader::item(std::int64_t id) const { return row_of(items_, id, plan_.empty_item).data(); }

// The attributes that keys are made of, as ItemLayout has them.
void LogReader::take_codes(const std::int64_t* stored, std::vector<std::int64_t>& codes) const {
  codes.resize(plan_.items.codes.size());
  for (std::size_t c = 0; c < codes.size(); ++c) codes[c] = stored[plan_.items.codes[c]];
}

void LogReader::keys(std::span<const std::int64_t> user_id, std::span<const std::int64_t> item_id,
                     std::span<const std::int64_t> scenario, std::int64_t* keys) const {
  const std::size_t count = user_id.size();
  std::vector<std::int64_t> item_codes;
  for (std::size_t i = 0; i < count; ++i) {
    Codes codes{user_id[i], item_id[i]};
    if (!scenario.empty()) codes.scenario = scenario[i];
    if (plan_.keys_need_users) codes.user = user(codes.user_id);
    if (plan_.keys_need_items) take_codes(item(codes.item_id), item_codes);
    codes.item = item_codes.data();
    for (std::size_t t = 0; t < plan_.tables.size(); ++t) keys[t * count + i] = plan_.tables[t].key_of(codes);
  }
}

void LogReader::events(const FeedbackEvents& events, std::span<const std::int64_t> scenario,
                       std::int64_t* columns) const {
  const FloatEnvironment environment;
  const Outcomes outcomes = outcomes_of(plan_.schema, events);
  columns = std::ranges::copy(events.event_time, columns).out;
  columns = std::ranges::copy(events.item_id, columns).out;
  keys(events.user_id, events.item_id, scenario, columns);
  columns += plan_.tables.size() * events.user_id.size();
  for (const auto& values : outcomes.values) columns = append(values, columns);
  for (const auto& known : outcomes.known) columns = append(known, columns);
}

LogReader::Places LogReader::find(std::span<RecordTable* const> tables, const LogRequests& requests) const {
  Places places;
  std::vector<std::vector<std::int64_t>> keys(tables.size());
  std::vector<std::int64_t> item_codes;
  for (std::size_t r = 0; r < requests.user_id.size(); ++r) {
    Codes codes{requests.user_id[r], 0, requests.scenario[r], nullptr, user(requests.user_id[r]), nullptr};
    places.users.push_back(codes.user);
    for (std::size_t t = 0; t < tables.size(); ++t)
      if (!plan_.tables[t].per_row) keys[t].push_back(plan_.tables[t].key_of(codes));
    for (auto i = static_cast<std::size_t>(requests.offsets[r]); i < static_cast<std::size_t>(requests.offsets[r + 1]);
         ++i) {
      codes.item_id = requests.item_id[i];
      places.items.push_back(item(codes.item_id));
      take_codes(places.items.back(), item_codes);
      codes.item = item_codes.data();
      for (std::size_t t = 0; t < tables.size(); ++t)
        if (plan_.tables[t].per_row) keys[t].push_back(plan_.tables[t].key_of(codes));
    }
  }
  for (std::size_t t = 0; t < tables.size(); ++t) places.records.push_back(tables[t]->find(keys[t]));
  return places;
}

// The records of a request are on their way from memory.
void LogReader::prefetch(std::span<RecordTable* const> tables, const LogRequests& requests, const Places& places,
                         std::size_t request) const {
  if (request >= requests.user_id.size()) return;
  const auto first = static_cast<std::size_t>(requests.offsets[request]),
             last = static_cast<std::size_t>(requests.offsets[request + 1]);
  for (std::size_t t = 0; t < tables.size(); ++t)
    if (plan_.tables[t].per_row)
      for (std::size_t i = first; i < last; ++i) tables[t]->prefetch(places.records[t][i]);
    else
      tables[t]->prefetch(places.records[t][request]);
}

void LogReader::read(std::span<RecordTable* const> tables, const std::int64_t* events, std::size_t count,
                     const LogRequests& requests, const LogFeatures& out) const {
  if (!std::ranges::is_sorted(requests.time))
    throw std::invalid_argument("time of requests goes back; expected it ascending");
  Past past(tables, plan_.schema, events, count);
  FeatureBuffer buffer;
  FeatureBuffer::Work& work = *buffer.work;
  const std::size_t columns = plan_.schema.context.size();
  work.numbers.assign(columns, std::numeric_limits<double>::quiet_NaN());
  work.codes.assign(columns, null_code);
  const Places places = find(tables, requests);
  LogFeatures to = out;
  for (std::size_t r = 0; r < requests.user_id.size(); ++r) {
    const auto first = static_cast<std::size_t>(requests.offsets[r]);
    const auto rows = static_cast<std::size_t>(requests.offsets[r + 1]) - first;
    prefetch(tables, requests, places, r + 1);
    past.advance(requests.time[r]);
    FeatureMaker maker(plan_, buffer, requests.item_id.subspan(first, rows));
    maker.resize();
    work.user_id = requests.user_id[r];
    work.time = requests.time[r];
    work.scenario = requests.scenario[r];
    for (std::size_t c = 0; c < columns; ++c)
      if (requests.numbers[c].empty())
        work.codes[c] = requests.codes[c][r];
      else
        work.numbers[c] = requests.numbers[c][r];
    std::copy_n(places.users[r], work.user_row.size(), work.user_row.begin());
    for (std::size_t i = 0; i < rows; ++i)
      plan_.remember(requests.item_id[first + i], {places.items[first + i], plan_.empty_item.size()},
                     {maker.item_row(i), plan_.items.width()});
    for (std::size_t t = 0; t < tables.size(); ++t)
      if (!plan_.tables[t].per_row)
        work.request_records[t] = reinterpret_cast<const char*>(tables[t]->record(places.records[t][r]));
    maker.make_request();
    if (rows > 0) maker.begin_items();
    for (std::size_t t = 0; t < tables.size() && rows > 0; ++t) {
      if (!plan_.tables[t].per_row) continue;
      work.pointers.clear();
      for (const std::uint32_t place : std::span(places.records[t]).subspan(first, rows))
        work.pointers.push_back(reinterpret_cast<const char*>(tables[t]->record(place)));
      maker.make_items(t, nullptr);
    }
    to = {append(buffer.request_dense, to.request_dense), append(buffer.request_ids, to.request_ids),
          append(buffer.sequences, to.sequences),         append(buffer.item_dense, to.item_dense),
          append(buffer.item_ids, to.item_ids),           append(buffer.cross_dense, to.cross_dense)};
  }
  past.finish();
}
}  // namespace pygrade::inline v0_2::detail
