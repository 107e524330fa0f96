#include "features/feature_json.hpp"

#include <algorithm>
#include <cmath>
#include <span>

namespace pygrade::inline v0_2::detail {
namespace {
using Entity = Feature::Entity;
using Kind = Feature::Kind;
using Transform = Feature::Transform;

// In the order of the enums.
constexpr std::string_view entities[] = {"user", "context", "item", "cross"};
constexpr std::string_view kinds[] = {"dense", "categorical", "list", "vector", "sequence", "count", "rate", "recency"};
constexpr std::string_view transforms[] = {"none", "log1p", "age"};
constexpr std::string_view times[] = {"time:hour_sin", "time:hour_cos", "time:weekend"};
constexpr std::string_view fields[] = {"name",      "entity",       "kind",   "source", "key",       "transform",
                                       "smoothing", "window_hours", "length", "size",   "min_count", "max_size"};
constexpr double max_length = 1 << 16;
constexpr std::size_t max_features = 10'000;

std::string joined(std::span<const std::string_view> names) {
  std::string text;
  for (const auto name : names) text.append(text.empty() ? "" : ", ").append(name);
  return text;
}

std::string name_of(Kind kind) { return std::string(kinds[static_cast<std::size_t>(kind)]); }

[[noreturn]] void refuse_entity(const Feature& f, const std::string& why) {
  refuse(f, "entity is " + json_quote(entities[static_cast<std::size_t>(f.entity)]) + "; " + why);
}

template <class Enum>
Enum one_of(const Json& record, std::string_view key, std::span<const std::string_view> names) {
  const std::string& value = record.string_at(key);
  const auto found = std::ranges::find(names, value);
  if (found == names.end())
    throw JsonError("'" + std::string(key) + "' is " + json_quote(value) + "; expected one of " + joined(names));
  return static_cast<Enum>(found - names.begin());
}

double number(const Json& record, std::string_view key, double otherwise) {
  const Json* found = record.find(key);
  if (found == nullptr) return otherwise;
  if (found->type != Json::Type::number || std::isnan(found->number))
    throw JsonError("'" + std::string(key) + "' is not a number");
  return found->number;
}

std::int64_t whole(const Json& record, std::string_view key, std::int64_t otherwise, double most) {
  const double value = number(record, key, static_cast<double>(otherwise));
  if (!(value >= 0.0 && value <= most) || value != std::floor(value))
    throw JsonError("'" + std::string(key) + "' is not a whole number of 0 … " + plain_number(most));
  return static_cast<std::int64_t>(value);
}

bool is_word(std::string_view text) {  // letters, digits and underscores; those beyond ASCII are not examined
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || (c & 0x80) != 0;
  });
}

bool is_outcome(std::string_view source) {
  if (source.starts_with("log1p(") && source.ends_with(")"))
    return source.substr(6, 2) == "m_" && is_word(source.substr(8, source.size() - 9));
  return (source.starts_with("y_") || source.starts_with("m_")) && is_word(source.substr(2));
}

void check_outcome(const Feature& f) {
  const std::string stated = "source is " + json_quote(f.source) + "; ";
  if (f.kind == Kind::rate && f.source.empty()) refuse(f, stated + "a rate needs an outcome");
  if (!f.source.empty() && !is_outcome(f.source))
    refuse(f, stated + "expected y_TASK, m_MEASURE, log1p(m_MEASURE) or ''");
  if (f.kind != Kind::rate && is_measure(f.source)) refuse(f, stated + "a " + name_of(f.kind) + " needs y_TASK or ''");
}

void check_key(const Feature& f) {
  bool of_item = false, of_request = f.key.empty();
  for (const std::string& part : f.key) {
    const bool known = part == "user_id" || part == "item_id" || part == "scenario" || part.starts_with("user.") ||
                       part.starts_with("item.");
    if (!known)
      refuse(f, "key names " + json_quote(part) + "; expected user_id, item_id, scenario, user.NAME or item.NAME");
    (part.starts_with("item") ? of_item : of_request) = true;
  }
  const bool fits = of_item && of_request ? f.entity == Entity::cross
                    : of_item             ? f.entity == Entity::item
                                          : f.per_request();
  if (!fits)
    refuse_entity(f, "its key makes it " + std::string(of_item && of_request ? "cross"
                                                       : of_item             ? "item"
                                                                             : "user or context"));
}

// Sources that only some entities and kinds have.
void check_source(const Feature& f) {
  if (f.source.empty()) refuse(f, "source is ''; expected the column it is made of");
  const bool named_time = std::ranges::find(times, f.source) != std::end(times);
  if (f.is_time() && !named_time) refuse(f, "source is " + json_quote(f.source) + "; expected one of " + joined(times));
  if (f.is_time() && (f.kind != Kind::dense || !f.per_request())) refuse(f, "a time is a dense feature of the context");
  const bool of_request = f.source == "user_id" || f.source == "scenario";
  if (!of_request && f.source != "item_id") return;
  if (f.kind != Kind::categorical) refuse(f, f.source + " is categorical, not " + name_of(f.kind));
  if (of_request != f.per_request()) refuse_entity(f, f.source + " is of another one");
}

void check(const Feature& f) {
  if (!is_word(f.name) || (f.name[0] >= '0' && f.name[0] <= '9')) refuse(f, "the name is no identifier");
  if (f.has_history() || f.kind == Kind::sequence) {
    check_outcome(f);
  } else {
    check_source(f);
  }
  if (f.has_history()) {
    check_key(f);
  } else if (!f.key.empty() || f.entity == Entity::cross) {
    refuse(f, "it is " + name_of(f.kind) + "; only counts, rates and recencies have a key or are cross features");
  }
  if (f.kind == Kind::sequence && f.entity != Entity::user) refuse_entity(f, "a sequence is of the user");
  const bool several = f.kind == Kind::sequence || f.kind == Kind::list || f.kind == Kind::vector;
  if ((f.length > 0) != several)
    refuse(f, "length is " + std::to_string(f.length) +
                  "; expected 1 or more for lists, vectors and sequences, 0 elsewhere");
  if (f.size != 0 && (f.kind != Kind::vector || f.size <= f.length))
    refuse(f, "size is " + std::to_string(f.size) +
                  "; expected more than length for vectors that are projected, 0 elsewhere");
  if (f.transform == Transform::age && (f.kind != Kind::dense || f.is_time()))
    refuse(f, "transform 'age' is for dense features that are times");
  if (f.transform == Transform::log1p && f.kind != Kind::dense && f.kind != Kind::count)
    refuse(f, "transform 'log1p' is for dense features and counts");
  if (f.window_hours != 0.0 && f.kind != Kind::count && f.kind != Kind::rate)
    refuse(f, "window_hours is " + plain_number(f.window_hours) + "; a " + name_of(f.kind) + " has no window");
  if (!(f.window_hours >= 0.0 && f.smoothing >= 0.0 && f.min_count >= 1 && f.max_size >= 1))
    refuse(f, "window_hours, smoothing must be 0 or more; min_count, max_size 1 or more");
}
}  // namespace

Feature read_feature(const Json& record) {
  constexpr double most = 0x1p53;
  if (record.type != Json::Type::object) throw JsonError("it is no object");
  for (const std::string& key : record.keys)
    if (std::ranges::find(fields, key) == std::end(fields)) throw JsonError("it has an unknown key " + json_quote(key));
  Feature f;
  f.name = record.string_at("name");
  f.entity = one_of<Entity>(record, "entity", entities);
  f.kind = one_of<Kind>(record, "kind", kinds);
  if (record.find("source") != nullptr) f.source = record.string_at("source");
  if (record.find("key") != nullptr) f.key = record.strings_at("key");
  if (record.find("transform") != nullptr) f.transform = one_of<Transform>(record, "transform", transforms);
  f.smoothing = number(record, "smoothing", f.smoothing);
  f.window_hours = number(record, "window_hours", f.window_hours);
  f.length = whole(record, "length", f.length, max_length);
  f.size = whole(record, "size", f.size, most);
  f.min_count = whole(record, "min_count", f.min_count, most);
  f.max_size = whole(record, "max_size", f.max_size, most);
  check(f);
  return f;
}

void refuse(const Feature& feature, const std::string& what) {
  throw JsonError("feature " + json_quote(feature.name) + ": " + what);
}

std::vector<Feature> read_features(const Json& record) {
  const Json& list = record.at("features");
  if (list.type != Json::Type::array) throw JsonError("'features' is not a list");
  if (list.items.size() > max_features) throw JsonError("'features' has more than 10,000 entries");
  std::vector<Feature> read;
  for (const Json& item : list.items) {
    try {
      read.push_back(read_feature(item));
    } catch (const JsonError& error) {
      const std::string text = error.what();
      throw JsonError(text.starts_with("feature ") ? text : "'features'[" + std::to_string(read.size()) + "]: " + text);
    }
  }
  return read;
}
}  // namespace pygrade::inline v0_2::detail
