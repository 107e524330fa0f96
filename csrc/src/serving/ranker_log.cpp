// The log rows of a request, as CSV.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "serving/missing.hpp"
#include "serving/prediction_scales.hpp"

namespace pygrade::inline v0_2 {
namespace {
template <class Number>
void number(Number value, std::string& out) {
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value);
  out.append(text, end.ptr);
}

// A real number; nothing for NaN.
void real(float value, std::string& out) {
  if (!std::isnan(value)) number(value, out);
}

void field(std::string_view text, std::string& out) {
  if (text.find_first_of(",\"\r\n") == text.npos) {
    out += text;
    return;
  }
  out += '"';
  for (const char c : text) out.append(c == '"' ? 2 : 1, c);
  out += '"';
}
}  // namespace

void append_log_header(const Policy& policy, std::string& out) {
  const auto columns = [&](const char* prefix, std::span<const std::string> names) {
    for (const auto& name : names) {
      out += ',';
      field(prefix + name, out);
    }
  };
  out += "request_id,user_id,item_id,position";
  columns("x_", policy.features());
  columns("p_", policy.tasks());
  columns("y_", policy.tasks());
  columns("i_", policy.own_items());
  if (policy.takes_prices()) out += ",value";
  if (policy.takes_categories()) out += ",category";
  out += ",scenario";
  columns("w_", policy.tasks());
  columns("a_", policy.tasks());
  out += ",seed,policy_version,exploration,timestamp,mixture_weight,baseline,verdict";
  if (policy.takes_values()) columns("v_", policy.tasks());
  out += '\n';
}

void append_log_rows(const Policy& policy, const Request& given, const PageBuffer& buffer, const Page& page,
                     const LogIds& ids, std::string& out) {
  detail::Reading reading;
  const Request& request = detail::as_logged(policy, given, reading);
  const std::size_t tasks = policy.tasks().size();
  const std::size_t rows = request.predictions.size() / tasks;
  if (buffer.weights.size() != tasks || buffer.concentration.size() != tasks)
    throw std::invalid_argument("the log needs the weights and the concentration of the page");
  if (!ids.item_id.empty() && ids.item_id.size() != rows)
    throw std::invalid_argument("item_id must have one entry for each candidate");
  if (!request.item_values.empty() && request.item_values.size() != rows)
    throw std::invalid_argument("item_values must have one value for each candidate, or none");
  const std::size_t items = policy.items().size();
  if (items > 0 && !request.items.empty() && request.items.size() != rows * items)
    throw std::invalid_argument("items must have one value for each candidate and item column, or none");
  if (!request.categories.empty() && request.categories.size() != rows)
    throw std::invalid_argument("categories must have one name for each candidate, or none");
  const auto shown = buffer.indices.first(static_cast<std::size_t>(page.filled));
  for (std::size_t position = 0; position < shown.size(); ++position)
    if (shown[position] < 0 || static_cast<std::size_t>(shown[position]) >= rows)
      throw std::invalid_argument("indices[" + std::to_string(position) + "] is " + std::to_string(shown[position]) +
                                  "; expected the place of one of the " + std::to_string(rows) + " candidates");
  // The parts of a row that all candidates share.
  std::string before;
  field(ids.request_id, before);
  before += ',';
  field(ids.user_id, before);
  before += ',';
  std::string context;
  for (std::size_t f = 0; f < policy.features().size(); ++f) {
    context += ',';
    if (f < request.context.size() && std::isfinite(request.context[f])) real(request.context[f], context);
  }
  std::string after = ",";
  field(request.scenario.value_or(""), after);
  for (const float weight : buffer.weights) real(weight, after += ',');
  for (const float alpha : buffer.concentration) {
    after += ',';
    if (page.explored) real(alpha, after);
  }
  number(page.seed, after += ',');
  after += ',';
  after += page.version();
  after.append(",").append(page.exploration()).append(",");
  if (ids.timestamp) number(*ids.timestamp, after);
  real(page.mixture_weight, after += ',');
  field(page.baseline(), after += ',');
  after += ',';
  after += verdict_names[static_cast<std::size_t>(page.verdict)];
  if (policy.takes_values()) {
    Policy::RequestValues in_force;
    policy.find_values(request.values, request.scenario, in_force);
    in_force.values.resize(tasks, std::numeric_limits<float>::quiet_NaN());
    for (const float value : in_force.values) real(value, after += ',');
  }
  after += '\n';

  for (std::size_t row = 0; row < rows; ++row) {
    const auto predictions = request.predictions.subspan(row * tasks, tasks);
    std::size_t position = 0;
    while (position < shown.size() && shown[position] != static_cast<std::int32_t>(row)) ++position;
    const bool is_shown = position < shown.size();
    if (!is_shown && std::ranges::any_of(predictions, is_missing)) continue;
    out += before;
    number(ids.item_id.empty() ? static_cast<std::int64_t>(row) : ids.item_id[row], out);
    out += ',';
    if (is_shown) number(position, out);
    out += context;
    for (std::size_t t = 0; t < tasks; ++t) {
      out += ',';
      real(is_missing(predictions[t]) ? detail::smallest(request.predictions, tasks, t) : predictions[t], out);
    }
    for (std::size_t t = 0; t < tasks; ++t) out += is_shown ? ",0" : ",";
    for (std::size_t i = 0; i < policy.own_items().size(); ++i) {
      out += ',';
      if (!request.items.empty() && std::isfinite(request.items[row * items + i]))
        real(request.items[row * items + i], out);
    }
    if (policy.takes_prices()) {
      out += ',';
      if (!request.item_values.empty()) number(request.item_values[row], out);
    }
    if (policy.takes_categories()) {
      out += ',';
      if (!request.categories.empty()) field(request.categories[row], out);
    }
    out += after;
  }
}
}  // namespace pygrade::inline v0_2
