#include "features/feature_maker.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace pygrade::inline v0_2::detail {
FeatureMaker::FeatureMaker(const Plan& plan, FeatureBuffer& buffer, Items items)
    : plan_(plan), kernels_(PYGRADE_KERNELS(feature_kernels)), buffer_(buffer), work_(*buffer.work), items_(items) {}

void FeatureMaker::resize() {
  const std::size_t rows = items_.size();
  buffer_.request_dense.resize(plan_.request_features.size());
  buffer_.request_ids.resize(plan_.request_id_features.size());
  buffer_.sequences.resize(plan_.sequence_length);
  buffer_.item_dense.resize(rows * plan_.item_features.size());
  buffer_.item_ids.resize(rows * plan_.item_id_features.size());
  buffer_.cross_dense.resize(rows * plan_.cross_features.size());
  work_.priors.resize(plan_.priors.size());
  work_.user_row.resize(plan_.schema.user_width);
  work_.item_rows.resize(rows * plan_.items.width());
  work_.request_records.resize(plan_.tables.size());
  work_.fields.resize(plan_.most_fields * history_lanes);
}

void FeatureMaker::make_request() {
  for (std::size_t p = 0; p < plan_.priors.size(); ++p) {
    const auto& prior = plan_.priors[p];
    const char* record = work_.request_records[prior.table];
    work_.priors[p] =
        shrunk_mean(static_cast<double>(load(record, prior.total)), static_cast<double>(load(record, prior.known)),
                    prior.weight, prior.prior < 0 ? 0.0 : work_.priors[static_cast<std::size_t>(prior.prior)]);
  }
  for (std::size_t t = 0; t < plan_.tables.size(); ++t) {
    if (plan_.tables[t].per_row || plan_.tables[t].features.empty()) continue;
    make_table(t, &work_.request_records[t], 1, buffer_.request_dense.data(), buffer_.request_dense.size(), nullptr, 1);
  }
  const std::int64_t local = wrapping_add(work_.time, plan_.utc_offset);
  // As float32 sine and cosine of every minute are the same by any C library: a test knows how far they are from the
  // middle between two.
  const double angle =
      2.0 * 3.141592653589793 / 1440.0 * static_cast<double>(floor_modulo(floor_divide(local, 60'000), 1440));
  for (const auto& column : plan_.numbers) {
    using From = NumberColumn::From;
    double number = 0.0;
    switch (column.from) {
      case From::sine:
        number = std::sin(angle);
        break;
      case From::cosine:
        number = std::cos(angle);
        break;
      case From::weekend:  // 1970-01-01 was a Thursday; Monday is 0
        number = floor_modulo(floor_divide(local, 86'400'000) + 3, 7) >= 5 ? 1.0 : 0.0;
        break;
      case From::context:
        number = work_.numbers[column.at];
        break;
      case From::attribute:
      case From::lower:
      case From::upper:
        number = number_in(work_.user_row.data(), column);
        break;
    }
    buffer_.request_dense[column.column] = transformed(number, column.transform, work_.time);
  }
  const Codes codes = request_codes();
  for (std::size_t i = 0; i < plan_.ids.size(); ++i)
    buffer_.request_ids[i] = plan_.codings[plan_.ids[i].coding].id_of(codes.of(plan_.ids[i].source));
  std::int64_t* sequence = buffer_.sequences.data();
  for (const auto& plan : plan_.sequences) {
    std::memcpy(sequence, work_.request_records[plan_.user_table] + 8 * plan.place, 8 * plan.length);
    sequence += plan.length;
  }
}

void FeatureMaker::begin_items() {
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
void FeatureMaker::make_table(std::size_t t, const char* const* records, std::size_t count, float* out,
                              std::size_t width, const std::uint32_t* place, std::size_t rows) {
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

void FeatureMaker::make_items(std::size_t t, const std::uint32_t* place) {
  const TablePlan& table = plan_.tables[t];
  if (table.features.empty()) return;
  auto& out = table.cross ? buffer_.cross_dense : buffer_.item_dense;
  const std::size_t width = table.cross ? plan_.cross_features.size() : plan_.item_features.size();
  make_table(t, work_.pointers.data(), work_.pointers.size(), out.data(), width, place, items_.size());
}
}  // namespace pygrade::inline v0_2::detail
