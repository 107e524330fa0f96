// A thread for each connection, since one may be kept open between requests; threads are used again.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "http.hpp"

namespace pygrade::server {

class ConnectionThreads final : public httplib::TaskQueue {
 public:
  explicit ConnectionThreads(std::size_t limit) : limit_(limit) {}

  // False if all threads have a connection; it is closed then.
  bool enqueue(std::function<void()> work) override {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= idle_) {
      if (threads_.size() >= limit_) return false;
      threads_.emplace_back([this] { run(); });
      ++idle_;
    }
    waiting_.push_back(std::move(work));
    wake_.notify_one();
    return true;
  }

  // Returns when all connections have ended.
  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return ended_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      const auto work = std::move(waiting_.front());
      waiting_.pop_front();
      --idle_;
      lock.unlock();
      work();
      lock.lock();
      ++idle_;
    }
  }

  const std::size_t limit_;
  std::mutex mutex_;  // guards the following
  std::condition_variable wake_;
  std::deque<std::function<void()>> waiting_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;  // threads without a connection
  bool ended_ = false;
};

}  // namespace pygrade::server
