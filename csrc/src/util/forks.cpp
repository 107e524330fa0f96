#include "util/forks.hpp"

#include <pthread.h>

#include <atomic>

namespace pygrade::inline v0_2::detail {
namespace {
std::atomic<int> forks = 0;
[[maybe_unused]] const int counted = pthread_atfork(nullptr, nullptr, [] { ++forks; });
}  // namespace

int fork_count() { return forks.load(std::memory_order_relaxed); }
}  // namespace pygrade::inline v0_2::detail
