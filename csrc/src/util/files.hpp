// Files that are read whole.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pygrade::detail {

// A file, open as long as this lives: so its inode is not given to a file that replaces it.
class OpenFile {
 public:
  // ArtifactMissing if there is no regular file; the message ends with `hint`.
  explicit OpenFile(const std::filesystem::path& path, const std::string& hint = "");
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  // ArtifactError if it has more than 2^30 bytes, changes meanwhile or can't be read.
  std::vector<std::byte> content() const;

  // Whether the path names another file by now.
  bool replaced() const;

 private:
  std::filesystem::path path_;
  int descriptor_;
  ::dev_t device_ = 0;
  ::ino_t inode_ = 0;
  std::size_t size_ = 0;
};

inline std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace pygrade::detail
