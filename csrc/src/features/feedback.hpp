// Feedback events: their outcomes as records count them, and the events of each key.
#pragma once

#include <cstddef>
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

// Events of one table, in order of key, within a key of time, then item, then as they came.
struct KeyedEvents {
  std::vector<std::int64_t> keys;     // [k] ascending
  std::vector<std::size_t> start;     // [k + 1] first event of each key
  std::vector<std::uint32_t> events;  // their numbers
};

// Groups the events by key, without those that have none. `in_time`: their numbers in order of (time, item).
KeyedEvents group(std::span<const std::int64_t> keys, std::span<const std::uint32_t> in_time);

}  // namespace pygrade::inline v0_2::detail
