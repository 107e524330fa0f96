#include "mtl/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pygrade/policy.hpp"

namespace pygrade::detail {

namespace {

namespace fs = std::filesystem;

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

// An open directory: its files are those of one save, even if the path names another directory by now.
class OpenDirectory {
 public:
  explicit OpenDirectory(const fs::path& path)
      : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY)) {
    if (descriptor_.number() < 0 || ::fstat(descriptor_.number(), &status_) != 0)
      throw ArtifactMissing(path.string() + " does not exist; want a directory that pygrade.mtl.save wrote");
  }

  std::vector<std::byte> content(const char* name, const char* hint) const {
    const std::string path = (path_ / name).string();
    const Descriptor file(::openat(descriptor_.number(), name, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status{};
    if (file.number() < 0 || ::fstat(file.number(), &status) != 0 || !S_ISREG(status.st_mode))
      throw ArtifactMissing(path + " does not exist or can't be read; " + hint);
    std::vector<std::byte> content(static_cast<std::size_t>(status.st_size));
    std::size_t filled = 0;
    while (filled < content.size()) {
      const ::ssize_t count = ::read(file.number(), content.data() + filled, content.size() - filled);
      if (count <= 0) throw ArtifactError(path + " can't be read, or changed while it was read");
      filled += static_cast<std::size_t>(count);
    }
    return content;
  }

  bool replaced() const {
    struct stat now{};
    return ::stat(path_.c_str(), &now) == 0 && (now.st_dev != status_.st_dev || now.st_ino != status_.st_ino);
  }

 private:
  fs::path path_;
  Descriptor descriptor_;
  struct stat status_{};
};

}  // namespace

MtlFiles read_mtl_files(const fs::path& directory) {
  for (;;) {
    const OpenDirectory open(directory);
    try {
      return {open.content("mtl.json", "want a directory that pygrade.mtl.save wrote"),
              open.content("mtl.safetensors", "mtl.json beside it names it")};
    } catch (const ArtifactError&) {
      if (!open.replaced()) throw;  // else the old directory was being deleted
    }
  }
}

}  // namespace pygrade::detail
