// Threads that answer requests.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "admission.hpp"
#include "pygrade/service.hpp"

namespace pygrade::inline v0_2::server {
// A request on its way through a pool.
struct Job {
  ServiceRequest request;
  Response response;
  Admission::Ticket ticket{};
  std::shared_ptr<void> batch;         // what is answered of several requests in one body,
  std::size_t more = 0;                // how many they are beside the first
  virtual void finish() noexcept = 0;  // by a thread of the pool, when `response` is there

 protected:
  ~Job() = default;
};

class Pool {
 public:
  // Answers a job; returns the next request of several in one body, if one is left. Those are answered one at a time,
  // each behind what waits by then, as if their client sent one after the other.
  using Answer = std::function<std::optional<std::string_view>(Job&)>;

  Pool(int threads, int max_requests, Answer answer);
  ~Pool() { stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // False: too many are in progress, and the job is not taken.
  bool submit(Job& job);
  // True, and counted as shed, if `submit` would refuse a job now.
  bool refuse();
  // Answers what waits, and ends the threads.
  void stop();

  struct Figures {
    std::size_t running, waiting, limit;  // limit: of both together
    std::uint64_t shed;
  };
  Figures figures() const;

 private:
  void run();

  const Answer answer_;
  mutable std::mutex mutex_;  // guards the following
  Admission admission_;
  std::condition_variable wake_;
  std::deque<Job*> queue_;
  std::size_t idle_ = 0;  // threads
  bool ended_ = false;
  std::vector<std::thread> workers_;
};
}  // namespace pygrade::inline v0_2::server
