// Splits independent rows over threads. Results never depend on the split, because each row is computed alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <vector>

#include "util/fpenv.hpp"

namespace pygrade::inline v0_2::detail {
// Calls run(context, share) once for every share of [0, shares), in the calling thread and in at most threads - 1 idle
// workers, and returns when all have ended. `run` must not throw. Workers outlive the call; their number does not
// depend on the number of concurrent calls. No share waits for a worker: the calling thread runs what no worker takes.
void run_shares(std::int64_t shares, std::int64_t threads, void (*run)(const void* context, std::int64_t share),
                const void* context);

// The rows that justify another thread, at `nanoseconds` per row on AVX-512: 20 µs of work. Two threads are twice as
// fast from 3 µs per share on while the workers spin, and break even at 20 to 30 µs if one has to wake up.
inline std::int64_t grain_of(double nanoseconds) { return 1 + static_cast<std::int64_t>(20'000.0 / nanoseconds); }

// Threads take the next share when they have ended one, so that one that wakes up late or is interrupted delays no
// other.
constexpr std::int64_t shares_per_thread = 4;

// Calls work(begin, end) on contiguous shares of [0, count) in up to num_threads threads, each with at least `grain`
// rows and in the FloatEnvironment of the kernels. Rethrows the first exception after all shares have ended.
template <class Work>
void parallel_for(std::int64_t count, int num_threads, std::int64_t grain, Work&& work,
                  std::int64_t per_thread = shares_per_thread) {
  const std::int64_t max_shares = std::max<std::int64_t>(1, count / std::max<std::int64_t>(1, grain));
  const std::int64_t threads = std::clamp<std::int64_t>(num_threads, 1, max_shares);
  const std::int64_t shares = std::min(threads * per_thread, max_shares);
  if (threads == 1) {
    const FloatEnvironment environment;
    if (count > 0) work(std::int64_t{0}, count);
    return;
  }
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(shares));
  const auto run = [&](std::int64_t share) {
    try {
      const FloatEnvironment environment;
      work(count * share / shares, count * (share + 1) / shares);
    } catch (...) {
      errors[static_cast<std::size_t>(share)] = std::current_exception();
    }
  };
  run_shares(
      shares, threads, [](const void* context, std::int64_t share) { (*static_cast<decltype(run)*>(context))(share); },
      &run);
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}
}  // namespace pygrade::inline v0_2::detail
