#include "service/json_lines.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <random>
#include <system_error>

#include "service/request.hpp"
#include "util/files.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
constexpr std::uint64_t max_bytes = std::uint64_t{64} << 20;  // of a file

std::string random_token() {
  char text[9];
  std::snprintf(text, sizeof text, "%08x", std::random_device{}());
  return text;
}
}  // namespace

JsonLines::JsonLines(const std::filesystem::path& directory, std::string name, std::chrono::milliseconds file_time)
    : directory_(directory), name_(std::move(name)), token_(random_token()), file_time_(file_time) {
  std::filesystem::create_directories(directory_);
  sync_directory(directory_.parent_path());
}

JsonLines::~JsonLines() { finish(); }

void JsonLines::open() {
  char text[64];
  std::snprintf(text, sizeof text, "-%013lld-%s-%06llu.jsonl", static_cast<long long>(now_ms()), token_.c_str(),
                static_cast<unsigned long long>(number_++));
  path_ = directory_ / (name_ + text);
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), path_.string());
  start_ = std::chrono::steady_clock::now();
  bytes_ = 0;
}

void JsonLines::append(std::string_view lines, bool synced) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (descriptor_ >= 0 && (bytes_ >= max_bytes || now - start_ >= file_time_)) {
    ::close(descriptor_);
    descriptor_ = -1;
  }
  if (descriptor_ < 0) open();
  const auto fail = [&] {
    const int error = errno;
    // Nothing of these lines stays: their sender is told so, and sends them again. The next ones go to another file,
    // since a reader may be past the new end of this one.
    [[maybe_unused]] const int undone =
        bytes_ == 0 ? ::unlink(path_.c_str()) : ::ftruncate(descriptor_, static_cast<::off_t>(bytes_));
    ::close(descriptor_);
    descriptor_ = -1;
    throw std::system_error(error, std::generic_category(), path_.string());
  };
  for (std::string_view rest = lines; !rest.empty();) {
    const auto written = ::write(descriptor_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail();
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  if (synced && ::fsync(descriptor_) != 0) fail();
  bytes_ += lines.size();
  if (synced) sync_directory(directory_);
}

void JsonLines::finish() noexcept {
  const std::lock_guard lock(mutex_);
  if (descriptor_ < 0) return;
  ::fsync(descriptor_);
  ::close(descriptor_);
  descriptor_ = -1;
}
}  // namespace pygrade::inline v0_2::detail
