// What the features of a request are made of.
#include <algorithm>
#include <bit>

#include "features/reader.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

std::int64_t signed_size(std::size_t size) { return static_cast<std::int64_t>(size); }

}  // namespace

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
  buffer_.user_known = false;
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
    work_.priors[p] =
        shrunk_mean(static_cast<double>(load(record, prior.total)), static_cast<double>(load(record, prior.known)),
                    prior.weight, prior.prior < 0 ? 0.0 : work_.priors[static_cast<std::size_t>(prior.prior)]);
  }
  for (std::size_t t = 0; t < plan_.tables.size(); ++t) {
    if (plan_.tables[t].per_row || plan_.tables[t].features.empty()) continue;
    const char* record = record_of(t);
    make_table(t, &record, 1, buffer_.request_dense.data(), buffer_.request_dense.size(), nullptr, 1);
  }
  const std::int64_t local = wrapping_add(work_.time, plan_.utc_offset);
  const auto minute = static_cast<std::size_t>(floor_modulo(floor_divide(local, 60'000), Circle::minutes));
  for (const auto& column : plan_.numbers) {
    using From = NumberColumn::From;
    double number = 0.0;
    switch (column.from) {
      case From::sine:
        number = circle().sine[minute];
        break;
      case From::cosine:
        number = circle().cosine[minute];
        break;
      case From::weekend:  // 1970-01-01 was a Thursday; Monday is 0
        number = floor_modulo(floor_divide(local, 86'400'000) + 3, 7) >= 5 ? 1.0 : 0.0;
        break;
      case From::context:
        number = work_.numbers[column.at];
        break;
      case From::attribute:
        number = std::bit_cast<double>(work_.user_row[column.at]);
        break;
    }
    buffer_.request_dense[column.column] = transformed(number, column.transform, work_.time);
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
  for (std::size_t i = 0; i < table.steps.size(); ++i) work_.steps[i] = floor_divide(work_.time, table.steps[i]);
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

}  // namespace pygrade::inline v0_2::detail
