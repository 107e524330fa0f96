// History of users and items: read for a page, written after it and by its feedback.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

#include "service/impl.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
bool all_known(std::span<const float> values, std::span<const Policy::HistoryColumn> columns, std::size_t width) {
  for (std::size_t row = 0; row < values.size(); row += width)
    for (const auto& [place, column] : columns)
      if (!std::isfinite(values[row + place])) return false;
  return true;
}

// A segment of a path without its %XX.
std::string decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, code, 16).ptr == text.data() + i + 3) {
      out += static_cast<char>(code);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}
}  // namespace

// Fills in the columns of history, in features[F] and columns[N, I], unless the caller gave all of them. False if the
// store does not give them.
bool Service::Impl::add_history(const Release& release, const Served& served, std::span<const std::int64_t> item_ids,
                                const ServiceRequest& given, Context& context, std::span<float> features,
                                std::span<float> columns) {
  const Policy& policy = *served.policy;
  const RankInput& input = context.input;
  const std::size_t width = policy.items().size();
  if (all_known(features, policy.history_features(), features.size()) &&
      all_known(columns, policy.history_items(), width))
    return true;
  if (release.history_store == nullptr || !input.user) return false;
  if (policy.history()->spec().categories && input.categories.empty())
    throw InputError("categories", "categories is missing; the policy's history counts what a user did with them");
  context.item_keys.resize(item_ids.size());
  std::ranges::transform(item_ids, context.item_keys.begin(), [](std::int64_t item) { return history_key(item); });
  context.category_keys.resize(input.categories.size());
  std::ranges::transform(input.categories, context.category_keys.begin(), category_key);
  std::optional<std::chrono::steady_clock::time_point> deadline;
  if (input.deadline) deadline = given.arrival.value_or(std::chrono::steady_clock::now()) + *input.deadline;
  try {
    release.history_store->read(*served.history, history_key(*input.user), input.timestamp, context.item_keys,
                                context.category_keys, context.history, deadline);
  } catch (const StoreError&) {  // which the store counts
    return false;
  }
  policy.put_history(context.history.context, context.history.columns, features, columns);
  return true;
}

void Service::Impl::add_exposures(const Ranked& ranked, const Context& context) {
  const Release& release = *ranked.release;
  const RankInput& input = context.input;
  if (release.history_store == nullptr || !input.user) return;
  const auto shown = ranked.indices.first(static_cast<std::size_t>(ranked.page.filled));
  const LogIds ids{context.request_id, {}, ranked.item_ids, input.timestamp};
  for (const auto& history : release.histories)
    release.history_store->add_exposures(history, history_key(*input.user),
                                         exposures_of(history->history(), *ranked.policy, ranked.request, shown, ids));
}

// Feedback on what pages showed. StoreError if it is not written; it may be sent again.
void Service::Impl::add_feedback(const UpdateInput& input, const Release& release) {
  if (release.history_store == nullptr) return;
  for (const auto& history : release.histories) {
    std::vector<HistoryEvent> events;
    for (const EventInput& event : input.events) {
      if (!event.task || event.request_id.empty() || event.amount == 0.0) continue;
      const auto& tasks = history->history().spec().tasks;
      const auto task = std::ranges::find(tasks, release.log_tasks[*event.task]);
      if (task != tasks.end())
        events.push_back({history_key(event.user), history_key(event.request_id), history_key(event.item),
                          event.timestamp, static_cast<std::size_t>(task - tasks.begin())});
    }
    release.history_store->add_feedback(history, events);
  }
}

// Marks a user's pages for pygrade join and pygrade online, then removes the histories: sent again, both are harmless.
Response Service::Impl::remove_user(std::string_view segment) {
  const auto served = release();
  const std::string user = decoded(segment);
  std::int64_t id = 0;
  const auto end = std::from_chars(user.data(), user.data() + user.size(), id);
  const bool is_number = !user.empty() && end.ec == std::errc{} && end.ptr == user.data() + user.size();
  if (user.empty() || (!is_number && !naming.users.named))
    throw InputError("user", "user is '" + user.substr(0, 100) + "'; expected " +
                                 (naming.users.named ? "an id or a name" : "an id"));
  if (naming.users.named && !(is_number && user == std::to_string(id))) id = stable_id(user);
  if (removals == nullptr && served->history_store == nullptr)
    throw InputError("user",
                     "no page is logged and no arm reads history from a store: there is nothing to remove; "
                     "expected exposures, or an arm that reads history");
  if (removals != nullptr) try {
      JsonWriter line;
      line.begin_object().field("user", served->is_policy() ? user : std::to_string(id));  // as in the log of pages
      line.field("timestamp", now_ms()).end_object();
      removals->append(line.take() + '\n', true);
    } catch (const std::system_error& error) {
      return error_response(503, "", "the removal can't be written: " + std::string(error.what()));
    }
  if (served->history_store != nullptr) served->history_store->remove_user(history_key(id));
  return {200, "application/json", R"({"removed":true})"};
}
}  // namespace pygrade::inline v0_2
