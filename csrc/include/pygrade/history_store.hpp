// History (history.hpp) where it is served: records of users and items in a store, written as pages are shown.
//
// A page in the steady state reads one record, the user's: columns of items change once a step and are remembered.
//
// Pages are taken into a queue and written together by a thread, within a tenth of a second. An exposure that counts
// already and lies in the queue yet is waited for: columns are those of a log up to then, whatever the clock of the
// requests. What a kill -9 loses is thus the pages of the last moments; what `add_feedback` and `remove_user` returned
// from is in the store. Writes commute, and each of them counts once, however often it is sent.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/history.hpp"
#include "pygrade/ranker.hpp"
#include "pygrade/store.hpp"

namespace pygrade::inline v0_2 {
// The rule of a policy with the tables that hold its records, and the columns of items that this process remembers.
// Tables are named by what fixes records: tasks, categories, half-life and delay of feedback. A policy that is trained
// anew with these goes on with the records. Any number of threads may use one.
class PYGRADE_API StoredHistory {
 public:
  // `items`: whose columns are remembered, at most.
  explicit StoredHistory(History history, std::size_t items = std::size_t{1} << 17);
  ~StoredHistory();
  StoredHistory(const StoredHistory&) = delete;
  StoredHistory& operator=(const StoredHistory&) = delete;

  const History& history() const;
  const std::string& layout() const;  // 8 digits

 private:
  friend class HistoryStore;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Columns of a request, and the memory that `read` works in. Reused, it allocates nothing.
struct PYGRADE_API HistoryBuffer {
  HistoryBuffer();
  ~HistoryBuffer();
  HistoryBuffer(HistoryBuffer&&) noexcept;
  HistoryBuffer& operator=(HistoryBuffer&&) noexcept;

  std::vector<float> context;  // [C] of History::context_columns
  std::vector<float> columns;  // [N, I] of History::item_columns
  bool user_known = false;     // the user was shown something that is in the store

  struct Work;
  std::unique_ptr<Work> work;
};

// Feedback on a row that was shown.
struct HistoryEvent {
  std::int64_t user = 0, request = 0, item = 0;  // keys
  std::int64_t time = 0;                         // ms since 1970
  std::size_t task = 0;                          // of the history
};

struct HistoryStoreOptions {
  std::string salt = "pygrade";            // of the hash by which users are stored; another one: all are new
  std::optional<double> ttl = {};          // seconds that a record lives without a write; nothing: for ever
  std::size_t queue_rows = 200'000;        // exposures that wait to be written
  std::chrono::milliseconds wait{1'000};   // of a read without a deadline, for those that count already
  std::chrono::milliseconds gather{20};    // until pages are written, if nobody waits
  std::chrono::milliseconds retry{1'000};  // after an error
};

struct HistoryCounters {
  std::uint64_t pages = 0;    // written
  std::uint64_t dropped = 0;  // pages that found the queue full, or were left in it at the end
  std::uint64_t events = 0;   // written: each the first of its task on a row
  std::uint64_t ignored = 0;  // events on rows that are not among the user's last, too late, or there already
  std::uint64_t errors = 0;   // of the store: reads, and writes of pages, which are tried again
};

// The key of a user, request or item by its id or name; of a category, 0 of one that is unknown.
PYGRADE_API std::int64_t history_key(std::int64_t id);
PYGRADE_API std::int64_t history_key(std::string_view name);
PYGRADE_API std::int64_t category_key(std::string_view name);

// Exposures of a page: the candidates in its slots, with predictions as its log has them. std::invalid_argument without
// a timestamp, item ids, and the history's tasks.
PYGRADE_API std::vector<History::Exposure> exposures_of(const History& history, const Policy& policy,
                                                        const Request& request, std::span<const std::int32_t> shown,
                                                        const LogIds& ids);

class PYGRADE_API HistoryStore {
 public:
  // A store of its own: a version is begun in one that has none. It need not answer yet.
  explicit HistoryStore(std::shared_ptr<Store> store, const HistoryStoreOptions& options = {});
  // Writes what is in the queue, if the store takes it.
  ~HistoryStore();
  HistoryStore(const HistoryStore&) = delete;
  HistoryStore& operator=(const HistoryStore&) = delete;

  // Columns at `now` of a user's request for candidates items[N], categories[N] (0: none; empty: all are), into the
  // buffer. StoreError if the store fails or a record is damaged, StoreUnreachableError if the deadline passes first or
  // exposures that count could not be written; std::invalid_argument for categories of another size.
  void read(StoredHistory& history, std::int64_t user, std::int64_t now, std::span<const std::int64_t> items,
            std::span<const std::int64_t> categories, HistoryBuffer& buffer,
            std::optional<std::chrono::steady_clock::time_point> deadline = {});

  // Takes what a page showed, rows of one request: the first page of a request counts. False if the queue is full: then
  // it is dropped, and counted.
  bool add_exposures(std::shared_ptr<const StoredHistory> history, std::int64_t user,
                     std::vector<History::Exposure> exposures);

  // Writes feedback, after all pages that were taken before. Returns how many events count. StoreError if it is not
  // written; it may be sent again.
  std::size_t add_feedback(const std::shared_ptr<const StoredHistory>& history, std::span<const HistoryEvent> events);

  // Removes a user's records, by every rule that was ever written, after all pages that were taken before. What items
  // earned stays, without a trace of who it was. StoreError if it is not written.
  void remove_user(std::int64_t user);

  // Returns when all that was taken before is written. StoreError if it is not.
  void flush();

  HistoryCounters counters() const;
  std::size_t waiting() const;     // pages in the queue
  std::string last_error() const;  // "" if there was none, or writes succeed again
  const std::string& url() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
}  // namespace pygrade::inline v0_2
