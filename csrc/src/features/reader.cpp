// Reads the features of one request; pygrade/features/{chunks,compute}.py say what they are.
#include <algorithm>
#include <bit>

#include "features/center.hpp"
#include "util/fpenv.hpp"

namespace pygrade {

namespace {

using detail::CodeSource;
using detail::KeySet;
using detail::null_code;
using detail::Plan;
using detail::TablePlan;
using Items = std::span<const std::int64_t>;

const detail::FeatureKernels& feature_kernels() {
  using namespace detail;
  return PYGRADE_KERNELS(feature_kernels);
}

std::int64_t signed_size(std::size_t size) { return static_cast<std::int64_t>(size); }

// One call of the center for a request.
class Reader {
 public:
  Reader(FeatureCenter::Impl& center, FeatureBuffer& buffer, Items items, const Deadline& deadline)
      : center_(center),
        plan_(center.plan),
        kernels_(feature_kernels()),
        buffer_(buffer),
        work_(*buffer.work),
        items_(items),
        deadline_(deadline) {}

  // Takes a request in. SchemaError for context that does not fit, and then the buffer is as it was.
  void begin(const FeatureRequest& request);

  // Fills the buffer, by defaults if the store fails or, `known` being false, failed before.
  void run(bool known);

 private:
  void ask();
  void recall(bool same);
  bool ask_early();
  void take_attributes(StoreValues& values, bool users, bool items);
  void make_keys(const TablePlan& table, KeySet& keys);
  std::int64_t code_of(const CodeSource& source, std::size_t row) const;
  void find_distinct(KeySet& keys);
  void take_records(StoreValues values, bool same);
  void make_defaults();
  template <class Record>
  void make_request(const Record& record_of);
  void begin_items();
  void make_table(std::size_t table, const char* const* records, std::size_t count, float* out, std::size_t width,
                  const std::uint32_t* place, std::size_t rows);
  void make_items(std::size_t table, const KeySet& keys);
  void remember();

  std::int64_t* item_row(std::size_t row) const { return work_.item_rows.data() + row * plan_.items.width(); }

  FeatureCenter::Impl& center_;
  const Plan& plan_;
  const detail::FeatureKernels& kernels_;
  FeatureBuffer& buffer_;
  FeatureBuffer::Work& work_;
  const Items items_;
  const Deadline& deadline_;
  const detail::FloatEnvironment environment_;

  bool user_unknown_ = false;  // his attributes are to be read
  std::size_t unknown_ = 0;    // so are those of so many candidates: work_.unknown
  bool learned_user_ = false;  // now read, to be remembered
  std::size_t learned_ = 0;    // so many candidates: work_.unknown_ids and _rows
  std::uint64_t user_stamp_ = 0, item_stamp_ = 0;
};

std::string quoted(std::string_view name) { return "'" + std::string(name) + "'"; }

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
                        "; want a number (type drift)");
    if (is_text && !value.text && value.number == value.number)
      throw SchemaError("context " + quoted(value.name) + " is a number; want a text (type drift)");
  }
  work_.plan = &plan_;
  work_.user_id = request.user_id;
  work_.time = request.timestamp;
  work_.scenario = detail::scenario_code(request.scenario);
  work_.numbers.assign(columns.size(), std::numeric_limits<double>::quiet_NaN());
  work_.codes.assign(columns.size(), null_code);
  for (const ContextValue& value : request.context) {
    const std::size_t column = column_of(value.name);
    work_.numbers[column] = value.number;
    work_.codes[column] = value.text ? detail::text_code(*value.text) : null_code;
  }
  work_.version.clear();
  work_.made = false;
  center_.counts.reads.fetch_add(1, std::memory_order_relaxed);
}

void Reader::run(bool known) {
  const std::size_t rows = items_.size();
  buffer_.request_dense.resize(plan_.request_features.size());
  buffer_.request_ids.resize(plan_.request_id_features.size());
  buffer_.sequences.resize(plan_.sequence_length);
  buffer_.item_dense.resize(rows * plan_.item_features.size());
  buffer_.item_ids.resize(rows * plan_.item_id_features.size());
  buffer_.cross_dense.resize(rows * plan_.cross_features.size());
  work_.priors.resize(plan_.priors.size());
  work_.records.resize(plan_.records);
  work_.user_row.resize(plan_.schema.user_width);
  work_.keys.resize(plan_.tables.size());
  work_.item_rows.resize(rows * plan_.items.width());
  work_.unknown.resize(rows);
  work_.stored.resize(plan_.schema.item_width);
  work_.fields.resize(plan_.most_fields * detail::history_lanes);
  buffer_.defaults = false;
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

// ---- asking the store

// One round trip; one before it if keys depend on attributes that are not remembered yet.
void Reader::ask() {
  for (int attempt = 0; attempt < version_tries; ++attempt) {
    learned_ = 0;
    learned_user_ = false;
    bool same = false;  // version as the user was read in
    {
      const std::shared_lock lock(center_.reading.mutex);
      work_.seen = center_.reading.version;
      same = work_.made && !work_.seen.empty() && work_.version == work_.seen;
      recall(same);
    }
    if (!ask_early()) continue;
    work_.queries.clear();
    work_.queries.push_back({meta_table, meta_key});
    const bool ask_user = user_unknown_, ask_items = unknown_ > 0;
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
      current = center_.is_current(center_.reading, values[0], work_.seen);
      if (!current) return;
      values = values.subspan(1);
      take_attributes(values, ask_user, ask_items);
      take_records(values, same);
    });
    if (!current) continue;
    remember();
    if (!same) work_.version = work_.seen;
    return;
  }
  center_.fail_restless("one read");
}

// The remembered attributes, under the cache's lock.
void Reader::recall(bool same) {
  const detail::AttributeCache& cache = center_.reading;
  user_stamp_ = cache.users.stamp();
  item_stamp_ = cache.items.stamp();
  user_unknown_ = false;
  if (!same && !work_.user_row.empty()) {
    std::uint32_t unknown = 0;
    user_unknown_ = cache.users.recall({&work_.user_id, 1}, work_.user_row.data(), &unknown) > 0;
  }
  unknown_ = cache.items.recall(items_, work_.item_rows.data(), work_.unknown.data());
  work_.unknown_ids.resize(unknown_);
  for (std::size_t i = 0; i < unknown_; ++i) work_.unknown_ids[i] = items_[work_.unknown[i]];
}

// Reads the attributes that keys depend on, and learns which version there is; false if it is not the one seen.
bool Reader::ask_early() {
  if (work_.stored.empty() && unknown_ > 0) {  // items without attributes
    StoreValues none;
    take_attributes(none, false, true);
  }
  const bool users = plan_.keys_need_users && user_unknown_, items = plan_.keys_need_items && unknown_ > 0;
  if (!work_.seen.empty() && !users && !items) return true;
  work_.queries.clear();
  work_.queries.push_back({meta_table, meta_key});
  if (users) work_.queries.push_back({plan_.user_table_name, {&work_.user_id, 1}});
  if (items) work_.queries.push_back({plan_.item_table_name, work_.unknown_ids});
  bool current = false;
  center_.get(*center_.reader, work_.queries, deadline_, [&](StoreValues values) {
    current = center_.is_current(center_.reading, values[0], work_.seen);
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
    values = values.subspan(1);
    user_unknown_ = false;
    learned_user_ = true;
  }
  if (!items) return;
  const bool stored = !work_.stored.empty();
  for (std::size_t i = 0; i < unknown_; ++i) {
    const std::size_t row = work_.unknown[i];
    if (stored) center_.read_attributes(values[i], plan_.empty_item, work_.stored.data());
    plan_.remember(items_[row], work_.stored, {item_row(row), plan_.items.width()});
  }
  if (stored) values = values.subspan(unknown_);
  learned_ = unknown_;
  unknown_ = 0;
}

// Remembers what was read, unless the cache forgot something since `recall`: it may be outdated.
void Reader::remember() {
  if (!learned_user_ && learned_ == 0) return;
  const std::size_t width = plan_.items.width();
  work_.unknown_rows.resize(learned_ * width);
  for (std::size_t i = 0; i < learned_; ++i)
    std::copy_n(item_row(work_.unknown[i]), width, work_.unknown_rows.data() + i * width);
  const std::unique_lock lock(center_.reading.mutex);
  if (learned_user_ && user_stamp_ == center_.reading.users.stamp())
    center_.reading.users.remember({&work_.user_id, 1}, work_.user_row.data());
  if (learned_ > 0 && item_stamp_ == center_.reading.items.stamp())
    center_.reading.items.remember(work_.unknown_ids, work_.unknown_rows.data());
}

std::int64_t Reader::code_of(const CodeSource& source, std::size_t row) const {
  switch (source.from) {
    case CodeSource::From::user_id:
      return work_.user_id;
    case CodeSource::From::item_id:
      return items_[row];
    case CodeSource::From::scenario:
      return work_.scenario;
    case CodeSource::From::context:
      return work_.codes[source.at];
    case CodeSource::From::user:
      return work_.user_row[source.at];
    case CodeSource::From::item:
      return item_row(row)[source.at];
  }
  return null_code;
}

// The keys of the candidates or, of tables that a request asks once, its only key.
void Reader::make_keys(const TablePlan& table, KeySet& keys) {
  const std::size_t rows = table.per_row ? items_.size() : 1;
  auto& all = work_.row_keys;
  all.resize(rows);
  if (table.key.empty()) {
    std::ranges::fill(all, 0);
  } else if (table.key.size() == 1) {
    for (std::size_t row = 0; row < rows; ++row) all[row] = code_of(table.key[0], row);
  } else {
    for (std::size_t row = 0; row < rows; ++row) {
      detail::Mix mixed;
      for (const CodeSource& part : table.key) mixed.add(code_of(part, row));
      all[row] = mixed.code();
    }
  }
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
    std::size_t at =
        static_cast<std::size_t>(static_cast<std::uint64_t>(all[row]) * 0x9e3779b97f4a7c15ull >> 32) & mask;
    while (work_.slots[at] != 0 && keys.distinct[work_.slots[at] - 1] != all[row]) at = (at + 1) & mask;
    if (work_.slots[at] == 0) {
      keys.distinct.push_back(all[row]);
      work_.slots[at] = static_cast<std::uint32_t>(keys.distinct.size());
    }
    keys.place[row] = work_.slots[at] - 1;
  }
}

// ---- features

// The answers for the tables, in the order in which they were asked.
void Reader::take_records(StoreValues values, bool same) {
  const auto misses = [&](const TablePlan& table, StoreValues answers) {
    if (table.misses == nullptr) return;
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
    make_request(
        [&](std::size_t t) { return reinterpret_cast<const char*>(work_.records.data() + plan_.record_place[t]); });
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
      make_items(t, work_.keys[t]);
    }
    values = values.subspan(count);
  }
}

// Features of a user and candidates of whom nothing is known, not even the rates over all events.
void Reader::make_defaults() {
  std::ranges::copy(plan_.empty_user, work_.user_row.begin());
  work_.made = false;
  make_request([&](std::size_t t) { return reinterpret_cast<const char*>(plan_.tables[t].table->empty.data()); });
  if (items_.empty()) return;
  for (std::size_t row = 0; row < items_.size(); ++row)
    plan_.remember(items_[row], plan_.empty_item, {item_row(row), plan_.items.width()});
  begin_items();
  KeySet& one = work_.keys[0];
  one.place.assign(items_.size(), 0);
  for (std::size_t t = 0; t < plan_.tables.size(); ++t) {
    if (!plan_.tables[t].per_row) continue;
    work_.pointers.assign(1, reinterpret_cast<const char*>(plan_.tables[t].table->empty.data()));
    make_items(t, one);
  }
}

// The features of the request from the records of its tables, and the means that others are shrunk to.
template <class Record>
void Reader::make_request(const Record& record_of) {
  for (std::size_t p = 0; p < plan_.priors.size(); ++p) {
    const auto& prior = plan_.priors[p];
    const char* record = record_of(prior.table);
    work_.priors[p] = detail::shrunk_mean(static_cast<double>(detail::load(record, prior.total)),
                                          static_cast<double>(detail::load(record, prior.known)), prior.weight,
                                          prior.prior < 0 ? 0.0 : work_.priors[static_cast<std::size_t>(prior.prior)]);
  }
  for (std::size_t t = 0; t < plan_.tables.size(); ++t) {
    if (plan_.tables[t].per_row || plan_.tables[t].features.empty()) continue;
    const char* record = record_of(t);
    make_table(t, &record, 1, buffer_.request_dense.data(), buffer_.request_dense.size(), nullptr, 1);
  }
  const std::int64_t local = detail::wrapping_add(work_.time, plan_.utc_offset);
  const auto minute =
      static_cast<std::size_t>(detail::floor_modulo(detail::floor_divide(local, 60'000), detail::Circle::minutes));
  for (const auto& column : plan_.numbers) {
    using From = detail::NumberColumn::From;
    double number = 0.0;
    switch (column.from) {
      case From::sine:
        number = detail::circle().sine[minute];
        break;
      case From::cosine:
        number = detail::circle().cosine[minute];
        break;
      case From::weekend:  // 1970-01-01 was a Thursday; Monday is 0
        number = detail::floor_modulo(detail::floor_divide(local, 86'400'000) + 3, 7) >= 5 ? 1.0 : 0.0;
        break;
      case From::context:
        number = work_.numbers[column.at];
        break;
      case From::attribute:
        number = std::bit_cast<double>(work_.user_row[column.at]);
        break;
    }
    buffer_.request_dense[column.column] = detail::transformed(number, column.transform, work_.time);
  }
  for (std::size_t i = 0; i < plan_.ids.size(); ++i)
    buffer_.request_ids[i] = plan_.codings[plan_.ids[i].coding].id_of(code_of(plan_.ids[i].source, 0));
  std::int64_t* sequence = buffer_.sequences.data();
  for (const auto& plan : plan_.sequences) {
    std::memcpy(sequence, record_of(plan_.user_table) + 8 * plan.place, 8 * plan.length);
    sequence += plan.length;
  }
}

// What attributes alone give.
void Reader::begin_items() {
  const auto& layout = plan_.items;
  const std::size_t rows = items_.size(), ids = layout.ids.size(), width = plan_.item_features.size();
  for (std::size_t row = 0; row < rows; ++row)
    std::copy_n(item_row(row) + layout.ids_at(), ids, buffer_.item_ids.data() + row * ids);
  for (std::size_t a = 0; a < layout.ages.size(); ++a)
    kernels_.ages(item_row(0) + layout.ages_at() + a, signed_size(layout.width()), signed_size(rows), work_.time,
                  buffer_.item_dense.data() + layout.ages[a].column, signed_size(width));
  if (!layout.runs.empty())
    kernels_.scatter(reinterpret_cast<const float*>(item_row(0) + layout.numbers_at()), 2 * signed_size(layout.width()),
                     nullptr, signed_size(rows), layout.runs.data(), signed_size(layout.runs.size()),
                     buffer_.item_dense.data(), signed_size(width));
}

// The features of a table's records into the columns of out[rows, width] that are theirs.
void Reader::make_table(std::size_t t, const char* const* records, std::size_t count, float* out, std::size_t width,
                        const std::uint32_t* place, std::size_t rows) {
  const TablePlan& table = plan_.tables[t];
  work_.block.resize(std::max(work_.block.size(), count * table.features.size()));
  work_.steps.resize(table.steps.size());
  for (std::size_t i = 0; i < table.steps.size(); ++i)
    work_.steps[i] = detail::floor_divide(work_.time, table.steps[i]);
  kernels_.history({table.fields.data(), table.windows.data(), table.features.data(), signed_size(table.fields.size()),
                    signed_size(table.windows.size()), signed_size(table.features.size()), work_.steps.data(),
                    work_.priors.data(), work_.time, records, signed_size(count), work_.fields.data(),
                    work_.block.data()});
  kernels_.scatter(work_.block.data(), signed_size(table.features.size()), place, signed_size(rows), table.runs.data(),
                   signed_size(table.runs.size()), out, signed_size(width));
}

// The same for the candidates, from work_.pointers.
void Reader::make_items(std::size_t t, const KeySet& keys) {
  const TablePlan& table = plan_.tables[t];
  if (table.features.empty()) return;
  auto& out = table.cross ? buffer_.cross_dense : buffer_.item_dense;
  const std::size_t width = table.cross ? plan_.cross_features.size() : plan_.item_features.size();
  make_table(t, work_.pointers.data(), work_.pointers.size(), out.data(), width, keys.place.data(), items_.size());
}

}  // namespace

void FeatureCenter::read(const FeatureRequest& request, std::span<const std::int64_t> item_ids, FeatureBuffer& buffer,
                         std::optional<std::chrono::steady_clock::time_point> deadline) {
  Reader reader(*impl_, buffer, item_ids, deadline);
  reader.begin(request);
  reader.run(true);
}

void FeatureCenter::read_user(const FeatureRequest& request, FeatureBuffer& buffer,
                              std::optional<std::chrono::steady_clock::time_point> deadline) {
  read(request, {}, buffer, deadline);
}

void FeatureCenter::read_items(std::span<const std::int64_t> item_ids, FeatureBuffer& buffer,
                               std::optional<std::chrono::steady_clock::time_point> deadline) {
  if (buffer.work == nullptr || buffer.work->plan != &impl_->plan)
    throw std::invalid_argument("the buffer holds no user that this center has read");
  Reader(*impl_, buffer, item_ids, deadline).run(!buffer.work->version.empty());
}

}  // namespace pygrade
