// Feedback events by key.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pygrade::inline v0_2::detail {

// Events of one table, in order of key, within a key of time, then item, then as they came.
struct KeyedEvents {
  std::vector<std::int64_t> keys;     // [k] ascending
  std::vector<std::size_t> start;     // [k + 1] first event of each key
  std::vector<std::uint32_t> events;  // their numbers
};

// Groups the events by key, without those that have none. `in_time`: their numbers in order of (time, item).
KeyedEvents group(std::span<const std::int64_t> keys, std::span<const std::uint32_t> in_time);

}  // namespace pygrade::inline v0_2::detail
