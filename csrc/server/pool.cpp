#include "pool.hpp"

#include <algorithm>
#include <cmath>

namespace pygrade::server {

namespace {

constexpr std::chrono::milliseconds burst{20}, relief{1000};
constexpr double memory = 1.0 / 64.0;  // weight of the newest answer
constexpr std::size_t least = 8;       // that may wait in any case

}  // namespace

Pool::Pool(int threads, int max_requests, std::function<Response(const ServiceRequest&)> answer)
    : threads_(static_cast<std::size_t>(threads)),
      max_requests_(static_cast<std::size_t>(max_requests)),
      answer_(std::move(answer)) {
  for (std::size_t i = 0; i < threads_; ++i) workers_.emplace_back([this] { run(); });
}

// Of the jobs in progress while there is a standing queue.
std::size_t Pool::tight_limit() const {
  const double usual = seconds_ > 0.0 ? 1.0 + 4.0 * std::min(deviation_ / seconds_, 1.0) : 5.0;
  const auto waiting = static_cast<std::size_t>(2.0 * usual * static_cast<double>(threads_));
  return threads_ + std::max(waiting, least);
}

std::size_t Pool::limit(Clock::time_point now) const {
  if (max_requests_ > 0) return max_requests_;
  if (now < tight_until_) return tight_limit();
  const double in_burst = std::chrono::duration<double>(burst) / std::chrono::duration<double>(1.0) *
                          static_cast<double>(threads_) / std::max(seconds_, 1e-5);
  return std::max(tight_limit(), static_cast<std::size_t>(in_burst));
}

bool Pool::submit(Job& job) {
  const auto now = Clock::now();
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    const std::size_t in_progress = running_ + queue_.size();
    const bool standing = now < tight_until_ || (!queue_.empty() && now - nonempty_since_ > burst);
    if (standing && in_progress >= tight_limit()) tight_until_ = now + relief;
    if (in_progress >= limit(now)) {
      ++shed_;
      return false;
    }
    if (queue_.empty()) nonempty_since_ = now;
    queue_.push_back(&job);
    wake = idle_ > 0;
  }
  if (wake) wake_.notify_one();
  return true;
}

void Pool::learn(double seconds) {
  if (seconds_ == 0.0) {
    seconds_ = seconds;
    return;
  }
  deviation_ += memory * (std::abs(seconds - seconds_) - deviation_);
  seconds_ += memory * (seconds - seconds_);
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
    ++running_;
    lock.unlock();
    const auto begin = Clock::now();
    job.response = answer_(job.request);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    job.finish();  // the job may be gone now
    lock.lock();
    --running_;
    learn(seconds);
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
  const auto now = Clock::now();
  const std::lock_guard lock(mutex_);
  return {running_, queue_.size(), limit(now), shed_};
}

}  // namespace pygrade::server
