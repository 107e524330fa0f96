#include "pool.hpp"

#include <algorithm>
#include <charconv>

namespace pygrade::inline v0_2::server {
namespace {
// Work of a request whose text is `body`, estimated, as each is admitted before it is parsed: 1 of itself, and 1 for
// each 100 candidates, as it names them, which take about as long.
double weigh(std::string_view body) {
  constexpr std::size_t looked_at = std::size_t{64} << 10, unless_named = 500, bytes_each = 64;
  constexpr std::size_t most = 10'000;  // so that a number in a text does not shed others
  const std::string_view begin = body.substr(0, looked_at);
  std::size_t candidates = std::max(unless_named, body.size() > looked_at ? body.size() / bytes_each : 0);
  const auto read_number = [&](std::size_t at) {
    std::from_chars(body.data() + at, body.data() + body.size(), candidates);
  };
  if (auto at = begin.find("\"items\""); at != begin.npos) {
    const std::size_t list = body.find_first_of("[{", at);  // of JSON, or the shape of a tensor
    if (list != body.npos && body[list] == '[') {
      const std::string_view items = body.substr(list, body.find(']', list) - list);
      candidates = static_cast<std::size_t>(std::ranges::count(items, ',')) + 1;
    } else if (at = body.find('[', at); at != body.npos) {
      read_number(at + 1);
    }
  } else if (at = begin.find("\"candidates\""); at != begin.npos) {
    at = body.find_first_of("0123456789", at);
    if (at != body.npos) read_number(at);
  }
  return 1.0 + static_cast<double>(std::min(candidates, most)) / 100.0;
}
}  // namespace

Pool::Pool(int threads, int max_requests, Answer answer)
    : answer_(std::move(answer)),
      admission_(static_cast<std::size_t>(threads), static_cast<std::size_t>(max_requests)) {
  for (int i = 0; i < threads; ++i) workers_.emplace_back([this] { run(); });
}

bool Pool::submit(Job& job) {
  bool wake = false;
  const double weight = weigh(job.request.body);
  {
    const std::lock_guard lock(mutex_);
    const auto ticket = admission_.admit(Clock::now(), weight);
    if (!ticket) return false;
    job.ticket = *ticket;
    queue_.push_back(&job);
    wake = idle_ > 0;
  }
  if (wake) wake_.notify_one();
  return true;
}

bool Pool::refuse() {
  const std::lock_guard lock(mutex_);
  return admission_.refuse(Clock::now());
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
    const auto ticket = job.ticket;
    admission_.begin(ticket);
    lock.unlock();
    const auto begin = Clock::now();
    const auto next = answer_(job);
    const auto end = Clock::now();
    const double weight = next ? weigh(*next) : 0.0;
    if (!next) job.finish();  // the job may be gone now
    lock.lock();
    admission_.end(ticket, begin, end);
    if (!next) continue;
    job.ticket = admission_.enter(end, weight);
    ++job.more;
    queue_.push_back(&job);
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
