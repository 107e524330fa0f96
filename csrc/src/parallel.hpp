// Splits independent rows over threads. Results never depend on the split: a row's work is a function of the row.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <vector>

#include "fpenv.hpp"

namespace pygrade::detail {

// Calls run(context, share) once for every share of [0, shares), in the calling thread and in workers that are idle,
// and returns when all have ended. `run` throws nothing. The workers outlive the call, their number does not depend on
// how many threads call at once, and no share waits for one: what no worker takes, the calling thread does.
void run_shares(std::int64_t shares, void (*run)(const void* context, std::int64_t share), const void* context);

// Calls work(begin, end) on contiguous shares of [0, count), in up to num_threads threads, each with at least `grain`
// rows: choose the grain so that a share is worth the time that waking a thread costs. The first exception of a share
// is rethrown after all have ended. Every share runs in the FloatEnvironment of the kernels.
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
  run_shares(
      shares, [](const void* context, std::int64_t share) { (*static_cast<decltype(run)*>(context))(share); }, &run);
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace pygrade::detail
