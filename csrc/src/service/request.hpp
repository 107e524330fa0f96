// The bodies of requests.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/features.hpp"
#include "service/config.hpp"
#include "service/input.hpp"
#include "stores/record.hpp"

namespace pygrade::detail {

// What a run calls users and items.
struct Naming {
  Ids users, items;
};

// Of /v1/rank and /v1/explain. Texts point into `document`. Reused, it keeps its memory.
struct RankInput {
  // InputError for whatever does not fit config and tasks.
  void parse(std::string_view body, const ServiceConfig& config, const Naming& naming,
             const std::vector<std::string>& tasks);

  Json document;
  std::int64_t user = 0, timestamp = 0;
  std::size_t k = 10, candidates = 500;
  std::optional<std::size_t> arm;
  std::optional<std::vector<std::int64_t>> items, eligible;
  std::vector<std::int64_t> seen;
  std::vector<ContextValue> context;
  std::optional<std::string_view> scenario, request_id;
  std::optional<bool> explore;
  std::vector<float> values;  // [T], NaN: not given; or none
  std::optional<std::vector<float>> item_values;
  std::optional<std::chrono::microseconds> deadline;
};

// One event of /v1/update.
struct EventInput {
  std::int64_t user = 0, item = 0, timestamp = 0;
  std::optional<std::size_t> task;  // nothing: the item was shown, and that is all
  std::optional<double> amount;
  std::string_view request_id, event_id, scenario;
  const Json* measures = nullptr;  // numbers by name
};

struct UpdateInput {
  void parse(std::string_view body, const ServiceConfig& config, const Naming& naming,
             const std::vector<std::string>& tasks);

  Json document;
  std::vector<EventInput> events;
};

// The document of a body; InputError about "body".
Json parse_body(std::string_view body, const ServiceConfig& config);

}  // namespace pygrade::detail
