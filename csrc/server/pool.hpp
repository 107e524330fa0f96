// Threads that answer requests, and how many requests may wait for them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "pygrade/service.hpp"

namespace pygrade::server {

using Clock = std::chrono::steady_clock;

// A request on its way through a pool.
struct Job {
  ServiceRequest request;
  Response response;
  virtual void finish() noexcept = 0;  // by a thread of the pool, when `response` is there

 protected:
  ~Job() = default;
};

// A queue in front of threads that never grows longer than what they do in a short time.
//
// With `max_requests` > 0 so many requests are in progress at most, waiting ones included. Else the limit comes from
// the measured time t of an answer: the queue may take what the threads answer in 20 ms, so that bursts pass; once it
// has not been empty for so long it is a standing queue, which only makes every page late, and until a second has
// passed without a refusal no request waits longer than twice the usual worst answer, t + 4 mean deviations.
class Pool {
 public:
  Pool(int threads, int max_requests, std::function<Response(const ServiceRequest&)> answer);
  ~Pool() { stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // False: too many wait, and the job is not taken.
  bool submit(Job& job);
  // Answers what waits, and ends the threads.
  void stop();

  struct Figures {
    std::size_t running, waiting, limit;  // limit: of both together
    std::uint64_t shed;
  };
  Figures figures() const;

 private:
  void run();
  std::size_t limit(Clock::time_point now) const;
  std::size_t tight_limit() const;
  void learn(double seconds);

  const std::size_t threads_, max_requests_;
  const std::function<Response(const ServiceRequest&)> answer_;
  mutable std::mutex mutex_;  // guards the following
  std::condition_variable wake_;
  std::deque<Job*> queue_;
  std::size_t running_ = 0, idle_ = 0;
  std::uint64_t shed_ = 0;
  double seconds_ = 0.0, deviation_ = 0.0;              // of an answer: means of the last ones
  Clock::time_point nonempty_since_{}, tight_until_{};  // the queue
  bool ended_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace pygrade::server
