// The workers of parallel_for: started when first needed, never ended; idle ones sleep.
#include "util/parallel.hpp"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "util/scratch.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
struct Job {  // on the stack of run_shares, which returns only when no worker uses its address
  void (*run)(const void* context, std::int64_t share);
  const void* context;
  std::int64_t shares;
  std::atomic<std::int64_t> next = 1;  // first share not begun; share 0 is the calling thread's

  void help() {
    for (std::int64_t share = next++; share < shares; share = next++) run(context, share);
  }
};

// The order of a worker: one of these, the address of a Job that it should help, or that address + 1 while it helps.
constexpr std::uintptr_t idle = 0;
constexpr std::uintptr_t fresh = 1;  // its thread has not started

struct alignas(64) Worker {
  std::atomic<std::uintptr_t> order = idle;
  std::atomic<std::uint32_t> changes = 0;  // generation counter of `order`; separate, because a futex waits on 32 bits
};

// Static and trivially destructible: workers may sleep through process exit, and nothing leaks.
constexpr int max_workers = 512;
Worker workers[max_workers];
std::atomic<int> started = 0;
std::atomic<bool> starting = false;
std::atomic<bool> spins = false;  // not on a single processor, where spinning blocks the other threads

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Waits until the worker's order is no longer `order`. Spins for a while, because the next call or the end of a share
// is often near, then sleeps.
void wait_while(Worker& worker, std::uintptr_t order) {
  using Clock = std::chrono::steady_clock;
  if (spins)
    for (const auto end = Clock::now() + std::chrono::microseconds(50); Clock::now() < end;)
      for (int i = 0; i < 16; ++i, relax())
        if (worker.order != order) return;
  for (std::uint32_t seen = worker.changes; worker.order == order; seen = worker.changes) worker.changes.wait(seen);
}

void wake(Worker& worker) {
  ++worker.changes;
  worker.changes.notify_all();
}

void rest(Worker& worker) {
  worker.order = idle;
  wake(worker);
}

void work(Worker& worker) {
  Scratch(1);  // its destructor keeps dlclose from unloading the library while the thread lives
  for (rest(worker);;) {
    wait_while(worker, idle);
    std::uintptr_t order = worker.order;
    if (order == idle || !worker.order.compare_exchange_strong(order, order + 1))
      continue;  // withdrawn in the meantime
    reinterpret_cast<Job*>(order)->help();
    rest(worker);
  }
}

void start_workers(std::int64_t wanted) {
  wanted = std::min<std::int64_t>(wanted, max_workers);
  if (started >= wanted || starting.exchange(true)) return;  // or another call is starting them
  spins = std::thread::hardware_concurrency() > 1;
  try {
    for (; started < wanted; ++started) {
      Worker& worker = workers[started];
      worker.order = fresh;
      std::thread(work, std::ref(worker)).detach();
      wait_while(worker, fresh);
    }
  } catch (const std::exception&) {  // no more threads are available: continue with fewer
  }
  starting = false;
}

// A forked child has none of the threads: start over.
void forget_workers() {
  for (int i = 0; i < started; ++i) workers[i].order = idle;
  started = 0;
  starting = false;
}
[[maybe_unused]] const int forgotten = pthread_atfork(nullptr, nullptr, forget_workers);
}  // namespace

void run_shares(std::int64_t shares, std::int64_t threads, void (*run)(const void* context, std::int64_t share),
                const void* context) {
  start_workers(threads - 1);
  Job job{run, context, shares};
  const auto requested = reinterpret_cast<std::uintptr_t>(&job);
  const int count = started;
  std::int64_t helpers = 0;
  for (int i = 0; i < count && helpers < threads - 1; ++i) {
    std::uintptr_t order = idle;
    if (!workers[i].order.compare_exchange_strong(order, requested)) continue;
    wake(workers[i]);
    ++helpers;
  }
  run(context, 0);
  job.help();
  for (int i = 0; i < count; ++i) {
    std::uintptr_t order = requested;
    workers[i].order.compare_exchange_strong(order, idle);  // workers that have not begun are released
    if (order == requested + 1) wait_while(workers[i], order);
  }
}
}  // namespace pygrade::inline v0_2::detail
