#include <atomic>
#include <stdexcept>

#include "check.hpp"
#include "parallel.hpp"

using pygrade::detail::parallel_for;

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
}

TEST(an_exception_reaches_the_caller_after_all_shares_ended) {
  std::atomic<int> ended = 0;
  const auto work = [&](std::int64_t begin, std::int64_t) {
    ++ended;
    if (begin >= 25) throw std::runtime_error("share from " + std::to_string(begin));
  };
  CHECK_THROWS(std::runtime_error, "share from 25", parallel_for(100, 4, 1, work));
  CHECK_EQUAL(ended.load(), 4);
}
