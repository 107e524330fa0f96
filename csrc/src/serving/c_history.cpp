// The C ABI of histories in a store.
#include <algorithm>

#include "pygrade/history.h"
#include "pygrade/history_store.hpp"
#include "serving/c_abi.hpp"

using namespace pygrade;
using namespace pygrade::c_abi;

struct pygrade_history {
  pygrade_history(std::shared_ptr<const Policy> given, const std::string& address, const HistoryStoreOptions& options)
      : policy(std::move(given)),
        history(std::make_shared<StoredHistory>(*policy->history())),
        store(open_store(address, {.create = true, .wait_for_server = false}), options) {}

  const std::shared_ptr<const Policy> policy;
  const std::shared_ptr<StoredHistory> history;
  HistoryStore store;
};

namespace pygrade::inline v0_2::c_abi {
PYGRADE_STRUCT(pygrade_history_options, error_size)
PYGRADE_STRUCT(pygrade_history_event, timestamp)
}  // namespace pygrade::inline v0_2::c_abi

namespace {
HistoryStoreOptions options_of(const pygrade_history_options* given) {
  HistoryStoreOptions options;
  if (given == nullptr) return options;
  const auto known = read_struct(given, "options");
  if (known.salt != nullptr) options.salt = known.salt;
  if (known.ttl != 0.0) options.ttl = known.ttl;
  return options;
}

std::string_view text_of(const char* text, std::size_t size, const char* message) {
  require(text != nullptr && size > 0 && size <= longest_text, message);
  return {text, size};
}
}  // namespace

extern "C" {

pygrade_status pygrade_history_open(const char* store, const pygrade_policy* policy,
                                    const pygrade_history_options* options, pygrade_history** history) {
  return guarded(error_of(options), [&] {
    require(store != nullptr && policy != nullptr && history != nullptr, "store, policy or history is NULL");
    require(policy->policy->history().has_value(), "policy reads no history");
    *history = new pygrade_history(policy->policy, store, options_of(options));
  });
}

pygrade_status pygrade_history_read(pygrade_history* history, const pygrade_request* request,
                                    const pygrade_log_ids* ids, float* context, float* items) {
  return guarded(error_of(request), [&] {
    require(history != nullptr, "history is NULL");
    const auto asked = read_struct(request, "request");
    const auto known = read_struct(ids, "ids");
    const Policy& policy = *history->policy;
    const std::size_t width = policy.items().size();
    require(known.flags & PYGRADE_LOG_TIMESTAMP, "ids.timestamp is missing");
    require(asked.candidates == 0 || known.item_id != nullptr, "ids.item_id is NULL");
    require(context != nullptr, "context is NULL");
    require(items != nullptr || asked.candidates * width == 0, "items is NULL");
    const std::int64_t user = history_key(text_of(known.user_id, known.user_id_size, "ids.user_id is empty"));
    std::vector<std::int64_t> keys, categories;
    for (const std::int64_t item : optional_span(known.item_id, asked.candidates)) keys.push_back(history_key(item));
    for (const char* name : optional_span(asked.categories, asked.candidates))
      categories.push_back(category_key(name == nullptr ? "" : name));
    thread_local HistoryBuffer buffer;
    history->store.read(*history->history, user, known.timestamp, keys, categories, buffer);
    policy.put_history(buffer.context, buffer.columns, {context, policy.features().size()},
                       {items, asked.candidates * width});
  });
}

pygrade_status pygrade_history_add_exposures(pygrade_history* history, const pygrade_ranker* ranker,
                                             const pygrade_request* request, const pygrade_page* page,
                                             const pygrade_log_ids* ids, int32_t* taken) {
  return guarded(error_of(request), [&] {
    require(history != nullptr, "history is NULL");
    const auto add = [&](const Policy& policy, const Request& asked, const PageBuffer& buffer, const Page& ranked,
                         const LogIds& known) {
      require(!known.request_id.empty() && !known.user_id.empty(), "ids.request_id or ids.user_id is empty");
      const auto shown = buffer.indices.first(static_cast<std::size_t>(ranked.filled));
      const bool done =
          history->store.add_exposures(history->history, history_key(known.user_id),
                                       exposures_of(history->history->history(), policy, asked, shown, known));
      if (taken != nullptr) *taken = done;
    };
    with_page(ranker, request, page, ids, add);
  });
}

pygrade_status pygrade_history_add_feedback(pygrade_history* history, const pygrade_history_event* events, size_t count,
                                            size_t* counted, char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(history != nullptr, "history is NULL");
    require(events != nullptr || count == 0, "events is NULL");
    const auto &tasks = history->policy->tasks(), &own = history->history->history().spec().tasks;
    std::vector<HistoryEvent> known;
    for (std::size_t i = 0; i < count; ++i) {
      const auto event = read_struct(element(events, i, "event"), "event");
      const std::int64_t user = history_key(text_of(event.user_id, event.user_id_size, "event.user_id is empty"));
      const std::int64_t request =
          history_key(text_of(event.request_id, event.request_id_size, "event.request_id is empty"));
      require(event.task != nullptr && std::ranges::find(tasks, event.task) != tasks.end(),
              "event.task is no task of the policy");
      const auto task = std::ranges::find(own, event.task);
      if (task != own.end())
        known.push_back(
            {user, request, history_key(event.item_id), event.timestamp, static_cast<std::size_t>(task - own.begin())});
    }
    const std::size_t done = history->store.add_feedback(history->history, known);
    if (counted != nullptr) *counted = done;
  });
}

pygrade_status pygrade_history_remove_user(pygrade_history* history, const char* user_id, size_t user_id_size,
                                           char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(history != nullptr, "history is NULL");
    history->store.remove_user(history_key(text_of(user_id, user_id_size, "user_id is empty")));
  });
}

void pygrade_history_close(pygrade_history* history) { delete history; }

}  // extern "C"
