// Compiled once per instruction set; see ../isa.hpp for what may stand here. Eight groups at a time, one to a lane.
#include "../advantage.hpp"

#include "doubles.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

struct Moments {
  Doubles pivot;   // a valid value: subtracted first, so that no digit is lost in the sums
  Doubles mean;    // of value - pivot
  Doubles square;  // sum of squared deviations; exactly 0 where all are equal
  Doubles count;   // valid samples
};

inline bool any_nan(Doubles x) {
  alignas(64) double lane[row_lanes];
  store(lane, x);
  bool found = false;
  for (int l = 0; l < row_lanes; ++l) found |= lane[l] != lane[l];
  return found;
}

// Of values[samples, 8]; NaN counts nowhere.
inline Moments moments_of(const double* values, std::int64_t samples) {
  const Doubles zero = fill(0.0);
  const Doubles one = fill(1.0);
  Doubles pivot = load(values + (samples - 1) * row_lanes);
  for (std::int64_t g = 0; g < samples && any_nan(pivot); ++g)
    pivot = select(pivot == pivot, pivot, load(values + g * row_lanes));
  Doubles sum = zero, squares = zero, count = zero;
  for (std::int64_t g = 0; g < samples; ++g) {
    const Doubles value = load(values + g * row_lanes);
    const Doubles shifted = select(value == pivot, zero, value - pivot);  // 0 of equal infinities too
    const Doubles kept = select(value == value, shifted, zero);
    sum = sum + kept;
    squares = multiply_add(kept, kept, squares);
    count = count + select(value == value, one, zero);
  }
  const Doubles mean = select(zero < count, sum / count, zero);
  const Doubles square = squares - sum * mean;
  return {pivot, mean, select(square < zero, zero, square), count};
}

inline Doubles inverse(Doubles std) { return select(fill(0.0) < std, fill(1.0) / std, fill(0.0)); }

inline Doubles inverse_std(const Moments& moments) { return inverse(square_root(moments.square / moments.count)); }

inline Doubles left_out(const AdvantageTask& task, Doubles count) {
  const Doubles one = fill(1.0);
  return task.options.leave_one_out ? select(one < count, count / (count - one), one) : one;
}

// columns[g, 8] += scale · (value - mean) of the valid samples, unless all are equal.
inline void add_deviations(const Moments& moments, const double* values, std::int64_t samples, Doubles scale,
                           float* columns) {
  const Doubles zero = fill(0.0);
  const Mask silent = moments.square == zero;
  for (std::int64_t g = 0; g < samples; ++g) {
    const Doubles value = load(values + g * row_lanes);
    const Doubles deviation = ((value - moments.pivot) - moments.mean) * scale;
    const Doubles kept = select(silent, zero, select(value == value, deviation, zero));
    store(columns + g * row_lanes, load(columns + g * row_lanes) + kept);
  }
}

void clamp(float clip, std::int64_t count, float* values) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = values[i] > clip ? clip : values[i];
    values[i] = value < -clip ? -clip : value;
  }
}

// Σ_c weight_c · reward_gc → values[samples, 8], NaN where a component is.
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

// One component → values[samples, 8], NaN where any is.
inline void pick(const AdvantageTask& task, const float* rewards, std::int64_t component, double* values) {
  for (std::int64_t g = 0; g < task.samples; ++g) {
    const float* sample = rewards + g * task.components * row_lanes;
    Doubles value = load(sample + component * row_lanes);
    for (std::int64_t c = 0; c < task.components; ++c) {
      const Doubles other = load(sample + c * row_lanes);
      value = select(other == other, value, other);
    }
    store(values + g * row_lanes, value);
  }
}

void centre(const AdvantageTask& task, float* scratch, std::int64_t begin, std::int64_t end) {
  const std::int64_t samples = task.samples;
  const std::int64_t length = samples * task.components;
  if (samples == 0) return;
  double* values = reinterpret_cast<double*>(scratch);  // [G, 8]
  float* columns = scratch + 2 * samples * row_lanes;   // [G, 8]
  float* rewards = columns + samples * row_lanes;       // [G, C, 8]
  for (std::int64_t b = begin; b < end; b += row_lanes) {
    const int count = static_cast<int>(end - b < row_lanes ? end - b : row_lanes);
    to_columns(task.rewards + b * length, length, count, length, rewards);
    for (std::int64_t i = 0; i < samples * row_lanes; ++i) columns[i] = 0.0f;
    if (task.options.normalize == Normalize::component) {
      for (std::int64_t c = 0; c < task.components; ++c) {
        pick(task, rewards, c, values);
        const Moments moments = moments_of(values, samples);
        const Doubles weight = fill(task.component_weights[c]) * left_out(task, moments.count);
        add_deviations(moments, values, samples, weight * inverse_std(moments), columns);
      }
    } else {
      weigh(task, rewards, values);
      const Moments moments = moments_of(values, samples);
      Doubles scale = fill(1.0);
      if (task.options.normalize == Normalize::group) scale = inverse_std(moments);
      if (task.options.normalize != Normalize::batch) scale = scale * left_out(task, moments.count);
      add_deviations(moments, values, samples, scale, columns);
      if (task.options.normalize == Normalize::batch) {
        alignas(64) double square[row_lanes], valid[row_lanes];
        store(square, moments.square);
        store(valid, moments.count);
        for (int l = 0; l < count; ++l) {
          task.square[b + l] = square[l];
          task.count[b + l] = valid[l];
        }
      }
    }
    if (task.options.normalize != Normalize::batch) clamp(task.options.clip, samples * row_lanes, columns);
    from_columns(columns, samples, task.advantage + b * samples, samples, count);
  }
}

void scale(const AdvantageTask& task, double std, std::int64_t begin, std::int64_t end) {
  const double inverse = std > 0.0 ? 1.0 / std : 0.0;
  for (std::int64_t b = begin; b < end; ++b) {
    const double count = task.count[b];
    const double factor = task.options.leave_one_out && count > 1.0 ? inverse * (count / (count - 1.0)) : inverse;
    float* row = task.advantage + b * task.samples;
    for (std::int64_t g = 0; g < task.samples; ++g) row[g] = static_cast<float>(row[g] * factor);
    clamp(task.options.clip, task.samples, row);
  }
}

}  // namespace

const AdvantageKernels advantage_kernels{&centre, &scale};

}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
