// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "features/records.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// The field of `lanes` records, doubles or, of times, the bits of int64.
void load_field(const HistoryTask& task, const HistoryField& field, const char* const* records, std::int64_t lanes,
                double* out) {
  if (field.time) {
    for (std::int64_t i = 0; i < lanes; ++i) __builtin_memcpy(out + i, records[i] + 8 * field.place, sizeof *out);
    return;
  }
  if (field.window < 0) {
    for (std::int64_t i = 0; i < lanes; ++i) out[i] = static_cast<double>(load(records[i], field.place));
    return;
  }
  const HistoryWindow window = task.windows[field.window];
  const std::int64_t now = task.steps[field.window], oldest = wrapping_subtract(now, window_slots);
  for (std::int64_t i = 0; i < lanes; ++i) {
    std::int64_t sum = 0;
    for (std::int64_t slot = 0; slot < window_slots; ++slot) {
      const std::int64_t step = load(records[i], window.begin + slot * window.width);
      const std::int64_t value = load(records[i], field.place + slot * window.width);
      const bool inside = (step > oldest) & (step <= now);
      sum = wrapping_add(sum, value & -static_cast<std::int64_t>(inside));
    }
    out[i] = static_cast<double>(sum);
  }
}

// One feature of `lanes` records; their values lie `stride` apart in `out`.
void make_feature(const HistoryTask& task, const HistoryFeature& feature, std::int64_t lanes, float* values) {
  const double* value = task.memory + feature.value * history_lanes;
  const bool logarithm = feature.logarithm;
  double number[history_lanes];
  switch (feature.kind) {
    case HistoryKind::rate: {
      const double* known = task.memory + feature.known * history_lanes;
      const double weight = feature.weight, prior = feature.prior < 0 ? 0.0 : task.priors[feature.prior];
      for (std::int64_t i = 0; i < lanes; ++i) values[i] = rounded(shrunk_mean(value[i], known[i], weight, prior));
      return;
    }
    case HistoryKind::recency:
      for (std::int64_t i = 0; i < lanes; ++i) {
        const auto last = __builtin_bit_cast(std::int64_t, value[i]);
        const double hours = static_cast<double>(wrapping_subtract(task.time, last)) / hour;
        number[i] = last == never ? __builtin_nan("") : hours;
      }
      break;
    case HistoryKind::count:
      for (std::int64_t i = 0; i < lanes; ++i) number[i] = value[i];
      break;
    case HistoryKind::sum:
      for (std::int64_t i = 0; i < lanes; ++i) number[i] = value[i] / fixed_scale;
      break;
  }
  if (logarithm || feature.kind == HistoryKind::recency)
    for (std::int64_t i = 0; i < lanes; ++i) values[i] = rounded(log1p_of(from_zero(number[i])));
  else
    for (std::int64_t i = 0; i < lanes; ++i) values[i] = rounded(number[i]);
}

void history(const HistoryTask& task) {
  constexpr std::int64_t whole = 16;  // lanes are computed in multiples of this
  for (std::int64_t first = 0; first < task.count; first += history_lanes) {
    const std::int64_t left = task.count - first, used = left < history_lanes ? left : history_lanes;
    const std::int64_t lanes = (used + whole - 1) / whole * whole;
    const char* records[history_lanes];
    for (std::int64_t i = 0; i < lanes; ++i) records[i] = task.records[first + (i < used ? i : used - 1)];
    for (std::int64_t f = 0; f < task.num_fields; ++f)
      load_field(task, task.fields[f], records, lanes, task.memory + f * history_lanes);
    for (std::int64_t f = 0; f < task.num_features; ++f) {
      float values[history_lanes];
      make_feature(task, task.features[f], lanes, values);
      float* out = task.out + first * task.num_features + f;
      for (std::int64_t i = 0; i < used; ++i) out[i * task.num_features] = values[i];
    }
  }
}

void ages(const std::int64_t* times, std::int64_t times_width, std::int64_t rows, std::int64_t now, float* out,
          std::int64_t out_width) {
  const auto moment = static_cast<double>(now);
  for (std::int64_t first = 0; first < rows; first += history_lanes) {
    const std::int64_t used = rows - first < history_lanes ? rows - first : history_lanes;
    double time[history_lanes];
    float age[history_lanes];
    for (std::int64_t i = 0; i < history_lanes; ++i)
      time[i] = i < used ? __builtin_bit_cast(double, times[(first + i) * times_width]) : 0.0;
    for (std::int64_t i = 0; i < history_lanes; ++i) age[i] = rounded(log1p_of(from_zero((moment - time[i]) / hour)));
    for (std::int64_t i = 0; i < used; ++i) out[(first + i) * out_width] = age[i];
  }
}

void scatter(const float* block, std::int64_t block_width, const std::uint32_t* place, std::int64_t rows,
             const ColumnRun* runs, std::int64_t num_runs, float* out, std::int64_t out_width) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* from = block + (place == nullptr ? i : static_cast<std::int64_t>(place[i])) * block_width;
    float* to = out + i * out_width;
    for (std::int64_t r = 0; r < num_runs; ++r) {
      const ColumnRun run = runs[r];
      for (std::int64_t c = 0; c < run.size; ++c) to[run.to + c] = from[run.from + c];
    }
  }
}

void normalize(const NormalizeTask& task) {
  constexpr double limit = 10.0;
  const double *mean = task.mean, *std = task.std;
  for (std::int64_t i = 0; i < task.count; ++i) {
    const float* row = task.rows + i * task.width;
    float* out = task.out + i * task.out_width;
    for (std::int64_t c = 0; c < task.width; ++c) {
      const double scaled = (static_cast<double>(row[c]) - mean[c]) / std[c];
      const double low = scaled < -limit ? -limit : scaled;
      const double limited = low > limit ? limit : low;
      out[c] = static_cast<float>(limited == limited ? limited : 0.0);
    }
  }
}
}  // namespace

const FeatureKernels feature_kernels{&history, &ages, &scatter, &normalize};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
