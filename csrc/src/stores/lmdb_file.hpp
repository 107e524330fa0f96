// One LMDB file, opened once a process: transactions that follow and grow its map, and errors by name.
#pragma once

#include <lmdb.h>
#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "pygrade/function_ref.hpp"
#include "stores/lmdb_tree.hpp"
#include "stores/record.hpp"

namespace pygrade::detail {

// A read transaction and the memory of a read. Readers are kept and used again, so that a read allocates nothing.
struct LmdbReader {
  MDB_txn* transaction = nullptr;
  std::vector<std::string_view> values;
  std::vector<LmdbName> names;
  std::vector<const void*> work;
};

// The environment behind every store of one directory in this process: LMDB forbids a second one.
class LmdbFile {
 public:
  struct Release {
    void operator()(LmdbFile* file) const { close(file); }
  };
  using Handle = std::unique_ptr<LmdbFile, Release>;

  // The directory holds data.mdb. StoreError if it is damaged, or open in another way.
  static Handle open(const std::string& directory, const std::string& url, bool read_only);

  // Calls `body` with a transaction that is a snapshot.
  void read(FunctionRef<void(LmdbReader&)> body, Deadline deadline);

  // Calls `body` with a write transaction and commits it; again if the map had to grow, to at most max_bytes. `body`
  // returns the first code of LMDB that is not 0.
  void write(FunctionRef<int(MDB_txn*)> body, std::size_t max_bytes);

  bool read_only() const { return read_only_; }
  MDB_dbi tree() const { return tree_; }
  // See LmdbTree::open; of the transaction of `read`.
  std::optional<LmdbTree> open_tree(MDB_txn* transaction);
  // The file may have grown since then.
  void extend(LmdbTree& tree);
  [[noreturn]] void fail(int code) const;

 private:
  class Lease;
  class Writing;
  struct Registry;

  LmdbFile(const std::string& directory, const std::string& url, bool read_only);
  ~LmdbFile();
  static Registry& registry();
  static void close(LmdbFile* file);

  void open_environment();
  void check_whole();
  void check_process() const;
  void check_size();
  std::span<const unsigned char> map();
  void forget_killed_readers();
  void resize(std::size_t size, Deadline deadline, bool writing);
  void grow(std::size_t max_bytes);
  bool wait(std::unique_lock<std::mutex>& lock, Deadline deadline, FunctionRef<bool()> done);

  const std::string directory_, url_;
  const bool read_only_;
  const int forks_;  // of the processes before this one
  MDB_env* environment_ = nullptr;
  MDB_dbi tree_ = 0;
  mdb_filehandle_t data_ = -1;
  std::size_t page_size_ = 0;
  std::atomic<off_t> size_ = 0;  // the largest seen: LMDB never shortens the file
  int users_ = 0;                // guarded by the registry

  struct Map {
    const unsigned char* start;
    std::size_t size;
  };
  std::atomic<const Map*> map_ = nullptr;   // the last of maps_
  std::vector<std::unique_ptr<Map>> maps_;  // old ones stay, for readers that are in them

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<LmdbReader>> idle_;
  int reading_ = 0;      // open read transactions
  bool moving_ = false;  // the map moves as soon as nobody reads
  std::thread::id writer_;
};

}  // namespace pygrade::detail
