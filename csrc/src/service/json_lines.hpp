// A log of JSON lines: <name>-<ms since 1970>-<token>-<number>.jsonl, a new file after some time or size.
//
// Lines are appended whole, by one write of O_APPEND each call, and are in the file when `append` returns. A process
// that is killed leaves complete lines, except perhaps the last one if the machine fails, too; readers skip a line
// without an end. A file whose name is not the newest of its token is complete.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>

namespace pygrade::inline v0_2::detail {
class JsonLines {
 public:
  // Makes the directory. std::filesystem::filesystem_error if there can be none.
  JsonLines(const std::filesystem::path& directory, std::string name, std::chrono::milliseconds file_time);
  ~JsonLines();
  JsonLines(const JsonLines&) = delete;
  JsonLines& operator=(const JsonLines&) = delete;

  // Appends lines, each with its end; `synced`: a machine that fails does not lose them. std::system_error if the disk
  // fails; then nothing of the lines is in the log, and no empty file.
  void append(std::string_view lines, bool synced = false);

  // Syncs the file and begins a new one with the next line.
  void finish() noexcept;

 private:
  void open();

  const std::filesystem::path directory_;
  const std::string name_, token_;
  const std::chrono::milliseconds file_time_;
  std::mutex mutex_;
  std::filesystem::path path_;  // of the open file, as all below
  int descriptor_ = -1;
  std::uint64_t number_ = 0, bytes_ = 0;
  std::chrono::steady_clock::time_point start_;
};
}  // namespace pygrade::inline v0_2::detail
