#include "service/input.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "pygrade/policy.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
constexpr std::size_t max_shown = 60;   // bytes of a value in a message
constexpr std::size_t max_name = 1024;  // of a user or an item

std::string range_text(std::int64_t low, std::int64_t high) {
  if (high == std::numeric_limits<std::int64_t>::max()) return "a whole number from " + std::to_string(low) + " on";
  return "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
}

// A short text of a value, for messages.
std::string text_of(const Json& value) {
  if (value.type == Json::Type::number && std::isnan(value.number)) return "NaN";
  if (value.type == Json::Type::number && std::isinf(value.number)) return value.number > 0 ? "Infinity" : "-Infinity";
  const std::string text = json_text(value);
  return text.size() <= max_shown ? text : text.substr(0, max_shown) + "…";
}
}  // namespace

std::string Argument::text() const {
  std::string name(prefix);
  name += key;
  if (index >= 0) name += "[" + std::to_string(index) + "]";
  return name;
}

void refuse(const Argument& argument, JsonReader& reader, const std::string& wanted) {
  const std::string name = argument.text();
  std::string found = "an object";
  if (reader.peek() == Json::Type::array) {
    std::size_t size = 0;
    for (reader.enter_list(); reader.next_item(); ++size) reader.skip();
    found = "a list of " + std::to_string(size);
  } else if (reader.peek() == Json::Type::object) {
    reader.skip();
  } else {
    found = text_of(reader.tree());
  }
  throw InputError(name, name + " is " + found + "; expected " + wanted);
}

void refuse_unknown(const Argument& argument, const std::string& known) {
  throw InputError(argument.text(), argument.text() + " is unknown; expected some of " + known);
}

void refuse_missing(const std::string& argument) { throw InputError(argument, argument + " is missing"); }

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
  refuse(argument, reader, "a number from " + plain_number(low) + " to " + plain_number(high));
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
  const auto each = [&](const Argument& element) {
    if (missing && reader.peek() == Json::Type::null) {
      reader.null();
      out.push_back(std::numeric_limits<float>::quiet_NaN());
      return;
    }
    out.push_back(static_cast<float>(read_number(reader, element, low, high)));
  };
  read_list(reader, argument, most, each,
            [&](std::size_t left) { return reader.take_floats(left, low, high, missing, out); });
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
}  // namespace pygrade::inline v0_2::detail
