// Reads a request's features from the store.
#include "features/reader.hpp"

#include <algorithm>
#include <bit>

#include "util/seed.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
std::string quoted(std::string_view name) { return "'" + std::string(name) + "'"; }
}  // namespace

Reader::Reader(FeatureCenter::Impl& center, FeatureBuffer& buffer, Items items, const Deadline& deadline)
    : FeatureMaker(center.plan, buffer, items), center_(center), deadline_(deadline) {}

void Reader::begin(const FeatureRequest& request) {
  const auto& columns = plan_.schema.context;
  const auto column_of = [&](std::string_view name) {
    for (std::size_t i = 0; i < columns.size(); ++i)
      if (columns[i].first == name) return i;
    std::string known;
    for (const auto& [column, type] : columns) known += (known.empty() ? "" : ", ") + column;
    throw SchemaError("context names " + quoted(name) + ", which no feature reads; the schema knows " +
                      (known.empty() ? "no context" : known));
  };
  for (const ContextValue& value : request.context) {
    const bool is_text = columns[column_of(value.name)].second == "str";
    if (value.text && !is_text)
      throw SchemaError("context " + quoted(value.name) + " is " + quoted(*value.text) +
                        "; expected a number (type drift)");
    if (is_text && !value.text && value.number == value.number)
      throw SchemaError("context " + quoted(value.name) + " is a number; expected a text (type drift)");
  }
  work_.center = center_.id;
  work_.user_id = request.user_id;
  work_.time = request.timestamp;
  work_.scenario = scenario_code(request.scenario);
  work_.numbers.assign(columns.size(), std::numeric_limits<double>::quiet_NaN());
  work_.codes.assign(columns.size(), null_code);
  for (const ContextValue& value : request.context) {
    const std::size_t column = column_of(value.name);
    work_.numbers[column] = value.number;
    work_.codes[column] = value.text ? text_code(*value.text) : null_code;
  }
  work_.version.clear();
  work_.made = false;
  center_.counts.reads.fetch_add(1, std::memory_order_relaxed);
}

void Reader::run(bool known) {
  const std::size_t rows = items_.size();
  resize();
  work_.records.resize(plan_.records);
  work_.keys.resize(plan_.tables.size());
  work_.unknown.reserve(rows);
  work_.unknown_ids.reserve(rows);
  work_.learned.reserve(rows);
  work_.stored.resize(plan_.schema.item_width);
  buffer_.defaults = buffer_.other_version = false;
  if (known) {
    try {
      ask();
      return;
    } catch (const StoreError&) {
      center_.counts.store_errors.fetch_add(1, std::memory_order_relaxed);
      center_.counts.defaults.fetch_add(1, std::memory_order_relaxed);
    }
  }
  buffer_.defaults = true;
  make_defaults();
}

// One round trip; one before it if keys depend on attributes that are not remembered yet.
void Reader::ask() {
  for (int attempt = 0; attempt < version_tries; ++attempt) {
    work_.learned.clear();
    learned_user_ = false;
    seen_ = center_.reading.version();
    const bool same = work_.made && !seen_->description.empty() && work_.version == seen_->description;  // as the user
    recall(same);
    if (!ask_early()) continue;
    work_.queries.clear();
    work_.queries.push_back({meta_table, meta_key});
    const bool ask_user = user_unknown_, ask_items = !work_.unknown.empty();
    if (ask_user) work_.queries.push_back({plan_.user_table_name, {&work_.user_id, 1}});
    if (ask_items) work_.queries.push_back({plan_.item_table_name, work_.unknown_ids});
    for (std::size_t t = 0; t < plan_.tables.size(); ++t) {
      const TablePlan& table = plan_.tables[t];
      if (table.per_row ? items_.empty() : same) continue;
      make_keys(table, work_.keys[t]);
      work_.queries.push_back({table.stored_name, work_.keys[t].distinct});
    }
    bool current = false;
    center_.get(*center_.reader, work_.queries, deadline_, [&](StoreValues values) {
      current = center_.is_current(center_.reading, values[0], *seen_);
      if (!current) return;
      values = values.subspan(1);
      take_attributes(values, ask_user, ask_items);
      take_records(values, same);
    });
    if (!current) continue;
    remember();
    if (!same) work_.version = seen_->description;
    buffer_.other_version = seen_->other;
    return;
  }
  center_.fail_restless("one read");
}

// The remembered attributes.
void Reader::recall(bool same) {
  user_unknown_ = !same && !work_.user_row.empty() && !seen_->users.recall(work_.user_id, work_.user_row.data());
  work_.unknown.clear();
  work_.unknown_ids.clear();
  constexpr std::size_t ahead = 8;  // rows on their way from memory
  for (std::size_t row = 0; row < std::min(ahead, items_.size()); ++row) seen_->items.prefetch(items_[row]);
  for (std::size_t row = 0; row < items_.size(); ++row) {
    if (row + ahead < items_.size()) seen_->items.prefetch(items_[row + ahead]);
    if (seen_->items.recall(items_[row], item_row(row))) continue;
    work_.unknown.push_back(static_cast<std::uint32_t>(row));
    work_.unknown_ids.push_back(items_[row]);
  }
}

// Reads the attributes that keys depend on, and learns which version there is; false if it is not the one seen.
bool Reader::ask_early() {
  if (work_.stored.empty() && !work_.unknown.empty()) {  // items without attributes
    StoreValues none;
    take_attributes(none, false, true);
  }
  const bool users = plan_.keys_need_users && user_unknown_, items = plan_.keys_need_items && !work_.unknown.empty();
  if (!seen_->description.empty() && !users && !items) return true;
  work_.queries.clear();
  work_.queries.push_back({meta_table, meta_key});
  if (users) work_.queries.push_back({plan_.user_table_name, {&work_.user_id, 1}});
  if (items) work_.queries.push_back({plan_.item_table_name, work_.unknown_ids});
  bool current = false;
  center_.get(*center_.reader, work_.queries, deadline_, [&](StoreValues values) {
    current = center_.is_current(center_.reading, values[0], *seen_);
    if (!current) return;
    values = values.subspan(1);
    take_attributes(values, users, items);
  });
  return current;
}

// Takes the attributes of the user and of the unknown candidates from the front of `values`.
void Reader::take_attributes(StoreValues& values, bool users, bool items) {
  if (users) {
    center_.read_attributes(values[0], plan_.empty_user, work_.user_row.data());
    learned_user_ = true;
    values = values.subspan(1);
    user_unknown_ = false;
  }
  if (!items) return;
  const bool stored = !work_.stored.empty();
  for (std::size_t i = 0; i < work_.unknown.size(); ++i) {
    const std::size_t row = work_.unknown[i];
    if (stored) center_.read_attributes(values[i], plan_.empty_item, work_.stored.data());
    plan_.remember(items_[row], work_.stored, {item_row(row), plan_.items.width()});
  }
  if (stored) values = values.subspan(work_.unknown.size());
  work_.learned.swap(work_.unknown);
  work_.unknown.clear();
}

// The answers for the tables, in the order in which they were asked.
void Reader::take_records(StoreValues values, bool same) {
  const auto misses = [&](const TablePlan& table, StoreValues answers) {
    if (table.misses == nullptr) return;
    if (table.misses == &FeatureCounters::user_misses) buffer_.user_known = answers[0].data() != nullptr;
    const auto missing = std::ranges::count_if(answers, [](std::string_view v) { return v.data() == nullptr; });
    auto& counter =
        table.misses == &FeatureCounters::user_misses ? center_.counts.user_misses : center_.counts.item_misses;
    if (missing > 0) counter.fetch_add(static_cast<std::uint64_t>(missing), std::memory_order_relaxed);
  };
  // Records of the request come first: the means of its user are what those of the candidates are shrunk to.
  if (!same) {
    work_.made = false;
    StoreValues rest = values;
    for (std::size_t t = 0; t < plan_.tables.size(); ++t) {
      const TablePlan& table = plan_.tables[t];
      if (table.per_row && items_.empty()) continue;
      const std::size_t count = work_.keys[t].distinct.size();
      if (!table.per_row) {
        std::memcpy(work_.records.data() + plan_.record_place[t], center_.record(*table.table, rest[0]),
                    8 * table.width());
        misses(table, rest.first(count));
      }
      rest = rest.subspan(count);
    }
    for (std::size_t t = 0; t < plan_.tables.size(); ++t)
      work_.request_records[t] = reinterpret_cast<const char*>(work_.records.data() + plan_.record_place[t]);
    make_request();
    work_.made = true;
  }
  if (items_.empty()) return;
  begin_items();
  for (std::size_t t = 0; t < plan_.tables.size(); ++t) {
    const TablePlan& table = plan_.tables[t];
    if (!table.per_row && same) continue;
    const std::size_t count = work_.keys[t].distinct.size();
    if (table.per_row) {
      work_.pointers.resize(count);
      for (std::size_t i = 0; i < count; ++i) work_.pointers[i] = center_.record(*table.table, values[i]);
      misses(table, values.first(count));
      make_items(t, work_.keys[t].place.data());
    }
    values = values.subspan(count);
  }
}

// Features of a user and candidates of whom nothing is known, not even the rates over all events.
void Reader::make_defaults() {
  buffer_.user_known = false;
  std::ranges::copy(plan_.empty_user, work_.user_row.begin());
  work_.made = false;
  for (std::size_t t = 0; t < plan_.tables.size(); ++t)
    work_.request_records[t] = reinterpret_cast<const char*>(plan_.tables[t].table->empty.data());
  make_request();
  if (items_.empty()) return;
  for (std::size_t row = 0; row < items_.size(); ++row)
    plan_.remember(items_[row], plan_.empty_item, {item_row(row), plan_.items.width()});
  begin_items();
  auto& place = work_.keys[0].place;
  place.assign(items_.size(), 0);
  for (std::size_t t = 0; t < plan_.tables.size(); ++t) {
    if (!plan_.tables[t].per_row) continue;
    work_.pointers.assign(1, reinterpret_cast<const char*>(plan_.tables[t].table->empty.data()));
    make_items(t, place.data());
  }
}

// Remembers what was read.
void Reader::remember() {
  if (learned_user_) seen_->users.remember(work_.user_id, work_.user_row.data());
  for (const std::uint32_t row : work_.learned) seen_->items.remember(items_[row], item_row(row));
}

// The keys of the candidates or, of tables that a request asks once, its only key.
void Reader::make_keys(const TablePlan& table, KeySet& keys) {
  auto& all = work_.row_keys;
  all.resize(table.per_row ? items_.size() : 1);
  for (std::size_t row = 0; row < all.size(); ++row)
    all[row] = table.key_of(table.per_row ? codes(row) : request_codes());
  find_distinct(keys);
}

// work_.row_keys, each once.
void Reader::find_distinct(KeySet& keys) {
  const auto& all = work_.row_keys;
  const std::size_t mask = std::bit_ceil(2 * all.size()) - 1;
  work_.slots.assign(mask + 1, 0);
  keys.distinct.clear();
  keys.distinct.reserve(all.size());
  keys.place.resize(all.size());
  for (std::size_t row = 0; row < all.size(); ++row) {
    std::size_t at = static_cast<std::size_t>(seeded_hash(all[row])) & mask;
    while (work_.slots[at] != 0 && keys.distinct[work_.slots[at] - 1] != all[row]) at = (at + 1) & mask;
    if (work_.slots[at] == 0) {
      keys.distinct.push_back(all[row]);
      work_.slots[at] = static_cast<std::uint32_t>(keys.distinct.size());
    }
    keys.place[row] = work_.slots[at] - 1;
  }
}
}  // namespace pygrade::inline v0_2::detail

namespace pygrade::inline v0_2 {
void FeatureCenter::read(const FeatureRequest& request, std::span<const std::int64_t> item_ids, FeatureBuffer& buffer,
                         std::optional<std::chrono::steady_clock::time_point> deadline) {
  detail::Reader reader(*impl_, buffer, item_ids, deadline);
  reader.begin(request);
  reader.run(true);
}

void FeatureCenter::read_user(const FeatureRequest& request, FeatureBuffer& buffer,
                              std::optional<std::chrono::steady_clock::time_point> deadline) {
  read(request, {}, buffer, deadline);
}

void FeatureCenter::read_items(std::span<const std::int64_t> item_ids, FeatureBuffer& buffer,
                               std::optional<std::chrono::steady_clock::time_point> deadline) {
  if (buffer.work == nullptr || buffer.work->center != impl_->id)
    throw std::invalid_argument("the buffer holds no user that this center has read");
  detail::Reader(*impl_, buffer, item_ids, deadline).run(!buffer.work->version.empty());
}
}  // namespace pygrade::inline v0_2
