// Values of a JSON object from outside, checked: every error names the key, what it is and what is wanted. They are
// read one after the other, so that lists need no tree.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "service/api.hpp"
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

// "a, b": what `name` gives of the elements.
template <class Range, class Name = std::identity>
std::string joined(const Range& range, Name name = {}) {
  std::string text;
  for (const auto& element : range) text.append(text.empty() ? "" : ", ").append(std::invoke(name, element));
  return text;
}

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

// Reads an object's values by the keys of a table: `read` gets the name of each that is not null, and `other`, which
// reads the value, too, the name of one whose key the table lacks.
template <std::size_t N, class Read, class Other>
void read_keys(JsonReader& reader, std::string_view prefix, const api::Field (&known)[N], Read&& read, Other&& other) {
  for (std::string_view key; reader.next_key(key);) {
    const Argument argument(prefix, key);
    if (std::ranges::find(known, key, &api::Field::name) == std::end(known))
      other(argument);
    else if (reader.peek() == Json::Type::null)
      reader.null();
    else
      read(argument);
  }
}
[[noreturn]] void refuse_unknown(const Argument& argument, const std::string& known);
[[noreturn]] void refuse_missing(const std::string& argument);

// Calls `each` with the name of every element, which it reads; refuses lists that are longer than `most` before
// reading further. Before, `take` reads what it can of at most so many elements and returns how many. Returns the
// length.
template <class Each, class Take>
std::size_t read_list(JsonReader& reader, const Argument& argument, std::size_t most, Each&& each, Take&& take) {
  const auto wanted = [&] { return "a list of at most " + std::to_string(most); };
  if (reader.peek() != Json::Type::array) refuse(argument, reader, wanted());
  std::size_t size = 0;
  for (reader.enter_list(); reader.next_item();) {
    const std::size_t taken = size < most ? take(most - size) : 0;
    size += taken;
    if (taken > 0) continue;
    if (size < most)
      each(Argument(argument.prefix, argument.key, static_cast<std::ptrdiff_t>(size)));
    else
      reader.skip();
    ++size;
  }
  if (size > most)
    throw InputError(argument.text(),
                     argument.text() + " is a list of " + std::to_string(size) + "; expected " + wanted());
  return size;
}

template <class Each>
std::size_t read_list(JsonReader& reader, const Argument& argument, std::size_t most, Each&& each) {
  return read_list(reader, argument, most, each, [](std::size_t) { return std::size_t{0}; });
}

// Numbers in low … high, null as NaN if `missing`.
void read_floats(JsonReader& reader, const Argument& argument, std::size_t most, double low, double high, bool missing,
                 std::vector<float>& out);

// Keys of a request that nothing reads.
struct UnknownKeys {
  static constexpr std::size_t most = 16;  // names that an answer has

  void add(std::string name) {
    if (count++ < most) names.push_back(std::move(name));
  }

  std::size_t count = 0;
  std::vector<std::string> names;
};

// Ids of users or items: numbers, or names, which stand for their `stable_id`.
struct Ids {
  bool named = false;
  // `name`: the text that was read; no data of a number.
  std::int64_t read(JsonReader& reader, const Argument& argument, bool negative, std::string_view& name) const;
};
}  // namespace pygrade::inline v0_2::detail
