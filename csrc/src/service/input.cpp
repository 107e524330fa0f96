#include "service/input.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "service/json_writer.hpp"
#include "util/blake2b.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

constexpr std::size_t max_shown = 60;   // bytes of a value in a message
constexpr std::size_t max_name = 1024;  // of a user or an item

std::string number_text(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

std::string range_text(std::int64_t low, std::int64_t high) {
  if (high == std::numeric_limits<std::int64_t>::max()) return "a whole number from " + std::to_string(low) + " on";
  return "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
}

std::string joined(std::span<const std::string_view> keys) {
  std::string text;
  for (const auto key : keys) text.append(text.empty() ? "" : ", ").append(key);
  return text;
}

}  // namespace

std::string text_of(const Json& value) {
  if (value.type == Json::Type::array) return "a list of " + std::to_string(value.items.size());
  if (value.type == Json::Type::object) return "an object";
  if (value.type == Json::Type::number && std::isnan(value.number)) return "NaN";
  if (value.type == Json::Type::number && std::isinf(value.number)) return value.number > 0 ? "Infinity" : "-Infinity";
  JsonWriter out;
  write_json(value, out);
  return out.text().size() <= max_shown ? out.text() : out.text().substr(0, max_shown) + "…";
}

void refuse(std::string_view argument, const Json& value, const std::string& wanted) {
  throw InputError(argument, std::string(argument) + " is " + text_of(value) + "; want " + wanted);
}

std::int64_t stable_id(std::string_view name) {
  std::array<std::uint8_t, 8> digest;
  blake2b(name, digest);
  std::uint64_t bits = 0;
  for (std::size_t i = digest.size(); i-- > 0;) bits = bits << 8 | digest[i];
  return static_cast<std::int64_t>(bits >> 1);
}

std::string Argument::text() const {
  std::string name(prefix);
  name += key;
  if (index >= 0) name += "[" + std::to_string(index) + "]";
  return name;
}

void refuse(const Argument& argument, JsonReader& reader, const std::string& wanted) {
  const std::string name = argument.text();
  if (reader.peek() != Json::Type::array && reader.peek() != Json::Type::object) refuse(name, reader.tree(), wanted);
  if (reader.peek() == Json::Type::object) {
    reader.skip();
    throw InputError(name, name + " is an object; want " + wanted);
  }
  std::size_t size = 0;
  for (reader.enter_list(); reader.next_item(); ++size) reader.skip();
  throw InputError(name, name + " is a list of " + std::to_string(size) + "; want " + wanted);
}

std::int64_t read_integer(JsonReader& reader, const Argument& argument, std::int64_t low, std::int64_t high) {
  const std::size_t place = reader.place();
  if (reader.peek() == Json::Type::number) {
    const auto found = reader.number();
    if (found.whole && found.integer >= low && found.integer <= high) return found.integer;
    reader.go_back(place);
  }
  refuse(argument, reader, range_text(low, high));
}

double read_number(JsonReader& reader, const Argument& argument, double low, double high) {
  const std::size_t place = reader.place();
  if (reader.peek() == Json::Type::number) {
    const double found = reader.number().value;
    if (found >= low && found <= high) return found;
    reader.go_back(place);
  }
  refuse(argument, reader, "a number from " + number_text(low) + " to " + number_text(high));
}

bool read_boolean(JsonReader& reader, const Argument& argument) {
  if (reader.peek() != Json::Type::boolean) refuse(argument, reader, "true or false");
  return reader.boolean();
}

std::string_view read_text(JsonReader& reader, const Argument& argument, std::size_t max_size) {
  const std::size_t place = reader.place();
  if (reader.peek() == Json::Type::string) {
    const std::string_view found = reader.string();
    if (!found.empty() && found.size() <= max_size) return found;
    reader.go_back(place);
  }
  refuse(argument, reader, "a text of 1 to " + std::to_string(max_size) + " bytes");
}

void enter_object(JsonReader& reader, const Argument& argument) {
  if (reader.peek() != Json::Type::object) refuse(argument, reader, "an object");
  reader.enter_object();
}

void read_floats(JsonReader& reader, const Argument& argument, std::size_t most, double low, double high, bool missing,
                 std::vector<float>& out) {
  out.clear();
  read_list(reader, argument, most, [&](std::size_t place) {
    if (missing && reader.peek() == Json::Type::null) {
      reader.null();
      out.push_back(std::numeric_limits<float>::quiet_NaN());
      return;
    }
    const auto index = static_cast<std::ptrdiff_t>(place);
    out.push_back(static_cast<float>(read_number(reader, {argument.prefix, argument.key, index}, low, high)));
  });
}

std::int64_t Ids::read(JsonReader& reader, const Argument& argument, bool negative, std::string_view& name) const {
  const char* wanted = named      ? "a name, or the id that stands for it"
                       : negative ? "a whole number of 64 bits, as in this run's data"
                                  : "a whole number from 0 on, as in this run's data";
  const std::size_t place = reader.place();
  name = {};
  if (reader.peek() == Json::Type::number) {
    const auto found = reader.number();
    if (found.whole && (negative || found.integer >= 0)) return found.integer;
  } else if (reader.peek() == Json::Type::string) {
    name = reader.string();
    if (named && !name.empty() && name.size() <= max_name) return stable_id(name);
    std::int64_t id = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), id);
    if (!named && parsed.ec == std::errc{} && parsed.ptr == name.data() + name.size() && (negative || id >= 0))
      return id;
  }
  reader.go_back(place);
  refuse(argument, reader, wanted);
}

Input::Input(const Json& value, std::span<const std::string_view> keys, std::string where)
    : value_(value), where_(std::move(where)) {
  if (value.type != Json::Type::object) {
    const std::string argument = where_.empty() ? "body" : where_.substr(0, where_.size() - 1);
    refuse(argument, value, "a JSON object");
  }
  for (const std::string& key : value.keys)
    if (std::ranges::find(keys, std::string_view(key)) == keys.end())
      throw InputError(name(key), name(key) + " is unknown; want some of " + joined(keys));
}

const Json* Input::find(std::string_view key) const {
  const Json* found = value_.find(key);
  return found == nullptr || found->type == Json::Type::null ? nullptr : found;
}

const Json& Input::at(std::string_view key) const {
  const Json* found = find(key);
  if (found == nullptr) throw InputError(name(key), name(key) + " is missing");
  return *found;
}

std::optional<std::int64_t> Input::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  const Json* found = find(key);
  if (found == nullptr) return {};
  if (!found->whole || found->integer < low || found->integer > high) refuse(name(key), *found, range_text(low, high));
  return found->integer;
}

std::optional<double> Input::number(std::string_view key, double low, double high) const {
  const Json* found = find(key);
  if (found == nullptr) return {};
  if (found->type != Json::Type::number || !(found->number >= low && found->number <= high))
    refuse(name(key), *found, "a number from " + number_text(low) + " to " + number_text(high));
  return found->number;
}

std::optional<bool> Input::boolean(std::string_view key) const {
  const Json* found = find(key);
  if (found == nullptr) return {};
  if (found->type != Json::Type::boolean) refuse(name(key), *found, "true or false");
  return found->boolean;
}

std::optional<std::string_view> Input::string(std::string_view key, std::size_t max_size) const {
  const Json* found = find(key);
  if (found == nullptr) return {};
  if (found->type != Json::Type::string || found->string.empty() || found->string.size() > max_size)
    refuse(name(key), *found, "a text of 1 to " + std::to_string(max_size) + " bytes");
  return found->string;
}

const Json* Input::list(std::string_view key, std::size_t max_size) const {
  const Json* found = find(key);
  if (found == nullptr) return nullptr;
  if (found->type != Json::Type::array || found->items.size() > max_size)
    refuse(name(key), *found, "a list of at most " + std::to_string(max_size));
  return found;
}

const Json* Input::object(std::string_view key) const {
  const Json* found = find(key);
  if (found != nullptr && found->type != Json::Type::object) refuse(name(key), *found, "an object");
  return found;
}

}  // namespace pygrade::inline v0_2::detail
