#include "service/request.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "service/api.hpp"
#include "service/release.hpp"
#include "util/hash.hpp"
#include "util/safetensors.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

constexpr std::size_t max_text = 256, max_groups = 16, max_item_features = 256;
constexpr std::string_view batch_key = "requests";
constexpr std::int64_t last_time = std::int64_t{1} << 53;
constexpr double most = 1e30;  // of predictions, values and boosts
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

std::size_t task_of(std::string_view name, std::string_view argument, const std::vector<std::string>& tasks) {
  const auto found = std::ranges::find(tasks, name);
  if (found == tasks.end())
    throw InputError(
        argument, std::string(argument) + " names the task '" + std::string(name) + "'; want one of " + joined(tasks));
  return static_cast<std::size_t>(found - tasks.begin());
}

JsonLimits limits_of(const ServiceConfig& config) {
  return {.bytes = config.max_body_bytes, .values = config.max_body_bytes, .depth = 8, .infinite = false};
}

// A key that nothing reads.
template <std::size_t N>
void ignore(JsonReader& reader, const Argument& argument, const api::Field (&known)[N], const ServiceConfig& config,
            std::size_t& count) {
  if (config.strict) {
    std::string names;
    for (const auto& field : known) names.append(names.empty() ? "" : ", ").append(field.name);
    throw InputError(argument.text(), argument.text() + " is unknown; want some of " + names);
  }
  reader.skip();
  ++count;
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

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t d = 0; d < shape.size(); ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

template <class T>
std::size_t bytes_of(const std::vector<T>& memory) {
  return memory.capacity() * sizeof(T);
}

}  // namespace

struct RankInput::Reading {
  const ServiceConfig& config;
  const Naming& naming;
  const Release& release;
  bool page;

  std::size_t max_rows() const { return static_cast<std::size_t>(config.max_candidates); }
};

void RankInput::clear(const ServiceConfig& config) {
  user.reset();
  user_name = {};
  timestamp = now_ms();
  k = static_cast<std::size_t>(std::min<std::int64_t>(10, config.max_k));
  candidates = static_cast<std::size_t>(std::min<std::int64_t>(500, config.max_candidates));
  arm.reset();
  has_items = has_eligible = has_predictions = has_context = has_item_values = false;
  scenario.reset();
  request_id.reset();
  explore.reset();
  deadline = config.deadline;
  unknown_keys = num_columns_ = num_groups_ = 0;
  items.clear();
  eligible.clear();
  seen.clear();
  names.clear();
  context.clear();
  features.clear();
  predictions.clear();
  values.clear();
  item_values.clear();
  item_features.clear();
  pins.clear();
  given_.clear();
  tensor_names_.clear();
  places_.clear();
  mask_.clear();
  boost_mul_.clear();
  boost_add_.clear();
  named_caps_.clear();
}

std::optional<std::vector<std::string_view>> RankInput::split(std::string_view body, const ServiceConfig& config) {
  return read_body([&]() -> std::optional<std::vector<std::string_view>> {
    open(reader_, body, config);
    std::string_view key;
    if (!reader_.next_key(key) || key != batch_key) return {};
    std::vector<std::string_view> requests;
    read_list(reader_, batch_key, static_cast<std::size_t>(config.max_batch),
              [&](std::size_t) { requests.push_back(reader_.skip()); });
    while (reader_.next_key(key))
      throw InputError(key, std::string(key) + " stands beside requests; want it in each of them");
    reader_.end();
    return requests;
  });
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

void RankInput::read_request(Reading& reading) {
  const auto& [config, naming, release, page] = reading;
  const std::size_t rows = reading.max_rows(), ids = static_cast<std::size_t>(config.max_ids);
  const auto read_ids = [&](std::string_view argument, std::size_t limit, std::vector<std::int64_t>& out,
                            std::vector<std::string_view>* texts) {
    out.clear();
    std::string_view name;
    read_list(reader_, argument, limit, [&](std::size_t place) {
      out.push_back(naming.items.read(reader_, {"", argument, static_cast<std::ptrdiff_t>(place)}, false, name));
      if (texts == nullptr || (name.data() == nullptr && texts->empty())) return;
      texts->resize(place);  // of those before, which were numbers
      texts->push_back(name);
    });
    if (texts != nullptr && !texts->empty()) texts->resize(out.size());
  };
  for (std::string_view key; reader_.next_key(key);) {
    if (reader_.peek() == Json::Type::null) {
      if (std::ranges::find(api::rank_fields, key, &api::Field::name) == std::end(api::rank_fields))
        ignore(reader_, key, api::rank_fields, config, unknown_keys);
      else
        reader_.null();
    } else if (key == "user") {
      user = naming.users.read(reader_, "user", true, user_name);
    } else if (key == "k") {
      k = static_cast<std::size_t>(read_integer(reader_, key, 1, config.max_k));
    } else if (key == "candidates") {
      candidates = static_cast<std::size_t>(read_integer(reader_, key, 1, config.max_candidates));
    } else if (key == "items") {
      has_items = true;
      read_ids(key, rows, items, &names);
    } else if (key == "seen") {
      read_ids(key, ids, seen, nullptr);
    } else if (key == "eligible") {
      has_eligible = true;
      read_ids(key, ids, eligible, nullptr);
    } else if (key == "context") {
      read_context(reading);
    } else if (key == "predictions") {
      read_predictions(reading);
    } else if (key == "item_values") {
      has_item_values = true;
      read_floats(reader_, key, rows, 0.0, most, false, item_values);
    } else if (key == "item_features") {
      read_item_features(reading);
    } else if (key == "rules") {
      read_rules(reading);
    } else if (key == "scenario") {
      scenario = read_text(reader_, key, max_text);
    } else if (key == "request_id") {
      request_id = read_text(reader_, key, max_text);
    } else if (key == "timestamp") {
      timestamp = read_integer(reader_, key, -last_time, last_time);
    } else if (key == "explore") {
      explore = read_boolean(reader_, key);
    } else if (key == "deadline_ms") {
      deadline = std::chrono::microseconds(std::llround(read_number(reader_, key, 0.0, 3'600'000.0) * 1000.0));
    } else if (key == "values") {
      values.assign(release.tasks.size(), nan);
      enter_object(reader_, key);
      for (std::string_view task; reader_.next_key(task);)
        values[task_of(task, "values", release.tasks)] =
            static_cast<float>(read_number(reader_, {"values.", task}, 0.0, most));
    } else if (key == "arm") {
      const std::size_t place = reader_.place();
      const std::string_view name = read_text(reader_, key, max_text);
      const auto found = std::ranges::find(config.arms, name, &ArmConfig::name);
      if (found == config.arms.end()) {
        std::string known;
        for (const ArmConfig& one : config.arms) known += (known.empty() ? "" : ", ") + one.name;
        reader_.go_back(place);
        refuse(key, reader_, "one of " + known);
      }
      arm = static_cast<std::size_t>(found - config.arms.begin());
    } else if (key == batch_key) {
      throw InputError(key, "requests stands beside other keys; want it alone");
    } else {
      ignore(reader_, key, api::rank_fields, config, unknown_keys);
    }
  }
}

// Tensors by name: those of the lists of a JSON body. predictions[N, T] or [T, N] are in the order of the metadata
// "tasks", else of the policy's; or one tensor predictions.TASK for each.
void RankInput::parse_tensors(std::string_view body, const ServiceConfig& config, const Naming& naming,
                              const Release& release, bool page) {
  Reading reading{config, naming, release, page};
  clear(config);
  const auto content = std::as_bytes(std::span(body));
  std::vector<TensorView> tensors;
  std::string order_text;
  try {
    tensors = read_safetensors(content);
    metadata_ = read_metadata(content, "request");
    order_text = read_metadata(content, "tasks");
  } catch (const SafetensorsError& error) {
    throw InputError("body", "the body is no safetensors file: " + std::string(error.what()));
  }
  std::vector<std::string> order = release.tasks;
  read_body([&] {
    if (metadata_.empty()) metadata_ = "{}";
    open(reader_, metadata_, config);
    read_request(reading);
    reader_.end();
    if (order_text.empty()) return;
    order.clear();
    JsonReader reader(order_text, limits_of(config));
    read_list(reader, "tasks", Policy::max_tasks,
              [&](std::size_t) { order.emplace_back(read_text(reader, "tasks", max_text)); });
    reader.end();
  });
  const auto size_of = [&](const TensorView& tensor, std::size_t limit) {
    const std::size_t size = tensor.shape.size() == 1 ? static_cast<std::size_t>(tensor.shape[0]) : limit + 1;
    if (size > limit)
      throw InputError(tensor.name, tensor.name + " has the shape " + shape_text(tensor.shape) +
                                        "; want one dimension of at most " + std::to_string(limit));
    return size;
  };
  const auto expect = [&](const TensorView& tensor, TensorType type, const char* name) {
    if (tensor.type != type) throw InputError(tensor.name, tensor.name + " is of another type; want " + name);
  };
  const auto read_integers = [&](const TensorView& tensor, std::size_t limit, std::vector<std::int64_t>& out) {
    expect(tensor, TensorType::int64, "I64");
    out.resize(size_of(tensor, limit));
    if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  };
  const auto read_ids = [&](const TensorView& tensor, std::size_t limit, std::vector<std::int64_t>& out) {
    read_integers(tensor, limit, out);
    for (const std::int64_t id : out)
      if (id < 0) throw InputError(tensor.name, tensor.name + " holds " + std::to_string(id) + "; want ids from 0 on");
  };
  // Not a number: missing, where that may be; else finite and not beyond the limits.
  const auto check_floats = [&](const TensorView& tensor, const Floats& numbers, double low, bool missing) {
    for (const float number : numbers)
      if (!(static_cast<double>(number) >= low && static_cast<double>(number) <= most) &&
          !(missing && std::isnan(number)))
        throw InputError(tensor.name, tensor.name + " holds " + std::to_string(number) + "; want numbers from " +
                                          (low == 0.0 ? "0" : "-1e30") + " to 1e30" + (missing ? ", or NaN" : ""));
  };
  const auto read_floats = [&](const TensorView& tensor, std::size_t limit, double low, bool missing, Floats& out) {
    expect(tensor, TensorType::float32, "F32");
    out.resize(size_of(tensor, limit));
    if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
    check_floats(tensor, out, low, missing);
  };
  const std::size_t rows = reading.max_rows(), ids = static_cast<std::size_t>(config.max_ids);
  const std::size_t tasks = release.tasks.size();
  const auto begin_predictions = [&] {
    if (has_predictions) return;
    has_predictions = true;
    by_task_.resize(std::max(by_task_.size(), tasks));
    for (Floats& column : by_task_) column.clear();
    given_.assign(tasks, false);
  };
  for (const TensorView& tensor : tensors) {
    const std::string_view name = tensor.name;
    const auto of = [&](std::string_view prefix) { return name.starts_with(prefix) ? name.substr(prefix.size()) : ""; };
    if (name == "items") {
      has_items = true;
      names.clear();
      read_ids(tensor, rows, items);
    } else if (name == "seen") {
      read_ids(tensor, ids, seen);
    } else if (name == "eligible") {
      has_eligible = true;
      read_ids(tensor, ids, eligible);
    } else if (name == "context") {
      if (!release.is_policy())
        throw InputError("context", "context is a tensor; a pipeline wants it by name in the metadata request");
      read_floats(tensor, 1 << 20, -most, true, features);
      if (features.size() != release.context->size())
        throw InputError("context", "context has " + std::to_string(features.size()) + " values; want " +
                                        std::to_string(release.context->size()) + ", one for each feature");
      has_context = true;
    } else if (name == "predictions") {
      expect(tensor, TensorType::float32, "F32");
      const bool by_rows = tensor.shape.size() == 2 && tensor.shape[1] == static_cast<std::int64_t>(order.size());
      const bool by_tasks = tensor.shape.size() == 2 && tensor.shape[0] == static_cast<std::int64_t>(order.size());
      const std::size_t count = static_cast<std::size_t>(by_rows ? tensor.shape[0] : by_tasks ? tensor.shape[1] : 0);
      if ((!by_rows && !by_tasks) || count > rows)
        throw InputError(name, "predictions has the shape " + shape_text(tensor.shape) + "; want [N, " +
                                   std::to_string(order.size()) + "] or [" + std::to_string(order.size()) +
                                   ", N] with N up to " + std::to_string(rows));
      begin_predictions();
      if (by_rows && order == release.tasks) {
        given_.assign(tasks, true);
        predictions.resize(count * tasks);
        if (count > 0) std::memcpy(predictions.data(), tensor.bytes.data(), tensor.bytes.size());
        check_floats(tensor, predictions, -most, true);
        continue;
      }
      for (std::size_t o = 0; o < order.size(); ++o) {
        const auto found = std::ranges::find(release.tasks, order[o]);
        if (found == release.tasks.end()) continue;
        const auto task = static_cast<std::size_t>(found - release.tasks.begin());
        given_[task] = true;
        Floats& column = by_task_[task];
        column.resize(count);
        const std::size_t step = by_rows ? order.size() : 1, first = by_rows ? o : o * count;
        for (std::size_t i = 0; i < count; ++i)
          std::memcpy(&column[i], tensor.bytes.data() + (first + i * step) * sizeof(float), sizeof(float));
        check_floats(tensor, column, -most, true);
      }
    } else if (const auto task = of("predictions."); !task.empty()) {
      begin_predictions();
      const auto found = std::ranges::find(release.tasks, task);
      if (found == release.tasks.end()) {
        if (config.strict) task_of(task, "predictions", release.tasks);
        ++unknown_keys;
        continue;
      }
      const auto place = static_cast<std::size_t>(found - release.tasks.begin());
      given_[place] = true;
      read_floats(tensor, rows, -most, true, by_task_[place]);
    } else if (name == "item_values") {
      has_item_values = true;
      read_floats(tensor, rows, 0.0, false, item_values);
    } else if (const auto column = of("item_features."); !column.empty()) {
      // Views of names that live as long as the release, or as this request.
      const Columns::Column* known = release.items.find(column);
      if (release.is_policy() && (known == nullptr || known->number < 0)) {
        if (config.strict) throw InputError(name, std::string(name) + " is no item column of the policy");
        ++unknown_keys;
        continue;
      }
      tensor_names_.push_back(std::string(column));
      places_.emplace_back(tensor_names_.back(), num_columns_);
      read_floats(tensor, rows, -most, true, next_column());
    } else if (name == "mask") {
      expect(tensor, TensorType::uint8, "U8 or BOOL");
      mask_.resize(size_of(tensor, rows));
      if (!mask_.empty()) std::memcpy(mask_.data(), tensor.bytes.data(), tensor.bytes.size());
      if (mask_.empty()) mask_.push_back(1);
    } else if (name == "boost_mul" || name == "boost_add") {
      Floats& boosts = name == "boost_mul" ? boost_mul_ : boost_add_;
      read_floats(tensor, rows, -most, false, boosts);
      if (boosts.empty()) boosts.push_back(0.0f);
    } else if (const auto group = of("groups."); !group.empty()) {
      std::vector<std::int64_t> numbers;
      read_integers(tensor, rows, numbers);
      if (num_groups_ == max_groups)
        throw InputError("groups", "there are more than " + std::to_string(max_groups) + " groups");
      if (num_groups_ == groups_.size()) groups_.emplace_back();
      tensor_names_.push_back(std::string(group));
      groups_[num_groups_].first = tensor_names_.back();
      auto& members = groups_[num_groups_++].second;
      members.clear();
      for (const std::int64_t number : numbers) {
        if (number > std::numeric_limits<std::int32_t>::max())
          throw InputError(name, std::string(name) + " holds " + std::to_string(number) + "; want numbers below 2^31");
        members.push_back(static_cast<std::int32_t>(std::max<std::int64_t>(number, -1)));
      }
    } else {
      if (config.strict) {
        std::string known;
        for (const auto one : api::tensor_names) known.append(known.empty() ? "" : ", ").append(one);
        throw InputError(name, std::string(name) + " is unknown; want some of " + known);
      }
      ++unknown_keys;
    }
  }
  finish(reading);
}

// Of a pipeline as it is given; of a policy's run as the policy's features.
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
      ++unknown_keys;
      continue;
    }
    has_context = true;
    if (entry.text && column->levels.empty())
      throw InputError(argument.text(), argument.text() + " is a text; want a number, or null where it is missing");
    if (!entry.text && column->number < 0 && !std::isnan(entry.number))
      throw InputError(argument.text(), argument.text() + " is a number; want a text, or null where it is missing");
    if (entry.text) {
      for (const auto& [level, place] : column->levels)
        if (level == *entry.text) features[place] = 1.0f;
    } else if (!std::isnan(entry.number)) {
      features[static_cast<std::size_t>(column->number)] = static_cast<float>(entry.number);
    }
  }
  if (!has_context) features.clear();
}

void RankInput::read_predictions(Reading& reading) {
  const auto& tasks = reading.release.tasks;
  has_predictions = true;
  by_task_.resize(std::max(by_task_.size(), tasks.size()));
  given_.assign(tasks.size(), false);
  enter_object(reader_, "predictions");
  for (std::string_view key; reader_.next_key(key);) {
    const auto found = std::ranges::find(tasks, key);
    if (found == tasks.end()) {  // of a model that predicts more than the policy weighs
      if (reading.config.strict) task_of(key, "predictions", tasks);
      reader_.skip();
      ++unknown_keys;
      continue;
    }
    const auto task = static_cast<std::size_t>(found - tasks.begin());
    given_[task] = true;
    read_floats(reader_, {"predictions.", key}, reading.max_rows(), -most, most, true, by_task_[task]);
  }
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
    const Columns::Column* column = known.find(key);
    if (column == nullptr && reading.release.is_policy()) {
      if (reading.config.strict)
        throw InputError(argument.text(), argument.text() + " is no item column of the policy");
      reader_.skip();
      ++unknown_keys;
      continue;
    }
    if (++count > max_item_features)
      throw InputError("item_features", "item_features has more than " + std::to_string(max_item_features) +
                                            " columns; want at most as many");
    if (column == nullptr || column->levels.empty()) {
      places_.emplace_back(key, num_columns_);
      read_floats(reader_, argument, reading.max_rows(), -3e38, 3e38, true, next_column());
      continue;
    }
    const std::size_t first = num_columns_;
    for (const auto& [level, place] : column->levels) {
      places_.emplace_back(known.name(place), num_columns_);
      next_column();
    }
    read_list(reader_, argument, reading.max_rows(), [&](std::size_t place) {
      std::string_view text;
      if (reader_.peek() == Json::Type::null)
        reader_.null();
      else
        text = read_text(reader_, {argument.prefix, argument.key, static_cast<std::ptrdiff_t>(place)}, 1024);
      for (std::size_t l = 0; l < column->levels.size(); ++l)
        columns_[first + l].push_back(column->levels[l].first == text ? 1.0f : 0.0f);
    });
  }
}

void RankInput::read_rules(Reading& reading) {
  const std::size_t rows = reading.max_rows();
  enter_object(reader_, "rules");
  for (std::string_view key; reader_.next_key(key);) {
    const Argument argument("rules.", key);
    if (reader_.peek() == Json::Type::null) {
      reader_.null();
    } else if (key == "mask") {
      mask_.clear();
      read_list(reader_, argument, rows, [&](std::size_t place) {
        mask_.push_back(read_boolean(reader_, {"rules.", "mask", static_cast<std::ptrdiff_t>(place)}));
      });
      if (mask_.empty()) mask_.push_back(1);  // does not fit, and is refused so
    } else if (key == "boost_mul" || key == "boost_add") {
      Floats& boosts = key == "boost_mul" ? boost_mul_ : boost_add_;
      read_floats(reader_, argument, rows, -most, most, false, boosts);
      if (boosts.empty()) boosts.push_back(0.0f);
    } else if (key == "groups") {
      enter_object(reader_, argument);
      for (std::string_view name; reader_.next_key(name);) {
        if (num_groups_ == max_groups)
          throw InputError("rules.groups", "rules.groups has more than " + std::to_string(max_groups) +
                                               " columns; want at most as many");
        if (num_groups_ == groups_.size()) groups_.emplace_back();
        auto& [given, numbers] = groups_[num_groups_++];
        given = name;
        numbers.clear();
        read_list(reader_, {"rules.groups.", name}, rows, [&](std::size_t place) {
          if (reader_.peek() == Json::Type::null) {
            reader_.null();
            numbers.push_back(-1);
            return;
          }
          constexpr std::int64_t low = std::numeric_limits<std::int32_t>::min();
          constexpr std::int64_t high = std::numeric_limits<std::int32_t>::max();
          const auto value =
              read_integer(reader_, {"rules.groups.", name, static_cast<std::ptrdiff_t>(place)}, low, high);
          numbers.push_back(static_cast<std::int32_t>(value));
        });
      }
    } else if (key == "caps") {
      enter_object(reader_, argument);
      for (std::string_view name; reader_.next_key(name);) {
        if (named_caps_.size() == max_groups)
          throw InputError("rules.caps", "rules.caps has more than " + std::to_string(max_groups) + " caps");
        named_caps_.emplace_back(
            name, static_cast<std::int32_t>(read_integer(reader_, {"rules.caps.", name}, -1, 1'000'000'000)));
      }
    } else if (key == "pins") {
      read_pins(reading);
    } else {
      ignore(reader_, argument, api::rules_fields, reading.config, unknown_keys);
    }
  }
}

void RankInput::read_pins(Reading& reading) {
  read_list(reader_, "rules.pins", static_cast<std::size_t>(reading.config.max_k), [&](std::size_t place) {
    const std::string prefix = "rules.pins[" + std::to_string(place) + "].";
    std::optional<std::int64_t> item;
    std::optional<std::size_t> position;
    std::string_view name;
    enter_object(reader_, prefix.substr(0, prefix.size() - 1));
    for (std::string_view key; reader_.next_key(key);) {
      if (key == "item")
        item = reading.naming.items.read(reader_, {prefix, key}, false, name);
      else if (key == "position")
        position = static_cast<std::size_t>(read_integer(reader_, {prefix, key}, 0, reading.config.max_k - 1));
      else
        ignore(reader_, {prefix, key}, api::pin_fields, reading.config, unknown_keys);
    }
    if (!item) throw InputError(prefix + "item", prefix + "item is missing");
    if (!position) throw InputError(prefix + "position", prefix + "position is missing");
    for (const Pin& other : pins)
      if (other.item == *item || other.position == *position)
        throw InputError("rules.pins", "rules.pins names an item or a position twice; want each once");
    pins.push_back({*item, *position});
  });
}

void RankInput::check_size(std::string_view argument, std::size_t size) const {
  if (size != items.size())
    throw InputError(argument, std::string(argument) + " is a list of " + std::to_string(size) +
                                   "; want one value for each of the " + std::to_string(items.size()) + " items");
}

// Every item once: an open-addressed table, since sorting thousands of ids would take longer than ranking them.
void RankInput::check_distinct() {
  std::size_t size = 16;
  while (size < 2 * items.size()) size *= 2;
  table_.assign(size, -1);
  for (const std::int64_t item : items) {
    auto at = static_cast<std::size_t>(splitmix64(static_cast<std::uint64_t>(item)));
    for (at &= size - 1; table_[at] >= 0; at = (at + 1) & (size - 1))
      if (table_[at] == item)
        throw InputError("items", "items holds " + std::to_string(item) + " more than once; want distinct ids");
    table_[at] = item;
  }
}

// What several keys say together.
void RankInput::finish(const Reading& reading) {
  const auto& [config, naming, release, page] = reading;
  const std::size_t tasks = release.tasks.size(), rows = items.size();
  if (page && !user) throw InputError("user", "user is missing");
  const bool has_rules = !mask_.empty() || !boost_mul_.empty() || !boost_add_.empty() || num_groups_ > 0 ||
                         !named_caps_.empty() || !pins.empty();
  if (!has_items && page) {
    if (has_item_values)
      throw InputError("item_values", "item_values is given without items; want a value for each of them");
    if (has_predictions)
      throw InputError("predictions", "predictions is given without items; want them for each of the items");
    if (has_rules) throw InputError("rules", "rules is given without items; want rules of the items");
    if (!places_.empty())
      throw InputError("item_features", "item_features is given without items; want a value for each of them");
    if (release.is_policy()) throw InputError("items", "items is missing; want the candidates of the page");
  }
  if (page && !has_predictions && release.needs_predictions)
    throw InputError(
        "predictions",
        "predictions is missing; this run has no model: want a list for each of the tasks " + joined(release.tasks));
  if (has_predictions) {
    const auto lacking = std::ranges::find(given_, false);
    if (lacking != given_.end())
      throw InputError("predictions", "predictions lacks the task '" +
                                          release.tasks[static_cast<std::size_t>(lacking - given_.begin())] +
                                          "'; want a list for each of " + joined(release.tasks));
    const bool is_whole = !predictions.empty();  // of one tensor
    const std::size_t count = page ? rows : is_whole ? predictions.size() / tasks : by_task_[0].size();
    if (is_whole && predictions.size() != count * tasks)
      throw InputError("predictions", "predictions has " + std::to_string(predictions.size() / tasks) +
                                          " rows; want one for each of the " + std::to_string(count) + " items");
    for (std::size_t t = 0; t < tasks && !is_whole; ++t)
      if (by_task_[t].size() != count) {
        throw InputError("predictions." + release.tasks[t],
                         "predictions." + release.tasks[t] + " is a list of " + std::to_string(by_task_[t].size()) +
                             "; want one value for each of the " + std::to_string(count) + " items");
      }
    if (!is_whole) {
      predictions.resize(count * tasks);
      for (std::size_t t = 0; t < tasks; ++t)
        for (std::size_t i = 0; i < count; ++i) predictions[i * tasks + t] = by_task_[t][i];
    }
  }
  if (!page) return;
  if (has_item_values) check_size("item_values", item_values.size());
  for (const auto& [name, place] : places_) {
    if (columns_[place].size() != rows) check_size("item_features." + std::string(name), columns_[place].size());
    item_features.push_back({name, columns_[place]});
  }
  if (!mask_.empty()) check_size("rules.mask", mask_.size());
  if (!boost_mul_.empty()) check_size("rules.boost_mul", boost_mul_.size());
  if (!boost_add_.empty()) check_size("rules.boost_add", boost_add_.size());
  group_rows_.resize(rows * num_groups_);
  caps_.assign(num_groups_, -1);
  for (std::size_t a = 0; a < num_groups_; ++a) {
    const auto& [name, numbers] = groups_[a];
    if (numbers.size() != rows) check_size("rules.groups." + std::string(name), numbers.size());
    for (std::size_t i = 0; i < rows; ++i) group_rows_[i * num_groups_ + a] = numbers[i];
  }
  for (const auto& [name, cap] : named_caps_) {
    std::size_t a = 0;
    while (a < num_groups_ && groups_[a].first != name) ++a;
    if (a == num_groups_)
      throw InputError("rules.caps", "rules.caps names '" + std::string(name) + "', which is none of rules.groups");
    caps_[a] = cap;
  }
  for (const Pin& pin : pins) {
    if (pin.position >= k)
      throw InputError("rules.pins", "rules.pins names the position " + std::to_string(pin.position) +
                                         "; want positions from 0 to " + std::to_string(k - 1));
    if (std::ranges::find(items, pin.item) == items.end())
      throw InputError("rules.pins", "rules.pins names " + std::to_string(pin.item) + ", which is none of items");
  }
  if (has_items && release.is_policy()) check_distinct();
}

PageRules RankInput::rules() const {
  PageRules rules;
  rules.mask = mask_;
  rules.boost_mul = boost_mul_;
  rules.boost_add = boost_add_;
  if (num_groups_ > 0) {
    rules.groups = group_rows_;
    rules.caps = caps_;
  }
  return rules;
}

std::size_t RankInput::memory() const {
  std::size_t sum = reader_.memory() + metadata_.capacity() + bytes_of(items) + bytes_of(eligible) + bytes_of(seen) +
                    bytes_of(names) + bytes_of(context) + bytes_of(predictions) + bytes_of(item_values) +
                    bytes_of(mask_) + bytes_of(boost_mul_) + bytes_of(boost_add_) + bytes_of(group_rows_) +
                    bytes_of(table_);
  for (const auto* columns : {&by_task_, &columns_})
    for (const Floats& column : *columns) sum += bytes_of(column);
  for (const auto& group : groups_) sum += bytes_of(group.second);
  return sum;
}

void UpdateInput::parse(std::string_view body, const ServiceConfig& config, const Naming& naming,
                        const Release& release) {
  events.clear();
  measures.clear();
  unknown_keys = 0;
  const std::int64_t now = now_ms();
  bool has_events = false;
  const auto read_event = [&](std::size_t place) {
    const std::string prefix = "events[" + std::to_string(place) + "].";
    bool has_user = false, has_item = false;
    std::string_view name;
    EventInput made;
    made.timestamp = now;
    made.first_measure = measures.size();
    if (reader_.peek() != Json::Type::object) refuse(prefix.substr(0, prefix.size() - 1), reader_, "a JSON object");
    reader_.enter_object();
    for (std::string_view key; reader_.next_key(key);) {
      const Argument argument(prefix, key);
      if (reader_.peek() == Json::Type::null &&
          std::ranges::find(api::event_fields, key, &api::Field::name) != std::end(api::event_fields)) {
        reader_.null();
      } else if (key == "user") {
        has_user = true;
        made.user = naming.users.read(reader_, argument, true, made.user_name);
      } else if (key == "item") {
        has_item = true;
        made.item = naming.items.read(reader_, argument, false, name);
      } else if (key == "task") {
        made.task = task_of(read_text(reader_, argument, max_text), argument.text(), release.log_tasks);
      } else if (key == "timestamp") {
        made.timestamp = read_integer(reader_, argument, -last_time, last_time);
      } else if (key == "amount") {
        made.amount = read_number(reader_, argument, -most, most);
      } else if (key == "request_id") {
        made.request_id = read_text(reader_, argument, max_text);
      } else if (key == "event_id") {
        made.event_id = read_text(reader_, argument, max_text);
      } else if (key == "scenario") {
        made.scenario = read_text(reader_, argument, max_text);
      } else if (key == "measures") {
        enter_object(reader_, argument);
        const std::string within = argument.text();
        for (std::string_view measure; reader_.next_key(measure);) {
          if (std::ranges::find(release.outcomes, "m_" + std::string(measure)) == release.outcomes.end())
            throw InputError(within, within + " names '" + std::string(measure) + "', which no feature reads");
          const double value = read_number(reader_, {within + ".", measure}, -1e300, 1e300);
          measures.push_back({measure, value});
        }
      } else {
        ignore(reader_, argument, api::event_fields, config, unknown_keys);
      }
    }
    for (const auto& [key, given] : {std::pair("user", has_user), std::pair("item", has_item)})
      if (!given) throw InputError(prefix + key, prefix + key + " is missing");
    made.measures = measures.size() - made.first_measure;
    events.push_back(made);
  };
  read_body([&] {
    open(reader_, body, config);
    for (std::string_view key; reader_.next_key(key);) {
      if (key == "events" && reader_.peek() != Json::Type::null) {
        has_events = true;
        read_list(reader_, key, static_cast<std::size_t>(config.max_events), read_event);
      } else if (key == "events") {
        reader_.null();
      } else {
        ignore(reader_, key, api::update_fields, config, unknown_keys);
      }
    }
    reader_.end();
  });
  if (!has_events) throw InputError("events", "events is missing");
}

}  // namespace pygrade::inline v0_2::detail
