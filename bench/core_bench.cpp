// The C++ core alone, beside what this machine allows: reading the same buffers once, or its peak of fused
// multiply-adds.
//
//   pygrade_core_bench fuse_topk N T k | group B G N T k | group_advantage B G
//
// prints one JSON object with core_us and bound_us (p50 of many, inputs rotated). `python -m bench` builds and runs it.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "pygrade/advantage.hpp"
#include "pygrade/fusion.hpp"
#include "pygrade/isa.hpp"

namespace {

using Buffer = std::vector<float>;

double now_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Median microseconds of run(i), i = 0, 1, …, timed in blocks that fill about 50 µs, for half a second.
double median_us(const std::function<void(std::size_t)>& run) {
  for (std::size_t i = 0; i < 3; ++i) run(i);
  const double once_start = now_us();
  run(3);
  const double once = std::max(now_us() - once_start, 0.05);
  const std::size_t calls = std::clamp<std::size_t>(static_cast<std::size_t>(50.0 / once), 1, 1000);
  std::vector<double> samples;
  std::size_t number = 4;
  const double end = now_us() + 5e5;
  while (now_us() < end || samples.size() < 7) {
    const double start = now_us();
    for (std::size_t c = 0; c < calls; ++c) run(number++);
    samples.push_back((now_us() - start) / static_cast<double>(calls));
  }
  std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2), samples.end());
  return samples[samples.size() / 2];
}

std::vector<Buffer> random_buffers(std::size_t count, std::size_t size) {
  std::mt19937 generator(0);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  std::vector<Buffer> buffers(count, Buffer(size));
  for (Buffer& buffer : buffers)
    for (float& value : buffer) value = uniform(generator);
  return buffers;
}

typedef float Wide __attribute__((vector_size(64), aligned(4), may_alias));

// One read-only pass with eight independent accumulators; the compiler picks the registers of the instruction set.
template <class Unused = void>
inline __attribute__((always_inline)) float read_pass(const float* data, std::size_t size) {
  Wide sums[8] = {};
  std::size_t i = 0;
  for (; i + 128 <= size; i += 128)
    for (std::size_t j = 0; j < 8; ++j) sums[j] += *reinterpret_cast<const Wide*>(data + i + 16 * j);
  float total = 0.0f;
  for (const Wide& sum : sums)
    for (int lane = 0; lane < 16; ++lane) total += sum[lane];
  for (; i < size; ++i) total += data[i];
  return total;
}

constexpr std::int64_t flop_rounds = 20'000;

template <class Unused = void>
inline __attribute__((always_inline)) float fma_rounds(float start) {
  constexpr int chains = 12;
  float values[chains][16];
  for (auto& chain : values)
    for (float& value : chain) value = start;
  for (std::int64_t round = 0; round < flop_rounds; ++round)
    for (auto& chain : values)
      for (float& value : chain) value = __builtin_fmaf(value, 0.999f, 0.001f);
  float total = 0.0f;
  for (auto& chain : values)
    for (float value : chain) total += value;
  return total;
}

#if defined(__x86_64__)
__attribute__((target("arch=x86-64-v4,prefer-vector-width=512"), optimize("O3"))) float read_512(const float* p,
                                                                                                 std::size_t n) {
  return read_pass<>(p, n);
}
__attribute__((target("arch=x86-64-v3"), optimize("O3"))) float read_256(const float* p, std::size_t n) {
  return read_pass<>(p, n);
}
__attribute__((target("arch=x86-64-v4,prefer-vector-width=512"), optimize("O3"))) float fma_512(float s) {
  return fma_rounds<>(s);
}
__attribute__((target("arch=x86-64-v3"), optimize("O3"))) float fma_256(float s) { return fma_rounds<>(s); }
#endif

float read_once(const Buffer& buffer) {
#if defined(__x86_64__)
  if (pygrade::active_isa() == pygrade::Isa::avx512) return read_512(buffer.data(), buffer.size());
  if (pygrade::active_isa() == pygrade::Isa::avx2) return read_256(buffer.data(), buffer.size());
#endif
  return read_pass<>(buffer.data(), buffer.size());
}

float fma_once(float start) {
#if defined(__x86_64__)
  if (pygrade::active_isa() == pygrade::Isa::avx512) return fma_512(start);
  if (pygrade::active_isa() == pygrade::Isa::avx2) return fma_256(start);
#endif
  return fma_rounds<>(start);
}

volatile float sink;

double flops_per_us() {
  const double us = median_us([](std::size_t i) { sink = fma_once(static_cast<float>(i & 7)); });
  return static_cast<double>(flop_rounds) * 12 * 16 * 2 / us;
}

void print(double core_us, double bound_us, const char* bound) {
  std::printf("{\"isa\": \"%s\", \"core_us\": %.4f, \"bound_us\": %.4f, \"bound\": \"%s\"}\n",
              std::string(pygrade::isa_name(pygrade::active_isa())).c_str(), core_us, bound_us, bound);
}

void fuse_topk(std::int64_t candidates, std::int64_t tasks, std::int64_t k) {
  const auto size = static_cast<std::size_t>(candidates * tasks);
  const std::vector<Buffer> scores = random_buffers(size > 200'000 ? 16 : 64, size);
  const Buffer weights = random_buffers(1, static_cast<std::size_t>(tasks))[0];
  Buffer values(static_cast<std::size_t>(k));
  std::vector<std::int32_t> indices(static_cast<std::size_t>(k));
  const double core = median_us([&](std::size_t i) {
    const auto view =
        pygrade::Scores::dense(scores[i % scores.size()].data(), pygrade::ScoreType::float32, 1, candidates, tasks);
    pygrade::fuse_topk(view, weights, 1, k, {}, {}, values, indices);
  });
  const double bound = median_us([&](std::size_t i) { sink = read_once(scores[i % scores.size()]); });
  print(core, bound, "read");
}

void group(std::int64_t batch, std::int64_t samples, std::int64_t candidates, std::int64_t tasks, std::int64_t k) {
  const std::vector<Buffer> scores = random_buffers(4, static_cast<std::size_t>(batch * candidates * tasks));
  const Buffer weights = random_buffers(1, static_cast<std::size_t>(batch * samples * tasks))[0];
  Buffer values(static_cast<std::size_t>(batch * samples * k));
  std::vector<std::int32_t> indices(values.size());
  const double core = median_us([&](std::size_t i) {
    const auto view =
        pygrade::Scores::dense(scores[i % scores.size()].data(), pygrade::ScoreType::float32, batch, candidates, tasks);
    pygrade::fuse_topk(view, weights, samples, k, {}, {}, values, indices);
  });
  print(core, 2.0 * static_cast<double>(batch * samples * candidates * tasks) / flops_per_us(), "flop");
}

void group_advantage(std::int64_t batch, std::int64_t samples) {
  const std::vector<Buffer> rewards = random_buffers(64, static_cast<std::size_t>(batch * samples));
  const float one = 1.0f;
  Buffer advantage(rewards[0].size());
  pygrade::AdvantageOptions options;
  options.normalize = pygrade::Normalize::group;
  const double core = median_us([&](std::size_t i) {
    pygrade::group_advantage(rewards[i % rewards.size()], {&one, 1}, batch, samples, options, advantage);
  });
  const double bound = median_us([&](std::size_t i) {
    const Buffer& source = rewards[i % rewards.size()];
    std::memcpy(advantage.data(), source.data(), source.size() * sizeof(float));
    sink = advantage[i % advantage.size()];
  });
  print(core, bound, "copy");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string op = argc > 1 ? argv[1] : "";
  std::vector<std::int64_t> sizes;
  for (int i = 2; i < argc; ++i) sizes.push_back(std::atoll(argv[i]));
  if (op == "fuse_topk" && sizes.size() == 3) {
    fuse_topk(sizes[0], sizes[1], sizes[2]);
  } else if (op == "group" && sizes.size() == 5) {
    group(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]);
  } else if (op == "group_advantage" && sizes.size() == 2) {
    group_advantage(sizes[0], sizes[1]);
  } else {
    std::fprintf(stderr, "want: fuse_topk N T k | group B G N T k | group_advantage B G\n");
    return 2;
  }
  return 0;
}
