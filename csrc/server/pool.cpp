#include "pool.hpp"

namespace pygrade::inline v0_2::server {

Pool::Pool(int threads, int max_requests, std::function<Response(const ServiceRequest&)> answer)
    : answer_(std::move(answer)),
      admission_(static_cast<std::size_t>(threads), static_cast<std::size_t>(max_requests)) {
  for (int i = 0; i < threads; ++i) workers_.emplace_back([this] { run(); });
}

bool Pool::submit(Job& job) {
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    const auto ticket = admission_.admit(Clock::now());
    if (!ticket) return false;
    job.ticket = *ticket;
    queue_.push_back(&job);
    wake = idle_ > 0;
  }
  if (wake) wake_.notify_one();
  return true;
}

void Pool::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [&] { return ended_ || !queue_.empty(); });
    --idle_;
    if (queue_.empty()) return;
    Job& job = *queue_.front();
    queue_.pop_front();
    admission_.begin();
    lock.unlock();
    const auto ticket = job.ticket;
    const auto begin = Clock::now();
    job.response = answer_(job.request);
    const auto end = Clock::now();
    job.finish();  // the job may be gone now
    lock.lock();
    admission_.end(ticket, begin, end);
  }
}

void Pool::stop() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
}

Pool::Figures Pool::figures() const {
  const std::lock_guard lock(mutex_);
  return {admission_.running(), admission_.waiting(), admission_.limit(Clock::now()), admission_.shed()};
}

}  // namespace pygrade::inline v0_2::server
