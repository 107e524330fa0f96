// What one core allows at 4, 8 or 16 float32 lanes: a read-only pass, and multiply-adds from registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace limits {

// One read-only pass with eight independent accumulators of the native width.
template <int bytes>
inline __attribute__((always_inline)) float read_pass(const float* data, std::size_t size) {
  typedef float Wide __attribute__((vector_size(bytes), aligned(4), may_alias));
  constexpr std::size_t lanes = bytes / sizeof(float);
  Wide sums[8] = {};
  std::size_t i = 0;
  for (; i + 8 * lanes <= size; i += 8 * lanes)
    for (std::size_t j = 0; j < 8; ++j) sums[j] += *reinterpret_cast<const Wide*>(data + i + lanes * j);
  float total = 0.0f;
  float lane_sums[8 * lanes];
  std::memcpy(lane_sums, sums, sizeof sums);
  for (float sum : lane_sums) total += sum;
  for (; i < size; ++i) total += data[i];
  return total;
}

constexpr std::int64_t flop_rounds = 5'000;
constexpr int chains = 12;  // independent, to hide the latency of multiply-add; they fit 16 registers

template <int lanes, bool fused>
inline __attribute__((always_inline)) float multiply_add_loop(float start) {
  float values[chains][lanes];
  for (auto& chain : values)
    for (float& value : chain) value = start;
  for (std::int64_t round = 0; round < flop_rounds; ++round)
    for (auto& chain : values)
      for (float& value : chain) value = fused ? __builtin_fmaf(value, 0.999f, 0.001f) : value * 0.999f + 0.001f;
  float total = 0.0f;
  for (auto& chain : values)
    for (float value : chain) total += value;
  return total;
}

#if defined(__x86_64__)
#define V4 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"), optimize("O3")))
#define V3 __attribute__((target("arch=x86-64-v3"), optimize("O3")))
V4 inline float read_512(const float* data, std::size_t size) { return read_pass<64>(data, size); }
V3 inline float read_256(const float* data, std::size_t size) { return read_pass<32>(data, size); }
V4 inline float multiply_add_512(float start) { return multiply_add_loop<16, true>(start); }
V3 inline float multiply_add_256(float start) { return multiply_add_loop<8, true>(start); }
#endif

// The sum of the data.
inline float read(int lanes, const float* data, std::size_t size) {
#if defined(__x86_64__)
  if (lanes == 16) return read_512(data, size);
  if (lanes == 8) return read_256(data, size);
#endif
  return read_pass<16>(data, size);
}

// `flops(lanes)` floating-point operations.
inline float multiply_add(int lanes, float start) {
#if defined(__x86_64__)
  if (lanes == 16) return multiply_add_512(start);
  if (lanes == 8) return multiply_add_256(start);
#endif
  return multiply_add_loop<4, false>(start);
}

inline double flops(int lanes) { return 2.0 * lanes * chains * static_cast<double>(flop_rounds); }

}  // namespace limits
