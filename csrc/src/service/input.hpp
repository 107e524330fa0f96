// Values of a JSON object from outside, checked: every error names the key, what it is and what is wanted.
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

namespace pygrade::detail {

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

// Ids of users or items: numbers, or names, which stand for the hashes that they are in logs.
struct Ids {
  bool named = false;
  std::int64_t of(const Json& value, std::string_view argument, bool negative = false) const;
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

}  // namespace pygrade::detail
