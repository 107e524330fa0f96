// Builds JSON text. Numbers have the shortest text that reads back to them; null stands for numbers that are not
// finite.
#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

namespace pygrade::inline v0_2::detail {
class JsonWriter {
 public:
  JsonWriter& begin_object() { return begin('{'); }
  JsonWriter& end_object() { return end('}'); }
  JsonWriter& begin_list() { return begin('['); }
  JsonWriter& end_list() { return end(']'); }

  JsonWriter& key(std::string_view name) {
    value(name);
    out_ += ':';
    comma_ = false;
    return *this;
  }
  // `known` is plain ASCII without quotes.
  JsonWriter& known_key(std::string_view known) {
    separate();
    out_.append("\"").append(known).append("\":");
    comma_ = false;
    return *this;
  }

  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(bool flag) { return raw(flag ? "true" : "false"); }
  JsonWriter& null() { return raw("null"); }
  template <class Number>
    requires(std::is_arithmetic_v<Number> && !std::same_as<Number, bool>)
  JsonWriter& value(Number number) {
    if constexpr (std::is_floating_point_v<Number>)
      if (!std::isfinite(number)) return null();
    char text[32];
    return raw({text, static_cast<std::size_t>(std::to_chars(text, text + sizeof text, number).ptr - text)});
  }
  // Nothing as null.
  template <class Value>
  JsonWriter& value(const std::optional<Value>& given) {
    return given ? value(*given) : null();
  }
  template <class... Values>
  JsonWriter& value(const std::variant<Values...>& given) {
    return std::visit([this](const auto& held) -> JsonWriter& { return value(held); }, given);
  }
  // A list of the elements, or of what `of` makes of each.
  template <class Range, class Of = std::identity>
  JsonWriter& list(const Range& range, Of of = {}) {
    begin_list();
    for (const auto& element : range) value(of(element));
    return end_list();
  }
  // An object of keys and, in their order, values.
  template <class Keys, class Values>
  JsonWriter& object(const Keys& keys, const Values& values) {
    begin_object();
    for (std::size_t i = 0; i < std::size(keys); ++i) key(keys[i]).value(values[i]);
    return end_object();
  }
  // JSON text as it is.
  JsonWriter& raw(std::string_view json) {
    separate();
    out_ += json;
    return *this;
  }
  template <class Value>
  JsonWriter& field(std::string_view known, const Value& given) {
    return known_key(known).value(given);
  }
  // An empty text as null.
  JsonWriter& text_field(std::string_view known, std::string_view text) {
    return text.empty() ? known_key(known).null() : field(known, text);
  }

  void reserve(std::size_t bytes) { out_.reserve(bytes); }
  const std::string& text() const { return out_; }
  std::string take() { return std::move(out_); }

 private:
  JsonWriter& begin(char bracket) {
    separate();
    out_ += bracket;
    comma_ = false;
    return *this;
  }
  JsonWriter& end(char bracket) {
    out_ += bracket;
    comma_ = true;
    return *this;
  }
  void separate() {
    if (comma_) out_ += ',';
    comma_ = true;
  }

  std::string out_;
  bool comma_ = false;
};
}  // namespace pygrade::inline v0_2::detail
