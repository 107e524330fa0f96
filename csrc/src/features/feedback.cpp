#include "features/feedback.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "features/numbers.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

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
    throw SchemaError(name + " has " + std::to_string(found->values.size()) + " values; want " + std::to_string(count));
  for (const double value : found->values)
    if (std::isinf(value)) throw SchemaError(name + " holds an infinite number; want finite ones");
  if (!column.starts_with("y_")) return found->values;
  for (const double value : found->values)
    if (std::isnan(value)) throw SchemaError(name + " is null on a shown row; want a number");
  for (const double value : found->values)
    if (value != 0.0 && value != 1.0) throw SchemaError(name + " is " + short_text(value) + "; want 0 or 1");
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
