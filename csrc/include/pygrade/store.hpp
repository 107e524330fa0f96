// Where the past of users and items lies: bytes by (table, int64 key), in versions of which one is current.
//
// A version is filled while another is served, and readers see all of the old one or all of the new one:
//
//     store->begin("v2"); store->put("item", ids, values, "v2"); store->switch_to("v2"); store->drop("v1");
//
// A killed fill leaves the version filling: it is not read, `begin` empties it, `drop` removes it. Writes without a
// version go to the current one and not into one that is being filled.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/function_ref.hpp"

namespace pygrade::inline v0_2 {
// The store failed: it is not there or no store, it is damaged or of another format, or it lacks the version. The
// message names the store, without password, and the fault.
class PYGRADE_API StoreError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// No answer in time: the server is down, hangs, or refuses the login, or the deadline of the call has passed.
class PYGRADE_API StoreUnreachableError : public StoreError {
  using StoreError::StoreError;
};

// The keys of one table.
struct StoreQuery {
  std::string_view table;
  std::span<const std::int64_t> keys;
};

// The values of the keys of several queries, one after another. data() is null where there is none, or it has expired.
using StoreValues = std::span<const std::string_view>;

// Filling: begun, and never switched to. Ready: complete, and not current.
enum class VersionState : std::uint8_t { filling, ready, current };

struct StoreVersion {
  std::string name;
  VersionState state;
};

// Any number of threads may use one store at once. Every function throws a StoreError if the store fails, and
// std::invalid_argument, before anything is written, for arguments that it cannot take: a table's name has 1 to 100
// characters and no control characters, a version's 1 to 100 letters, digits, '.', '-' or '_', and a ttl is positive.
// The functions that fill are of the stores that open_store opens; by default they throw.
class PYGRADE_API Store {
 public:
  virtual ~Store();

  // --- records ---

  // Reads every key from one snapshot of the current version, in one transaction or round trip. `read` gets the values
  // of all queries, which are valid until it returns; it must not use the store. StoreUnreachableError if `deadline`
  // passes first; StoreError if no version is current.
  virtual void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
                   std::optional<std::chrono::steady_clock::time_point> deadline = {}) = 0;

  // Reads, changes and writes the keys of the current version in one step: all are written, or none; no update is lost.
  // Each table is named once, and the keys of a table are distinct. `change` gets the values and one string for each to
  // write the new value into; it may be called again with newer values, so it must only compute. `ttl`: seconds until
  // the written values expire; nothing: never.
  virtual void update(std::span<const StoreQuery> queries,
                      FunctionRef<void(StoreValues, std::span<std::string>)> change,
                      std::optional<double> ttl = {}) = 0;

  // Writes values[i] under keys[i]; of equal keys the last one stays. `version`: one that was begun, else
  // StoreError; "": the current one. `ttl`: as of `update`. Each record is written whole; a large batch may
  // become visible in parts.
  virtual void put(std::string_view table, std::span<const std::int64_t> keys, std::span<const std::string_view> values,
                   const std::string& version = {}, std::optional<double> ttl = {});

  // Removes expired records and the rest of interrupted drops. Returns the number of records removed.
  virtual std::size_t sweep();

  // --- versions ---

  // Starts to fill a version, empty; discards an unfinished fill of that name. StoreError if it is complete.
  virtual void begin(const std::string& version);

  // Makes a version the current one, in one step for every reader. It may be an older one.
  virtual void switch_to(const std::string& version);

  // In the order in which they were begun.
  virtual std::vector<StoreVersion> versions();

  // Removes a version that is not current, and frees its space. StoreError if it is current.
  virtual void drop(const std::string& version);

  // Returns the same store for readers who go on with a complete version while another is current: `get` reads
  // `version`, or, if it is gone, the current one. `update` writes to the current one, as here. StoreError if this kind
  // of store can't.
  virtual std::shared_ptr<Store> at(const std::string& version);

  // The name of the current version; nothing if there is none.
  virtual std::optional<std::string> current() = 0;

  // Whether the last call reached the store. Asks nothing, so it is for probes.
  virtual bool reachable() const noexcept { return true; }

  // The store's address, without password.
  virtual const std::string& url() const = 0;
};

struct StoreOptions {
  bool create = false;                             // make the store if there is none, which is else a StoreError
  bool read_only = false;                          // of LMDB: what writes fails
  bool wait_for_server = true;                     // of Redis: false opens it while the server is down; calls then fail
                                                   // with StoreUnreachableError until it answers
  std::chrono::milliseconds timeout{100};          // of Redis: until it must have answered or accepted a connection
  std::size_t max_bytes = std::size_t{1} << 38;    // of LMDB: to which the file may grow; of the first store that
                                                   // opens it
  std::size_t cache_bytes = std::size_t{1} << 28;  // of LMDB: for records that were read, in this process; of the
                                                   // first store that opens the file
};

// A kind of store that open_store opens.
struct StoreKind {
  std::string_view scheme, address;  // "lmdb", and how its addresses look: "lmdb:DIR"
  std::string_view help;             // description in a line
  bool built;                        // true if this build has it
};
PYGRADE_API std::span<const StoreKind> store_kinds();

// The store at an address of one of the kinds; their options: docs/guides/storage.md.
//
// StoreError if there is none and `create` is not set, if it cannot be used, or if this build lacks the library that it
// needs (see PYGRADE_LMDB and PYGRADE_REDIS in CMakeLists.txt); StoreUnreachableError if the server does not answer;
// std::invalid_argument for an address that cannot be one.
//
// Stores of one LMDB file share it in a process; one that forks opens its stores afterwards. The file grows and never
// shrinks, but the room of dropped versions is used again. A commit is written when the call returns; a power failure
// may lose the last one. A damaged record and a file that was cut off raise StoreError. LMDB trusts the structure of
// its file: other damage to it may end the process.
PYGRADE_API std::shared_ptr<Store> open_store(const std::string& url, const StoreOptions& options = {});
}  // namespace pygrade::inline v0_2
