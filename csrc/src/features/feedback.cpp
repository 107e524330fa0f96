#include "features/feedback.hpp"

#include <algorithm>
#include <utility>

#include "features/numbers.hpp"

namespace pygrade::detail {

namespace {

void add_to(std::int64_t& field, std::int64_t amount) { field = wrapping_add(field, amount); }

}  // namespace

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

Merger::Merger(const Schema& schema, const Table& table, std::span<const std::int64_t> time,
               std::span<const std::int64_t> item, const Outcomes& outcomes)
    : schema_(schema), table_(table), time_(time), item_(item), outcomes_(outcomes), sums_(sums_of(table.sums)) {
  for (const Table::Window& window : table.windows) rings_.push_back({&window, sums_of(window.sums)});
}

const std::vector<std::int64_t>* Merger::outcome(const std::string& source) const {
  if (source.empty()) return nullptr;
  const auto found = std::ranges::lower_bound(schema_.outcomes, source);
  return &outcomes_.values[static_cast<std::size_t>(found - schema_.outcomes.begin())];
}

std::vector<Merger::Sum> Merger::sums_of(const std::vector<std::string>& sources) const {
  std::vector<Sum> sums;
  for (const std::string& source : sources) {
    const std::vector<std::int64_t>* values = outcome(source);
    const auto place = static_cast<std::size_t>(values - outcomes_.values.data());
    sums.push_back({values, is_measure(source) ? &outcomes_.observed[place] : nullptr});
  }
  return sums;
}

// One event to a count and the sums after it.
void Merger::add(const std::vector<Sum>& sums, std::uint32_t event, std::int64_t* fields) const {
  add_to(*fields++, 1);
  for (const Sum& sum : sums) {
    if (sum.observed != nullptr) add_to(*fields++, (*sum.observed)[event]);
    add_to(*fields++, (*sum.value)[event]);
  }
}

void Merger::merge(std::span<const std::uint32_t> events, std::span<std::int64_t> record) const {
  for (const std::uint32_t event : events) add(sums_, event, record.data());
  std::int64_t* last = record.data() + table_.added();
  for (const std::string& source : table_.lasts) {
    const auto* values = outcome(source);
    for (const std::uint32_t event : events)
      if (values == nullptr || (*values)[event] > 0) *last = std::max(*last, time_[event]);
    ++last;
  }
  for (const Ring& ring : rings_) merge_ring(ring, events, record.data() + ring.window->place);
  for (const Table::Recent& recent : table_.recents)
    merge_recents(recent, outcome(recent.source), events, record.data() + recent.place);
}

void Merger::merge_ring(const Ring& ring, std::span<const std::uint32_t> events, std::int64_t* slots) const {
  const std::int64_t step = ring.window->step;
  const std::size_t width = ring.window->width();
  const auto slot = [&](std::int64_t number) { return slots + static_cast<std::size_t>(number) * width; };
  std::int64_t newest = floor_divide(time_[events.back()], step);
  for (std::int64_t s = 0; s < window_slots; ++s) newest = std::max(newest, *slot(s));
  const std::int64_t oldest = wrapping_subtract(newest, window_slots);
  for (std::int64_t s = 0; s < window_slots; ++s) {
    if (*slot(s) > oldest) continue;  // the others are outside of every window from now on
    *slot(s) = never;
    std::fill_n(slot(s) + 1, width - 1, 0);
  }
  for (const std::uint32_t event : events) {
    const std::int64_t tag = floor_divide(time_[event], step);
    std::int64_t* content = slot(floor_modulo(tag, window_slots));
    if (tag <= oldest || tag < *content) continue;
    if (tag > *content) {
      *content = tag;
      std::fill_n(content + 1, width - 1, 0);
    }
    add(ring.sums, event, content + 1);
  }
}

void Merger::merge_recents(const Table::Recent& recent, const std::vector<std::int64_t>* values,
                           std::span<const std::uint32_t> events, std::int64_t* kept) const {
  using Entry = std::pair<std::int64_t, std::int64_t>;  // time, item
  std::vector<Entry> entries;
  for (auto event = events.rbegin(); event != events.rend() && entries.size() < recent.length; ++event)
    if (values == nullptr || (*values)[*event] > 0) entries.emplace_back(time_[*event], item_[*event]);
  if (entries.empty()) return;
  entries.resize(recent.length, {never, -1});
  for (std::size_t i = 0; i < recent.length; ++i) entries.emplace_back(kept[i], kept[recent.length + i]);
  std::ranges::sort(entries, std::greater<>{});
  for (std::size_t i = 0; i < recent.length; ++i) {
    kept[i] = entries[i].first;
    kept[recent.length + i] = entries[i].second;
  }
}

}  // namespace pygrade::detail
