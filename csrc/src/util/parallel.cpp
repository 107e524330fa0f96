// The workers behind parallel_for. They are started on first need and never end; an idle one sleeps.
#include "util/parallel.hpp"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "util/scratch.hpp"

namespace pygrade::detail {

namespace {

struct Job {  // on the stack of run_shares, which leaves only when no worker holds its address
  void (*run)(const void* context, std::int64_t share);
  const void* context;
  std::int64_t shares;
  std::atomic<std::int64_t> next = 1;  // share that nobody has begun; the first is the calling thread's

  void help() {
    for (std::int64_t share = next++; share < shares; share = next++) run(context, share);
  }
};

// A worker's order: one of these, the address of a Job that it is asked to help, or that + 1 while it is at work on it.
constexpr std::uintptr_t idle = 0;
constexpr std::uintptr_t fresh = 1;  // its thread has not begun

struct alignas(64) Worker {
  std::atomic<std::uintptr_t> order = idle;
  std::atomic<std::uint32_t> changes = 0;  // of the order. Slept on, as the system's wait is for 32 bits
};

// In static storage and trivial to destroy, so that workers may sleep on while the process exits, and nothing leaks.
constexpr int most_workers = 512;
Worker workers[most_workers];
std::atomic<int> started = 0;
std::atomic<bool> starting = false;
std::atomic<bool> spins = false;  // where there is one processor, who spins keeps the other from its work

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Returns once the worker's order is another: spins a while, as the next call or a share's end is often near, and then
// sleeps.
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
  Scratch::of_this_thread();  // while a thread has something to destroy at its end, dlclose leaves the library loaded
  for (rest(worker);;) {
    wait_while(worker, idle);
    std::uintptr_t order = worker.order;
    if (order == idle || !worker.order.compare_exchange_strong(order, order + 1)) continue;  // not needed any more
    reinterpret_cast<Job*>(order)->help();
    rest(worker);
  }
}

void start_workers(std::int64_t wanted) {
  wanted = std::min<std::int64_t>(wanted, most_workers);
  if (started >= wanted || starting.exchange(true)) return;  // or another call is at it
  spins = std::thread::hardware_concurrency() > 1;
  try {
    for (; started < wanted; ++started) {
      Worker& worker = workers[started];
      worker.order = fresh;
      std::thread(work, std::ref(worker)).detach();
      wait_while(worker, fresh);
    }
  } catch (const std::exception&) {  // there is no thread to be had: the calls do without
  }
  starting = false;
}

// A forked child has none of the threads: it begins anew.
void forget_workers() {
  for (int i = 0; i < started; ++i) workers[i].order = idle;
  started = 0;
  starting = false;
}
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, forget_workers);

}  // namespace

void run_shares(std::int64_t shares, void (*run)(const void* context, std::int64_t share), const void* context) {
  start_workers(shares - 1);
  Job job{run, context, shares};
  const auto asked = reinterpret_cast<std::uintptr_t>(&job);
  const int count = started;
  std::int64_t helpers = 0;
  for (int i = 0; i < count && helpers < shares - 1; ++i) {
    std::uintptr_t order = idle;
    if (!workers[i].order.compare_exchange_strong(order, asked)) continue;
    wake(workers[i]);
    ++helpers;
  }
  run(context, 0);
  job.help();
  for (int i = 0; i < count; ++i) {
    std::uintptr_t order = asked;
    workers[i].order.compare_exchange_strong(order, idle);  // who has not begun need not
    if (order == asked + 1) wait_while(workers[i], order);
  }
}

}  // namespace pygrade::detail
