#include "service/metric_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <system_error>
#include <utility>
#include <vector>

namespace pygrade::detail {

namespace {

namespace fs = std::filesystem;

constexpr char magic[8] = {'p', 'y', 'g', 'r', 'm', 't', '0', '1'};
constexpr std::uint32_t capacity = 8192;
constexpr std::string_view retired = "retired", suffix = ".metrics", merged = "#merged ";

// A file that closes itself; with a lock it is the caller's alone.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return descriptor_; }
  bool lock(int operation) const { return ::flock(descriptor_, operation) == 0; }
  int release() { return std::exchange(descriptor_, -1); }

 private:
  int descriptor_;
};

[[noreturn]] void fail(const fs::path& path) { throw std::system_error(errno, std::generic_category(), path.string()); }

}  // namespace

void Cell::add_real(double amount) const {
  std::uint64_t before = bits_->load(std::memory_order_relaxed);
  while (!bits_->compare_exchange_weak(before, std::bit_cast<std::uint64_t>(std::bit_cast<double>(before) + amount),
                                       std::memory_order_relaxed)) {
  }
}

struct MetricFile::Series {
  std::atomic<std::uint64_t> bits;
  std::uint32_t is_real;
  char name[244];  // ends with 0
};

struct MetricFile::Header {
  static constexpr std::size_t bytes = 4096;
  char magic[8];
  std::atomic<std::uint32_t> used;

  static std::size_t file_bytes() { return bytes + capacity * sizeof(Series); }
  Series* series() { return reinterpret_cast<Series*>(reinterpret_cast<std::byte*>(this) + bytes); }
};

MetricFile::MetricFile(const std::optional<fs::path>& directory) : directory_(directory) {
  static_assert(sizeof(Series) == 256);
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (directory_) {
    fs::create_directories(*directory_);
    retire_others();
    char text[48];
    std::snprintf(text, sizeof text, "%d-%08x", static_cast<int>(::getpid()), std::random_device{}());
    name_ = std::string(text) + std::string(suffix);
    // Under a hidden name until it is locked, so that nobody takes it for one of a dead worker.
    const fs::path hidden = *directory_ / ("." + name_), path = *directory_ / name_;
    Descriptor made(hidden, O_RDWR | O_CREAT | O_EXCL);
    if (made.get() < 0 || !made.lock(LOCK_EX) ||
        ::ftruncate(made.get(), static_cast<off_t>(Header::file_bytes())) != 0 ||
        ::rename(hidden.c_str(), path.c_str()) != 0)
      fail(path);
    descriptor_ = made.release();
    flags = MAP_SHARED;
  }
  memory_ = ::mmap(nullptr, Header::file_bytes(), PROT_READ | PROT_WRITE, flags, descriptor_, 0);
  if (memory_ == MAP_FAILED) {
    memory_ = nullptr;
    fail(directory_.value_or("metrics"));
  }
  std::memcpy(static_cast<Header*>(memory_)->magic, magic, sizeof magic);
}

MetricFile::~MetricFile() {
  if (memory_ != nullptr) ::munmap(memory_, Header::file_bytes());
  if (descriptor_ >= 0) ::close(descriptor_);
}

Cell MetricFile::series(const std::string& name, bool real) {
  const std::lock_guard lock(mutex_);
  auto* header = static_cast<Header*>(memory_);
  const auto known = places_.find(name);
  if (known != places_.end()) return Cell(&header->series()[known->second].bits);
  const std::uint32_t place = header->used.load(std::memory_order_relaxed);
  if (place == capacity || name.size() >= sizeof(Series::name)) {
    left_out_.fetch_add(1, std::memory_order_relaxed);
    return Cell(&nowhere_);
  }
  Series& made = header->series()[place];
  made.is_real = real;
  name.copy(made.name, sizeof made.name - 1);
  header->used.store(place + 1, std::memory_order_release);
  places_.emplace(name, place);
  return Cell(&made.bits);
}

namespace {

// What a series of a file is, as bytes; files of other versions and damaged ones hold none.
struct Plain {
  std::uint64_t bits;
  std::uint32_t is_real;
  char name[244];
};

std::vector<Plain> content_of(int descriptor) {
  char head[sizeof magic + sizeof(std::uint32_t)];
  std::uint32_t used = 0;
  if (::pread(descriptor, head, sizeof head, 0) != sizeof head || std::memcmp(head, magic, sizeof magic) != 0)
    return {};
  std::memcpy(&used, head + sizeof magic, sizeof used);
  std::vector<Plain> series(std::min(used, capacity));
  const auto bytes = static_cast<::ssize_t>(series.size() * sizeof(Plain));
  if (::pread(descriptor, series.data(), static_cast<std::size_t>(bytes), 4096) != bytes) return {};
  for (Plain& entry : series) entry.name[sizeof entry.name - 1] = '\0';
  return series;
}

double value_of(const Plain& entry) {
  return entry.is_real ? std::bit_cast<double>(entry.bits) : static_cast<double>(entry.bits);
}

// The files of workers in a directory.
std::vector<fs::path> worker_files(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(suffix) && !name.starts_with('.') && !name.starts_with(retired)) files.push_back(entry.path());
  }
  return files;
}

fs::path retired_path(const fs::path& directory) { return directory / (std::string(retired) + std::string(suffix)); }

// The sums of the workers that are gone, and the names of their files, as keys that start with `merged`.
std::map<std::string, Plain> read_retired(const fs::path& directory) {
  std::map<std::string, Plain> series;
  const Descriptor file(retired_path(directory), O_RDONLY);
  if (file.get() < 0) return series;
  for (const Plain& entry : content_of(file.get())) series.emplace(entry.name, entry);
  return series;
}

void add(std::map<std::string, Plain>& sums, const Plain& entry) {
  const auto [found, is_new] = sums.emplace(entry.name, entry);
  if (is_new) return;
  Plain& sum = found->second;
  if (sum.is_real)
    sum.bits = std::bit_cast<std::uint64_t>(std::bit_cast<double>(sum.bits) + value_of(entry));
  else
    sum.bits += entry.bits;
}

void write_retired(const fs::path& directory, const std::map<std::string, Plain>& series) {
  std::string content(4096, '\0');
  const auto used = static_cast<std::uint32_t>(std::min<std::size_t>(series.size(), capacity));
  std::memcpy(content.data(), magic, sizeof magic);
  std::memcpy(content.data() + sizeof magic, &used, sizeof used);
  std::size_t written = 0;
  for (const auto& [name, entry] : series)
    if (written++ < used) content.append(reinterpret_cast<const char*>(&entry), sizeof entry);
  const fs::path hidden = directory / (".retired" + std::string(suffix));
  const Descriptor file(hidden, O_WRONLY | O_CREAT | O_TRUNC);
  const auto size = static_cast<::ssize_t>(content.size());
  if (file.get() < 0 || ::write(file.get(), content.data(), content.size()) != size || ::fsync(file.get()) != 0 ||
      ::rename(hidden.c_str(), retired_path(directory).c_str()) != 0)
    fail(hidden);
}

}  // namespace

// Adds the files that nobody holds to `retired`, then removes them.
void MetricFile::retire_others() const {
  const Descriptor guard(*directory_ / ".lock", O_RDWR | O_CREAT);
  if (guard.get() < 0 || !guard.lock(LOCK_EX)) fail(*directory_ / ".lock");
  auto sums = read_retired(*directory_);
  const auto files = worker_files(*directory_);
  std::erase_if(sums, [&](const auto& entry) {  // files that are gone need no mention
    return entry.first.starts_with(merged) && !fs::exists(*directory_ / entry.first.substr(merged.size()));
  });
  std::vector<fs::path> dead;
  for (const fs::path& path : files) {
    const Descriptor file(path, O_RDONLY);
    if (file.get() < 0 || !file.lock(LOCK_EX | LOCK_NB)) continue;
    dead.push_back(path);
    Plain mention{1, 0, {}};
    (std::string(merged) + path.filename().string()).copy(mention.name, sizeof mention.name - 1);
    if (!sums.emplace(mention.name, mention).second) continue;  // added before its remover died
    for (const Plain& entry : content_of(file.get())) add(sums, entry);
  }
  if (dead.empty()) return;
  write_retired(*directory_, sums);
  for (const fs::path& path : dead) ::unlink(path.c_str());
}

MetricFile::Read MetricFile::read() const {
  Read result;
  const auto take = [&](const Plain& entry) { result.sums[entry.name] += value_of(entry); };
  if (!directory_) {
    auto* header = static_cast<Header*>(memory_);
    const std::uint32_t used = header->used.load(std::memory_order_acquire);
    for (std::uint32_t i = 0; i < used; ++i) {
      const Series& series = header->series()[i];
      const std::uint64_t bits = series.bits.load(std::memory_order_relaxed);
      result.sums[series.name] += series.is_real ? std::bit_cast<double>(bits) : static_cast<double>(bits);
    }
    result.workers = 1;
    return result;
  }
  const Descriptor guard(*directory_ / ".lock", O_RDWR | O_CREAT);
  if (guard.get() >= 0) guard.lock(LOCK_SH);
  const auto gone = read_retired(*directory_);
  for (const auto& [name, entry] : gone)
    if (!name.starts_with(merged)) take(entry);
  for (const fs::path& path : worker_files(*directory_)) {
    const std::string name = path.filename().string();
    if (gone.contains(std::string(merged) + name)) continue;
    const Descriptor file(path, O_RDONLY);
    if (file.get() < 0) continue;
    if (name == name_ || !file.lock(LOCK_SH | LOCK_NB)) ++result.workers;
    for (const Plain& entry : content_of(file.get())) take(entry);
  }
  return result;
}

}  // namespace pygrade::detail
