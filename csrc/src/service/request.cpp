#include "service/request.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>

#include "service/api.hpp"
#include "service/release.hpp"
#include "util/id_table.hpp"
#include "util/safetensors.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
constexpr std::size_t max_text = 256, max_groups = 16, max_item_features = 256;
constexpr std::string_view batch_key = "requests", policy_key = "policy";
constexpr std::size_t any_size = std::numeric_limits<std::size_t>::max();
constexpr std::int64_t last_time = std::int64_t{1} << 53;
constexpr double most = 1e30;  // of predictions, values and boosts
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

std::size_t task_of(std::string_view name, std::string_view argument, const std::vector<std::string>& tasks) {
  const auto found = std::ranges::find(tasks, name);
  if (found == tasks.end())
    throw InputError(argument, std::string(argument) + " names the task '" + std::string(name) + "'; expected one of " +
                                   joined(tasks));
  return static_cast<std::size_t>(found - tasks.begin());
}

JsonLimits limits_of(const ServiceConfig& config) {
  return {.bytes = config.max_body_bytes, .values = config.max_body_bytes, .depth = 8, .infinite = false};
}

// A key that nothing reads: refused by a strict service, else counted.
void ignore(JsonReader& reader, const Argument& argument, std::span<const api::Field> known,
            const ServiceConfig& config, UnknownKeys& unknown) {
  if (config.strict) refuse_unknown(argument, joined(known, &api::Field::name));
  reader.skip();
  unknown.add(argument.text());
}

template <std::size_t N, class Read>
void read_known(JsonReader& reader, std::string_view prefix, const api::Field (&known)[N], const ServiceConfig& config,
                UnknownKeys& unknown, Read&& read) {
  read_keys(reader, prefix, known, read,
            [&](const Argument& argument) { ignore(reader, argument, known, config, unknown); });
}

// `work` reads a document; errors of JSON are about the body.
template <class Work>
auto read_body(Work&& work) {
  try {
    return work();
  } catch (const JsonError& error) {
    throw InputError("body", "the body is no JSON: " + std::string(error.what()));
  }
}

void open(JsonReader& reader, std::string_view text, const ServiceConfig& config) {
  reader.start(text, limits_of(config));
  if (reader.peek() != Json::Type::object) refuse("body", reader, "a JSON object");
  reader.enter_object();
}

std::vector<TensorView> read_tensors(std::string_view body, TensorMetadata* metadata) {
  try {
    return read_safetensors(std::as_bytes(std::span(body)), metadata);
  } catch (const SafetensorsError& error) {
    throw InputError("body", "the body is no safetensors file: " + std::string(error.what()));
  }
}

// `policy` as far as it is left to who reads the request: the own run alone.
void check_run(JsonReader& reader, const Argument& argument, const ServiceConfig& config) {
  if (const std::string name(read_text(reader, argument, max_text)); name != config.name) refuse_run(name, config);
}

// Keys that nothing reads, behind a message on what is missing: it may be among them.
std::string not_read(const UnknownKeys& unknown) {
  return unknown.names.empty() ? "" : "; nothing reads " + joined(unknown.names);
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t d = 0; d < shape.size(); ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

// Refuses numbers of a tensor beyond low … most. Not a number: missing, where that may be.
void check_floats(const TensorView& tensor, std::span<const float> numbers, double low, bool missing) {
  static_assert(static_cast<double>(1e30f) > most);
  const float high = std::nextafter(1e30f, 0.0f), lowest = low == 0.0 ? 0.0f : -high;  // floats within low … most
  const auto fits = [=](float number) {
    return ((number >= lowest) & (number <= high)) | (missing & (number != number));
  };
  unsigned others = 0;
  for (const float number : numbers) others |= !fits(number);
  if (others == 0) return;
  throw InputError(tensor.name, tensor.name + " holds " + std::to_string(*std::ranges::find_if_not(numbers, fits)) +
                                    "; expected numbers from " + (low == 0.0 ? "0" : "-1e30") + " to 1e30" +
                                    (missing ? ", or NaN" : ""));
}

// The values of a tensor of one dimension.
template <class T>
void copy_values(const TensorView& tensor, std::size_t limit, std::vector<T>& out) {
  constexpr TensorType type = std::is_same_v<T, float>          ? TensorType::float32
                              : std::is_same_v<T, std::int64_t> ? TensorType::int64
                                                                : TensorType::uint8;
  constexpr const char* name = type == TensorType::float32 ? "F32" : type == TensorType::int64 ? "I64" : "U8 or BOOL";
  if (tensor.type != type) throw InputError(tensor.name, tensor.name + " is of another type; expected " + name);
  if (tensor.shape.size() != 1 || tensor.shape[0] > static_cast<std::int64_t>(limit))
    throw InputError(tensor.name, tensor.name + " has the shape " + shape_text(tensor.shape) +
                                      "; expected one dimension of at most " + std::to_string(limit));
  out.resize(static_cast<std::size_t>(tensor.shape[0]));
  if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
}

void copy_floats(const TensorView& tensor, std::size_t limit, double low, bool missing, std::vector<float>& out) {
  copy_values(tensor, limit, out);
  check_floats(tensor, out, low, missing);
}

void copy_ids(const TensorView& tensor, std::size_t limit, std::vector<std::int64_t>& out) {
  copy_values(tensor, limit, out);
  for (const std::int64_t id : out)
    if (id < 0)
      throw InputError(tensor.name, tensor.name + " holds " + std::to_string(id) + "; expected ids from 0 on");
}

// An item as it was sent.
std::string item_text(std::int64_t item, std::string_view name) {
  return name.data() == nullptr ? std::to_string(item) : "'" + std::string(name) + "'";
}

// True of a list of request.def that may be a tensor.
constexpr bool is_tensor(std::string_view json) {
  return json == api::booleans || json == api::amounts || json == api::numbers || json == api::vectors;
}

// A rule of an item that the request does not have.
[[noreturn]] void refuse_item(const std::string& rule, std::int64_t item, std::string_view name) {
  throw InputError(rule, rule + " names " + item_text(item, name) + ", which is none of items");
}
}  // namespace

std::string other_unit(std::int64_t timestamp) {
  const std::int64_t last = now_ms() + max_ahead;
  if (timestamp >= first_time / 1000 && timestamp <= last / 1000)
    return "this looks like seconds, which times 1000 are milliseconds";
  if (timestamp >= first_time * 1000 && timestamp <= last * 1000)
    return "this looks like microseconds, which divided by 1000 are milliseconds";
  return {};
}

struct RankInput::Reading {
  const ServiceConfig& config;
  const Naming& naming;
  const Release& release;
  bool page;
  std::span<const TensorView> tensors = {};  // beside the JSON

  // InputError if what the JSON names by `key` is a tensor, too.
  void check_once(std::string_view prefix, std::string_view key) const {
    for (const TensorView& tensor : tensors)
      if (tensor.name.size() == prefix.size() + key.size() && tensor.name.starts_with(prefix) &&
          tensor.name.ends_with(key))
        throw InputError(tensor.name,
                         tensor.name + " is a tensor and stands in the metadata, too; expected one of both");
  }
  std::size_t max_rows() const { return static_cast<std::size_t>(config.max_candidates); }
  std::size_t max_ids() const { return static_cast<std::size_t>(config.max_ids); }
};

void RankInput::clear(const ServiceConfig& config) {
  user.reset();
  user_name = {};
  timestamp = now_ms();
  k = static_cast<std::size_t>(std::min<std::int64_t>(10, config.max_k));
  candidates = static_cast<std::size_t>(std::min<std::int64_t>(500, config.max_candidates));
  arm.reset();
  has_items = has_eligible = has_predictions = has_context = false;
  page_terms = true;
  scenario.reset();
  request_id.reset();
  explore.reset();
  deadline = config.deadline;
  predictions = {};
  unknown_keys = {};
  num_columns_ = num_groups_ = 0;
  tensor_names_.clear();
  std::apply([](auto&... list) { (list.clear(), ...); }, lists(*this));
}

Envelope read_envelope(std::string_view body, const ServiceConfig& config, bool batches, bool tensors) {
  // Without the word a body names no run; where it stands in a text alone, what comes before it is skipped in vain.
  const bool named = !config.runs.empty() && body.find(policy_key) != body.npos;
  Envelope envelope;
  std::string metadata;
  if (tensors && named) {
    TensorMetadata texts;
    read_tensors(body, &texts);
    metadata = find_text(texts, "request");
    body = metadata;
    if (metadata.empty()) return envelope;
  }
  if (!(batches && !tensors) && !named) return envelope;
  read_body([&] {
    JsonReader reader;
    open(reader, body, config);
    std::string_view key;
    for (bool first = true; reader.next_key(key); first = false) {
      if (first && batches && !tensors && key == batch_key) {
        auto& requests = envelope.requests.emplace();
        read_list(reader, batch_key, static_cast<std::size_t>(config.max_batch),
                  [&](const Argument&) { requests.push_back(reader.skip()); });
        while (reader.next_key(key))
          throw InputError(key, std::string(key) + " stands beside requests; expected it in each of them");
        reader.end();
        return;
      }
      if (!named) return;
      if (key != policy_key || reader.peek() == Json::Type::null) {
        reader.skip();
        continue;
      }
      envelope.policy = read_text(reader, policy_key, max_text);
      return;
    }
  });
  return envelope;
}

void refuse_run(const std::optional<std::string>& name, const ServiceConfig& config) {
  const bool has_other = !config.run.empty();  // the run without a name
  const std::string names = joined(config.runs, &ServiceConfig::name);
  throw InputError(policy_key, (name ? "policy is '" + *name + "'" : "policy is missing") + "; expected " +
                                   (names.empty() ? "none: one run is served, which has no name"
                                                  : "one of " + names + (has_other ? ", or none" : "")));
}

void RankInput::parse(std::string_view body, const ServiceConfig& config, const Naming& naming, const Release& release,
                      bool page) {
  Reading reading{config, naming, release, page};
  clear(config);
  read_body([&] {
    open(reader_, body, config);
    read_request(reading);
    reader_.end();
  });
  finish(reading);
}

// `texts`: for the names, where some are given.
void RankInput::read_ids(const Reading& reading, const Argument& argument, std::size_t limit,
                         std::vector<std::int64_t>& out, std::vector<std::string_view>* texts) {
  out.clear();
  std::string_view name;
  const auto each = [&](const Argument& element) {
    out.push_back(reading.naming.items.read(reader_, element, false, name));
    if (texts == nullptr || name.data() == nullptr) return;
    texts->resize(out.size() - 1);  // of those before, which were numbers
    texts->push_back(name);
  };
  read_list(reader_, argument, limit, each, [&](std::size_t left) { return reader_.take_ids(left, out); });
  if (texts != nullptr && !texts->empty()) texts->resize(out.size());
}

void RankInput::read_request(Reading& reading) {
  const auto& config = reading.config;
  const auto read = [&](const Argument& argument) {
    reading.check_once({}, argument.key);
    if (argument.key == "context") return read_context(reading);
    if (argument.key == "predictions") return read_predictions(reading);
    if (argument.key == "item_features") return read_item_features(reading);
    if (argument.key == "rules") return read_rules(reading);
    read_value(reading, argument);
  };
  read_keys(reader_, "", api::rank_fields, read, [&](const Argument& argument) {
    if (argument.key == batch_key) throw InputError(batch_key, "requests stands beside other keys; expected it alone");
    ignore(reader_, argument, api::rank_fields, config, unknown_keys);
  });
}

void RankInput::read_value(const Reading& reading, const Argument& argument) {
  const auto& [config, naming, release, page, tensors] = reading;
  const std::string_view key = argument.key;
  if (key == "user") user = naming.users.read(reader_, argument, true, user_name);
  if (key == "k") k = static_cast<std::size_t>(read_integer(reader_, argument, 1, config.max_k));
  if (key == "candidates")
    candidates = static_cast<std::size_t>(read_integer(reader_, argument, 1, config.max_candidates));
  has_items = has_items || key == "items";
  if (key == "items") read_ids(reading, argument, reading.max_rows(), items, &names);
  if (key == "seen") read_ids(reading, argument, reading.max_ids(), seen, nullptr);
  has_eligible = has_eligible || key == "eligible";
  if (key == "eligible") read_ids(reading, argument, reading.max_ids(), eligible, nullptr);
#define PYGRADE_COLUMN(type, name, rows, width, json, text) \
  if (key == #name) read_column(reading, argument, api::json, name);
#include "pygrade/request.def"
  if (key == "page_terms") page_terms = read_boolean(reader_, argument);
  if (key == "scenario") scenario = read_text(reader_, argument, max_text);
  if (key == policy_key) check_run(reader_, argument, config);
  if (key == "request_id") request_id = read_text(reader_, argument, max_text);
  if (key == "timestamp") {
    timestamp = read_integer(reader_, argument, -last_time, last_time);
    if (const std::string unit = other_unit(timestamp); !unit.empty())
      throw InputError(key,
                       "timestamp is " + std::to_string(timestamp) + "; expected milliseconds since 1970: " + unit);
  }
  if (key == "explore") explore = read_boolean(reader_, argument);
  if (key == "deadline_ms")
    deadline = std::chrono::microseconds(std::llround(read_number(reader_, argument, 0.0, 3'600'000.0) * 1000.0));
  if (key == "values") {
    values.assign(release.tasks.size(), nan);
    if (reader_.peek() != Json::Type::object)
      refuse(argument, reader_, "an object: what an event of a task is worth; prices of items are item_values");
    reader_.enter_object();
    for (std::string_view task; reader_.next_key(task);)
      values[task_of(task, "values", release.tasks)] =
          static_cast<float>(read_number(reader_, {"values.", task}, -most, most));
  }
  if (key != "arm") return;
  const std::size_t place = reader_.place();
  const auto found = std::ranges::find(config.arms, read_text(reader_, argument, max_text), &ArmConfig::name);
  arm = static_cast<std::size_t>(found - config.arms.begin());
  if (found != config.arms.end()) return;
  reader_.go_back(place);
  refuse(argument, reader_, "one of " + joined(config.arms, &ArmConfig::name));
}

template <class T>
void RankInput::read_column(const Reading& reading, const Argument& argument, std::string_view json,
                            std::vector<T>& out) {
  if (json == api::integers_by_name || json == api::amounts_by_name)
    return read_limits(argument, json == api::integers_by_name);
  if (json == api::lists_by_name) return read_groups(reading, argument);
  if constexpr (std::is_same_v<T, float>) {
    if (json == api::vectors) return read_vectors(reading, argument, out);
    read_floats(reader_, argument, reading.max_rows(), json == api::amounts ? 0.0 : -most, most, false, out);
  } else if constexpr (!std::is_same_v<T, std::int32_t>) {
    read_list(reader_, argument, reading.max_rows(), [&](const Argument& element) {
      const bool is_null = json == api::maybe_texts && reader_.peek() == Json::Type::null;
      if (is_null) reader_.null();
      if constexpr (std::is_same_v<T, std::uint8_t>)
        out.push_back(read_boolean(reader_, element));
      else
        out.push_back(is_null ? std::string_view() : read_text(reader_, element, max_text));
    });
  }
  lengths_.push_back({argument, out.size()});
}

// Vectors of one length, null in the place of one that is unknown.
void RankInput::read_vectors(const Reading& reading, const Argument& argument, Floats& out) {
  std::size_t width = 0, count = 0;
  read_list(reader_, argument, reading.max_rows(), [&](const Argument& element) {
    if (reader_.peek() == Json::Type::null) {
      reader_.null();
      out.resize(out.size() + width, nan);
      ++count;
      return;
    }
    read_floats(reader_, element, PageTerms::max_dimension, -most, most, false, vector_);
    if (width == 0) out.assign(count * vector_.size(), nan);  // of those before, which were null
    if (vector_.empty() || (width > 0 && vector_.size() != width))
      throw InputError(argument.text(), element.text() + " has " + std::to_string(vector_.size()) +
                                            " numbers; expected vectors of one length, 1 to 256");
    width = vector_.size();
    out.insert(out.end(), vector_.begin(), vector_.end());
    ++count;
  });
  lengths_.push_back({argument, count});
}

// Tensors by name: those of the lists of a JSON body. predictions[N, T] are in the order of the metadata "tasks",
// else of the policy's; or one tensor predictions.TASK for each.
void RankInput::parse_tensors(std::string_view body, const ServiceConfig& config, const Naming& naming,
                              const Release& release, bool page) {
  clear(config);
  TensorMetadata metadata;
  const std::vector<TensorView> tensors = read_tensors(body, &metadata);
  metadata_ = find_text(metadata, "request");
  const std::string_view order_text = find_text(metadata, "tasks");
  std::vector<std::string> order = release.tasks;
  Reading reading{config, naming, release, page, tensors};
  read_body([&] {
    if (metadata_.empty()) metadata_ = "{}";
    open(reader_, metadata_, config);
    read_request(reading);
    reader_.end();
    if (order_text.empty()) return;
    order.clear();
    JsonReader reader(order_text, limits_of(config));
    read_list(reader, "tasks", Policy::max_tasks,
              [&](const Argument&) { order.emplace_back(read_text(reader, "tasks", max_text)); });
    reader.end();
  });
  for (const TensorView& tensor : tensors) {
    const auto dot = tensor.name.find('.');
    if (tensor.name == "predictions")
      take_predictions(reading, tensor, order);
    else if (dot == std::string::npos || dot + 1 == tensor.name.size())
      take_tensor(reading, tensor);
    else
      take_named(reading, tensor, tensor.name.substr(0, dot), tensor.name.substr(dot + 1));
  }
  finish(reading);
}

// A tensor of a name that no service reads.
void RankInput::ignore_tensor(const Reading& reading, const TensorView& tensor) {
  unknown_keys.add(tensor.name);
  if (!reading.config.strict) return;
  std::string known = joined(api::tensor_names) + ", groups.NAME";
#define PYGRADE_COLUMN(type, name, rows, width, json, text) \
  if (is_tensor(api::json)) known += ", " #name;
#define PYGRADE_RULE PYGRADE_COLUMN
#include "pygrade/request.def"
  refuse_unknown(tensor.name, known);
}

template <class T>
void RankInput::take_column(const Reading& reading, const TensorView& tensor, std::string_view prefix,
                            std::string_view json, std::vector<T>& out) {
  if (!is_tensor(json)) return ignore_tensor(reading, tensor);
  const std::size_t rows = reading.max_rows();
  if constexpr (std::is_same_v<T, std::uint8_t>) copy_values(tensor, rows, out);
  if constexpr (std::is_same_v<T, float>) {
    if (json != api::vectors) {
      copy_floats(tensor, rows, json == api::amounts ? 0.0 : -most, false, out);
    } else {
      if (tensor.type != TensorType::float32 || tensor.shape.size() != 2 || tensor.shape[1] < 1 ||
          tensor.shape[1] > static_cast<std::int64_t>(PageTerms::max_dimension) ||
          tensor.shape[0] > static_cast<std::int64_t>(rows))
        throw InputError(tensor.name, tensor.name + " has the shape " + shape_text(tensor.shape) +
                                          "; expected F32 of [N, 1 to 256] with N up to " + std::to_string(rows));
      out.resize(static_cast<std::size_t>(tensor.shape[0] * tensor.shape[1]));
      if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
      check_floats(tensor, out, -most, true);
    }
  }
  lengths_.push_back({{prefix, tensor.name}, static_cast<std::size_t>(tensor.shape[0])});
}

void RankInput::take_tensor(const Reading& reading, const TensorView& tensor) {
  const std::string_view name = tensor.name;
  if (name == "items") {
    has_items = true;
    names.clear();
    copy_ids(tensor, reading.max_rows(), items);
  } else if (name == "seen") {
    copy_ids(tensor, reading.max_ids(), seen);
  } else if (name == "eligible") {
    has_eligible = true;
    copy_ids(tensor, reading.max_ids(), eligible);
  } else if (name == "context") {
    if (!reading.release.is_policy())
      throw InputError("context", "context is a tensor; a pipeline needs it by name in the metadata request");
    copy_floats(tensor, 1 << 20, -most, true, features);
    if (const std::size_t size = reading.release.context->size(); features.size() != size)
      throw InputError("context", "context has " + std::to_string(features.size()) + " values; expected " +
                                      std::to_string(size) + ", one for each feature");
    has_context = true;
  } else {
#define PYGRADE_COLUMN(type, field, rows, width, json, text) \
  if (name == #field) return take_column(reading, tensor, {}, api::json, field);
#define PYGRADE_RULE(type, field, rows, width, json, text) \
  if (name == #field) return take_column(reading, tensor, "rules.", api::json, rules_.field);
#include "pygrade/request.def"
    ignore_tensor(reading, tensor);
  }
}

// predictions.TASK, item_features.COLUMN or groups.NAME.
void RankInput::take_named(const Reading& reading, const TensorView& tensor, std::string_view kind,
                           const std::string& name) {
  const Release& release = reading.release;
  const std::size_t rows = reading.max_rows();
  if (kind == "predictions") {
    begin_predictions(release);
    const auto found = std::ranges::find(release.tasks, name);
    if (found == release.tasks.end()) {
      if (reading.config.strict) task_of(name, "predictions", release.tasks);
      unknown_keys.add(tensor.name);
      return;
    }
    const auto place = static_cast<std::size_t>(found - release.tasks.begin());
    given_[place] = true;
    copy_floats(tensor, rows, -most, true, by_task_[place]);
  } else if (kind == "item_features") {
    const Columns::Column* known = release.items.find(name);
    if (release.is_policy() && (known == nullptr || known->number < 0)) {
      if (reading.config.strict) throw InputError(tensor.name, tensor.name + " is no item column of the policy");
      unknown_keys.add(tensor.name);
      return;
    }
    places_.emplace_back(tensor_names_.emplace_back(name), num_columns_);
    copy_floats(tensor, rows, -most, true, next_column());
    lengths_.push_back({{"item_features.", tensor_names_.back()}, columns_[num_columns_ - 1].size()});
  } else if (kind == "groups") {
    std::vector<std::int64_t> numbers;
    copy_values(tensor, rows, numbers);
    auto& members = next_group("groups", tensor_names_.emplace_back(name));
    for (const std::int64_t number : numbers) {
      if (number > std::numeric_limits<std::int32_t>::max())
        throw InputError(tensor.name,
                         tensor.name + " holds " + std::to_string(number) + "; expected numbers below 2^31");
      members.push_back(static_cast<std::int32_t>(std::max<std::int64_t>(number, -1)));
    }
    lengths_.push_back({{"rules.groups.", tensor_names_.back()}, members.size()});
  } else {
    ignore_tensor(reading, tensor);
  }
}

void RankInput::take_predictions(const Reading& reading, const TensorView& tensor,
                                 const std::vector<std::string>& order) {
  if (tensor.type != TensorType::float32) throw InputError(tensor.name, "predictions is of another type; expected F32");
  const auto& tasks = reading.release.tasks;
  const auto width = static_cast<std::int64_t>(order.size());
  const bool by_rows = tensor.shape.size() == 2 && tensor.shape[1] == width;
  const auto count = static_cast<std::size_t>(by_rows ? tensor.shape[0] : 0);
  if (!by_rows || count > reading.max_rows())
    throw InputError(tensor.name, "predictions has the shape " + shape_text(tensor.shape) + "; expected [N, " +
                                      std::to_string(width) + "] with N up to " + std::to_string(reading.max_rows()));
  begin_predictions(reading.release);
  if (order == tasks) {
    given_.assign(tasks.size(), true);
    const auto* floats = reinterpret_cast<const float*>(tensor.bytes.data());
    if (reinterpret_cast<std::uintptr_t>(floats) % alignof(float) != 0) {
      matrix_.resize(count * tasks.size());
      std::memcpy(matrix_.data(), tensor.bytes.data(), tensor.bytes.size());
      floats = matrix_.data();
    }
    predictions = {floats, count * tasks.size()};
    return check_floats(tensor, predictions, -most, true);
  }
  for (std::size_t o = 0; o < order.size(); ++o) {
    const auto found = std::ranges::find(tasks, order[o]);
    if (found == tasks.end()) continue;
    const auto task = static_cast<std::size_t>(found - tasks.begin());
    given_[task] = true;
    Floats& column = by_task_[task];
    column.resize(count);
    for (std::size_t i = 0; i < count; ++i)
      std::memcpy(&column[i], tensor.bytes.data() + (o + i * order.size()) * sizeof(float), sizeof(float));
    check_floats(tensor, column, -most, true);
  }
}

// Reads the context: of a pipeline as it is given, of a policy's run as the policy's features.
void RankInput::read_context(Reading& reading) {
  enter_object(reader_, "context");
  const Columns* columns = reading.release.context ? &*reading.release.context : nullptr;
  if (columns != nullptr) features.assign(columns->unknown().begin(), columns->unknown().end());
  for (std::string_view key; reader_.next_key(key);) {
    const Argument argument("context.", key);
    ContextValue entry{.name = key};
    switch (reader_.peek()) {
      case Json::Type::null:
        reader_.null();
        break;
      case Json::Type::string:
        entry.text = reader_.string();
        break;
      case Json::Type::boolean:
        entry.number = reader_.boolean();
        break;
      case Json::Type::number:
        entry.number = reader_.number().value;
        break;
      default:
        refuse(argument, reader_, "a number, a text or null");
    }
    if (columns == nullptr) {
      has_context = true;
      context.push_back(entry);
      continue;
    }
    const Columns::Column* column = columns->find(key);
    if (column == nullptr) {
      if (reading.config.strict)
        throw InputError(argument.text(), argument.text() + " is no column of the policy's context");
      unknown_keys.add(argument.text());
      continue;
    }
    has_context = true;
    if (entry.text && column->levels.empty())
      throw InputError(argument.text(), argument.text() + " is a text; expected a number, or null where it is missing");
    if (!entry.text && column->number < 0 && !std::isnan(entry.number))
      throw InputError(argument.text(), argument.text() + " is a number; expected a text, or null where it is missing");
    if (entry.text) {
      if (const std::size_t level = column->level_of(*entry.text); level < column->levels.size())
        features[column->levels[level].second] = 1.0f;
      else if (level != Columns::Column::blank)
        unknown_keys.add(argument.text() + "=" + std::string(entry.text->size() <= max_text ? *entry.text : "…"));
    } else if (!std::isnan(entry.number)) {
      features[static_cast<std::size_t>(column->number)] = static_cast<float>(entry.number);
    }
  }
  if (!has_context) features.clear();
}

void RankInput::begin_predictions(const Release& release) {
  if (has_predictions) return;
  has_predictions = true;
  lengths_.push_back({"predictions", any_size});
  by_task_.resize(std::max(by_task_.size(), release.tasks.size()));
  for (Floats& column : by_task_) column.clear();
  given_.assign(release.tasks.size(), false);
}

void RankInput::read_predictions(Reading& reading) {
  const auto& tasks = reading.release.tasks;
  begin_predictions(reading.release);
  enter_object(reader_, "predictions");
  for (std::string_view key; reader_.next_key(key);) {
    const auto found = std::ranges::find(tasks, key);
    if (found == tasks.end()) {  // of a model that predicts more than the policy weighs
      if (reading.config.strict) task_of(key, "predictions", tasks);
      reader_.skip();
      unknown_keys.add("predictions." + std::string(key));
      continue;
    }
    const auto task = static_cast<std::size_t>(found - tasks.begin());
    reading.check_once("predictions.", key);
    reading.check_once({}, "predictions");
    given_[task] = true;
    read_floats(reader_, {"predictions.", key}, reading.max_rows(), -most, most, true, by_task_[task]);
  }
}

std::vector<std::int32_t>& RankInput::next_group(std::string_view argument, std::string_view name) {
  if (num_groups_ == max_groups)
    throw InputError(argument, std::string(argument) + " has more than " + std::to_string(max_groups) +
                                   " columns; expected at most as many");
  if (num_groups_ == groups_.size()) groups_.emplace_back();
  auto& [given, numbers] = groups_[num_groups_++];
  given = name;
  numbers.clear();
  return numbers;
}

RankInput::Floats& RankInput::next_column() {
  if (num_columns_ == columns_.size()) columns_.emplace_back();
  columns_[num_columns_].clear();
  return columns_[num_columns_++];
}

// A column of numbers, or of texts, which become the 0/1 columns of their levels.
void RankInput::read_item_features(Reading& reading) {
  const Columns& known = reading.release.items;
  std::size_t count = 0;
  enter_object(reader_, "item_features");
  for (std::string_view key; reader_.next_key(key);) {
    const Argument argument("item_features.", key);
    reading.check_once(argument.prefix, key);
    const Columns::Column* column = known.find(key);
    if (column == nullptr && reading.release.is_policy()) {
      if (reading.config.strict)
        throw InputError(argument.text(), argument.text() + " is no item column of the policy");
      reader_.skip();
      unknown_keys.add(argument.text());
      continue;
    }
    if (++count > max_item_features)
      throw InputError("item_features", "item_features has more than " + std::to_string(max_item_features) +
                                            " columns; expected at most as many");
    if (column == nullptr || column->levels.empty()) {
      places_.emplace_back(key, num_columns_);
      read_floats(reader_, argument, reading.max_rows(), -3e38, 3e38, true, next_column());
      lengths_.push_back({argument, columns_[num_columns_ - 1].size()});
      continue;
    }
    const std::size_t first = num_columns_;
    for (const auto& [level, place] : column->levels) {
      places_.emplace_back(known.name(place), num_columns_);
      next_column();
    }
    const std::size_t size = read_list(reader_, argument, reading.max_rows(), [&](const Argument& element) {
      std::string_view text;
      if (reader_.peek() == Json::Type::null)
        reader_.null();
      else
        text = read_text(reader_, element, 1024);
      const std::size_t level = column->level_of(text);
      for (std::size_t l = 0; l < column->levels.size(); ++l) columns_[first + l].push_back(l == level ? 1.0f : 0.0f);
    });
    lengths_.push_back({argument, size});
  }
}

void RankInput::read_rules(Reading& reading) {
  enter_object(reader_, "rules");
  read_known(reader_, "rules.", api::rules_fields, reading.config, unknown_keys, [&](const Argument& argument) {
    reading.check_once({}, argument.key);
#define PYGRADE_RULE(type, name, rows, width, json, text) \
  if (argument.key == #name) read_column(reading, argument, api::json, rules_.name);
#include "pygrade/request.def"
    if (argument.key == "pins") read_pins(reading, argument);
    if (argument.key == "demote") read_ids(reading, argument, reading.max_rows(), demoted, &demoted_names);
  });
  if (has_places()) lengths_.push_back({{"rules.", "pins"}, any_size});
}

void RankInput::read_groups(const Reading& reading, const Argument& argument) {
  constexpr std::int64_t low = std::numeric_limits<std::int32_t>::min(),
                         high = std::numeric_limits<std::int32_t>::max();
  enter_object(reader_, argument);
  for (std::string_view name; reader_.next_key(name);) {
    reading.check_once("groups.", name);
    auto& numbers = next_group("rules.groups", name);
    const Argument group("rules.groups.", name);
    read_list(reader_, group, reading.max_rows(), [&](const Argument& element) {
      const bool is_null = reader_.peek() == Json::Type::null;
      if (is_null) reader_.null();
      numbers.push_back(is_null ? -1 : static_cast<std::int32_t>(read_integer(reader_, element, low, high)));
    });
    lengths_.push_back({group, numbers.size()});
  }
}

// A number for each group by name; whole: from -1 on, else a factor.
void RankInput::read_limits(const Argument& argument, bool whole) {
  const std::string key = argument.text(), prefix = key + ".";
  enter_object(reader_, argument);
  std::size_t count = 0;
  for (std::string_view name; reader_.next_key(name); ++count) {
    if (count == max_groups) throw InputError(key, key + " has more than " + std::to_string(max_groups) + " groups");
    const Argument group(prefix, name);
    limits_.push_back({argument.key, name,
                       whole ? static_cast<double>(read_integer(reader_, group, -1, 1'000'000'000))
                             : read_number(reader_, group, 0.0, 1.0)});
  }
  if (count > 0) lengths_.push_back({argument, any_size});
}

void RankInput::read_pins(const Reading& reading, const Argument& list) {
  read_list(reader_, list, static_cast<std::size_t>(reading.config.max_k), [&](const Argument& element) {
    const std::string prefix = element.text() + ".";
    std::optional<std::int64_t> item;
    std::optional<std::size_t> position;
    std::string_view name;
    enter_object(reader_, element);
    read_known(reader_, prefix, api::pin_fields, reading.config, unknown_keys, [&](const Argument& argument) {
      if (argument.key == "item")
        item = reading.naming.items.read(reader_, argument, false, name);
      else
        position = static_cast<std::size_t>(read_integer(reader_, argument, 0, reading.config.max_k - 1));
    });
    if (!item) refuse_missing(prefix + "item");
    if (!position) refuse_missing(prefix + "position");
    for (const Pin& other : pins)
      if (other.item == *item || other.position == *position)
        throw InputError("rules.pins", "rules.pins names an item or a position twice; expected each once");
    pins.push_back({*item, *position, name});
  });
}

// Checks and completes what several keys say together.
void RankInput::finish(const Reading& reading) {
  const auto& [config, naming, release, page, tensors] = reading;
  const std::string unread = not_read(unknown_keys);
  if (page && !user) throw InputError("user", "user is missing" + unread);
  if (!has_items && page) {
    if (!lengths_.empty()) {
      const auto& [prefix, key, index] = lengths_.front().argument;
      const std::string name(prefix.empty() ? key : prefix.substr(0, prefix.find('.')));
      throw InputError(name, name + " is given without items; expected both");
    }
    if (release.is_policy())
      throw InputError("items", "items is missing; expected the candidates of the page" + unread);
  }
  if (has_predictions)
    finish_predictions(reading);
  else if (page && release.needs_predictions)
    throw InputError("predictions",
                     "predictions is missing; this run has no model: expected a list for each of the tasks " +
                         joined(release.tasks) + unread);
  if (!page) return;
  for (const auto& [argument, size] : lengths_)
    if (size != any_size && size != items.size())
      throw InputError(argument.text(), argument.text() + " is a list of " + std::to_string(size) +
                                            "; expected one value for each of the " + std::to_string(items.size()) +
                                            " items");
  for (const auto& [name, place] : places_) item_features.push_back({name, columns_[place]});
  finish_rules();
  if (!has_items || !release.is_policy()) return;
  if (const std::int64_t twice = IdTable(items).twice; twice >= 0) {
    const auto place = static_cast<std::size_t>(std::ranges::find(items, twice) - items.begin());
    throw InputError("items", "items holds " + item_text(twice, names.empty() ? std::string_view() : names[place]) +
                                  " more than once; expected distinct ids");
  }
}

void RankInput::finish_predictions(const Reading& reading) {
  const auto& tasks = reading.release.tasks;
  const std::size_t width = tasks.size();
  if (const auto lacking = std::ranges::find(given_, false); lacking != given_.end())
    throw InputError("predictions", "predictions lacks the task '" +
                                        tasks[static_cast<std::size_t>(lacking - given_.begin())] +
                                        "'; expected a list for each of " + joined(tasks) + not_read(unknown_keys));
  const bool is_whole = !predictions.empty();  // of one tensor
  const std::size_t count = reading.page ? items.size() : is_whole ? predictions.size() / width : by_task_[0].size();
  const std::string each = " for each of the " + std::to_string(count) + " items";
  if (is_whole) {
    if (predictions.size() != count * width)
      throw InputError("predictions",
                       "predictions has " + std::to_string(predictions.size() / width) + " rows; expected one" + each);
    return;
  }
  matrix_.resize(count * width);
  predictions = matrix_;
  for (std::size_t t = 0; t < width; ++t) {
    const std::string name = "predictions." + tasks[t];
    if (by_task_[t].size() != count)
      throw InputError(name,
                       name + " is a list of " + std::to_string(by_task_[t].size()) + "; expected one value" + each);
    for (std::size_t i = 0; i < count; ++i) matrix_[i * width + t] = by_task_[t][i];
  }
}

// The numbers of a rule in the order of the groups; where it names no group, it leaves it as it is.
template <class T>
void RankInput::finish_limits(std::string_view rule, std::vector<T>& out) {
  for (const auto& [key, group, number] : limits_) {
    if (key != rule) continue;
    std::size_t a = 0;
    while (a < num_groups_ && groups_[a].first != group) ++a;
    const std::string name = "rules." + std::string(rule);
    if (a == num_groups_)
      throw InputError(name, name + " names '" + std::string(group) + "', which is none of rules.groups");
    if (out.empty()) out.assign(num_groups_, std::is_same_v<T, float> ? T{1} : static_cast<T>(-1));
    out[a] = static_cast<T>(number);
  }
}

void RankInput::finish_rules() {
  const std::size_t rows = items.size();
  rules_.groups.resize(rows * num_groups_);
  for (std::size_t a = 0; a < num_groups_; ++a)
    for (std::size_t i = 0; i < rows; ++i) rules_.groups[i * num_groups_ + a] = groups_[a].second[i];
#define PYGRADE_RULE(type, name, rows, width, json, text) finish_limits(#name, rules_.name);
#include "pygrade/request.def"
  if (rules_.caps.empty()) rules_.caps.assign(num_groups_, -1);  // groups alone limit nothing
  for (const Pin& pin : pins) {
    if (pin.position >= k)
      throw InputError("rules.pins", "rules.pins names the position " + std::to_string(pin.position) +
                                         "; expected positions from 0 to " + std::to_string(k - 1));
    if (std::ranges::find(items, pin.item) == items.end()) refuse_item("rules.pins", pin.item, pin.name);
  }
  if (demoted.empty()) return;
  const IdTable places(items);
  for (std::size_t i = 0; i < demoted.size(); ++i)
    if (places.find(demoted[i]) < 0)
      refuse_item("rules.demote", demoted[i], demoted_names.empty() ? std::string_view() : demoted_names[i]);
}

PageRules RankInput::rules() const {
  PageRules rules;
#define PYGRADE_RULE(type, name, rows, width, json, text) rules.name = rules_.name;
#include "pygrade/request.def"
  return rules;
}

std::size_t RankInput::memory() const {
  const auto bytes = [](const auto& list) { return list.capacity() * sizeof list[0]; };
  std::size_t sum = reader_.memory() + metadata_.capacity() + bytes(matrix_);
  std::apply([&](const auto&... list) { sum += (bytes(list) + ...); }, lists(*this));
  for (const auto* columns : {&by_task_, &columns_})
    for (const Floats& column : *columns) sum += bytes(column);
  for (const auto& group : groups_) sum += bytes(group.second);
  return sum;
}

void UpdateInput::parse(std::string_view body, const ServiceConfig& config, const Naming& naming,
                        const Release& release) {
  events.clear();
  measures.clear();
  unknown_keys = {};
  const std::int64_t now = now_ms();
  bool has_events = false;
  read_body([&] {
    open(reader_, body, config);
    read_known(reader_, "", api::update_fields, config, unknown_keys, [&](const Argument& list) {
      if (list.key == policy_key) return check_run(reader_, list, config);
      has_events = true;
      read_list(reader_, list, static_cast<std::size_t>(config.max_events), [&](const Argument& element) {
        EventInput event;
        event.timestamp = now;
        read_event(element, config, naming, release, event);
        events.push_back(event);
      });
    });
    reader_.end();
  });
  if (!has_events) refuse_missing("events");
}

void UpdateInput::read_event(const Argument& element, const ServiceConfig& config, const Naming& naming,
                             const Release& release, EventInput& event) {
  const std::string prefix = element.text() + ".", of_measures = prefix + "measures";
  bool has_user = false, has_item = false;
  event.first_measure = measures.size();
  if (reader_.peek() != Json::Type::object) refuse(element, reader_, "a JSON object");
  reader_.enter_object();
  read_known(reader_, prefix, api::event_fields, config, unknown_keys, [&](const Argument& argument) {
    const std::string_view key = argument.key;
    has_user = has_user || key == "user";
    has_item = has_item || key == "item";
    if (key == "user") event.user = naming.users.read(reader_, argument, true, event.user_name);
    if (key == "item") event.item = naming.items.read(reader_, argument, false, event.item_name);
    if (key == "task") event.task = task_of(read_text(reader_, argument, max_text), argument.text(), release.log_tasks);
    if (key == "timestamp") event.timestamp = read_integer(reader_, argument, -last_time, last_time);
    if (key == "amount") event.amount = read_number(reader_, argument, -most, most);
    if (key == "request_id") event.request_id = read_text(reader_, argument, max_text);
    if (key == "event_id") event.event_id = read_text(reader_, argument, max_text);
    if (key == "scenario") event.scenario = read_text(reader_, argument, max_text);
    if (key != "measures") return;
    enter_object(reader_, argument);
    for (std::string_view measure; reader_.next_key(measure);) {
      if (std::ranges::find(release.outcomes, "m_" + std::string(measure)) == release.outcomes.end())
        throw InputError(of_measures, of_measures + " names '" + std::string(measure) + "', which no feature reads");
      measures.push_back({measure, read_number(reader_, {of_measures + ".", measure}, -1e300, 1e300)});
    }
  });
  if (!has_user) refuse_missing(prefix + "user");
  if (!has_item) refuse_missing(prefix + "item");
  event.measures = measures.size() - event.first_measure;
}
}  // namespace pygrade::inline v0_2::detail
