// The limits of one core at LANES of float32, as JSON in G/s: bytes of a read-only pass over 256 MiB ("memory") and
// over 256 KiB ("L2"), and operations of multiply-adds ("fp32"). p50 of a tenth of a second each.
#include "limits.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

volatile float sink;

template <class Work>
double per_ns(double amount, Work work) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  for (const auto start = Clock::now(); times.size() < 7 || Clock::now() - start < std::chrono::milliseconds(100);) {
    const auto before = Clock::now();
    for (int i = 0; i < 16; ++i) sink = work();
    times.push_back(std::chrono::duration<double, std::nano>(Clock::now() - before).count() / 16);
  }
  std::ranges::sort(times);
  return amount / times[times.size() / 2];
}

}  // namespace

int main(int, char** arguments) {
  const int lanes = std::atoi(arguments[1]);
  const std::vector<float> data(64 << 20, 1.0f);
  const auto read = [&](std::size_t size) {
    return per_ns(4.0 * size, [&, size] { return limits::read(lanes, data.data(), size); });
  };
  const double fp32 = per_ns(limits::flops(lanes), [=] { return limits::multiply_add(lanes, sink); });
  std::printf("{\"memory\": %.5g, \"L2\": %.5g, \"fp32\": %.5g}\n", read(data.size()), read(64 << 10), fp32);
}
