#include "util/files.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <mutex>

#include "pygrade/policy.hpp"
#include "util/sha256.hpp"

namespace pygrade::inline v0_2 {

struct FileContent::Digest {
  std::once_flag once;
  std::string text;
};

FileContent::FileContent(std::shared_ptr<const void> owner, std::span<const std::byte> bytes)
    : owner_(std::move(owner)), bytes_(bytes), digest_(std::make_shared<Digest>()) {}

FileContent::FileContent(std::span<const std::byte> bytes) : FileContent(nullptr, bytes) {}

FileContent::FileContent(std::vector<std::byte> bytes) {
  const auto kept = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  *this = FileContent(kept, *kept);
}

const std::string& FileContent::sha256() const {
  static const std::string empty = detail::sha256_hex({});
  if (digest_ == nullptr) return empty;
  std::call_once(digest_->once, [&] { digest_->text = detail::sha256_hex(bytes_); });
  return digest_->text;
}

}  // namespace pygrade::inline v0_2

namespace pygrade::inline v0_2::detail {

namespace {

constexpr std::size_t max_file = std::size_t{1} << 30;

}  // namespace

OpenFile::OpenFile(const std::filesystem::path& path, const std::string& hint)
    : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  struct stat status{};
  if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw ArtifactMissing(path.string() + " does not exist or can't be read" + hint);
  }
  device_ = status.st_dev;
  inode_ = status.st_ino;
  size_ = static_cast<std::size_t>(status.st_size);
}

OpenFile::~OpenFile() { ::close(descriptor_); }

std::vector<std::byte> OpenFile::content() const {
  if (size_ > max_file) throw ArtifactError(path_.string() + " has " + std::to_string(size_) + " bytes; want ≤ 2^30");
  std::vector<std::byte> content(size_ + 1);  // one more, to see a file that has grown
  std::size_t filled = 0;
  for (::ssize_t count = 1; count > 0 && filled < content.size(); filled += static_cast<std::size_t>(count)) {
    count = ::read(descriptor_, content.data() + filled, content.size() - filled);
    if (count < 0) throw ArtifactError(path_.string() + " can't be read");
  }
  if (filled != size_) throw ArtifactError(path_.string() + " changed while it was read");
  content.resize(filled);
  return content;
}

FileContent OpenFile::map() const {
  if (size_ == 0) return {};
  void* const start = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_, 0);
  if (start == MAP_FAILED) throw ArtifactError(path_.string() + " can't be mapped");
  std::shared_ptr<const void> mapping(start, [size = size_](void* memory) { ::munmap(memory, size); });
  return {std::move(mapping), {static_cast<const std::byte*>(start), size_}};
}

bool OpenFile::replaced() const {
  struct stat status{};
  return ::stat(path_.c_str(), &status) != 0 || status.st_dev != device_ || status.st_ino != inode_;
}

void sync_directory(const std::filesystem::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace pygrade::inline v0_2::detail
