// Limit of the requests in progress.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace pygrade::inline v0_2::server {
using Clock = std::chrono::steady_clock;

// The 99th percentile of the last few thousand times, by a histogram whose counts fade.
class UsualTime {
 public:
  void add(double seconds);
  double percentile() const { return percentile_; }

 private:
  std::array<std::uint32_t, 96> bins_{};  // four an octave, from 1 µs on
  std::uint32_t count_ = 0;
  double percentile_ = 10e-3;  // until enough were seen
};

// Admission to a queue in front of threads, which never gets longer than what the threads do in a short time.
//
// With `max_requests` > 0 so many requests are in progress at most, waiting ones included. Else the limit comes from
// two measurements: how long an answer keeps a thread for each unit of its weight, and the 99th percentile of the whole
// time, waiting for a processor included, of requests that found a thread free. Bursts pass: what the threads do in
// 20 ms may wait. A queue that has not been empty for so long is a standing one, which only makes every page late;
// then, until a second has passed without a refusal, no request is taken that would wait for longer than 1.5 times that
// percentile.
//
// Not synchronized.
class Admission {
 public:
  Admission(std::size_t threads, std::size_t max_requests) : threads_(threads), max_requests_(max_requests) {}

  struct Ticket {
    Clock::time_point time;
    bool found_free;         // a thread
    double weight, seconds;  // expected to keep a thread
  };
  // {}: too many are in progress.
  std::optional<Ticket> admit(Clock::time_point now, double weight = 1.0);
  // True, and counted as shed, if `admit` would refuse whatever comes now.
  bool refuse(Clock::time_point now);
  // Admits the rest of one that was admitted.
  Ticket enter(Clock::time_point now, double weight);
  // A thread takes one that waits, and has answered it.
  void begin(const Ticket& ticket);
  void end(const Ticket& ticket, Clock::time_point begin, Clock::time_point end);

  std::size_t limit(Clock::time_point now) const;  // of requests in progress
  std::size_t running() const { return running_; }
  std::size_t waiting() const { return waiting_; }
  std::uint64_t shed() const { return shed_; }

 private:
  bool is_full(double seconds) const;  // what waits already takes the threads so long

  const std::size_t threads_, max_requests_;
  std::size_t running_ = 0, waiting_ = 0;
  std::uint64_t shed_ = 0;
  double seconds_ = 0.0, unit_ = 0.0;  // mean time that an answer, and a unit of its weight, keeps a thread
  double waiting_seconds_ = 0.0;       // of threads, that what waits will take
  UsualTime usual_;
  Clock::time_point nonempty_since_{}, tight_until_{};  // the queue
};
}  // namespace pygrade::inline v0_2::server
