#include "access_log.hpp"

#include <unistd.h>

#include <cerrno>
#include <chrono>

namespace pygrade::inline v0_2::server {
namespace {
constexpr std::size_t most_bytes = std::size_t{8} << 20;
constexpr auto gather_time = std::chrono::milliseconds(10);  // many lines a system call

void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(STDERR_FILENO, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
}
}  // namespace

AccessLog::~AccessLog() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void AccessLog::write(std::string_view line) {
  const std::lock_guard lock(mutex_);
  if (lines_.size() + line.size() > most_bytes) {
    ++dropped_;
    return;
  }
  if (lines_.empty()) wake_.notify_one();
  lines_ += line;
}

void AccessLog::run() {
  std::string taken;
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return ended_ || !lines_.empty(); });
    if (lines_.empty()) return;
    if (!ended_) wake_.wait_for(lock, gather_time, [&] { return ended_; });
    taken.swap(lines_);
    lines_.clear();
    const std::size_t dropped = dropped_;
    dropped_ = 0;
    lock.unlock();
    write_all(taken);
    if (dropped > 0)
      write_all("{\"level\":\"warning\",\"message\":\"" + std::to_string(dropped) +
                " lines of the log were dropped\"}\n");
    taken.clear();
    lock.lock();
  }
}
}  // namespace pygrade::inline v0_2::server
