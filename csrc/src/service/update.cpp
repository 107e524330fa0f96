// Feedback: into the log, and into the features of later pages.
#include <algorithm>
#include <limits>
#include <map>
#include <system_error>

#include "service/impl.hpp"

namespace pygrade {

using namespace detail;

namespace {

// The line of an event in the log.
void write_event(const EventInput& event, const Release& release, std::string_view arm, std::int64_t received,
                 JsonWriter& out) {
  out.begin_object().field("user", event.user).field("item", event.item).known_key("task");
  if (event.task)
    out.value(std::string_view(release.log_tasks[*event.task]));
  else
    out.null();
  out.field("timestamp", event.timestamp);
  if (event.amount) out.field("amount", *event.amount);
  if (!event.request_id.empty()) out.field("request_id", event.request_id);
  if (!event.event_id.empty()) out.field("event_id", event.event_id);
  if (!event.scenario.empty()) out.field("scenario", event.scenario);
  if (event.measures != nullptr) write_json(*event.measures, out.known_key("measures"));
  out.field("arm", arm).field("received", received).end_object();
}

// Rows of the features' log: the events of one user and item, and of one page or moment, are one row.
struct Rows {
  Rows(const std::vector<EventInput>& events, const Release& release);
  FeedbackEvents columns(const Release& release);

  std::vector<std::int64_t> user, item, time;
  std::vector<std::string_view> scenario;
  std::vector<std::vector<double>> outcomes;  // [outcomes][e]
  std::vector<FeedbackEvents::Outcome> views;
};

Rows::Rows(const std::vector<EventInput>& events, const Release& release) : outcomes(release.outcomes.size()) {
  std::map<std::tuple<std::int64_t, std::int64_t, std::string_view, std::int64_t>, std::size_t> places;
  for (const EventInput& event : events) {
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
      } else if (event.measures != nullptr) {
        if (const Json* measure = event.measures->find(name)) outcomes[o][row] = measure->number;
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
  const Models models = pipeline->models();
  const Release& release = Release::of(models);
  UpdateInput input;
  input.parse(body, config, naming, release.log_tasks);
  for (std::size_t i = 0; i < input.events.size(); ++i)
    if (const Json* measures = input.events[i].measures)
      for (const std::string& name : measures->keys)
        if (std::ranges::find(release.outcomes, "m_" + name) == release.outcomes.end()) {
          const std::string argument = "events[" + std::to_string(i) + "].measures";
          throw InputError(argument, argument + " names '" + name + "', which no feature reads");
        }
  const std::int64_t received = now_ms();
  std::string lines;
  for (const EventInput& event : input.events) {
    const std::size_t arm = arm_of(config, event.user);
    if (event.task) release.feedback[arm][*event.task].add();
    if (!feedback) continue;
    JsonWriter line;
    write_event(event, release, config.arms[arm].name, received, line);
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
  Rows rows(input.events, release);
  std::size_t written = 0;
  if (!rows.user.empty()) {
    try {
      written = pipeline->update(rows.columns(release));
    } catch (const StoreError& error) {
      return error_response(
          503, "", std::string(feedback ? "the events are logged, but not in the features: " : "") + error.what());
    } catch (const SchemaError& error) {
      throw InputError("events", error.what());
    }
  }
  JsonWriter out;
  out.begin_object().field("events", input.events.size()).field("rows", written).end_object();
  return {200, "application/json", out.take()};
}

}  // namespace pygrade
