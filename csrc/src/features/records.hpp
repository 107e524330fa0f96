// Records of the past, which features are made of, and their arithmetic, for kernels and their callers alike.
//
// pygrade/features/state.py documents a record, pygrade/features/feature.py the formulas. Everything here has
// internal linkage, since it is compiled once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.hpp"

namespace pygrade::inline v0_2::detail {
constexpr std::int64_t never = -(std::int64_t{1} << 62);  // time of the last event if there was none
constexpr std::int64_t window_slots = 8;                  // steps of a window
constexpr double fixed_scale = 1048576.0;                 // sums are in units of 1 / fixed_scale
constexpr double hour = 3'600'000.0;                      // ms

// Differences and sums of int64 wrap around, as numpy's do.
static inline std::int64_t wrapping_add(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}
static inline std::int64_t wrapping_subtract(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b));
}

// Value `place` of a record, which need not be aligned.
static inline std::int64_t load(const char* record, std::int64_t place) {
  std::int64_t value;
  __builtin_memcpy(&value, record + 8 * place, sizeof value);
  return value;
}

// log(1 + x) for x ≥ 0, NaN for NaN and infinity: only + − × ÷ and no fused operation, so the bits depend on x alone.
// Branch-free, so that loops over it are vectorized.
static inline __attribute__((always_inline)) constexpr double log1p_of(double x) {
  const double y = 1.0 + x;
  const auto bits = __builtin_bit_cast(std::uint64_t, y);
  // the exponent as a double, by way of the mantissa of 2^52 + exponent
  double exponent = __builtin_bit_cast(double, 0x4330000000000000ull | bits >> 52) - (4503599627370496.0 + 1022.0);
  double mantissa = __builtin_bit_cast(double, (bits & 0x000fffffffffffffull) | 0x3fe0000000000000ull);  // in [½, 1)
  const bool small = mantissa < 0.7071067811865476;
  mantissa = small ? mantissa * 2.0 : mantissa;
  exponent = small ? exponent - 1.0 : exponent;
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double square = s * s;
  double series = 1.0 / 21.0;
  series = series * square + 1.0 / 19.0;
  series = series * square + 1.0 / 17.0;
  series = series * square + 1.0 / 15.0;
  series = series * square + 1.0 / 13.0;
  series = series * square + 1.0 / 11.0;
  series = series * square + 1.0 / 9.0;
  series = series * square + 1.0 / 7.0;
  series = series * square + 1.0 / 5.0;
  series = series * square + 1.0 / 3.0;
  series = series * square + 1.0;
  const double result = exponent * 0.6931471805599453 + 2.0 * s * series;
  return y <= 1.7976931348623157e308 ? result : __builtin_nan("");
}

// round(value · 2^20), the value being limited to ±2^31. The sum with 2^52, whose last bit is worth 1, rounds.
// Branch-free.
static inline __attribute__((always_inline)) std::int64_t to_fixed(double value) {
  constexpr double shift = 4503599627370496.0;
  constexpr std::int64_t largest = std::int64_t{1} << 51;
  const std::int64_t size = __builtin_bit_cast(std::int64_t, __builtin_fabs(value) * fixed_scale + shift) -
                            __builtin_bit_cast(std::int64_t, shift);
  const std::int64_t limited = size < largest ? size : largest, sign = __builtin_bit_cast(std::int64_t, value) >> 63;
  return (limited ^ sign) - sign;
}

// x from 0 on, NaN for NaN.
static inline __attribute__((always_inline)) double from_zero(double x) { return x < 0.0 ? 0.0 : x; }

// log(1 + events / κ) − log(1 + expected / κ), κ: the weight of the prior.
static inline __attribute__((always_inline)) float log_ratio(double events, double expected, float weight) {
  const auto prior = static_cast<double>(weight);
  return static_cast<float>(log1p_of(events / prior) - log1p_of(expected / prior));
}

// As a feature is stored: one NaN, whatever the processor makes of it.
static inline __attribute__((always_inline)) float rounded(double x) {
  return x == x ? static_cast<float>(x) : __builtin_nanf("");
}

// (s + m·g) / (n + m) of a sum s in fixed point, or g if n + m is 0.
static inline __attribute__((always_inline)) double shrunk_mean(double sum, double count, double weight, double prior) {
  const double known = count + weight;
  const double total = sum / fixed_scale + weight * prior;
  const double mean = total / (known > 0.0 ? known : 1.0);
  return known > 0.0 ? mean : prior;
}

// ---- the features of one table

// A value that features read: an int64 of the record, or the sum of one over the slots inside of a window.
struct HistoryField {
  std::int64_t place;   // in the record; of a window, of its first slot
  std::int64_t window;  // -1: none
  bool time;            // kept as int64, not as double
};

struct HistoryWindow {
  std::int64_t begin, width;  // place of the first slot, values of a slot: its step, then sums
};

enum class HistoryKind : std::uint8_t { count, sum, rate, recency };

struct HistoryFeature {
  HistoryKind kind;
  bool logarithm;             // of counts and sums
  std::int64_t value, known;  // fields
  double weight;              // rates
  std::int64_t prior;         // rates: place among the priors
};

constexpr std::int64_t history_lanes = 64;  // records side by side

struct HistoryTask {
  const HistoryField* fields;
  const HistoryWindow* windows;
  const HistoryFeature* features;
  std::int64_t num_fields, num_windows, num_features;
  const std::int64_t* steps;  // [num_windows] the step that the request is in
  const double* priors;
  std::int64_t time;           // of the request, ms
  const char* const* records;  // [count]
  std::int64_t count;
  double* memory;  // [num_fields, history_lanes]
  float* out;      // [count, num_features]
};

// Copies `size` floats from column `from` of a row to column `to` of another.
struct ColumnRun {
  std::int64_t from, to, size;
};

// (x − mean) / std of rows[n, width], limited to ±10, 0 if unknown, into the first columns of out[n, out_width].
struct NormalizeTask {
  const float* rows;
  std::int64_t count, width;
  const double *mean, *std;  // [width]
  float* out;
  std::int64_t out_width;
};

struct FeatureKernels {
  void (*history)(const HistoryTask& task);
  // log(1 + hours) from times[i, 0], doubles, to `now`, into out[i, 0], for i < rows.
  void (*ages)(const std::int64_t* times, std::int64_t times_width, std::int64_t rows, std::int64_t now, float* out,
               std::int64_t out_width);
  // out[i, run.to …] = block[place[i], run.from …] of every run, for i < rows; place[i] is i if there is none.
  void (*scatter)(const float* block, std::int64_t block_width, const std::uint32_t* place, std::int64_t rows,
                  const ColumnRun* runs, std::int64_t num_runs, float* out, std::int64_t out_width);
  void (*normalize)(const NormalizeTask& task);
};

PYGRADE_DECLARE_KERNELS(FeatureKernels, feature_kernels)

// ---- what a user did (serving/history.cpp)

constexpr std::int64_t task_lanes = 8;  // arrays of tasks, results too, are as long as whole lanes

struct HistoryKernels {
  // sums[T] += predicted[T] · levels[T] in fixed point.
  void (*add_expected)(const float* predicted, const float* levels, std::int64_t tasks, std::int64_t* sums);
  // out[T]: log ratios of events[T] to expected[T] in fixed point.
  void (*log_ratios)(const std::uint8_t* events, const std::int64_t* expected, const float* weights, std::int64_t tasks,
                     float* out);
};

PYGRADE_DECLARE_KERNELS(HistoryKernels, history_kernels)
}  // namespace pygrade::inline v0_2::detail
