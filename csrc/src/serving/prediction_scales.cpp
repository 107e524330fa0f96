#include "serving/prediction_scales.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>

#include "serving/missing.hpp"
#include "serving/policy.hpp"

namespace pygrade::inline v0_2 {
namespace {
using Kind = PredictionScale::Kind;

constexpr float most = std::numeric_limits<float>::max();
constexpr float margin = 1e-3f;       // rounding of a probability
constexpr float largest_log = 80.0f;  // e to it is finite, and to its negative not subnormal
constexpr std::size_t block = 16;     // rows that are checked at once

// The numbers that a column may hold.
std::pair<float, float> bounds_of(const std::optional<PredictionScale>& scale) {
  if (!scale || scale->kind == Kind::logit || scale->kind == Kind::score) return {-most, most};
  if (scale->kind == Kind::log) return {-most, scale->amount ? most : margin};
  const float one = scale->kind == Kind::percent ? 100.0f : 1.0f;
  return {0.0f, scale->amount ? most : one * (1.0f + margin)};
}

// Words for what a caller should give, and for what the column held.
std::pair<std::string, std::string> words_of(const PredictionScale& scale) {
  if (scale.kind == Kind::log) return {"a logarithm up to 0", "logarithms"};
  if (scale.kind == Kind::percent)
    return {scale.amount ? "a percentage >= 0" : "a percentage from 0 to 100", "percentages"};
  if (scale.amount) return {"an amount >= 0", "amounts"};
  return {"a probability from 0 to 1", "probabilities"};
}

[[noreturn]] void refuse(const PredictionScale& scale, const std::vector<std::string>& tasks, std::size_t task,
                         std::size_t row, float value) {
  const auto number = [](double of) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.5g", of);
    return std::string(digits);
  };
  const auto [wanted, learned] = words_of(scale);
  std::string text = "predictions is " + number(static_cast<double>(value)) + " at candidate " + std::to_string(row) +
                     ", task '" + tasks[task] + "'; expected " + wanted + ": the policy was trained on " + learned;
  if (scale.given >= 0) text += " given '" + tasks[static_cast<std::size_t>(scale.given)] + "'";
  throw std::invalid_argument(text + " (column '" + scale.column + "', " + number(scale.low) + " to " +
                              number(scale.high) + ")");
}
}  // namespace

PredictionScales::PredictionScales(std::vector<std::string> tasks, std::vector<std::optional<PredictionScale>> scales,
                                   std::string json)
    : tasks_(std::move(tasks)), scales_(std::move(scales)), json_(std::move(json)) {
  const std::size_t count = tasks_.size();
  std::vector<bool> placed(count, false);
  const auto parent_of = [&](std::size_t t) { return scales_[t] ? scales_[t]->given : std::int64_t{-1}; };
  for (std::size_t t = 0; t < count; ++t) {
    if (scales_[t] && scales_[t]->kind == Kind::score) scales_[t]->map.emplace(scales_[t]->x, scales_[t]->y);
    converts_ = converts_ || (scales_[t] && (scales_[t]->kind != Kind::probability || scales_[t]->given >= 0));
    if (const std::int64_t parent = parent_of(t); parent >= 0)
      if (const auto p = static_cast<std::size_t>(parent); p >= count || !scales_[p] || scales_[p]->amount)
        throw std::invalid_argument("the scale of '" + tasks_[t] + "' is given a task without probabilities");
  }
  for (std::size_t round = 0; round < count; ++round)
    for (std::size_t t = 0; t < count; ++t)
      if (const std::int64_t parent = parent_of(t);
          !placed[t] && (parent < 0 || placed[static_cast<std::size_t>(parent)])) {
        placed[t] = true;
        order_.push_back(t);
      }
  if (order_.size() != count) throw std::invalid_argument("scales are given each other's tasks in a circle");
  for (std::size_t row = 0; row < block; ++row)
    for (const auto& scale : scales_) {
      const auto [low, high] = bounds_of(scale);
      low_.push_back(low);
      high_.push_back(high);
    }
}

bool PredictionScales::check(std::span<const float> predictions) const {
  if (empty()) return detail::any_outside(predictions);
  if (!PYGRADE_KERNELS(policy_kernels)
           .any_outside(predictions.data(), static_cast<std::int64_t>(predictions.size()), low_.data(), high_.data(),
                        static_cast<std::int64_t>(low_.size())))
    return false;
  for (std::size_t i = 0; i < predictions.size(); ++i)
    if (const std::size_t t = i % tasks_.size();
        !is_missing(predictions[i]) && (predictions[i] < low_[t] || predictions[i] > high_[t]))
      refuse(*scales_[t], tasks_, t, i / tasks_.size(), predictions[i]);
  return true;
}

void PredictionScales::read(std::span<const float> given, std::span<float> result) const {
  const std::size_t tasks = tasks_.size();
  std::ranges::copy(given, result.begin());
  if (!converts_) return;
  const auto exp = PYGRADE_KERNELS(policy_kernels).exp;
  std::array<float, 256> memory;
  for (std::size_t first = 0; first < given.size(); first += memory.size() * tasks) {
    const auto from = given.subspan(first, std::min(memory.size() * tasks, given.size() - first));
    const auto column = std::span(memory).first(from.size() / tasks);
    float* const to = result.data() + first;
    const auto take_exp = [&](float sign) {
      for (float& value : column) value = std::clamp(sign * value, -largest_log, largest_log);
      exp(column.data(), static_cast<std::int64_t>(column.size()));
    };
    for (const std::size_t t : order_) {
      if (!scales_[t]) continue;
      const PredictionScale& scale = *scales_[t];
      for (std::size_t i = 0; i < column.size(); ++i) column[i] = from[i * tasks + t];
      if (scale.map) scale.map->map(from.data() + t, static_cast<std::int64_t>(tasks), column);
      if (scale.kind == Kind::percent) {
        for (float& value : column) value /= 100.0f;
      } else if (scale.kind == Kind::logit || (scale.map && !scale.amount)) {
        take_exp(-1.0f);
        for (float& value : column) value = 1.0f / (1.0f + value);
      } else if (scale.kind == Kind::log || scale.map) {
        take_exp(1.0f);
      }
      for (std::size_t i = 0; i < column.size(); ++i) {
        const float factor = scale.given < 0 ? 1.0f : to[i * tasks + static_cast<std::size_t>(scale.given)];
        const bool missing = is_missing(from[i * tasks + t]);
        to[i * tasks + t] = missing ? std::numeric_limits<float>::quiet_NaN() : factor * column[i];
      }
    }
  }
}

PredictionScales detail::parse_scales(const Json& table, const std::vector<std::string>& tasks) {
  const auto place_of = [&](const std::string& name) {
    const auto found = std::ranges::find(tasks, name);
    if (found == tasks.end()) throw JsonError("'scales' names " + json_quote(name) + ", which is not a task");
    return found - tasks.begin();
  };
  const auto floats = [](const Json& list) {
    std::vector<float> numbers;
    for (const Json& item : list.items) numbers.push_back(static_cast<float>(item.number));
    const bool rises = std::ranges::adjacent_find(numbers, std::greater_equal()) == numbers.end();
    if (!rises || !std::ranges::all_of(numbers, [](float number) { return std::isfinite(number); }))
      throw JsonError("'scales' has knots that do not rise");
    return numbers;
  };
  std::vector<std::optional<PredictionScale>> scales(table.keys.empty() ? 0 : tasks.size());
  for (const std::string& name : table.keys) {
    const Json& entry = table.object_at(name);
    PredictionScale& scale = scales[static_cast<std::size_t>(place_of(name))].emplace();
    const auto kind = std::ranges::find(PredictionScale::names, entry.string_at("kind"));
    if (kind == PredictionScale::names.end()) throw JsonError("'kind' of a scale is not known here");
    scale.kind = static_cast<Kind>(kind - PredictionScale::names.begin());
    scale.amount = entry.boolean_at("amount");
    if (entry.at("given").type != Json::Type::null) scale.given = place_of(entry.string_at("given"));
    scale.column = entry.string_at("column");
    scale.low = entry.finite_at("low");
    scale.high = entry.finite_at("high");
    scale.x = floats(entry.at("x"));
    scale.y = floats(entry.at("y"));
  }
  try {
    return scales.empty() ? PredictionScales() : PredictionScales(tasks, std::move(scales), json_text(table));
  } catch (const std::invalid_argument& error) {
    throw JsonError(std::string("'scales' is wrong: ") + error.what());
  }
}
}  // namespace pygrade::inline v0_2
