// Admission in simulated time: Poisson arrivals at some threads, answers of random length.
#include <algorithm>
#include <deque>
#include <queue>
#include <random>

#include "../server/admission.hpp"
#include "check.hpp"

namespace {
using pygrade::server::Admission;
using pygrade::server::Clock;

Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

struct Outcome {
  double p99 = 0.0, shed = 0.0, rate = 0.0;  // of answers in seconds; share; answers a second
};

// `load`: arrivals over what the threads answer. For `stall` seconds in the middle no thread goes on.
class Shop {
 public:
  Shop(std::size_t threads, double mean, std::size_t max_requests = 0)
      : threads_(threads), mean_(mean), admission_(threads, max_requests) {}

  Outcome run(double load, double time, double stall = 0.0) {
    const double rate = load * static_cast<double>(threads_) / mean_;
    const Clock::time_point end = now_ + seconds(time), stall_from = now_ + seconds(time / 2);
    std::vector<double> whole;
    std::size_t arrived = 0, shed = 0;
    Clock::time_point next = now_ + gap(rate);
    while (next < end || !running_.empty()) {
      if (!running_.empty() && (next >= end || running_.top().end <= next)) {
        const Running done = running_.top();
        running_.pop();
        now_ = done.end;
        admission_.end(done.ticket, done.begin, done.end);
        whole.push_back(std::chrono::duration<double>(done.end - done.ticket.time).count());
      } else {
        now_ = next;
        next += gap(rate);
        ++arrived;
        if (const auto ticket = admission_.admit(now_))
          waiting_.push_back(*ticket);
        else
          ++shed;
      }
      while (!waiting_.empty() && running_.size() < threads_) {
        admission_.begin(waiting_.front());
        auto finish = now_ + length();
        if (now_ < stall_from + seconds(stall) && finish > stall_from) finish += seconds(stall);
        running_.push({finish, now_, waiting_.front()});
        waiting_.pop_front();
      }
    }
    std::ranges::sort(whole);
    return {whole[whole.size() * 99 / 100], static_cast<double>(shed) / static_cast<double>(arrived),
            static_cast<double>(whole.size()) / time};
  }

  const Admission& admission() const { return admission_; }

 private:
  struct Running {
    Clock::time_point end, begin;
    Admission::Ticket ticket;
    bool operator<(const Running& other) const { return end > other.end; }
  };

  Clock::duration gap(double rate) { return seconds(std::exponential_distribution<double>(rate)(random_)); }
  // Most of an answer is the same for all, some take longer.
  Clock::duration length() { return seconds(mean_ * (0.7 + std::exponential_distribution<double>(1 / 0.3)(random_))); }

  const std::size_t threads_;
  const double mean_;
  Admission admission_;
  std::mt19937_64 random_{7};
  Clock::time_point now_{std::chrono::hours(1)};
  std::deque<Admission::Ticket> waiting_;
  std::priority_queue<Running> running_;
};

TEST(twice_the_capacity_makes_no_page_late) {
  for (const std::size_t threads : {1, 2, 8})
    for (const double mean : {400e-6, 2e-3}) {
      Shop shop(threads, mean);
      const Outcome half = shop.run(0.5, 10.0);
      CHECK(half.shed < 1e-3);
      for (const double load : {1.2, 2.0, 5.0}) {
        const Outcome over = shop.run(load, 20.0);
        CHECK(over.p99 <= 3.0 * half.p99);
        CHECK(over.rate > 0.95 * static_cast<double>(threads) / mean);  // no thread is idle
      }
      shop.run(0.5, 2.0);  // it recovers
      CHECK(shop.run(0.5, 10.0).shed < 1e-3);
    }
}

TEST(bursts_and_stalls_pass) {
  Shop shop(2, 400e-6);
  shop.run(0.5, 5.0);
  const Outcome busy = shop.run(0.8, 10.0);
  CHECK(busy.shed < 1e-2);
  const Outcome stalled = shop.run(0.5, 10.0, 15e-3);
  CHECK(stalled.shed < 1e-3);
}

TEST(a_fixed_limit) {
  Shop shop(2, 400e-6, 4);
  const Outcome over = shop.run(3.0, 5.0);
  CHECK(over.shed > 0.6 && over.shed < 0.72);
  CHECK_EQUAL(shop.admission().limit({}), 4u);
}

TEST(what_waits_counts_by_its_weight) {
  const auto admitted = [](double weight) {
    Admission admission(1, 0);
    Clock::time_point now(std::chrono::hours(1));
    for (int i = 0; i < 100; ++i) {  // a unit takes 100 µs
      const auto ticket = admission.admit(now);
      admission.begin(*ticket);
      admission.end(*ticket, now, now + seconds(100e-6));
      now += seconds(1e-3);
    }
    int count = 0;
    while (count < 1000 && admission.admit(now, weight)) ++count;
    return count;
  };
  CHECK(admitted(1.0) - 200 <= 1 && admitted(1.0) >= 200);  // 20 ms, by sums that are rounded
  CHECK(admitted(10.0) - 20 <= 1 && admitted(10.0) >= 20);
  CHECK_EQUAL(admitted(1000.0), 9);  // eight may wait in any case
}
}  // namespace
