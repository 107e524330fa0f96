// One LMDB file, opened once a process: its transactions, and errors by name.
#pragma once

#include <lmdb.h>
#include <sys/types.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "pygrade/function_ref.hpp"
#include "stores/record.hpp"
#include "stores/record_cache.hpp"

namespace pygrade::inline v0_2::detail {
inline MDB_val to_lmdb(std::string_view bytes) { return {bytes.size(), const_cast<char*>(bytes.data())}; }
inline std::string_view from_lmdb(const MDB_val& bytes) {
  return {static_cast<const char*>(bytes.mv_data), bytes.mv_size};
}

using LmdbVersion = std::array<char, 4>;  // a version's number, big endian

// A read transaction and the memory of a read. Readers are kept and used again, so that a read allocates nothing.
struct LmdbReader {
  explicit LmdbReader(std::atomic<std::ptrdiff_t>& room) : cache(room) {}

  MDB_txn* transaction = nullptr;
  MDB_cursor* cursor = nullptr;
  std::vector<LmdbName> names;
  std::vector<std::string_view> values;
  std::vector<std::uint32_t> missing;  // in the cache
  std::vector<RecordContent> found;    // of those

  // State of the commit that the transaction reads.
  std::size_t commit = 0;
  RecordCache cache;
  std::optional<LmdbVersion> version;  // the number of the version that was read last,
  std::string version_name;            // and its name, "": the current one
};

// The records of one version that a commit changes.
struct LmdbChanges {
  LmdbVersion version;
  std::span<const LmdbName> names;  // nothing: perhaps all
};

// The environment behind every store of one directory in this process: LMDB forbids a second one.
class LmdbFile {
 public:
  struct Release {
    void operator()(LmdbFile* file) const { close(file); }
  };
  using Handle = std::unique_ptr<LmdbFile, Release>;

  // The directory holds data.mdb, or it is made.
  static Handle open(const std::string& directory, const std::string& url, const StoreOptions& options);

  // Calls `body` with a transaction that is a snapshot, and with what the reader remembers of it.
  void read(FunctionRef<void(LmdbReader&)> body);

  // Calls `body` with a write transaction, which is committed unless it throws. It says whose records it changed.
  void write(FunctionRef<void(MDB_txn*, std::optional<LmdbChanges>&)> body);

  // Puts what was committed on the disk.
  void sync();

  // Pages that killed readers hold can be used again.
  void forget_killed_readers();

  bool read_only() const { return read_only_; }
  MDB_dbi tree() const { return tree_; }
  [[noreturn]] void fail(int code) const;

 private:
  class Lease;
  class Writing;
  struct Registry;

  LmdbFile(const std::string& directory, const std::string& url, const StoreOptions& options, bool read_only);
  ~LmdbFile();
  static Registry& registry();
  static void close(LmdbFile* file);

  void open_environment();
  void check_whole();
  bool can_be_read(MDB_txn* transaction) const;
  void check_process() const;
  void check_size();
  off_t lock_size() const;
  void follow(LmdbReader& reader) const;
  int note(MDB_txn* transaction, const std::optional<LmdbChanges>& changes) const;

  const std::string directory_, url_;
  const bool read_only_;
  const int forks_;  // of the processes before this one
  const std::size_t max_bytes_;
  MDB_env* environment_ = nullptr;
  MDB_dbi tree_ = 0;
  mdb_filehandle_t data_ = -1, lock_ = -1;
  off_t lock_size_ = 0;          // when it was opened
  std::atomic<off_t> size_ = 0;  // the largest seen: LMDB never shortens the file
  int users_ = 0;                // guarded by the registry

  std::mutex mutex_;
  std::mutex writing_;  // LMDB's own lock would wait for ever for this thread
  std::atomic<std::ptrdiff_t> cache_room_;
  std::vector<std::unique_ptr<LmdbReader>> idle_;
  std::size_t reading_ = 0;  // open read transactions
  std::atomic<std::thread::id> writer_;
};
}  // namespace pygrade::inline v0_2::detail
