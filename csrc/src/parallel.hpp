// Splits independent rows over threads. Results never depend on the split: a row's work is a function of the row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "fpenv.hpp"

namespace pygrade::detail {

// Calls work(begin, end) on contiguous shares of [0, count), in up to num_threads threads, each with at least `grain`
// rows: choose the grain so that a share is worth the ~20 µs that starting a thread costs. The first exception of a
// share is rethrown after all have ended. Every share runs in the FloatEnvironment of the kernels. Threads are started
// per call, so nothing outlives it and fork is safe.
template <class Work>
void parallel_for(std::int64_t count, int num_threads, std::int64_t grain, Work&& work) {
  const std::int64_t most = std::max<std::int64_t>(1, count / std::max<std::int64_t>(1, grain));
  const std::int64_t shares = std::clamp<std::int64_t>(num_threads, 1, most);
  if (shares == 1) {
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
  {
    std::vector<std::jthread> threads;
    threads.reserve(static_cast<std::size_t>(shares - 1));
    for (std::int64_t share = 1; share < shares; ++share) threads.emplace_back(run, share);
    run(0);
  }
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace pygrade::detail
