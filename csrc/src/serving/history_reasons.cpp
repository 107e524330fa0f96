#include "pygrade/history_reasons.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string_view>

#include "serving/missing.hpp"
#include "serving/prediction_scales.hpp"
#include "serving/score_sources.hpp"

namespace pygrade::inline v0_2 {
namespace {
using Group = History::Group;

constexpr double least_change = 0.05;  // of a factor or ratio that is worth a word
constexpr std::size_t most_reasons = 2;

// The columns of history of a request and a candidate, by name; 0 of one that the policy does not read.
struct HistoryValues {
  const Policy& policy;
  std::span<const float> context, items;  // [F], [I]

  double operator[](std::string_view name) const {
    const History& history = *policy.history();
    for (const auto& [place, column] : policy.history_items())
      if (history.item_columns()[column] == name) return static_cast<double>(items[place]);
    for (const auto& [place, column] : policy.history_features())
      if (history.context_columns()[column] == name) return static_cast<double>(context[place]);
    return 0.0;
  }
};

std::string times(double log1p_count) {
  const long count = std::lround(std::expm1(log1p_count));
  return count == 1 ? "once" : count == 2 ? "twice" : std::to_string(count) + " times";
}

std::string ago(double hours) {
  const auto in = [](double number, const char* unit) {
    const long count = std::max(std::lround(number), 1L);
    return std::to_string(count) + " " + unit + (count == 1 ? " ago" : "s ago");
  };
  return hours < 1.5 ? in(60.0 * hours, "minute") : hours < 36.0 ? in(hours, "hour") : in(hours / 24.0, "day");
}

// ", more click than predicted"; nothing of what is as predicted.
std::string beyond(double log_ratio, const std::string& task) {
  if (std::abs(std::exp(log_ratio) - 1.0) < least_change) return {};
  return (log_ratio > 0.0 ? ", more " : ", less ") + task + " than predicted";
}

// Words for the columns of a group, with a view to a task.
std::string told(const HistoryValues& values, Group group, const std::string& task) {
  const auto counted = [&](const std::string& text, const std::string& how, std::string_view column) {
    const double count = values[column];
    return count > 0.0 ? text + how + times(count) : text;
  };
  if (group == Group::seen) {
    std::string text = counted("seen", " ", "seen");
    if (const double recency = values["seen_recently"]; recency > 0.0)
      text += (text.ends_with("once") ? ", " : ", last ") + ago(1.0 / recency - 1.0);
    for (const std::string& other : values.policy.history()->spec().tasks)
      text += counted("", ", " + other + " ", "seen_" + other);
    return text;
  }
  if (group == Group::category)
    return counted("its category", " seen ", "category_seen") + beyond(values["category_" + task], task);
  if (group == Group::item) {
    const double whole = values["item_" + task], recent = values["item_recent_" + task];
    const bool lately = std::abs(recent) > std::abs(whole);
    const std::string ratio = beyond(lately ? recent : whole, task);
    return counted("item", " shown ", "item_shown") + ratio + (lately && !ratio.empty() ? " lately" : "");
  }
  std::string text = counted("user", " saw items ", "user_shown");
  if (const double pause = values["user_pause"]; pause > 0.0) text += ", last " + ago(std::expm1(pause) / 60.0);
  return text + beyond(values["user_" + task], task);
}

// Quantity that a task's factor is of: its prediction, or its odds given the parent's event.
double quantity(const Correction& correction, std::span<const float> row, std::size_t task) {
  const auto parent = correction.parts().structure.parents[task];
  const auto own = static_cast<double>(row[task]);
  return parent < 0 ? own : own / (static_cast<double>(row[static_cast<std::size_t>(parent)]) - own);
}
}  // namespace

std::vector<std::vector<HistoryReason>> history_reasons(const Policy& policy, const Request& given,
                                                        std::span<const std::int32_t> candidates) {
  detail::check_request(policy, given, 0);
  const auto rows = static_cast<std::int32_t>(given.predictions.size() / policy.tasks().size());
  for (const std::int32_t candidate : candidates)
    if (candidate < 0 || candidate >= rows)
      throw std::invalid_argument("candidates has " + std::to_string(candidate) + "; the request has " +
                                  std::to_string(rows));
  std::vector<std::vector<HistoryReason>> result(candidates.size());
  if (!policy.history() || !detail::ScoreSources(policy, given).read_corrected(policy)) return result;
  detail::Reading reading;
  std::vector<float> leveled;
  const Request& request = detail::as_logged(policy, given, reading);
  const auto columns = policy.add_levels(request.item_ids, request.items, leveled);
  const Correction& correction = *policy.correction();
  const std::size_t tasks = policy.tasks().size(), width = columns.empty() ? 0 : correction.num_items();

  // The rows that the correction sees: those without a missing prediction.
  std::vector<float> predictions, items;
  std::vector<std::optional<std::size_t>> row_of(request.predictions.size() / tasks);
  for (std::size_t i = 0; i < row_of.size(); ++i) {
    const auto row = request.predictions.subspan(i * tasks, tasks);
    if (detail::any_missing(row)) continue;
    row_of[i] = predictions.size() / tasks;
    const auto own = columns.subspan(i * width, width);
    predictions.insert(predictions.end(), row.begin(), row.end());
    items.insert(items.end(), own.begin(), own.end());
  }
  Correction::Workspace workspace;
  std::vector<float> as_is(predictions.size()), neutral(predictions.size()), unknown_user(predictions.size());
  std::vector<float> context(request.context.begin(), request.context.end());
  correction.apply(request.context, predictions, items, workspace, as_is);
  for (const auto& [place, column] : policy.history_features()) context[place] = 0.0f;
  correction.apply(context, predictions, items, workspace, unknown_user);

  for (std::size_t n = 0; n < candidates.size(); ++n) {
    const auto row = row_of[static_cast<std::size_t>(candidates[n])];
    if (!row) continue;
    const auto own = std::span(items).subspan(*row * width, width);
    const std::vector<float> kept(own.begin(), own.end());
    const HistoryValues values{policy, request.context, kept};
    const auto compare = [&](Group group, std::span<const float> without) {
      for (std::size_t t = 0; t < tasks; ++t) {
        const double factor = quantity(correction, std::span(as_is).subspan(*row * tasks, tasks), t) /
                              quantity(correction, without.subspan(*row * tasks, tasks), t);
        if (!std::isfinite(factor) || factor <= 0.0 || std::abs(factor - 1.0) < least_change) continue;
        char text[32];
        std::snprintf(text, sizeof text, " × %.2g", factor);
        const std::string& task = policy.tasks()[t];
        result[n].push_back({group, t, factor, told(values, group, task) + ": " + task + text});
      }
    };
    for (const Group group : {Group::seen, Group::category, Group::item}) {
      for (const auto& [place, column] : policy.history_items())
        if (policy.history()->item_group(column) == group) own[place] = 0.0f;
      if (std::ranges::equal(own, kept)) continue;
      correction.apply(request.context, predictions, items, workspace, neutral);
      compare(group, neutral);
      std::ranges::copy(kept, own.begin());
    }
    compare(Group::user, unknown_user);
    std::ranges::stable_sort(result[n], std::ranges::greater(),
                             [](const HistoryReason& reason) { return std::abs(std::log(reason.factor)); });
    if (result[n].size() > most_reasons) result[n].erase(result[n].begin() + most_reasons, result[n].end());
  }
  return result;
}

std::vector<std::pair<std::string, double>> history_facts(const Policy& policy, std::span<const float> items) {
  std::vector<std::pair<std::string, double>> facts;
  if (!policy.history() || items.empty()) return facts;
  const History& history = *policy.history();
  const std::size_t own = history.own_columns(), last = history.item_columns().size() - 1;
  for (const auto& [place, column] : policy.history_items()) {
    const std::string& name = history.item_columns()[column];
    const auto value = static_cast<double>(items[place]);
    if (value == 0.0 || !std::isfinite(value)) continue;
    if (column + 2 < own || (history.item_group(column) == Group::category && column < last))
      facts.emplace_back(name, std::exp(value));
    else if (column + 1 == own)
      facts.emplace_back("hours_since_first_shown", std::expm1(value));
    else if (column == own + 1)
      facts.emplace_back("hours_since_seen", 1.0 / value - 1.0);
    else
      facts.emplace_back(name, std::round(std::expm1(value)));
  }
  return facts;
}
}  // namespace pygrade::inline v0_2
