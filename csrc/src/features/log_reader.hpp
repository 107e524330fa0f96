// Features of a log's requests in order of time, from records in memory: what a center reads from a store, in a batch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "features/plan.hpp"
#include "features/record_table.hpp"

namespace pygrade::inline v0_2::detail {
// Attributes of users or items as a store holds them.
struct AttributeRows {
  std::span<const std::int64_t> ids;   // ascending
  std::span<const std::int64_t> rows;  // [ids, width]
};

// Feedback events as one array of columns [event_width, e]: time, item, the key of each table, the value of each
// outcome in fixed point, and of each measure whether it is known.
std::size_t event_width(const Schema& schema);
EventColumns event_columns(const Schema& schema, const std::int64_t* events, std::size_t count);
inline std::span<const std::int64_t> event_keys(const std::int64_t* events, std::size_t count, std::size_t table) {
  return {events + (2 + table) * count, count};
}

// R requests with n rows, in order of time.
struct LogRequests {
  std::span<const std::int64_t> user_id, time, scenario;  // [R]; scenario: codes
  std::span<const std::int64_t> offsets;                  // [R + 1]
  std::span<const std::int64_t> item_id;                  // [n]
  // [R] of the context's columns: numbers or, of texts, codes; the other one is empty.
  std::vector<std::span<const double>> numbers;
  std::vector<std::span<const std::int64_t>> codes;
};

// The arrays of a batch, with codes in place of ids.
struct LogFeatures {
  float* request_dense;       // [R, Du]
  std::int64_t* request_ids;  // [R, Fu]
  std::int64_t* sequences;    // [R, L]
  float* item_dense;          // [n, Di]
  std::int64_t* item_ids;     // [n, Fi]
  float* cross_dense;         // [n, Dx]
};

// Immutable, for any number of threads; the attributes must outlive it.
class LogReader {
 public:
  LogReader(Schema schema, AttributeRows users, AttributeRows items);

  const Plan& plan() const { return plan_; }

  // Writes keys[tables, n] of users and items together; scenario: codes, or empty.
  void keys(std::span<const std::int64_t> user_id, std::span<const std::int64_t> item_id,
            std::span<const std::int64_t> scenario, std::int64_t* keys) const;

  // Writes events as columns. `scenario`: codes, or empty. SchemaError for outcomes that do not fit.
  void events(const FeedbackEvents& events, std::span<const std::int64_t> scenario, std::int64_t* columns) const;

  // The features of requests that see the records of the tables and the events before their time, which may come in
  // any order. In the end all events are in the records. std::invalid_argument if the requests go back in time.
  void read(std::span<RecordTable* const> tables, const std::int64_t* events, std::size_t count,
            const LogRequests& requests, const LogFeatures& out) const;

 private:
  struct Places;

  const std::int64_t* user(std::int64_t id) const;  // rows of attributes
  const std::int64_t* item(std::int64_t id) const;
  void take_codes(const std::int64_t* stored, std::vector<std::int64_t>& codes) const;
  Places find(std::span<RecordTable* const> tables, const LogRequests& requests) const;
  void prefetch(std::span<RecordTable* const> tables, const LogRequests& requests, const Places& places,
                std::size_t request) const;

  Plan plan_;
  AttributeRows users_, items_;
};
}  // namespace pygrade::inline v0_2::detail
