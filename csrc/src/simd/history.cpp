// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "features/records.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
void add_expected(const float* predicted, const float* levels, std::int64_t tasks, std::int64_t* sums) {
  for (std::int64_t first = 0; first < tasks; first += task_lanes) {
    std::int64_t added[task_lanes];
    for (std::int64_t t = 0; t < task_lanes; ++t)
      added[t] = to_fixed(static_cast<double>(predicted[first + t]) * static_cast<double>(levels[first + t]));
    for (std::int64_t t = 0; t < task_lanes; ++t) sums[first + t] += added[t];
  }
}

void log_ratios(const std::uint8_t* events, const std::int64_t* expected, const float* weights, std::int64_t tasks,
                float* out) {
  for (std::int64_t first = 0; first < tasks; first += task_lanes) {
    double number[task_lanes], sum[task_lanes];
    float ratio[task_lanes];
    for (std::int64_t t = 0; t < task_lanes; ++t) number[t] = static_cast<double>(events[first + t]);
    for (std::int64_t t = 0; t < task_lanes; ++t) sum[t] = static_cast<double>(expected[first + t]) / fixed_scale;
    for (std::int64_t t = 0; t < task_lanes; ++t) ratio[t] = log_ratio(number[t], sum[t], weights[first + t]);
    for (std::int64_t t = 0; t < task_lanes; ++t) out[first + t] = ratio[t];
  }
}
}  // namespace

const HistoryKernels history_kernels{&add_expected, &log_ratios};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
