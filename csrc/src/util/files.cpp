#include "util/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "pygrade/policy.hpp"
#include "util/huge_pages.hpp"
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

// Reads as many bytes as the file had when it was opened.
void OpenFile::fill(std::byte* to) const {
  std::byte past = {};  // to see a file that has grown
  for (std::size_t filled = 0; filled <= size_;) {
    const bool more = filled < size_;
    const ::ssize_t count = ::read(descriptor_, more ? to + filled : &past, more ? size_ - filled : 1);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw ArtifactError(path_.string() + " can't be read");
    if ((count > 0) != more) throw ArtifactError(path_.string() + " changed while it was read");
    if (!more) return;
    filled += static_cast<std::size_t>(count);
  }
}

std::vector<std::byte> OpenFile::content() const {
  if (size_ > max_file)
    throw ArtifactError(path_.string() + " has " + std::to_string(size_) + " bytes; expected ≤ 2^30");
  std::vector<std::byte> content(size_);
  fill(content.data());
  return content;
}

FileContent OpenFile::large_content() const {
  const std::shared_ptr<std::byte[]> memory(new std::byte[size_]);  // not filled with zeros first
  ask_for_huge_pages(memory.get(), size_);
  fill(memory.get());
  return {memory, {memory.get(), size_}};
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
