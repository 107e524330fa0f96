// Where the past of users and items lies: bytes by (table, int64 key), in versions of which one is current.
//
// pygrade/stores/store.py describes the interface, pygrade/stores/record.py a record and pygrade/stores/lmdb.py and
// redis.py the layouts. A server reads and adds feedback; versions are filled by Python (FeatureCenter.publish).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/export.h"
#include "pygrade/function_ref.hpp"

namespace pygrade {

// The store does not answer, is damaged, or has no current version. The message names the store and the fault.
class PYGRADE_API StoreError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The keys of one table.
struct StoreQuery {
  std::string_view table;
  std::span<const std::int64_t> keys;
};

// The values of the keys of several queries, one after another. data() is null where there is none, or it has expired.
using StoreValues = std::span<const std::string_view>;

// Any number of threads may use one store at once.
class PYGRADE_API Store {
 public:
  virtual ~Store();

  // Reads every key from one snapshot of the current version, in one transaction or round trip. `read` gets the values
  // of all queries, which are valid until it returns; it must not use the store. StoreError if the store fails; it is
  // StoreTimeout if `deadline` passes first.
  virtual void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
                   std::optional<std::chrono::steady_clock::time_point> deadline = {}) = 0;

  // Reads, changes and writes the keys of the current version in one step: all are written, or none; no update is lost.
  // Each table is named once, and the keys of a table are distinct. `change` gets the values and one string for each to
  // write the new value into; it may be called again with newer values, so it must only compute. `ttl`: seconds until
  // the written values expire; nothing: never.
  virtual void update(std::span<const StoreQuery> queries,
                      FunctionRef<void(StoreValues, std::span<std::string>)> change,
                      std::optional<double> ttl = {}) = 0;

  // The same store for readers who go on with a complete version while another is current: `get` reads `version`, or,
  // if it is gone, the current one. `update` writes to the current one, as here. StoreError if this kind of store
  // can't.
  virtual std::shared_ptr<Store> at(const std::string& version);

  // The name of the current version; nothing if there is none.
  virtual std::optional<std::string> current() = 0;

  // The store's address, without password.
  virtual const std::string& url() const = 0;
};

// `deadline` passed before the store answered.
class PYGRADE_API StoreTimeout : public StoreError {
  using StoreError::StoreError;
};

struct StoreOptions {
  bool read_only = false;                        // of LMDB: `update` fails
  std::chrono::milliseconds timeout{100};        // of Redis: until it must have answered or accepted a connection
  std::size_t max_bytes = std::size_t{1} << 40;  // of LMDB: to which an update may let the file grow
};

// The store at an address as Python's open_store takes it: "lmdb:<directory>" or "redis://…". StoreError if there is
// none, or this build lacks the library that it needs (see PYGRADE_LMDB and PYGRADE_REDIS in CMakeLists.txt);
// std::invalid_argument for an address that cannot be one. Stores of one LMDB file share it in a process; a process
// that opens it here must not open it elsewhere, say from Python, and one that forks opens its stores afterwards.
PYGRADE_API std::shared_ptr<Store> open_store(const std::string& url, const StoreOptions& options = {});

// What this build can open: "lmdb", "redis".
PYGRADE_API std::span<const std::string_view> store_libraries();

}  // namespace pygrade
