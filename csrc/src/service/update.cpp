// Feedback: into the log, and into the features of later pages.
#include <algorithm>
#include <limits>
#include <map>
#include <system_error>

#include "service/impl.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
// The line of an event in the log.
void write_event(const EventInput& event, std::span<const UpdateInput::Measure> measures, const Release& release,
                 std::string_view arm, std::int64_t received, JsonWriter& out) {
  out.begin_object().known_key("user");
  if (release.is_policy() && event.user_name.data() != nullptr)
    out.value(event.user_name);  // as in the log of pages
  else
    out.value(event.user);
  out.field("item", event.item);
  out.text_field("task", event.task ? std::string_view(release.log_tasks[*event.task]) : std::string_view());
  out.field("timestamp", event.timestamp);
  if (event.amount) out.field("amount", *event.amount);
  if (!event.request_id.empty()) out.field("request_id", event.request_id);
  if (!event.event_id.empty()) out.field("event_id", event.event_id);
  if (!event.scenario.empty()) out.field("scenario", event.scenario);
  if (!measures.empty()) {
    out.known_key("measures").begin_object();
    for (const auto& [name, value] : measures) out.key(name).value(value);
    out.end_object();
  }
  out.field("arm", arm).field("received", received).end_object();
}

// Whatever the log or the features must not hold: InputError, before anything is written. Returns how many events are
// on items that the catalog lacks.
std::size_t check_events(const std::vector<EventInput>& events, const ServiceConfig& config, const ItemIndex* catalog) {
  const std::int64_t last_time = now_ms() + max_ahead;
  std::size_t unknown = 0;
  const auto refuse = [&](std::size_t place, const char* key, auto value, const std::string& wanted) {
    JsonWriter given;
    given.value(value);
    const std::string argument = "events[" + std::to_string(place) + "]." + key;
    throw InputError(argument, argument + " is " + given.take() + "; expected " + wanted);
  };
  for (std::size_t i = 0; i < events.size(); ++i) {
    const EventInput& event = events[i];
    if (event.timestamp < first_time || event.timestamp > last_time) {
      const std::string unit = other_unit(event.timestamp);
      refuse(i, "timestamp", event.timestamp,
             "milliseconds since 1970, from the year 2000 to a day from now" + (unit.empty() ? "" : ": " + unit));
    }
    if (event.amount && !(*event.amount >= 0.0 && *event.amount <= config.max_amount)) {
      JsonWriter most;
      most.value(config.max_amount);
      refuse(i, "amount", *event.amount, "a number from 0 to max_amount, " + most.take());
    }
    if (catalog == nullptr || catalog->size() == 0 || catalog->has(event.item)) continue;
    constexpr const char* wanted = "an item of the catalog, or the option unknown_items = \"count\"";
    if (config.refuse_unknown_items && event.item_name.data() != nullptr) refuse(i, "item", event.item_name, wanted);
    if (config.refuse_unknown_items) refuse(i, "item", event.item, wanted);
    ++unknown;
  }
  return unknown;
}

// Rows of the features' log: the events of one user and item, and of one page or moment, are one row.
struct Rows {
  Rows(const UpdateInput& input, const Release& release);
  FeedbackEvents columns(const Release& release);

  std::vector<std::int64_t> user, item, time;
  std::vector<std::string_view> scenario;
  std::vector<std::vector<double>> outcomes;  // [outcomes][e]
  std::vector<FeedbackEvents::Outcome> views;
};

Rows::Rows(const UpdateInput& input, const Release& release) : outcomes(release.outcomes.size()) {
  std::map<std::tuple<std::int64_t, std::int64_t, std::string_view, std::int64_t>, std::size_t> places;
  for (const EventInput& event : input.events) {
    const std::int64_t moment = event.request_id.empty() ? event.timestamp : 0;
    const auto [found, is_new] =
        places.emplace(std::tuple(event.user, event.item, event.request_id, moment), user.size());
    const std::size_t row = found->second;
    if (is_new) {
      user.push_back(event.user);
      item.push_back(event.item);
      time.push_back(event.timestamp);
      scenario.push_back(event.scenario);
      for (std::size_t o = 0; o < outcomes.size(); ++o)
        outcomes[o].push_back(release.outcomes[o].starts_with("y_") ? 0.0 : std::numeric_limits<double>::quiet_NaN());
    }
    time[row] = std::max(time[row], event.timestamp);
    if (scenario[row].empty()) scenario[row] = event.scenario;
    for (std::size_t o = 0; o < outcomes.size(); ++o) {
      const std::string_view column = release.outcomes[o], name = column.substr(2);
      if (column.starts_with("y_")) {
        if (event.task && release.log_tasks[*event.task] == name) outcomes[o][row] = 1.0;
      } else {
        for (const auto& measure : input.measures_of(event))
          if (measure.name == name) outcomes[o][row] = measure.value;
      }
    }
  }
}

FeedbackEvents Rows::columns(const Release& release) {
  for (std::size_t o = 0; o < outcomes.size(); ++o) views.push_back({release.outcomes[o], outcomes[o]});
  return {user, item, time, scenario, views};
}
}  // namespace

// The log comes first: it is what training reads, and an event in it is never lost, even if the store fails then.
Response Service::Impl::update(std::string_view body) {
  const auto served = this->release();
  const Release& release = *served;
  UpdateInput input;
  input.parse(body, config, naming, release);
  const auto prerank = pipeline ? pipeline->models().prerank : nullptr;
  const auto unknown = check_events(input.events, config, prerank ? prerank->index().get() : nullptr);
  metrics.unknown_keys.add(input.unknown_keys.count);
  if (unknown > 0) metrics.unknown_items.add(unknown);
  const std::int64_t received = now_ms();
  std::string lines;
  std::vector<std::size_t> arms;  // of the events
  for (const EventInput& event : input.events) {
    const bool is_named = release.is_policy() && event.user_name.data() != nullptr;
    const std::size_t arm = config.by_request ? arm_of(config, event.request_id)
                            : is_named        ? arm_of(config, event.user_name)
                                              : arm_of(config, event.user);
    arms.push_back(arm);
    if (!feedback) continue;
    JsonWriter line;
    write_event(event, input.measures_of(event), release, config.arms[arm].name, received, line);
    lines += line.text();
    lines += '\n';
  }
  if (!lines.empty()) {
    try {
      feedback->append(lines);
    } catch (const std::system_error& error) {
      metrics.feedback_errors.add();
      return error_response(503, "", "the feedback log can't be written: " + std::string(error.what()));
    }
    metrics.feedback_events.add(input.events.size());
    metrics.feedback_bytes.add(lines.size());
  }
  for (std::size_t e = 0; e < arms.size(); ++e)
    if (const auto task = input.events[e].task) release.feedback[arms[e]][*task].add();
  // Histories before the features: their events may be sent again.
  const std::string logged = feedback ? "the events are logged, but not in the " : "the events are not in the ";
  try {
    add_feedback(input, release);
  } catch (const StoreError& error) {
    return error_response(503, "", logged + "history: " + error.what());
  }
  Rows rows(input, release);
  std::size_t written = 0;
  if (pipeline && !rows.user.empty()) {
    try {
      written = pipeline->update(rows.columns(release));
    } catch (const StoreError& error) {
      return error_response(503, "", logged + "features: " + error.what());
    } catch (const SchemaError& error) {
      throw InputError("events", error.what());
    }
  }
  JsonWriter out;
  out.begin_object().field("events", input.events.size()).field("rows", written);
  out.field("unknown_items", unknown);
  write_unknown_keys(input.unknown_keys, out);
  out.end_object();
  return {200, "application/json", out.take()};
}
}  // namespace pygrade::inline v0_2
