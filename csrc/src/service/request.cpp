#include "service/request.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "service/api.hpp"

namespace pygrade::detail {

namespace {

constexpr auto rank_keys = api::names_of(api::rank_fields);
constexpr auto event_keys = api::names_of(api::event_fields);
constexpr auto update_keys = api::names_of(api::update_fields);
constexpr std::size_t max_text = 256;
constexpr std::int64_t last_time = std::int64_t{1} << 53;

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void ids_of(const Json& list, std::string_view argument, const Ids& ids, std::vector<std::int64_t>& out) {
  out.clear();
  out.reserve(list.items.size());
  for (const Json& item : list.items) {
    if (!ids.named && item.whole && item.integer >= 0)
      out.push_back(item.integer);
    else
      out.push_back(ids.of(item, std::string(argument) + "[" + std::to_string(out.size()) + "]"));
  }
}

std::optional<std::vector<std::int64_t>> list_of_ids(const Input& input, std::string_view key, std::size_t max_size,
                                                     const Ids& ids) {
  const Json* list = input.list(key, max_size);
  if (list == nullptr) return {};
  std::vector<std::int64_t> found;
  ids_of(*list, key, ids, found);
  return found;
}

std::size_t task_of(const std::string& name, std::string_view argument, const std::vector<std::string>& tasks) {
  const auto found = std::ranges::find(tasks, name);
  if (found == tasks.end())
    throw InputError(argument, std::string(argument) + " names the task '" + name + "'; want one of " + joined(tasks));
  return static_cast<std::size_t>(found - tasks.begin());
}

std::optional<std::chrono::microseconds> deadline_of(const Input& input) {
  const auto ms = input.number("deadline_ms", 0.0, 3'600'000.0);
  if (!ms) return {};
  return std::chrono::microseconds(std::llround(*ms * 1000.0));
}

}  // namespace

Json parse_body(std::string_view body, const ServiceConfig& config) {
  try {
    return Json::parse(body, {.bytes = config.max_body_bytes, .values = config.max_body_bytes, .depth = 8});
  } catch (const JsonError& error) {
    throw InputError("body", "the body is no JSON: " + std::string(error.what()));
  }
}

void RankInput::parse(std::string_view body, const ServiceConfig& config, const Naming& naming,
                      const std::vector<std::string>& tasks) {
  document = parse_body(body, config);
  const Input input(document, rank_keys);
  user = naming.users.of(input.at("user"), "user", true);
  k = static_cast<std::size_t>(input.integer("k", 1, config.max_k).value_or(std::min<std::int64_t>(10, config.max_k)));
  const std::int64_t usual = std::min<std::int64_t>(500, config.max_candidates);
  candidates = static_cast<std::size_t>(input.integer("candidates", 1, config.max_candidates).value_or(usual));
  items = list_of_ids(input, "items", static_cast<std::size_t>(config.max_candidates), naming.items);
  const std::size_t any = config.max_body_bytes;
  eligible = list_of_ids(input, "eligible", any, naming.items);
  seen.clear();
  if (const Json* list = input.list("seen", any)) ids_of(*list, "seen", naming.items, seen);

  context.clear();
  if (const Json* given = input.object("context")) {
    for (std::size_t i = 0; i < given->items.size(); ++i) {
      const Json& value = given->items[i];
      ContextValue entry{.name = given->keys[i]};
      if (value.type == Json::Type::string)
        entry.text = value.string;
      else if (value.type == Json::Type::number)
        entry.number = value.number;
      else if (value.type != Json::Type::null)
        refuse("context." + given->keys[i], value, "a number, a text or null");
      context.push_back(entry);
    }
  }
  scenario = input.string("scenario", max_text);
  request_id = input.string("request_id", max_text);
  timestamp = input.integer("timestamp", -last_time, last_time).value_or(now_ms());
  explore = input.boolean("explore");
  deadline = deadline_of(input);
  if (!deadline) deadline = config.deadline;

  values.clear();
  if (const Json* given = input.object("values")) {
    values.assign(tasks.size(), std::numeric_limits<float>::quiet_NaN());
    for (std::size_t i = 0; i < given->items.size(); ++i) {
      const Json& value = given->items[i];
      const std::size_t task = task_of(given->keys[i], "values", tasks);
      if (value.type != Json::Type::number || !(value.number >= 0.0 && value.number <= 1e30))
        refuse("values." + given->keys[i], value, "a number from 0 to 1e30");
      values[task] = static_cast<float>(value.number);
    }
  }
  item_values.reset();
  if (const Json* given = input.list("item_values", any)) {
    if (!items) throw InputError("item_values", "item_values is given without items; want a value for each of them");
    if (given->items.size() != items->size())
      refuse("item_values", *given, "one value for each of the " + std::to_string(items->size()) + " items");
    item_values.emplace();
    for (const Json& value : given->items) {
      if (value.type != Json::Type::number || !(value.number >= 0.0 && value.number <= 1e30))
        refuse("item_values[" + std::to_string(item_values->size()) + "]", value, "a number from 0 to 1e30");
      item_values->push_back(static_cast<float>(value.number));
    }
  }
  arm.reset();
  if (const auto name = input.string("arm", max_text)) {
    const auto found = std::ranges::find(config.arms, *name, &ArmConfig::name);
    std::string known;
    for (const ArmConfig& one : config.arms) known += (known.empty() ? "" : ", ") + one.name;
    if (found == config.arms.end()) refuse("arm", input.at("arm"), "one of " + known);
    arm = static_cast<std::size_t>(found - config.arms.begin());
  }
}

void UpdateInput::parse(std::string_view body, const ServiceConfig& config, const Naming& naming,
                        const std::vector<std::string>& tasks) {
  document = parse_body(body, config);
  const Input input(document, update_keys);
  input.at("events");
  const Json& list = *input.list("events", static_cast<std::size_t>(config.max_events));
  events.clear();
  const std::int64_t now = now_ms();
  for (const Json& value : list.items) {
    const Input event(value, event_keys, "events[" + std::to_string(events.size()) + "].");
    EventInput made;
    made.user = naming.users.of(event.at("user"), event.name("user"), true);
    made.item = naming.items.of(event.at("item"), event.name("item"));
    if (const auto task = event.string("task", max_text))
      made.task = task_of(std::string(*task), event.name("task"), tasks);
    made.timestamp = event.integer("timestamp", -last_time, last_time).value_or(now);
    made.amount = event.number("amount", -1e30, 1e30);
    made.request_id = event.string("request_id", max_text).value_or("");
    made.event_id = event.string("event_id", max_text).value_or("");
    made.scenario = event.string("scenario", max_text).value_or("");
    made.measures = event.object("measures");
    if (made.measures != nullptr)
      for (std::size_t i = 0; i < made.measures->items.size(); ++i)
        if (const Json& measure = made.measures->items[i];
            measure.type != Json::Type::number || !std::isfinite(measure.number))
          refuse(event.name("measures") + "." + made.measures->keys[i], measure, "a finite number");
    events.push_back(made);
  }
}

}  // namespace pygrade::detail
