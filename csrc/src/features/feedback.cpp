#include "features/feedback.hpp"

#include <algorithm>

#include "features/numbers.hpp"

namespace pygrade::inline v0_2::detail {

KeyedEvents group(std::span<const std::int64_t> keys, std::span<const std::uint32_t> in_time) {
  KeyedEvents grouped;
  for (const std::uint32_t event : in_time)
    if (keys[event] != null_code) grouped.events.push_back(event);
  std::ranges::stable_sort(grouped.events, {}, [&](std::uint32_t event) { return keys[event]; });
  for (std::size_t i = 0; i < grouped.events.size(); ++i) {
    const std::int64_t key = keys[grouped.events[i]];
    if (grouped.keys.empty() || grouped.keys.back() != key) {
      grouped.keys.push_back(key);
      grouped.start.push_back(i);
    }
  }
  grouped.start.push_back(grouped.events.size());
  return grouped;
}

}  // namespace pygrade::inline v0_2::detail
