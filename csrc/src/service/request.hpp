// The bodies of requests, read straight into typed arrays: no tree, and limits before memory is taken.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "pygrade/features.hpp"
#include "pygrade/ranking.hpp"
#include "service/config.hpp"
#include "service/input.hpp"
#include "stores/record.hpp"

namespace pygrade::inline v0_2::detail {
struct Release;     // release.hpp
struct TensorView;  // util/safetensors.hpp

// Times of feedback: from 2000-01-01, before which a time in seconds lies, to the clock of a client that is fast.
inline constexpr std::int64_t first_time = 946'684'800'000, max_ahead = 86'400'000;

// Unit of a time of recent years if it is not milliseconds, as a hint; "": nothing else.
std::string other_unit(std::int64_t timestamp);

// Names that a run gives users and items.
struct Naming {
  Ids users, items;
};

// The parts of a body that decide who reads it: no value of it is converted.
struct Envelope {
  std::optional<std::vector<std::string_view>> requests;  // of {"requests": […]}, each checked to be JSON
  std::optional<std::string> policy;                      // the run it names, looked for if the service has several
};
// InputError. `batches`: there may be several requests in it; `tensors`: it is in the safetensors format.
Envelope read_envelope(std::string_view body, const ServiceConfig& config, bool batches, bool tensors);

// A request names a run that the service does not have.
[[noreturn]] void refuse_run(const std::optional<std::string>& name, const ServiceConfig& config);

// Input of /v1/rank, /v1/explain and /v1/weights. Texts point into the body and the reader's memory. Reused, it keeps
// its memory.
struct RankInput {
  // InputError for whatever does not fit. `page`: items are ranked; else weights alone are asked for.
  void parse(std::string_view body, const ServiceConfig& config, const Naming& naming, const Release& release,
             bool page);
  // Parses tensors in the safetensors format, with the other keys as JSON in the metadata "request".
  void parse_tensors(std::string_view body, const ServiceConfig& config, const Naming& naming, const Release& release,
                     bool page);

  PageRules rules() const;     // of the candidates
  std::size_t memory() const;  // bytes that are held

  struct Pin {
    std::int64_t item;
    std::size_t position;
    std::string_view name;  // as user_name
  };

  std::optional<std::int64_t> user;
  std::string_view user_name;  // the text that was given; no data: a number
  std::int64_t timestamp = 0;
  std::size_t k = 10, candidates = 500;
  std::optional<std::size_t> arm;
  bool has_items = false, has_eligible = false, has_predictions = false, has_context = false, page_terms = true;
  std::vector<std::int64_t> items, eligible, seen;
  std::vector<std::string_view> names;  // [N] of items that were given as texts; or none
  std::vector<ContextValue> context;    // of a pipeline
  std::vector<float> features;          // [F] of a policy's run
  std::span<const float> predictions;   // [N, T]; of a tensor, they lie in the body
  std::optional<std::string_view> scenario, request_id;
  std::optional<bool> explore;
  std::vector<float> values;              // [T], NaN: not given; or none
  std::vector<ItemColumn> item_features;  // columns [N]
  // [N] or none; NaN or "": unknown.
#define PYGRADE_COLUMN(type, name, rows, width, json, text) std::vector<type> name;
#include "pygrade/request.def"
  std::optional<std::chrono::microseconds> deadline;
  std::vector<Pin> pins;
  std::vector<std::int64_t> demoted;
  std::vector<std::string_view> demoted_names;                           // as names
  bool has_places() const { return !pins.empty() || !demoted.empty(); }  // rules that the scores alone do not decide
  UnknownKeys unknown_keys;

 private:
  struct Reading;
  using Floats = std::vector<float>;

  // Every list whose memory serves the next request.
  template <class Self>
  static auto lists(Self& self) {
    return std::tie(self.items, self.eligible, self.seen, self.names, self.context, self.features, self.values,
                    self.item_features,
#define PYGRADE_COLUMN(type, name, rows, width, json, text) self.name,
#define PYGRADE_RULE(type, name, rows, width, json, text) self.rules_.name,
#include "pygrade/request.def"
                    self.pins, self.demoted, self.demoted_names, self.lengths_, self.limits_, self.given_, self.vector_,
                    self.places_);
  }

  void clear(const ServiceConfig& config);
  void read_request(Reading& reading);
  void read_value(const Reading& reading, const Argument& argument);
  void read_ids(const Reading& reading, const Argument& argument, std::size_t limit, std::vector<std::int64_t>& out,
                std::vector<std::string_view>* texts);
  void read_context(Reading& reading);
  void read_predictions(Reading& reading);
  void read_item_features(Reading& reading);
  // Reads a list of request.def of a schema (service/api.hpp); or takes it from a tensor.
  template <class T>
  void read_column(const Reading& reading, const Argument& argument, std::string_view json, std::vector<T>& out);
  template <class T>
  void take_column(const Reading& reading, const TensorView& tensor, std::string_view prefix, std::string_view json,
                   std::vector<T>& out);
  void read_vectors(const Reading& reading, const Argument& argument, Floats& out);
  void read_rules(Reading& reading);
  void read_groups(const Reading& reading, const Argument& argument);
  void read_limits(const Argument& argument, bool whole);
  void read_pins(const Reading& reading, const Argument& list);
  void take_tensor(const Reading& reading, const TensorView& tensor);
  void take_named(const Reading& reading, const TensorView& tensor, std::string_view kind, const std::string& name);
  void take_predictions(const Reading& reading, const TensorView& tensor, const std::vector<std::string>& order);
  void ignore_tensor(const Reading& reading, const TensorView& tensor);
  void begin_predictions(const Release& release);
  std::vector<std::int32_t>& next_group(std::string_view argument, std::string_view name);
  void finish(const Reading& reading);
  void finish_predictions(const Reading& reading);
  void finish_rules();
  template <class T>
  void finish_limits(std::string_view rule, std::vector<T>& out);
  Floats& next_column();

  JsonReader reader_;
  std::string metadata_;                                          // of tensors
  std::deque<std::string> tensor_names_;                          // parts of their names that others point to
  std::vector<Floats> by_task_;                                   // [T][N] predictions as they came
  Floats matrix_;                                                 // predictions that are no part of the body
  std::vector<bool> given_;                                       // [T]
  std::vector<Floats> columns_;                                   // memory of item_features
  std::vector<std::pair<std::string_view, std::size_t>> places_;  // name and column of item_features
  std::size_t num_columns_ = 0;
  Floats vector_;  // of the item that is read
  struct Length {
    Argument argument;
    std::size_t size;
  };
  std::vector<Length> lengths_;                                                 // of what was given for the items
  std::vector<std::pair<std::string_view, std::vector<std::int32_t>>> groups_;  // by name
  std::size_t num_groups_ = 0;
  struct Limit {
    std::string_view rule, group;
    double number;
  };
  std::vector<Limit> limits_;  // of groups
  struct {
#define PYGRADE_RULE(type, name, rows, width, json, text) std::vector<type> name;
#include "pygrade/request.def"
  } rules_;  // or none
};

// One event of /v1/update.
struct EventInput {
  std::int64_t user = 0, item = 0, timestamp = 0;
  std::string_view user_name, item_name;  // the texts that were given; no data: a number
  std::optional<std::size_t> task;        // nothing: the item was shown, and that is all
  std::optional<double> amount;
  std::string_view request_id, event_id, scenario;
  std::size_t first_measure = 0, measures = 0;  // a part of UpdateInput::measures
};

struct UpdateInput {
  void parse(std::string_view body, const ServiceConfig& config, const Naming& naming, const Release& release);

  struct Measure {
    std::string_view name;
    double value;
  };
  std::span<const Measure> measures_of(const EventInput& event) const {
    return std::span(measures).subspan(event.first_measure, event.measures);
  }

  std::vector<EventInput> events;
  std::vector<Measure> measures;  // of all events
  UnknownKeys unknown_keys;

 private:
  void read_event(const Argument& element, const ServiceConfig& config, const Naming& naming, const Release& release,
                  EventInput& event);

  JsonReader reader_;
};
}  // namespace pygrade::inline v0_2::detail
