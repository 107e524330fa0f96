// Feedback events as records keep them; pygrade/features/aggregates.py and records.py say how.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "features/schema.hpp"

namespace pygrade::detail {

// Outcomes of events in the order of Schema::outcomes.
struct Outcomes {
  std::vector<std::vector<std::int64_t>> values;    // [outcomes][e] fixed point
  std::vector<std::vector<std::int64_t>> observed;  // [outcomes][e] 1 if a measure is known; of others empty
};

// Events of one table, in order of key, within a key of time, then item, then as they came.
struct KeyedEvents {
  std::vector<std::int64_t> keys;     // [k] ascending
  std::vector<std::size_t> start;     // [k + 1] first event of each key
  std::vector<std::uint32_t> events;  // their numbers
};

// Groups the events by key, without those that have none. `in_time`: their numbers in order of (time, item).
KeyedEvents group(std::span<const std::int64_t> keys, std::span<const std::uint32_t> in_time);

// Adds events to the records of one table.
class Merger {
 public:
  Merger(const Schema& schema, const Table& table, std::span<const std::int64_t> time,
         std::span<const std::int64_t> item, const Outcomes& outcomes);

  // Adds the events of one key, in the order of KeyedEvents, to its record.
  void merge(std::span<const std::uint32_t> events, std::span<std::int64_t> record) const;

 private:
  struct Sum {
    const std::vector<std::int64_t>*value, *observed;  // observed: null if it is no measure
  };
  struct Ring {
    const Table::Window* window;
    std::vector<Sum> sums;
  };

  std::vector<Sum> sums_of(const std::vector<std::string>& sources) const;
  const std::vector<std::int64_t>* outcome(const std::string& source) const;  // null: every event is positive
  void add(const std::vector<Sum>& sums, std::uint32_t event, std::int64_t* fields) const;
  void merge_ring(const Ring& ring, std::span<const std::uint32_t> events, std::int64_t* slots) const;
  void merge_recents(const Table::Recent& recent, const std::vector<std::int64_t>* values,
                     std::span<const std::uint32_t> events, std::int64_t* kept) const;

  const Schema& schema_;
  const Table& table_;
  const std::span<const std::int64_t> time_, item_;
  const Outcomes& outcomes_;
  std::vector<Sum> sums_;
  std::vector<Ring> rings_;
};

}  // namespace pygrade::detail
