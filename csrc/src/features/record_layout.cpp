#include "features/record_layout.hpp"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "features/numbers.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

using Entry = std::pair<std::int64_t, std::int64_t>;  // time, item

void add_to(std::int64_t& field, std::int64_t amount) { field = wrapping_add(field, amount); }

std::int64_t outcome_of(const Schema& schema, const std::string& source) {
  if (source.empty()) return -1;
  return std::ranges::lower_bound(schema.outcomes, source) - schema.outcomes.begin();
}

bool is_positive(std::int64_t outcome, const EventColumns& events, std::size_t event) {
  return outcome < 0 || events.values[static_cast<std::size_t>(outcome)][event] > 0;
}

std::int64_t newest_step(const std::int64_t* slots, std::size_t width) {
  std::int64_t newest = slots[0];
  for (std::size_t s = 1; s < window_slots; ++s) newest = std::max(newest, slots[s * width]);
  return newest;
}

// Empties the slots that are outside of every window once `newest` has begun.
void clear_stale(std::int64_t* slots, std::size_t width, std::int64_t newest) {
  for (std::size_t s = 0; s < window_slots; ++s) {
    std::int64_t* slot = slots + s * width;
    if (*slot > wrapping_subtract(newest, window_slots)) continue;
    *slot = never;
    std::fill_n(slot + 1, width - 1, 0);
  }
}

}  // namespace

RecordLayout::RecordLayout(const Schema& schema, const Table& table) : empty_(table.empty), added_(table.added()) {
  const auto sums_of = [&](const std::vector<std::string>& sources) {
    std::vector<Sum> sums;
    for (const std::string& source : sources)
      sums.push_back({static_cast<std::size_t>(outcome_of(schema, source)), is_measure(source)});
    return sums;
  };
  sums_ = sums_of(table.sums);
  for (const std::string& source : table.lasts) lasts_.push_back(outcome_of(schema, source));
  for (const Table::Window& window : table.windows)
    rings_.push_back({window.step, sums_of(window.sums), window.place, window.width()});
  for (const Table::Recent& recent : table.recents)
    recents_.push_back({outcome_of(schema, recent.source), recent.length, recent.place});
}

// One event to a count and the sums after it.
void RecordLayout::add_sums(const std::vector<Sum>& sums, const EventColumns& events, std::size_t event,
                            std::int64_t* fields) {
  add_to(*fields++, 1);
  for (const Sum& sum : sums) {
    if (sum.measure) add_to(*fields++, events.known[sum.outcome][event]);
    add_to(*fields++, events.values[sum.outcome][event]);
  }
}

void RecordLayout::add(const EventColumns& events, std::size_t event, std::int64_t* record) const {
  const std::int64_t time = events.time[event];
  add_sums(sums_, events, event, record);
  std::int64_t* last = record + added_;
  for (const std::int64_t outcome : lasts_) {
    if (is_positive(outcome, events, event)) *last = std::max(*last, time);
    ++last;
  }
  for (const Ring& ring : rings_) add_to_ring(ring, events, event, record + ring.place);
  for (const Recent& recent : recents_) {
    if (!is_positive(recent.outcome, events, event)) continue;
    std::int64_t *times = record + recent.place, *items = times + recent.length;
    const Entry added{time, events.item[event]};
    std::size_t at = recent.length;
    for (; at > 0 && added > Entry{times[at - 1], items[at - 1]}; --at) {
      if (at == recent.length) continue;  // the last entry is dropped
      times[at] = times[at - 1];
      items[at] = items[at - 1];
    }
    if (at < recent.length) std::tie(times[at], items[at]) = added;
  }
}

void RecordLayout::add_to_ring(const Ring& ring, const EventColumns& events, std::size_t event, std::int64_t* slots) {
  const std::int64_t tag = floor_divide(events.time[event], ring.step);
  std::int64_t* slot = slots + static_cast<std::size_t>(floor_modulo(tag, window_slots)) * ring.width;
  if (*slot != tag) {
    const std::int64_t newest = newest_step(slots, ring.width);
    if (tag <= wrapping_subtract(newest, window_slots)) return;
    if (tag > newest) clear_stale(slots, ring.width, tag);
    *slot = tag;  // it was empty: another step of this slot is 8 or more steps away
  }
  add_sums(ring.sums, events, event, slot + 1);
}

void RecordLayout::merge(const std::int64_t* other, std::int64_t* record) const {
  for (std::size_t i = 0; i < added_; ++i) add_to(record[i], other[i]);
  for (std::size_t i = added_; i < added_ + lasts_.size(); ++i) record[i] = std::max(record[i], other[i]);
  for (const Ring& ring : rings_) merge_ring(ring, other + ring.place, record + ring.place);
  std::vector<Entry> entries;
  for (const Recent& recent : recents_) {
    std::int64_t *times = record + recent.place, *items = times + recent.length;
    const std::int64_t *more = other + recent.place, *their_items = more + recent.length;
    if (more[0] == never) continue;
    entries.clear();
    for (std::size_t i = 0; i < recent.length; ++i) {
      entries.emplace_back(times[i], items[i]);
      entries.emplace_back(more[i], their_items[i]);
    }
    std::ranges::sort(entries, std::greater<>{});
    for (std::size_t i = 0; i < recent.length; ++i) std::tie(times[i], items[i]) = entries[i];
  }
}

void RecordLayout::merge_ring(const Ring& ring, const std::int64_t* other, std::int64_t* slots) {
  const std::int64_t newest = std::max(newest_step(slots, ring.width), newest_step(other, ring.width));
  clear_stale(slots, ring.width, newest);
  for (std::size_t s = 0; s < window_slots; ++s, other += ring.width, slots += ring.width) {
    if (*other == never || *other <= wrapping_subtract(newest, window_slots)) continue;
    if (*slots == *other) {
      for (std::size_t i = 1; i < ring.width; ++i) add_to(slots[i], other[i]);
    } else {  // empty: both are inside of one window
      std::copy_n(other, ring.width, slots);
    }
  }
}

}  // namespace pygrade::inline v0_2::detail
