// Compiled once per instruction set; see ../isa.hpp for what may stand here.
#include "../advantage.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

struct Moments {
  double square = 0.0;  // sum of squared deviations
  double count = 0.0;   // valid samples
};

bool is_valid(const float* sample, std::int64_t components) {
  bool valid = true;
  for (std::int64_t c = 0; c < components; ++c) valid &= sample[c] == sample[c];
  return valid;
}

// reward(sample) of every valid sample, centred, added times `factor` to `row`; invalid ones and constant groups add 0.
template <class Reward>
Moments add_deviations(const float* rewards, std::int64_t samples, std::int64_t components, Reward reward,
                       double (*factor)(Moments), double weight, float* row) {
  double sum = 0.0;
  double low = __builtin_inf();
  double high = -__builtin_inf();
  Moments moments;
  for (std::int64_t g = 0; g < samples; ++g) {
    const float* sample = rewards + g * components;
    if (!is_valid(sample, components)) continue;
    const double value = reward(sample);
    sum += value;
    low = value < low ? value : low;
    high = value > high ? value : high;
    moments.count += 1.0;
  }
  if (!(high > low)) return moments;
  const double mean = sum / moments.count;
  for (std::int64_t g = 0; g < samples; ++g) {
    const float* sample = rewards + g * components;
    if (!is_valid(sample, components)) continue;
    const double deviation = reward(sample) - mean;
    moments.square += deviation * deviation;
  }
  const double scale = factor(moments) * weight;
  for (std::int64_t g = 0; g < samples; ++g) {
    const float* sample = rewards + g * components;
    if (is_valid(sample, components)) row[g] += static_cast<float>((reward(sample) - mean) * scale);
  }
  return moments;
}

double one(Moments) { return 1.0; }

double inverse_std(Moments moments) {
  const double std = __builtin_sqrt(moments.square / moments.count);
  return std > 0.0 ? 1.0 / std : 0.0;
}

void finish(const AdvantageTask& task, double scale, double count, float* row) {
  if (task.options.leave_one_out && count > 1.0) scale *= count / (count - 1.0);
  const float clip = task.options.clip;
  for (std::int64_t g = 0; g < task.samples; ++g) {
    float value = static_cast<float>(row[g] * scale);
    value = value > clip ? clip : value;
    row[g] = value < -clip ? -clip : value;
  }
}

void centre(const AdvantageTask& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t components = task.components;
  const float* weight = task.component_weights;
  for (std::int64_t b = begin; b < end; ++b) {
    const float* rewards = task.rewards + b * task.samples * components;
    float* row = task.advantage + b * task.samples;
    for (std::int64_t g = 0; g < task.samples; ++g) row[g] = 0.0f;
    Moments moments;
    const auto weighted = [&](const float* sample) {
      double sum = 0.0;
      for (std::int64_t c = 0; c < components; ++c) sum += static_cast<double>(weight[c]) * sample[c];
      return sum;
    };
    if (task.options.normalize == Normalize::component) {
      for (std::int64_t c = 0; c < components; ++c) {
        const auto alone = [c](const float* sample) { return static_cast<double>(sample[c]); };
        moments = add_deviations(rewards, task.samples, components, alone, inverse_std, weight[c], row);
      }
    } else {
      const bool by_group = task.options.normalize == Normalize::group;
      moments = add_deviations(rewards, task.samples, components, weighted, by_group ? inverse_std : one, 1.0, row);
    }
    if (task.options.normalize == Normalize::batch) {
      task.square[b] = moments.square;
      task.count[b] = moments.count;
    } else {
      finish(task, 1.0, moments.count, row);
    }
  }
}

void scale(const AdvantageTask& task, double std, std::int64_t begin, std::int64_t end) {
  const double inverse = std > 0.0 ? 1.0 / std : 0.0;
  for (std::int64_t b = begin; b < end; ++b) finish(task, inverse, task.count[b], task.advantage + b * task.samples);
}

}  // namespace

const AdvantageKernels advantage_kernels{&centre, &scale};

}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
