#include "stores/lmdb_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

#include "util/crc32.hpp"
#include "util/forks.hpp"

#if MDB_VERSION_MAJOR != 0 || MDB_VERSION_MINOR != 9
#error "stores are files of LMDB 0.9, which LMDB 1.0 does not read: build with LMDB 0.9"
#endif

namespace pygrade::inline v0_2::detail {
namespace {
constexpr unsigned max_readers = 1024;  // of the processes that share a file; the first one's number counts
constexpr std::size_t no_room = 4096;   // free bytes below which a failed write is the disk's fault

constexpr std::size_t log_size = 64, log_names = 64;  // commits, and names of each, that are noted
constexpr const char* data_file = "/data.mdb";

// The directory of a store, with an empty file if there is none.
void prepare(const std::string& directory, const std::string& url) {
  try {
    std::filesystem::create_directories(directory);
    for (const auto& entry : std::filesystem::directory_iterator(directory))
      if (const std::string name = entry.path().filename(); name != "data.mdb" && name != "lock.mdb")
        throw StoreError(url + ": the directory holds '" + name + "'; expected an empty one or a store");
  } catch (const std::filesystem::filesystem_error& error) {
    throw StoreError(url + " cannot be made: " + error.code().message());
  }
  const int file = open((directory + data_file).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0 && errno != EROFS) throw StoreError(url + " cannot be made: " + std::strerror(errno));
  if (file >= 0) ::close(file);
}

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

LmdbFile::Handle LmdbFile::open(const std::string& directory, const std::string& url, const StoreOptions& options) {
  if (options.create) prepare(directory, url);
  struct stat status;
  const std::string data = directory + data_file;
  if (stat(data.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
    const bool exists = stat(directory.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
    throw StoreError(url + ": the directory " + (exists ? "holds no store" : "does not exist") +
                     "; a store is made by open_store with create");
  }
  if (status.st_size == 0 && !options.create) throw StoreError(url + " is an empty file and not a store");
  const bool read_only = options.read_only || on_read_only_disk(directory);
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  LmdbFile*& file = all.opened[{status.st_dev, status.st_ino}];
  if (file == nullptr) {
    try {
      auto opened = std::unique_ptr<LmdbFile, void (*)(LmdbFile*)>(new LmdbFile(directory, url, options, read_only),
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

LmdbFile::LmdbFile(const std::string& directory, const std::string& url, const StoreOptions& options, bool read_only)
    : directory_(directory),
      url_(url),
      read_only_(read_only),
      forks_(fork_count()),
      max_bytes_(options.max_bytes),
      cache_room_(static_cast<std::ptrdiff_t>(options.cache_bytes)) {}

LmdbFile::~LmdbFile() {
  if (lock_size() < lock_size_) return;  // what closing would write to is gone: memory and files are left to the system
  for (const auto& reader : idle_) {
    if (reader->cursor != nullptr) mdb_cursor_close(reader->cursor);
    mdb_txn_abort(reader->transaction);
  }
  idle_.clear();
  if (environment_ != nullptr) mdb_env_close(environment_);
  if (lock_ >= 0) ::close(lock_);  // not before: it ends the locks that this process has on the file
}

off_t LmdbFile::lock_size() const {
  struct stat status;
  return lock_ >= 0 && fstat(lock_, &status) == 0 ? status.st_size : 0;
}

void LmdbFile::open_environment() {
  const auto check = [&](int code) {
    if (code != 0) fail(code);
  };
  check(mdb_env_create(&environment_));
  check(mdb_env_set_maxreaders(environment_, max_readers));
  check(mdb_env_set_mapsize(environment_, max_bytes_));  // addresses alone: the file grows as it is filled
  // A commit may be lost when the power fails, but never in part.
  const unsigned mode = MDB_NOTLS | MDB_NOMETASYNC | (read_only_ ? MDB_RDONLY : 0);
  check(mdb_env_open(environment_, directory_.c_str(), mode, 0644));
  check(mdb_env_get_fd(environment_, &data_));
  lock_ = ::open((directory_ + "/lock.mdb").c_str(), O_RDONLY | O_CLOEXEC);  // none on a read-only disk
  lock_size_ = lock_size();
  check_size();
  forget_killed_readers();
  auto first = std::make_unique<LmdbReader>(cache_room_);
  check(mdb_txn_begin(environment_, nullptr, MDB_RDONLY, &first->transaction));
  idle_.push_back(std::move(first));
  check(mdb_dbi_open(idle_.back()->transaction, nullptr, 0, &tree_));
  check(mdb_cursor_open(idle_.back()->transaction, tree_, &idle_.back()->cursor));
  check_whole();
  mdb_txn_reset(idle_.back()->transaction);
}

// LMDB leaves a file short if its last pages are free. A page beyond its end would end the process that reads it, so
// the file gets its whole length, and if it is then damaged, its old one again.
void LmdbFile::check_whole() {
  MDB_envinfo info;
  MDB_stat stat;
  mdb_env_info(environment_, &info);
  mdb_env_stat(environment_, &stat);
  const auto wanted = static_cast<off_t>((info.me_last_pgno + 1) * stat.ms_psize), size = size_.load();
  if (size >= wanted) return;
  const StoreError cut(url_ + " was cut off: " + std::to_string(wanted - size) + " bytes are missing at its end" +
                       (read_only_ ? ", which a store that may write can tell from free ones" : ""));
  if (read_only_) throw cut;
  if (ftruncate(data_, wanted) != 0) fail(errno);
  if (!can_be_read(idle_.back()->transaction)) {
    if (ftruncate(data_, size) != 0) fail(errno);
    throw cut;
  }
  check_size();
}

// Whether all records and the free pages can be read.
bool LmdbFile::can_be_read(MDB_txn* transaction) const {
  int code = 0;
  for (const MDB_dbi tree : {MDB_dbi{0}, tree_}) {  // 0: the free pages
    MDB_cursor* cursor = nullptr;
    MDB_val key, value;
    code = mdb_cursor_open(transaction, tree, &cursor);
    while (code == 0 && (code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
      if (key.mv_size == sizeof(LmdbName) && crc32(from_lmdb(value)) != crc32_whole) code = MDB_CORRUPTED;
    if (cursor != nullptr) mdb_cursor_close(cursor);
    if (code != MDB_NOTFOUND) return false;
  }
  return true;
}

void LmdbFile::check_process() const {
  if (forks_ != fork_count())
    throw StoreError(url_ + " was open when this process was forked; fork first, or spawn processes");
}

// Sees what was cut off before a transaction begins: LMDB maps both files, and a page beyond the end of one ends the
// process.
void LmdbFile::check_size() {
  struct stat status;
  off_t largest = size_;  // before fstat: the file may grow in between, and another thread may see it
  if (fstat(data_, &status) != 0) fail(errno);
  if (status.st_size < largest)
    throw StoreError(url_ + " was cut off: " + std::to_string(largest - status.st_size) +
                     " bytes are missing at its end");
  while (status.st_size > largest && !size_.compare_exchange_weak(largest, status.st_size)) {
  }
  if (lock_size() < lock_size_)  // every transaction writes to it
    throw StoreError(url_ + " has lost its lock.mdb, which was cut off while it was open; expected it opened anew");
}

// --- checks ---

void LmdbFile::forget_killed_readers() {
  int dead = 0;
  if (!read_only_) mdb_reader_check(environment_, &dead);  // a read-only file system has no table of readers
}

void LmdbFile::fail(int code) const {
  const std::string reason = mdb_strerror(code);
  switch (code) {
    case MDB_VERSION_MISMATCH:
      throw StoreError(url_ + " is a file of another LMDB; this release reads those of 0.9");
    case MDB_CORRUPTED:
    case MDB_INVALID:
    case MDB_PAGE_NOTFOUND:
    case MDB_PANIC:
      throw StoreError(url_ + " is damaged or no LMDB file: " + reason);
    case MDB_MAP_FULL:
    case MDB_MAP_RESIZED:
      throw StoreError(url_ + " is full at " + std::to_string(max_bytes_) + " bytes; drop versions or raise max_bytes");
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

// A reader of the pool.
class LmdbFile::Lease {
 public:
  explicit Lease(LmdbFile& file) : file_(file) {
    const std::lock_guard lock(file.mutex_);
    if (file.idle_.empty()) {
      file.idle_.reserve(file.reading_ + 1);  // for the readers that come back
      reader_ = std::make_unique<LmdbReader>(file.cache_room_);
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
    --file_.reading_;
  }

  int begin() {
    MDB_txn*& transaction = reader_->transaction;
    int code = transaction == nullptr ? mdb_txn_begin(file_.environment_, nullptr, MDB_RDONLY, &transaction)
                                      : mdb_txn_renew(transaction);
    begun_ = code == 0;
    if (code == 0)
      code = reader_->cursor == nullptr ? mdb_cursor_open(transaction, file_.tree_, &reader_->cursor)
                                        : mdb_cursor_renew(transaction, reader_->cursor);
    return code;
  }
  LmdbReader& reader() { return *reader_; }

 private:
  LmdbFile& file_;
  std::unique_ptr<LmdbReader> reader_;
  bool begun_ = false;
};

void LmdbFile::read(FunctionRef<void(LmdbReader&)> body) {
  for (bool cleared = false;; cleared = true) {
    check_process();
    int code = 0;
    {
      Lease lease(*this);
      check_size();
      code = lease.begin();
      if (code == 0) {
        follow(lease.reader());
        return body(lease.reader());
      }
    }
    if (code != MDB_READERS_FULL || cleared) fail(code);
    forget_killed_readers();
  }
}

void LmdbFile::write(FunctionRef<void(MDB_txn*, std::optional<LmdbChanges>&)> body) {
  check_process();
  if (writer_ == std::this_thread::get_id()) throw update_wrote(url_);
  const std::lock_guard lock(writing_);
  struct Writer {
    explicit Writer(std::atomic<std::thread::id>& of) : id(of) { id = std::this_thread::get_id(); }
    ~Writer() { id = std::thread::id(); }
    std::atomic<std::thread::id>& id;
  };
  const Writer writer(writer_);
  check_size();
  MDB_txn* transaction = nullptr;
  if (const int code = mdb_txn_begin(environment_, nullptr, 0, &transaction); code != 0) fail(code);
  try {
    std::optional<LmdbChanges> changes;
    body(transaction, changes);
    if (const int code = note(transaction, changes); code != 0) fail(code);
  } catch (...) {
    mdb_txn_abort(transaction);
    throw;
  }
  if (const int code = mdb_txn_commit(transaction); code != 0) fail(code);
}

void LmdbFile::sync() {
  if (const int code = mdb_env_sync(environment_, 1); code != 0) fail(code);
}

// --- what commits changed ---

// Every commit writes, under its number modulo log_size, its number and what it changed: names of records, or the
// number of a version, which stands for all of its records. So a record that was read at commit C is that of a later
// commit T if each of C + 1 .. T has an entry with its own number and none of them names it. A program that does not
// know this writes no entry, whose place then has another number, or none: then nothing is known of T. (Addresses in
// the map prove nothing: LMDB uses the pages of commits again that nobody reads any more.)
namespace {
std::array<char, 8> log_key(std::size_t commit) {
  return {0, 0, 0, 0, 'l', 'o', 'g', static_cast<char>(commit % log_size)};
}
}  // namespace

int LmdbFile::note(MDB_txn* transaction, const std::optional<LmdbChanges>& changes) const {
  const std::uint64_t commit = mdb_txn_id(transaction);
  std::string entry(reinterpret_cast<const char*>(&commit), sizeof commit);
  if (changes && !changes->names.empty() && changes->names.size() <= log_names)
    entry.append(changes->names[0].data(), changes->names.size() * sizeof(LmdbName));
  else if (changes)
    entry.append(changes->version.data(), changes->version.size());
  const auto place = log_key(commit);
  MDB_val key = to_lmdb({place.data(), place.size()}), value = to_lmdb(entry);
  return mdb_put(transaction, tree_, &key, &value, 0);
}

void LmdbFile::follow(LmdbReader& reader) const {
  const std::size_t last = mdb_txn_id(reader.transaction);
  if (last == reader.commit) return;
  bool known = last - reader.commit <= log_size;
  for (std::size_t commit = reader.commit + 1; known && commit <= last; ++commit) {
    const auto place = log_key(commit);
    MDB_val key = to_lmdb({place.data(), place.size()}), value;
    std::uint64_t number = 0;
    known = mdb_get(reader.transaction, tree_, &key, &value) == 0 && value.mv_size >= sizeof number;
    if (!known) break;
    std::memcpy(&number, value.mv_data, sizeof number);
    const std::string_view changed = from_lmdb(value).substr(sizeof number);
    known = number == commit && !(changed.size() == sizeof(LmdbVersion) && reader.cache.holds(changed));
    for (std::size_t at = 0; at + sizeof(LmdbName) <= changed.size(); at += sizeof(LmdbName)) {
      LmdbName name;
      std::ranges::copy(changed.substr(at, name.size()), name.begin());
      reader.cache.forget(name);
    }
  }
  if (!known) reader.cache.clear();
  reader.commit = last;
  reader.version.reset();
}
}  // namespace pygrade::inline v0_2::detail
