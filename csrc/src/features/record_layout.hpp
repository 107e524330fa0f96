// Feedback events, and how they change the records of a table; pygrade/features/state.py documents a record.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "features/schema.hpp"
#include "pygrade/features.hpp"

namespace pygrade::inline v0_2::detail {
// Outcomes of events in the order of Schema::outcomes.
struct Outcomes {
  std::vector<std::vector<std::int64_t>> values;  // [outcomes][e] fixed point
  std::vector<std::vector<std::int64_t>> known;   // [outcomes][e] 1 if a measure is known; of others empty
};

// SchemaError for a column that is missing, a y_ that is not 0 or 1, or anything infinite.
Outcomes outcomes_of(const Schema& schema, const FeedbackEvents& events);

// Columns of feedback events.
struct EventColumns {
  std::span<const std::int64_t> time, item;           // [e] ms; items
  std::vector<std::span<const std::int64_t>> values;  // as in Outcomes
  std::vector<std::span<const std::int64_t>> known;
};

// Adds one event to a record, which then depends on the set of its events, not on their order.
void add_event(const Table& table, const EventColumns& events, std::size_t event, std::int64_t* record);

// Adds the events of another record of the same key.
void merge_records(const Table& table, const std::int64_t* other, std::int64_t* record);
}  // namespace pygrade::inline v0_2::detail
