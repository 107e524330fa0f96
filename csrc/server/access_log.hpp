// Lines on standard error. A thread of their own writes them, so that no request waits for whoever reads them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace pygrade::inline v0_2::server {
class AccessLog {
 public:
  AccessLog() : thread_([this] { run(); }) {}
  ~AccessLog();  // after all lines are written
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  // Adds a line, with its end. If the reader stalls, lines beyond some MB are dropped, and a line says how many.
  void write(std::string_view line);

 private:
  void run();

  std::mutex mutex_;  // guards the following
  std::condition_variable wake_;
  std::string lines_;
  std::size_t dropped_ = 0;
  bool ended_ = false;
  std::thread thread_;
};
}  // namespace pygrade::inline v0_2::server
