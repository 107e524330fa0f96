#include "service/input.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "service/json_writer.hpp"
#include "util/blake2b.hpp"

namespace pygrade::detail {

namespace {

constexpr std::size_t max_shown = 60;  // bytes of a value in a message

std::string number_text(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
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

std::int64_t Ids::of(const Json& value, std::string_view argument, bool negative) const {
  const char* wanted = named      ? "a name, or the id that stands for it"
                       : negative ? "a whole number of 64 bits, as in this run's data"
                                  : "a whole number from 0 on, as in this run's data";
  if (value.type == Json::Type::string) {
    if (named && !value.string.empty()) return stable_id(value.string);
    std::int64_t id = 0;
    const char* end = value.string.data() + value.string.size();
    const auto parsed = std::from_chars(value.string.data(), end, id);
    if (!named && parsed.ec == std::errc{} && parsed.ptr == end && (negative || id >= 0)) return id;
  } else if (value.whole && (negative || value.integer >= 0)) {
    return value.integer;
  }
  refuse(argument, value, wanted);
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
  if (!found->whole || found->integer < low || found->integer > high)
    refuse(name(key), *found,
           high == std::numeric_limits<std::int64_t>::max()
               ? "a whole number from " + std::to_string(low) + " on"
               : "a whole number from " + std::to_string(low) + " to " + std::to_string(high));
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

}  // namespace pygrade::detail
