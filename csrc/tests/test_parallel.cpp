#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "check.hpp"
#include "util/parallel.hpp"

using pygrade::detail::parallel_for;

namespace {
// The sum of the rows that the shares of [0, count) visited: count · (count - 1) / 2 if each was visited once.
std::int64_t sum_of_rows(std::int64_t count, int threads) {
  std::atomic<std::int64_t> sum = 0;
  parallel_for(count, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) sum += i;
  });
  return sum;
}

std::int64_t threads_of_this_process() {
  std::int64_t threads = 0;
  if (std::FILE* status = std::fopen("/proc/self/status", "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, status) != nullptr) std::sscanf(line, "Threads: %ld", &threads);
    std::fclose(status);
  }
  return threads;
}
}  // namespace

TEST(small_work_starts_no_thread) {  // must run first: other tests leave workers behind
  const std::int64_t before = threads_of_this_process();
  CHECK_EQUAL(sum_of_rows(1, 8), 0);
  parallel_for(100, 8, 51, [](std::int64_t, std::int64_t) {});
  CHECK_EQUAL(threads_of_this_process(), before);
}

TEST(every_row_is_visited_once) {
  for (std::int64_t count : {0, 1, 2, 7, 100, 1001})
    for (int threads : {-1, 1, 2, 3, 8})
      for (std::int64_t grain : {0, 1, 10, 5000}) {
        std::vector<int> visits(static_cast<std::size_t>(count));  // shares are disjoint, so no two threads meet
        parallel_for(count, threads, grain, [&](std::int64_t begin, std::int64_t end) {
          CHECK(0 <= begin && begin < end && end <= count);
          for (std::int64_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
        });
        CHECK(visits == std::vector<int>(visits.size(), 1));
      }
}

TEST(the_grain_bounds_the_number_of_shares) {
  std::atomic<int> shares = 0;
  parallel_for(100, 16, 40, [&](std::int64_t, std::int64_t) { ++shares; });
  CHECK_EQUAL(shares.load(), 2);
  shares = 0;
  parallel_for(100, 2, 1, [&](std::int64_t, std::int64_t) { ++shares; });
  CHECK_EQUAL(shares.load(), 2 * pygrade::detail::shares_per_thread);
}

TEST(no_more_threads_than_wanted_work_at_once) {
  std::atomic<int> at_work = 0, most = 0;
  parallel_for(64, 2, 1, [&](std::int64_t, std::int64_t) {
    const int now = ++at_work;
    for (int before = most; now > before && !most.compare_exchange_weak(before, now);) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    --at_work;
  });
  CHECK(most.load() <= 2);
}

TEST(a_thread_takes_the_shares_that_a_slower_one_leaves) {
  std::atomic<std::int64_t> rows = 0;
  parallel_for(8, 2, 1, [&](std::int64_t begin, std::int64_t end) {
    rows += end - begin;
    if (begin != 0) return;  // the first share ends when all others have
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (rows < 8 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    CHECK_EQUAL(rows.load(), 8);
  });
}

TEST(an_exception_reaches_the_caller_after_all_shares_ended) {
  std::atomic<int> ended = 0;
  const auto work = [&](std::int64_t begin, std::int64_t) {
    ++ended;
    if (begin >= 25) throw std::runtime_error("share from " + std::to_string(begin));
  };
  CHECK_THROWS(std::runtime_error, "share from 25", parallel_for(100, 4, 1, work));
  CHECK_EQUAL(ended.load(), 4 * pygrade::detail::shares_per_thread);
}

TEST(shares_run_side_by_side_and_all_end_before_the_call_does) {
  std::atomic<int> begun = 0;
  std::atomic<int> ended = 0;
  parallel_for(2, 2, 1, [&](std::int64_t begin, std::int64_t) {
    ++begun;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (begun < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    if (begin == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ++ended;
  });
  CHECK_EQUAL(begun.load(), 2);
  CHECK_EQUAL(ended.load(), 2);
}

TEST(workers_are_kept_and_serve_again_after_a_rest) {
  CHECK_EQUAL(sum_of_rows(1000, 8), 499'500);
  const std::int64_t threads = threads_of_this_process();
  for (int rest_us : {0, 0, 0, 20, 60, 200, 5000})
    for (int i = 0; i < 20; ++i) {
      std::this_thread::sleep_for(std::chrono::microseconds(rest_us));
      CHECK_EQUAL(sum_of_rows(1000, 2 + i % 7), 499'500);
    }
  CHECK_EQUAL(threads_of_this_process(), threads);  // later calls started none
}

TEST(threads_that_call_at_once_share_the_workers) {
  const std::int64_t threads = threads_of_this_process();
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> callers;
    for (int c = 0; c < 6; ++c)
      callers.emplace_back([&, c] {
        for (int i = 0; i < 2000; ++i) {
          const std::int64_t count = 1 + (31 * i + c) % 200;
          wrong += sum_of_rows(count, 2 + (i + c) % 7) != count * (count - 1) / 2;
        }
      });
  }
  CHECK_EQUAL(wrong.load(), 0);
  for (int i = 0; i < 1000 && threads_of_this_process() > threads; ++i)  // joined threads take a while to disappear
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(threads_of_this_process() <= threads);
}

TEST(a_caller_does_not_wait_for_another_s_work) {
  std::atomic<bool> over = false;
  std::atomic<int> held = 0;
  const auto hold = [&](std::int64_t, std::int64_t) {
    ++held;
    while (!over) std::this_thread::yield();
  };
  std::jthread other([&] { parallel_for(8, 8, 1, hold); });  // all available workers
  while (held < 2) std::this_thread::yield();
  for (int i = 0; i < 100; ++i) CHECK_EQUAL(sum_of_rows(100, 8), 4950);
  over = true;
}

TEST(a_share_may_split_its_own_work) {
  std::atomic<std::int64_t> sum = 0;
  for (int i = 0; i < 50; ++i)
    parallel_for(8, 8, 1, [&](std::int64_t, std::int64_t) {
      parallel_for(4, 4, 1, [&](std::int64_t, std::int64_t) { sum += sum_of_rows(50, 3); });
    });
  CHECK_EQUAL(sum.load(), 50 * 8 * 4 * 1225);
}

#if !defined(__SANITIZE_THREAD__)  // a forked child may start no threads under it
TEST(a_forked_child_has_workers_of_its_own) {
  CHECK_EQUAL(sum_of_rows(1000, 4), 499'500);
  for (int rest_us : {0, 2000}) {  // while workers spin, and while they sleep
    std::this_thread::sleep_for(std::chrono::microseconds(rest_us));
    const pid_t child = fork();
    if (child == 0) {
      const std::int64_t threads = threads_of_this_process();
      bool good = true;
      for (int i = 0; i < 100; ++i) good = good && sum_of_rows(1000, 4) == 499'500;
      const pid_t grandchild = fork();
      if (grandchild == 0) _exit(sum_of_rows(1000, 4) == 499'500 ? 0 : 1);
      int status = 1;
      good = good && waitpid(grandchild, &status, 0) == grandchild && status == 0;
      _exit(good && threads_of_this_process() == threads + 3 ? 0 : 1);
    }
    int status = 1;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    CHECK_EQUAL(status, 0);
    CHECK_EQUAL(sum_of_rows(1000, 4), 499'500);
  }
}
#endif
