// Compiled once per instruction set; see ../isa.hpp for the rules. Eight groups at a time, one to a lane.
#include "../advantage.hpp"

#include "quick_groups.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
inline Mask is_finite(Doubles x) { return x - x == fill(0.0); }

struct Moments {
  Doubles pivot;   // a valid value; subtracted first, so that the sums lose no digits
  Doubles mean;    // of value - pivot
  Doubles square;  // sum of squared deviations; exactly 0 if all are equal
  Doubles count;   // valid samples
};

inline bool all_finite(Doubles x) {
  alignas(64) double lane[row_lanes];
  store(lane, x);
  bool finite = true;
  for (int l = 0; l < row_lanes; ++l) finite &= lane[l] - lane[l] == 0.0;
  return finite;
}

// Moments of values[samples, 8]; values that are not finite are left out.
inline Moments moments_of(const double* values, std::int64_t samples) {
  const Doubles zero = fill(0.0);
  const Doubles one = fill(1.0);
  Doubles pivot = load(values + (samples - 1) * row_lanes);
  for (std::int64_t g = 0; g < samples && !all_finite(pivot); ++g)
    pivot = select(is_finite(pivot), pivot, load(values + g * row_lanes));
  Doubles sum = zero, squares = zero, count = zero;
  for (std::int64_t g = 0; g < samples; ++g) {
    const Doubles value = load(values + g * row_lanes);
    const Doubles kept = select(is_finite(value), value - pivot, zero);
    sum = sum + kept;
    squares = multiply_add(kept, kept, squares);
    count = count + select(is_finite(value), one, zero);
  }
  const Doubles mean = select(zero < count, sum / count, zero);
  const Doubles square = squares - sum * mean;
  return {pivot, mean, select(square < zero, zero, square), count};
}

inline Doubles inverse(Doubles std) { return select(fill(0.0) < std, fill(1.0) / std, fill(0.0)); }

inline Doubles left_out(const AdvantageTask& task, Doubles count) {
  const Doubles one = fill(1.0);
  return task.options.leave_one_out ? select(one < count, count / (count - one), one) : one;
}

// columns[g, 8] += scale · (value - mean) of the valid samples, unless all are equal.
inline void add_deviations(const Moments& moments, const double* values, std::int64_t samples, Doubles scale,
                           float* columns) {
  const Doubles zero = fill(0.0);
  const Mask equal = moments.square == zero;
  for (std::int64_t g = 0; g < samples; ++g) {
    const Doubles value = load(values + g * row_lanes);
    const Doubles deviation = ((value - moments.pivot) - moments.mean) * scale;
    const Doubles kept = select(equal, zero, select(is_finite(value), deviation, zero));
    store(columns + g * row_lanes, load(columns + g * row_lanes) + kept);
  }
}

inline float clamped(float value, float clip) {
  const float low = value > clip ? clip : value;
  return low < -clip ? -clip : low;
}

// Σ_c weight_c · reward_gc → values[samples, 8]: finite if all components are.
inline void weigh(const AdvantageTask& task, const float* rewards, double* values) {
  for (std::int64_t g = 0; g < task.samples; ++g) {
    Doubles sum = fill(0.0);
    for (std::int64_t c = 0; c < task.components; ++c) {
      const Doubles reward = load(rewards + (g * task.components + c) * row_lanes);
      sum = multiply_add(fill(task.component_weights[c]), reward, sum);
    }
    store(values + g * row_lanes, sum);
  }
}

// One component → values[samples, 8], NaN where any is NaN or infinite.
inline void pick(const AdvantageTask& task, const float* rewards, std::int64_t component, double* values) {
  for (std::int64_t g = 0; g < task.samples; ++g) {
    const float* sample = rewards + g * task.components * row_lanes;
    Doubles value = load(sample + component * row_lanes);
    for (std::int64_t c = 0; c < task.components; ++c) {
      const Doubles other = load(sample + c * row_lanes);
      value = select(is_finite(other), value, other - other);
    }
    store(values + g * row_lanes, value);
  }
}

// The factor of the deviations, except the batch's scale, which is known later.
inline Doubles scale_of(const AdvantageTask& task, Doubles square, Doubles count) {
  Doubles scale = fill(1.0);
  if (task.options.normalize == Normalize::group) scale = inverse(square_root(square / count));
  return scale * left_out(task, count);
}

// Centers rows [b, b + count) in double.
void center_precisely(const AdvantageTask& task, float* scratch, std::int64_t b, int count, Block& block) {
  const std::int64_t samples = task.samples;
  const std::int64_t length = samples * task.components;
  double* values = reinterpret_cast<double*>(scratch);  // [G, 8]
  float* columns = scratch + 2 * samples * row_lanes;   // [G, 8]
  float* rewards = columns + samples * row_lanes;       // [G, C, 8]
  to_columns(task.rewards + b * length, length, count, length, rewards);
  for (std::int64_t i = 0; i < samples * row_lanes; ++i) columns[i] = 0.0f;
  const Doubles zero = fill(0.0);
  Moments moments{zero, zero, zero, fill(static_cast<double>(samples))};
  if (task.options.normalize == Normalize::component) {
    for (std::int64_t c = 0; c < task.components; ++c) {
      pick(task, rewards, c, values);
      moments = moments_of(values, samples);
      const Doubles weight = fill(task.component_weights[c]) * left_out(task, moments.count);
      add_deviations(moments, values, samples, weight * inverse(square_root(moments.square / moments.count)), columns);
    }
  } else {
    weigh(task, rewards, values);
    moments = moments_of(values, samples);
    add_deviations(moments, values, samples, scale_of(task, moments.square, moments.count), columns);
  }
  if (task.options.normalize != Normalize::batch)
    for (std::int64_t i = 0; i < samples * row_lanes; ++i) columns[i] = clamped(columns[i], task.options.clip);
  from_columns(columns, samples, task.advantage + b * samples, samples, count);
  block.square += sum_of(moments.square, count);
  block.count += sum_of(moments.count, count);
}

// Centers a block of one component in single precision; returns false, with nothing written, if that is not accurate
// enough. Normalization by the batch writes its advantages later.
template <int width>
PYGRADE_INLINE bool center_quickly(const AdvantageTask& task, std::int64_t samples, std::int64_t b, int count,
                                   Block& block) {
  const float* rows = task.rewards + b * samples;
  Doubles square[2];
  sum_squares<width>(rows, samples, count, block, square);
  if (!fits<width>(square, rows, samples, count)) return false;
  const Doubles weight = fill(task.component_weights[0]), valid = fill(static_cast<double>(samples));
  alignas(64) float factor[block_rows];
  for (int h = 0; h < 2; ++h) {
    square[h] = weight * weight * square[h];
    store(factor + h * row_lanes, weight * scale_of(task, square[h], valid));
  }
  block.count = static_cast<double>(count * samples);
  if (task.options.normalize == Normalize::batch)
    block.square = sum_of(square[0] + square[1], row_lanes);
  else
    quick_deviations<width>(block, rows, samples, count, factor, task.options.clip, task.advantage + b * samples);
  return true;
}

// A factor of this size keeps moderate numbers in the range of single precision.
inline bool is_moderate(float x) {
  const float size = x < 0.0f ? -x : x;
  return size > 1e-10f && size < 1e10f;
}

inline int rows_of(const AdvantageTask& task, std::int64_t block) {
  const std::int64_t rest = task.batch - block * block_rows;
  return static_cast<int>(rest < block_rows ? rest : block_rows);
}

// Prefetches a block of rewards some way ahead: the hardware prefetcher stays too close.
PYGRADE_INLINE void fetch_ahead(const AdvantageTask& task, std::int64_t samples, std::int64_t i) {
  const std::int64_t distance = 3072, size = block_rows * samples, at = i * size + distance;
  if (at + size > task.batch * samples) return;
  for (std::int64_t j = 0; j < size; j += 16) __builtin_prefetch(task.rewards + at + j);
}

template <int width>
PYGRADE_INLINE void center_blocks(const AdvantageTask& task, std::int64_t samples, float* scratch, std::int64_t begin,
                                  std::int64_t end) {
  const bool quick = task.components == 1 && task.options.normalize != Normalize::component &&
                     is_moderate(task.component_weights[0]) && samples % 8 == 0 && samples <= max_quick_samples;
  for (std::int64_t i = begin; i < end; ++i) {
    Block& block = task.blocks[i];
    const std::int64_t b = i * block_rows;
    const int count = rows_of(task, i);
    if (quick) fetch_ahead(task, samples, i);
    block.quick = quick && center_quickly<width>(task, samples, b, count, block);
    if (block.quick) continue;
    block.square = block.count = 0.0;
    for (int first = 0; first < count; first += row_lanes)
      center_precisely(task, scratch, b + first, count - first < row_lanes ? count - first : row_lanes, block);
  }
}

void scale_precisely(const AdvantageTask& task, double factor, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i)
    task.advantage[i] = clamped(static_cast<float>(task.advantage[i] * factor), task.options.clip);
}

template <int width>
PYGRADE_INLINE void scale_blocks(const AdvantageTask& task, std::int64_t samples, double factor, std::int64_t begin,
                                 std::int64_t end) {
  alignas(64) float factors[block_rows];
  const Doubles valid = fill(static_cast<double>(samples));
  const double weight = task.components == 1 ? task.component_weights[0] : 0.0;  // used by quick blocks only
  const Doubles whole = fill(factor * weight) * left_out(task, valid);
  for (int h = 0; h < 2; ++h) store(factors + h * row_lanes, whole);
  for (float& f : factors) f = clamped(f, 1e38f);  // finite, so that 0 times the factor stays 0
  for (std::int64_t i = begin; i < end; ++i) {
    const Block& block = task.blocks[i];
    const std::int64_t at = i * block_rows * samples;
    const int count = rows_of(task, i);
    if (block.quick)
      quick_deviations<width>(block, task.rewards + at, samples, count, factors, task.options.clip,
                              task.advantage + at);
    else
      scale_precisely(task, factor, at, at + count * samples);
  }
}

template <int count>
struct Width {
  static constexpr int value = count;
};

// Calls work with the vector width and the number of samples, as constants for the usual numbers.
template <class Work>
PYGRADE_INLINE void by_width(std::int64_t samples, Work work) {
  if (samples == 16)
    work(Width<widest>{}, 16);
  else if (samples == 32)
    work(Width<widest>{}, 32);
  else if (samples % widest == 0)
    work(Width<widest>{}, samples);
  else
    work(Width<narrowest>{}, samples);
}

void center(const AdvantageTask& task, float* scratch, std::int64_t begin, std::int64_t end) {
  by_width(task.samples, [&](auto width, std::int64_t samples) __attribute__((always_inline)) {
    center_blocks<decltype(width)::value>(task, samples, scratch, begin, end);
  });
}

void scale(const AdvantageTask& task, double factor, std::int64_t begin, std::int64_t end) {
  by_width(task.samples, [&](auto width, std::int64_t samples) __attribute__((always_inline)) {
    scale_blocks<decltype(width)::value>(task, samples, factor, begin, end);
  });
}
}  // namespace

const AdvantageKernels advantage_kernels{&center, &scale};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
