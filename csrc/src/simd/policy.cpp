// Compiled once per instruction set; see ../isa.hpp for the rules.
//
// The large loops use separate multiplications and additions (no fma) and fixed orders of summation, so that they
// vectorize on every instruction set, SSE2 included, with the same bits.
#include "serving/policy.hpp"

#include "numerics.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {

constexpr std::int64_t chunk_values = 1024;  // logarithms kept in L1 between the two passes over a chunk

// Natural logarithm of each value: FreeBSD's e_log.c (error < 1 ulp) without its branches. Negative gives NaN, 0 gives
// -inf; infinity and NaN are kept.
void log_of(const double* value, std::int64_t count, double* out) {
  constexpr double ln2_high = 6.93147180369123816490e-01;
  constexpr double ln2_low = 1.90821492927058770002e-10;
  constexpr std::uint64_t sqrt_half = 0x3fe6a09e667f3bcdull;
  constexpr std::uint64_t bias = 0x3ff0000000000000ull - sqrt_half;
  constexpr std::uint64_t magic =
      0x4330000000000000ull;  // 2^52: or-ed with a smaller integer, its bits are the double 2^52 + integer
  for (std::int64_t i = 0; i < count; ++i) {
    const double x = value[i];
    const bool tiny = x < 2.2250738585072014e-308;
    const double scaled = tiny ? x * 0x1p54 : x;
    const std::uint64_t shifted = __builtin_bit_cast(std::uint64_t, scaled) + bias;
    const double exponent = __builtin_bit_cast(double, magic | shifted >> 52) - (0x1p52 + 1023.0) - (tiny ? 54.0 : 0.0);
    const double mantissa = __builtin_bit_cast(double, (shifted & 0x000fffffffffffffull) + sqrt_half);
    const double f = mantissa - 1.0;  // mantissa in [√½, √2)
    const double s = f / (2.0 + f);
    const double z = s * s;
    const double w = z * z;
    const double even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    const double odd =
        z * (6.666666666666735130e-01 +
             w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
    const double half_square = 0.5 * f * f;
    const double result =
        exponent * ln2_high - ((half_square - (s * (half_square + (even + odd)) + exponent * ln2_low)) - f);
    const double at_edge = x == 0.0 ? -__builtin_inf() : x < 0.0 ? __builtin_nan("") : x;  // else x is inf or NaN
    out[i] = x > 0.0 && x < __builtin_inf() ? result : at_edge;
  }
}

// Column sums of values[rows, tasks] in four interleaved chains, joined in a fixed order.
template <std::int64_t Tasks, class Term>
void column_sums(std::int64_t rows, std::int64_t runtime_tasks, Term term, double* sums) {
  const std::int64_t tasks = Tasks > 0 ? Tasks : runtime_tasks;
  constexpr std::int64_t width = Tasks > 0 ? Tasks : 64;
  double chain[4][width] = {};
  std::int64_t row = 0;
  for (; row + 4 <= rows; row += 4)
    for (std::int64_t c = 0; c < 4; ++c)
      for (std::int64_t t = 0; t < tasks; ++t) chain[c][t] += term((row + c) * tasks + t, t);
  for (; row < rows; ++row)
    for (std::int64_t t = 0; t < tasks; ++t) chain[row & 3][t] += term(row * tasks + t, t);
  for (std::int64_t t = 0; t < tasks; ++t) sums[t] = (chain[0][t] + chain[1][t]) + (chain[2][t] + chain[3][t]);
}

// Means and squared deviations by chunks: two passes per chunk, merged by the formula of Chan et al. (1979).
template <std::int64_t Tasks>
void moments(const float* rows, std::int64_t count, std::int64_t tasks, double beta, double* mean, double* square) {
  double logs[chunk_values];
  double sums[64];
  double chunk_mean[64];
  const std::int64_t chunk = chunk_values / tasks;
  for (std::int64_t t = 0; t < tasks; ++t) mean[t] = square[t] = 0.0;
  for (std::int64_t begin = 0; begin < count; begin += chunk) {
    const std::int64_t size = count - begin < chunk ? count - begin : chunk;
    const float* p = rows + begin * tasks;
    for (std::int64_t i = 0; i < size * tasks; ++i) logs[i] = static_cast<double>(p[i]) + beta;
    log_of(logs, size * tasks, logs);
    column_sums<Tasks>(size, tasks, [&](std::int64_t i, std::int64_t) { return logs[i]; }, sums);
    const double added = static_cast<double>(size);
    for (std::int64_t t = 0; t < tasks; ++t) chunk_mean[t] = sums[t] / added;
    column_sums<Tasks>(
        size, tasks,
        [&](std::int64_t i, std::int64_t t) {
          const double deviation = logs[i] - chunk_mean[t];
          return deviation * deviation;
        },
        sums);
    const double before = static_cast<double>(begin);
    const double share = added / (before + added);
    for (std::int64_t t = 0; t < tasks; ++t) {
      const double step = chunk_mean[t] - mean[t];
      mean[t] = begin == 0 ? chunk_mean[t] : mean[t] + step * share;
      square[t] += begin == 0 ? sums[t] : sums[t] + step * step * (before * share);
    }
  }
  for (std::int64_t t = 0; t < tasks; ++t) square[t] /= static_cast<double>(count);
}

void log_moments(const float* rows, std::int64_t count, std::int64_t tasks, double beta, double* mean, double* square) {
  switch (tasks) {
    case 4:
      return moments<4>(rows, count, tasks, beta, mean, square);
    case 6:
      return moments<6>(rows, count, tasks, beta, mean, square);
    case 8:
      return moments<8>(rows, count, tasks, beta, mean, square);
    case 16:
      return moments<16>(rows, count, tasks, beta, mean, square);
    default:
      return moments<0>(rows, count, tasks, beta, mean, square);
  }
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

const PolicyKernels policy_kernels{&log_moments, &linear, &silu, &exp_in_place, &piecewise_linear};

}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
