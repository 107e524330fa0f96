// Values of a JSON object from outside, checked: every error names the key, what it is and what is wanted. Options are
// read from a tree (`Input`), bodies of requests one value after the other (`read_…`), so that lists need no tree.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "util/json.hpp"

namespace pygrade::inline v0_2::detail {

// `argument`: the key that is wrong.
class InputError : public std::invalid_argument {
 public:
  InputError(std::string_view about, std::string message)
      : std::invalid_argument(whole(std::move(message))), argument(about) {}
  std::string argument;

 private:
  // what() would end at a NUL of the caller's text, such as a key that begins with one.
  static std::string whole(std::string text) {
    std::replace(text.begin(), text.end(), '\0', '?');
    return text;
  }
};

// A short text of a value, for messages.
std::string text_of(const Json& value);

[[noreturn]] void refuse(std::string_view argument, const Json& value, const std::string& wanted);

// The name of a value in messages: prefix, key and, from 0 on, place in a list.
struct Argument {
  Argument(std::string_view name) : key(name) {}    // NOLINT: implicit
  Argument(const std::string& name) : key(name) {}  // NOLINT: implicit
  Argument(const char* name) : key(name) {}         // NOLINT: implicit
  Argument(std::string_view start, std::string_view name, std::ptrdiff_t place = -1)
      : prefix(start), key(name), index(place) {}
  std::string text() const;

  std::string_view prefix = {}, key;
  std::ptrdiff_t index = -1;
};

// Refuses what the reader reads next.
[[noreturn]] void refuse(const Argument& argument, JsonReader& reader, const std::string& wanted);

std::int64_t read_integer(JsonReader& reader, const Argument& argument, std::int64_t low, std::int64_t high);
double read_number(JsonReader& reader, const Argument& argument, double low, double high);
bool read_boolean(JsonReader& reader, const Argument& argument);
std::string_view read_text(JsonReader& reader, const Argument& argument, std::size_t max_size);
void enter_object(JsonReader& reader, const Argument& argument);

// Calls `each` with the place of every element, which it reads; refuses lists that are longer than `most` before
// reading further. Returns the length.
template <class Each>
std::size_t read_list(JsonReader& reader, const Argument& argument, std::size_t most, Each&& each) {
  const std::string wanted = "a list of at most " + std::to_string(most);
  if (reader.peek() != Json::Type::array) refuse(argument, reader, wanted);
  std::size_t size = 0;
  for (reader.enter_list(); reader.next_item(); ++size)
    if (size < most)
      each(size);
    else
      reader.skip();
  if (size > most)
    throw InputError(argument.text(), argument.text() + " is a list of " + std::to_string(size) + "; want " + wanted);
  return size;
}

// Numbers in low … high, null as NaN if `missing`.
void read_floats(JsonReader& reader, const Argument& argument, std::size_t most, double low, double high, bool missing,
                 std::vector<float>& out);

// Ids of users or items: numbers, or names, which stand for the hashes that they are in logs.
struct Ids {
  bool named = false;
  // `name`: the text that was read; no data of a number.
  std::int64_t read(JsonReader& reader, const Argument& argument, bool negative, std::string_view& name) const;
};

// The id ≥ 0 of a name, as pygrade._util.hashing.stable_id.
std::int64_t stable_id(std::string_view name);

class Input {
 public:
  // InputError unless `value` is an object with no other keys than these. `where`: in messages, such as "arms[1].".
  Input(const Json& value, std::span<const std::string_view> keys, std::string where = "");

  // Null counts as absent.
  const Json* find(std::string_view key) const;
  const Json& at(std::string_view key) const;

  std::optional<std::int64_t> integer(std::string_view key, std::int64_t low, std::int64_t high) const;
  std::optional<double> number(std::string_view key, double low, double high) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string_view> string(std::string_view key, std::size_t max_size) const;
  const Json* list(std::string_view key, std::size_t max_size) const;
  const Json* object(std::string_view key) const;

  std::string name(std::string_view key) const { return where_ + std::string(key); }

 private:
  const Json& value_;
  std::string where_;
};

}  // namespace pygrade::inline v0_2::detail
