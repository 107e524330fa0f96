#include "stores/lmdb_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

#include "stores/lmdb_pages.hpp"
#include "util/forks.hpp"

namespace pygrade::detail {

namespace {

constexpr unsigned max_readers = 1024;  // of the processes that share a file; the first one's number counts
constexpr std::size_t first_map = std::size_t{64} << 20;
constexpr std::size_t no_room = 4096;  // free bytes below which a failed write is the disk's fault

bool on_read_only_disk(const std::string& directory) {
  struct statvfs disk;
  return statvfs(directory.c_str(), &disk) == 0 && (disk.f_flag & ST_RDONLY) != 0;
}

}  // namespace

// --- one environment for each file ---

struct LmdbFile::Registry {
  std::mutex mutex;
  std::map<std::pair<dev_t, ino_t>, LmdbFile*> opened;
};

LmdbFile::Registry& LmdbFile::registry() {
  static Registry& registry = *new Registry;  // stores may be closed after static objects are destroyed
  return registry;
}

LmdbFile::Handle LmdbFile::open(const std::string& directory, const std::string& url, bool read_only) {
  struct stat status;
  const std::string data = directory + "/data.mdb";
  if (stat(data.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
    const bool exists = stat(directory.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
    throw StoreError(url + ": the directory " + (exists ? "holds no store" : "does not exist") +
                     "; a store is made by Python's open_store with create=True");
  }
  if (status.st_size == 0) throw StoreError(url + " is an empty file and not a store");
  read_only = read_only || on_read_only_disk(directory);
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  LmdbFile*& file = all.opened[{status.st_dev, status.st_ino}];
  if (file == nullptr) {
    try {
      auto opened = std::unique_ptr<LmdbFile, void (*)(LmdbFile*)>(new LmdbFile(directory, url, read_only),
                                                                   [](LmdbFile* unused) { delete unused; });
      opened->open_environment();
      file = opened.release();
    } catch (...) {
      all.opened.erase({status.st_dev, status.st_ino});
      throw;
    }
  }
  file->check_process();
  if (file->read_only_ && !read_only)
    throw StoreError(url + " is open read-only in this process; close it there first");
  ++file->users_;
  return Handle(file);
}

void LmdbFile::close(LmdbFile* file) {
  if (file->forks_ != fork_count()) return;  // closing the parent's copy would free pages that the parent reads
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  if (--file->users_ > 0) return;
  std::erase_if(all.opened, [&](const auto& entry) { return entry.second == file; });
  delete file;
}

LmdbFile::LmdbFile(const std::string& directory, const std::string& url, bool read_only)
    : directory_(directory), url_(url), read_only_(read_only), forks_(fork_count()) {}

LmdbFile::~LmdbFile() {
  for (const auto& reader : idle_) mdb_txn_abort(reader->transaction);
  for (const auto& map : maps_) munmap(const_cast<unsigned char*>(map->start), map->size);
  if (environment_ != nullptr) mdb_env_close(environment_);
}

void LmdbFile::open_environment() {
  const auto check = [&](int code) {
    if (code != 0) fail(code);
  };
  check(mdb_env_create(&environment_));
  check(mdb_env_set_maxreaders(environment_, max_readers));
  // As in Python, a commit may be lost when the power fails, but never in part.
  const unsigned mode = MDB_NOTLS | MDB_NOMETASYNC | (read_only_ ? MDB_RDONLY : 0);
  check(mdb_env_open(environment_, directory_.c_str(), mode, 0644));
  check(mdb_env_get_fd(environment_, &data_));
  check_size();
  forget_killed_readers();
  auto first = std::make_unique<LmdbReader>();
  check(mdb_txn_begin(environment_, nullptr, MDB_RDONLY, &first->transaction));
  idle_.push_back(std::move(first));
  check(mdb_dbi_open(idle_.back()->transaction, nullptr, 0, &tree_));
  check_whole();
  mdb_txn_reset(idle_.back()->transaction);
}

// LMDB leaves a file short if its last pages are free, so a short file is read to tell whether it is whole.
void LmdbFile::check_whole() {
  MDB_envinfo info;
  MDB_stat stat;
  mdb_env_info(environment_, &info);
  mdb_env_stat(environment_, &stat);
  page_size_ = stat.ms_psize;
  const std::size_t wanted = (info.me_last_pgno + 1) * stat.ms_psize;
  const auto size = static_cast<std::size_t>(size_.load());
  if (size >= wanted) return;
  if (!lmdb_is_whole(data_, size, mdb_txn_id(idle_.back()->transaction)))
    throw StoreError(url_ + " was cut off: " + std::to_string(wanted - size) + " bytes are missing at its end");
  if (!read_only_) {  // so that the next open need not read it
    posix_fallocate(data_, static_cast<off_t>(wanted - 1), 1);
    check_size();
  }
}

void LmdbFile::check_process() const {
  if (forks_ != fork_count())
    throw StoreError(url_ + " was open when this process was forked; fork first, or spawn processes");
}

// A page beyond the end of the file would end the process when it is read. This sees what was cut off before a
// transaction begins.
void LmdbFile::check_size() {
  struct stat status;
  off_t largest = size_;  // before fstat: the file may grow in between, and another thread may see it
  if (fstat(data_, &status) != 0) fail(errno);
  if (status.st_size < largest)
    throw StoreError(url_ + " was cut off: " + std::to_string(largest - status.st_size) +
                     " bytes are missing at its end");
  while (status.st_size > largest && !size_.compare_exchange_weak(largest, status.st_size)) {
  }
}

// --- the file as memory ---

// A map of its own, since LMDB does not tell where its map is; empty if there is none. It is larger than the file, so
// that a growing file needs few of them.
std::span<const unsigned char> LmdbFile::map() {
  const auto size = static_cast<std::size_t>(size_.load());
  const Map* map = map_.load(std::memory_order_acquire);
  if (map != nullptr && map->size >= size) return {map->start, size};
  const std::lock_guard lock(mutex_);
  map = map_.load(std::memory_order_relaxed);
  if (map != nullptr && map->size >= size) return {map->start, size};
  auto larger = std::make_unique<Map>(Map{nullptr, std::max(2 * size, first_map)});
  void* start = mmap(nullptr, larger->size, PROT_READ, MAP_SHARED, data_, 0);
  if (start == MAP_FAILED) return {};
  larger->start = static_cast<const unsigned char*>(start);
  maps_.push_back(std::move(larger));
  map_.store(maps_.back().get(), std::memory_order_release);
  return {maps_.back()->start, size};
}

std::optional<LmdbTree> LmdbFile::open_tree(MDB_txn* transaction) {
  return LmdbTree::open(map(), page_size_, mdb_txn_id(transaction));
}

void LmdbFile::extend(LmdbTree& tree) {
  check_size();
  if (const auto file = map(); !file.empty()) tree.extend(file);
}

// --- checks ---

void LmdbFile::forget_killed_readers() {
  int dead = 0;
  if (!read_only_) mdb_reader_check(environment_, &dead);  // a read-only file system has no table of readers
}

void LmdbFile::fail(int code) const {
  const std::string reason = mdb_strerror(code);
  switch (code) {
    case MDB_CORRUPTED:
    case MDB_INVALID:
    case MDB_PAGE_NOTFOUND:
    case MDB_PANIC:
      throw StoreError(url_ + " is damaged or no LMDB file: " + reason);
    case MDB_VERSION_MISMATCH:
      throw StoreError(url_ + " was written by an LMDB of another format: " + reason);
    default:
      break;
  }
  // LMDB reports a write that was cut short as an input/output error.
  struct statvfs disk;
  const bool full = statvfs(directory_.c_str(), &disk) == 0 && disk.f_bavail * disk.f_frsize < no_room;
  if (code == ENOSPC || (full && code == EIO)) throw StoreError(url_ + ": the disk is full: " + reason);
  throw StoreError(url_ + ": " + reason);
}

// --- transactions ---

// True as soon as `done`, false if the deadline passes first.
bool LmdbFile::wait(std::unique_lock<std::mutex>& lock, Deadline deadline, FunctionRef<bool()> done) {
  if (deadline) return changed_.wait_until(lock, *deadline, done);
  changed_.wait(lock, done);
  return true;
}

// A reader of the pool, during which the map stays where it is.
class LmdbFile::Lease {
 public:
  Lease(LmdbFile& file, Deadline deadline) : file_(file) {
    std::unique_lock lock(file.mutex_);
    if (!file.wait(lock, deadline, [&] { return !file.moving_; })) check_deadline(deadline, file.url_);
    if (file.idle_.empty()) {
      file.idle_.reserve(static_cast<std::size_t>(file.reading_) + 1);  // for the readers that come back
      reader_ = std::make_unique<LmdbReader>();
    } else {
      reader_ = std::move(file.idle_.back());
      file.idle_.pop_back();
    }
    ++file.reading_;
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() {
    if (begun_) mdb_txn_reset(reader_->transaction);
    const std::lock_guard lock(file_.mutex_);
    if (reader_->transaction != nullptr) file_.idle_.push_back(std::move(reader_));
    if (--file_.reading_ == 0 && file_.moving_) file_.changed_.notify_all();
  }

  int begin() {
    const int code = reader_->transaction == nullptr
                         ? mdb_txn_begin(file_.environment_, nullptr, MDB_RDONLY, &reader_->transaction)
                         : mdb_txn_renew(reader_->transaction);
    begun_ = code == 0;
    return code;
  }
  LmdbReader& reader() { return *reader_; }

 private:
  LmdbFile& file_;
  std::unique_ptr<LmdbReader> reader_;
  bool begun_ = false;
};

void LmdbFile::read(FunctionRef<void(LmdbReader&)> body, Deadline deadline) {
  for (bool cleared = false;;) {
    check_process();
    int code = 0;
    {
      Lease lease(*this, deadline);
      check_size();
      code = lease.begin();
      if (code == 0) return body(lease.reader());
    }
    if (code == MDB_MAP_RESIZED) {
      resize(0, deadline, false);  // to the size that another process gave it
    } else if (code == MDB_READERS_FULL && !cleared) {
      forget_killed_readers();
      cleared = true;
    } else {
      fail(code);
    }
  }
}

// The one write transaction of the process.
class LmdbFile::Writing {
 public:
  explicit Writing(LmdbFile& file) : file_(file) {
    std::unique_lock lock(file.mutex_);
    if (file.writer_ == std::this_thread::get_id())
      throw StoreError(file.url_ + ": an update wrote to the store that it updates; want it to return the values");
    file.changed_.wait(lock, [&] { return file.writer_ == std::thread::id(); });
    file.writer_ = std::this_thread::get_id();
  }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;
  ~Writing() {
    const std::lock_guard lock(file_.mutex_);
    file_.writer_ = {};
    file_.changed_.notify_all();
  }

 private:
  LmdbFile& file_;
};

void LmdbFile::write(FunctionRef<int(MDB_txn*)> body, std::size_t max_bytes) {
  check_process();
  const Writing writing(*this);
  for (;;) {
    check_size();
    MDB_txn* transaction = nullptr;
    int code = mdb_txn_begin(environment_, nullptr, 0, &transaction);
    if (code == 0) {
      try {
        code = body(transaction);
      } catch (...) {
        mdb_txn_abort(transaction);
        throw;
      }
      if (code == 0)
        code = mdb_txn_commit(transaction);
      else
        mdb_txn_abort(transaction);
    }
    if (code == 0) return;
    if (code == MDB_MAP_RESIZED)
      resize(0, {}, true);
    else if (code == MDB_MAP_FULL)
      grow(max_bytes);
    else
      fail(code);
  }
}

// LMDB lets the map move only while this process has no transaction. `writing`: the caller holds a Writing.
void LmdbFile::resize(std::size_t size, Deadline deadline, bool writing) {
  std::unique_lock lock(mutex_);
  if (!wait(lock, deadline, [&] { return !moving_ && (writing || writer_ == std::thread::id()); }))
    check_deadline(deadline, url_);
  moving_ = true;  // new readers wait: overlapping ones would never all be gone
  const bool alone = wait(lock, deadline, [&] { return reading_ == 0; });
  const int code = alone ? mdb_env_set_mapsize(environment_, size) : 0;
  moving_ = false;
  changed_.notify_all();
  if (!alone) check_deadline(deadline, url_);
  if (code != 0) fail(code);
}

void LmdbFile::grow(std::size_t max_bytes) {
  MDB_envinfo info;
  mdb_env_info(environment_, &info);
  const std::size_t wanted = std::min(2 * info.me_mapsize, max_bytes);
  if (wanted <= info.me_mapsize)
    throw StoreError(url_ + " is full at " + std::to_string(info.me_mapsize) +
                     " bytes; drop versions or raise max_bytes");
  resize(wanted, {}, true);
}

}  // namespace pygrade::detail
