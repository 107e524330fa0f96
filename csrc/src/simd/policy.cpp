// Compiled once per instruction set; see ../isa.hpp for the rules.
//
// The large loops use separate multiplications and additions (no fma) and fixed orders of summation, so that they
// vectorize on every instruction set, SSE2 included, with the same bits.
#include "serving/policy.hpp"

#include "numerics.hpp"
#include "tile.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// A number of each task for `accumulators` rows, to `out`.
void repeat(const float* of_tasks, std::int64_t tasks, float* out) {
  __builtin_memcpy(out, of_tasks, static_cast<std::size_t>(tasks) * sizeof(float));
  for (std::int64_t rows = 1; rows < accumulators; rows *= 2)
    __builtin_memcpy(out + rows * tasks, out, static_cast<std::size_t>(rows * tasks) * sizeof(float));
}

// Σ term(x) of each column of rows[count, tasks], in the order that fusion.hpp fixes; `fold(sum, x, j)` adds the value
// of a row's place j modulo `accumulators` rows.
template <class Fold>
void column_sums(const float* rows, std::int64_t count, std::int64_t tasks, Fold fold, float* result) {
  float sums[accumulators * max_tasks];
  const std::int64_t width = accumulators * tasks;
  for (std::int64_t j = 0; j < width; ++j) sums[j] = 0.0f;
  for (std::int64_t begin = 0; begin < count * tasks; begin += width) {
    const std::int64_t size = count * tasks - begin < width ? count * tasks - begin : width;
    for (std::int64_t j = 0; j < size; ++j) sums[j] = fold(sums[j], rows[begin + j], j);
  }
  for (std::int64_t half = width / 2; half >= tasks; half /= 2)
    for (std::int64_t j = 0; j < half; ++j) sums[j] += sums[half + j];
  __builtin_memcpy(result, sums, static_cast<std::size_t>(tasks) * sizeof(float));
}

void log_moments(const float* rows, std::int64_t count, std::int64_t tasks, float beta, float* logs, float* mean,
                 float* square) {
  log_row(rows, logs, count * tasks, beta);
  column_sums(logs, count, tasks, [](float sum, float x, std::int64_t) { return sum + x; }, mean);
  for (std::int64_t t = 0; t < tasks; ++t) mean[t] /= static_cast<float>(count);
  float center[accumulators * max_tasks];
  repeat(mean, tasks, center);
  const auto add_square = [&](float sum, float x, std::int64_t j) {
    const float d = x - center[j];
    return fma(d, d, sum);
  };
  column_sums(logs, count, tasks, add_square, square);
}

void standardize(float* rows, std::int64_t count, std::int64_t tasks, const float* mean, const float* square,
                 float epsilon) {
  float inverse[max_tasks], center[accumulators * max_tasks], factor[accumulators * max_tasks];
  for (std::int64_t t = 0; t < tasks; ++t)
    inverse[t] = 1.0f / (__builtin_sqrtf(square[t] / static_cast<float>(count)) + epsilon);
  repeat(mean, tasks, center);
  repeat(inverse, tasks, factor);
  const std::int64_t width = accumulators * tasks;
  for (std::int64_t begin = 0; begin < count * tasks; begin += width) {
    const std::int64_t size = count * tasks - begin < width ? count * tasks - begin : width;
    for (std::int64_t j = 0; j < size; ++j) rows[begin + j] = (rows[begin + j] - center[j]) * factor[j];
  }
}

bool any_outside(const float* values, std::int64_t count, const float* low, const float* high, std::int64_t width) {
  std::uint32_t outside = 0;  // without an early exit, so that compilers vectorize it
  if (width == 1)
    for (std::int64_t i = 0; i < count; ++i) outside |= (values[i] >= *low) & (values[i] <= *high) ? 0u : 1u;
  for (std::int64_t begin = 0; width > 1 && begin < count; begin += width) {
    const std::int64_t size = count - begin < width ? count - begin : width;
    for (std::int64_t j = 0; j < size; ++j)
      outside |= (values[begin + j] >= low[j]) & (values[begin + j] <= high[j]) ? 0u : 1u;
  }
  return outside != 0;
}

// A block of outputs stays in registers over all inputs.
template <std::int64_t Block>
void linear_block(const float* x, std::int64_t inputs, const float* weights, const float* bias, std::int64_t outputs,
                  float* out) {
  float sum[Block];
  for (std::int64_t j = 0; j < Block; ++j) sum[j] = bias[j];
  for (std::int64_t i = 0; i < inputs; ++i)
    for (std::int64_t j = 0; j < Block; ++j) sum[j] += x[i] * weights[i * outputs + j];
  for (std::int64_t j = 0; j < Block; ++j) out[j] = sum[j];
}

void linear(const float* x, std::int64_t inputs, const float* weights, const float* bias, std::int64_t outputs,
            float* out) {
  std::int64_t j = 0;
  for (; j + 64 <= outputs; j += 64) linear_block<64>(x, inputs, weights + j, bias + j, outputs, out + j);
  for (; j + 16 <= outputs; j += 16) linear_block<16>(x, inputs, weights + j, bias + j, outputs, out + j);
}

void silu(float* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) x[i] = x[i] / (1.0f + exp(-x[i]));
}

void exp_in_place(float* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) x[i] = exp(x[i]);
}

// Finds the segments of a block by counting the knots passed: without branches, which would be unpredictable.
void piecewise_linear(const float* values, std::int64_t stride, std::int64_t count, Segments segments,
                      std::int64_t segment_count, float* out) {
  constexpr std::int64_t block = 32;
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t size = count - begin < block ? count - begin : block;
    float p[block] = {};
    std::int32_t segment[block] = {};
    for (std::int64_t i = 0; i < size; ++i) p[i] = values[(begin + i) * stride];
    for (std::int64_t k = 1; k < segment_count; ++k)
      for (std::int64_t i = 0; i < block; ++i) segment[i] += p[i] >= segments.x[k] ? 1 : 0;
    for (std::int64_t i = 0; i < size; ++i) {
      const std::int32_t k = segment[i];
      out[begin + i] = segments.y[k] + (p[i] - segments.x[k]) * segments.slope[k];
    }
  }
}
}  // namespace

const PolicyKernels policy_kernels{&log_moments, &standardize,  &any_outside,     &linear,
                                   &silu,        &exp_in_place, &piecewise_linear};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
