#include "features/record_layout.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <tuple>
#include <utility>

#include "features/numbers.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
using Entry = std::pair<std::int64_t, std::int64_t>;  // time, item

void add_to(std::int64_t& field, std::int64_t amount) { field = wrapping_add(field, amount); }

bool is_positive(const Table::Field& field, const EventColumns& events, std::size_t event) {
  return field.outcome < 0 || events.values[static_cast<std::size_t>(field.outcome)][event] > 0;
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

// One event to a count and the sums after it.
void add_sums(const Table::Fields& sums, const EventColumns& events, std::size_t event, std::int64_t* cells) {
  add_to(cells[0], 1);
  for (const Table::Field& sum : sums) {
    const auto outcome = static_cast<std::size_t>(sum.outcome);
    if (sum.measure) add_to(cells[sum.place - 1], events.known[outcome][event]);
    add_to(cells[sum.place], events.values[outcome][event]);
  }
}

void add_to_window(const Table::Window& window, const EventColumns& events, std::size_t event, std::int64_t* slots) {
  const std::int64_t tag = floor_divide(events.time[event], window.step);
  std::int64_t* slot = slots + static_cast<std::size_t>(floor_modulo(tag, window_slots)) * window.width();
  if (*slot != tag) {
    const std::int64_t newest = newest_step(slots, window.width());
    if (tag <= wrapping_subtract(newest, window_slots)) return;
    if (tag > newest) clear_stale(slots, window.width(), tag);
    *slot = tag;  // it was empty: another step of this slot is 8 or more steps away
  }
  add_sums(window.sums, events, event, slot + 1);
}

void merge_window(std::size_t width, const std::int64_t* other, std::int64_t* slots) {
  const std::int64_t newest = std::max(newest_step(slots, width), newest_step(other, width));
  clear_stale(slots, width, newest);
  for (std::size_t s = 0; s < window_slots; ++s, other += width, slots += width) {
    if (*other == never || *other <= wrapping_subtract(newest, window_slots)) continue;
    if (*slots == *other) {
      for (std::size_t i = 1; i < width; ++i) add_to(slots[i], other[i]);
    } else {  // empty: both are inside of one window
      std::copy_n(other, width, slots);
    }
  }
}

std::string short_text(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value, std::chars_format::general, 6).ptr};
}

// The values of an outcome's column, checked.
std::span<const double> outcome_column(const FeedbackEvents& events, std::string_view column, std::size_t count) {
  const auto found = std::ranges::find(events.outcomes, column, &FeedbackEvents::Outcome::name);
  const std::string name = "feedback " + std::string(column);
  if (found == events.outcomes.end()) {
    std::string known;
    for (const auto& outcome : events.outcomes) known.append(known.empty() ? "" : ", ").append(outcome.name);
    throw SchemaError("feedback lacks " + std::string(column) + "; its outcomes are " +
                      (known.empty() ? "none" : known));
  }
  if (found->values.size() != count)
    throw SchemaError(name + " has " + std::to_string(found->values.size()) + " values; expected " +
                      std::to_string(count));
  for (const double value : found->values)
    if (std::isinf(value)) throw SchemaError(name + " holds an infinite number; expected finite ones");
  if (!column.starts_with("y_")) return found->values;
  for (const double value : found->values)
    if (std::isnan(value)) throw SchemaError(name + " is null on a shown row; expected a number");
  for (const double value : found->values)
    if (value != 0.0 && value != 1.0) throw SchemaError(name + " is " + short_text(value) + "; expected 0 or 1");
  return found->values;
}
}  // namespace

Outcomes outcomes_of(const Schema& schema, const FeedbackEvents& events) {
  Outcomes outcomes;
  for (const std::string& source : schema.outcomes) {
    const bool logarithm = source.starts_with("log1p(");
    const std::string_view column =
        logarithm ? std::string_view(source).substr(6, source.size() - 7) : std::string_view(source);
    std::vector<std::int64_t> values, known_of;
    for (const double value : outcome_column(events, column, events.user_id.size())) {
      const bool known = value == value;
      const double number = known ? value : 0.0;
      values.push_back(to_fixed(logarithm ? log1p_of(from_zero(number)) : number));
      if (is_measure(source)) known_of.push_back(known);
    }
    outcomes.values.push_back(std::move(values));
    outcomes.known.push_back(std::move(known_of));
  }
  return outcomes;
}

void add_event(const Table& table, const EventColumns& events, std::size_t event, std::int64_t* record) {
  const std::int64_t time = events.time[event];
  add_sums(table.sums, events, event, record);
  for (const Table::Field& last : table.lasts)
    if (is_positive(last, events, event)) record[last.place] = std::max(record[last.place], time);
  for (const Table::Window& window : table.windows) add_to_window(window, events, event, record + window.place);
  for (const auto& [field, length] : table.recents) {
    if (!is_positive(field, events, event)) continue;
    std::int64_t *times = record + field.place, *items = times + length;
    const Entry added{time, events.item[event]};
    std::size_t at = length;
    for (; at > 0 && added > Entry{times[at - 1], items[at - 1]}; --at) {
      if (at == length) continue;  // the last entry is dropped
      times[at] = times[at - 1];
      items[at] = items[at - 1];
    }
    if (at < length) std::tie(times[at], items[at]) = added;
  }
}

void merge_records(const Table& table, const std::int64_t* other, std::int64_t* record) {
  for (std::size_t i = 0; i < Table::added(table.sums); ++i) add_to(record[i], other[i]);
  for (const Table::Field& last : table.lasts) record[last.place] = std::max(record[last.place], other[last.place]);
  for (const Table::Window& window : table.windows)
    merge_window(window.width(), other + window.place, record + window.place);
  std::vector<Entry> entries;
  for (const auto& [field, length] : table.recents) {
    std::int64_t *times = record + field.place, *items = times + length;
    const std::int64_t *more = other + field.place, *their_items = more + length;
    if (more[0] == never) continue;
    entries.clear();
    for (std::size_t i = 0; i < length; ++i) {
      entries.emplace_back(times[i], items[i]);
      entries.emplace_back(more[i], their_items[i]);
    }
    std::ranges::sort(entries, std::greater<>{});
    for (std::size_t i = 0; i < length; ++i) std::tie(times[i], items[i]) = entries[i];
  }
}
}  // namespace pygrade::inline v0_2::detail
