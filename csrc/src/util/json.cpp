#include "util/json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>

namespace pygrade::detail {

namespace {

// Length of the UTF-8 sequence at `text[at]` and its code point; length 0 if it is invalid.
struct CodePoint {
  std::size_t length = 0;
  std::uint32_t value = 0;
};

CodePoint decode(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> std::uint32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const std::uint32_t first = byte(at);
  if (first < 0x80) return {1, first};
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return {};
  std::uint32_t value = first & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return {};
    value = value << 6 | (byte(at + i) & 0x3f);
  }
  constexpr std::uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (value < smallest[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return {};
  return {length, value};
}

void encode(std::uint32_t value, std::string& out) {
  if (value < 0x80) {
    out += static_cast<char>(value);
    return;
  }
  const int more = value < 0x800 ? 1 : value < 0x10000 ? 2 : 3;
  constexpr std::uint32_t lead[] = {0, 0xc0, 0xe0, 0xf0};
  out += static_cast<char>(lead[more] | value >> (6 * more));
  for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | (value >> (6 * i) & 0x3f));
}

class Parser {
 public:
  Parser(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  Json document() {
    if (text_.size() > limits_.bytes)
      throw JsonError("it has " + std::to_string(text_.size()) + " bytes; at most " + std::to_string(limits_.bytes) +
                      " are read");
    Json result = value(0);
    space();
    if (at_ != text_.size()) fail("text after the end of the document");
    return result;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { fail_at(at_, what); }

  [[noreturn]] void fail_at(std::size_t at, const std::string& what) const {
    const std::string_view before = text_.substr(0, at);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t column = at - (line == 1 ? 0 : before.rfind('\n') + 1) + 1;
    throw JsonError("byte " + std::to_string(at) + " (line " + std::to_string(line) + ", column " +
                    std::to_string(column) + "): " + what);
  }

  bool done() const { return at_ == text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  bool is_digit() const { return peek() >= '0' && peek() <= '9'; }

  void space() {
    while (!done() && (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t')) ++at_;
  }

  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    space();
    if (++values_ > limits_.values) fail("more than " + std::to_string(limits_.values) + " values");
    if (done()) fail("the text ends before a value");
    Json result;
    switch (peek()) {
      case '{':
        object(result, depth);
        break;
      case '[':
        array(result, depth);
        break;
      case '"':
        result.type = Json::Type::string;
        result.string = string();
        break;
      default:
        word(result);
    }
    return result;
  }

  void word(Json& result) {
    if (take("null")) return;
    result.boolean = take("true");
    if (result.boolean || take("false")) {
      result.type = Json::Type::boolean;
      return;
    }
    result.type = Json::Type::number;
    if (take("NaN")) {
      result.number = std::numeric_limits<double>::quiet_NaN();
    } else if (take("Infinity")) {
      result.number = std::numeric_limits<double>::infinity();
    } else if (take("-Infinity")) {
      result.number = -std::numeric_limits<double>::infinity();
    } else {
      result.number = number(result);
    }
  }

  double number(Json& value) {
    const std::size_t begin = at_;
    bool digits_only = true;
    const auto digits = [&] {
      if (!is_digit()) fail(at_ == begin ? "want a value" : "a number lacks a digit");
      while (is_digit()) ++at_;
    };
    if (peek() == '-') ++at_;
    if (peek() == '0') {
      ++at_;
      if (is_digit()) fail("a number starts with 0");
    } else {
      digits();
    }
    if (peek() == '.') {
      digits_only = false;
      ++at_;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      digits_only = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    double result = 0.0;
    const auto parsed = std::from_chars(text_.data() + begin, text_.data() + at_, result);
    if (parsed.ec != std::errc{}) fail_at(begin, "a number that no double holds");
    if (digits_only) {
      value.whole = std::from_chars(text_.data() + begin, text_.data() + at_, value.integer).ec == std::errc{};
    } else if (std::fabs(result) <= 0x1p53 && result == std::floor(result)) {
      value.whole = true;
      value.integer = static_cast<std::int64_t>(result);
    }
    return result;
  }

  std::uint32_t hex4() {
    std::uint32_t unit = 0;
    if (text_.size() - at_ < 4) fail("the text ends within an escape");
    const auto parsed = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, unit, 16);
    if (parsed.ptr != text_.data() + at_ + 4) fail("\\u lacks four hexadecimal digits");
    at_ += 4;
    return unit;
  }

  void escape(std::string& out) {
    constexpr std::string_view names = "\"\\/bfnrt";
    constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
    const std::size_t begin = at_ - 1;
    const char name = peek();
    if (const auto known = done() ? names.npos : names.find(name); known != names.npos) {
      out += meanings[known];
      ++at_;
      return;
    }
    if (!take("u")) fail("an unknown escape");
    std::uint32_t value = hex4();
    if (value >= 0xd800 && value < 0xdc00 && take("\\u")) {
      const std::uint32_t low = hex4();
      if (low < 0xdc00 || low > 0xdfff) fail_at(begin, "a lone surrogate");
      value = 0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00);
    } else if (value >= 0xd800 && value < 0xe000) {
      fail_at(begin, "a lone surrogate");
    }
    encode(value, out);
  }

  std::string string() {
    const std::size_t begin = at_++;
    std::string result;
    for (;;) {
      if (done()) fail_at(begin, "a string without an end");
      const char c = peek();
      if (c == '"') break;
      if (c == '\\') {
        ++at_;
        escape(result);
        continue;
      }
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
      const CodePoint point = decode(text_, at_);
      if (point.length == 0) fail("not UTF-8");
      result.append(text_, at_, point.length);
      at_ += point.length;
    }
    ++at_;
    return result;
  }

  // Consumes ',' (true) or `end` (false).
  bool more(char end) {
    space();
    if (peek() == ',' && !done()) {
      ++at_;
      return true;
    }
    if (done() || peek() != end) fail(std::string("want ',' or '") + end + "'");
    ++at_;
    return false;
  }

  void enter(int depth) {
    if (depth >= limits_.depth) fail("nested deeper than " + std::to_string(limits_.depth));
    ++at_;
    space();
  }

  void array(Json& result, int depth) {
    result.type = Json::Type::array;
    enter(depth);
    if (peek() == ']' && !done()) {
      ++at_;
      return;
    }
    do result.items.push_back(value(depth + 1));
    while (more(']'));
  }

  void object(Json& result, int depth) {
    result.type = Json::Type::object;
    enter(depth);
    if (peek() == '}' && !done()) {
      ++at_;
      return;
    }
    std::vector<std::size_t> places;
    do {
      space();
      if (done() || peek() != '"') fail("want a key in quotes");
      places.push_back(at_);
      result.keys.push_back(string());
      space();
      if (!take(":")) fail("want ':'");
      result.items.push_back(value(depth + 1));
    } while (more('}'));
    unique(result.keys, places);
  }

  void unique(const std::vector<std::string>& keys, const std::vector<std::size_t>& places) const {
    std::vector<std::size_t> order(keys.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::sort(order, [&](auto a, auto b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });
    for (std::size_t i = 1; i < order.size(); ++i)
      if (keys[order[i]] == keys[order[i - 1]]) fail_at(places[order[i]], "a key occurs twice in an object");
  }

  std::string_view text_;
  JsonLimits limits_;
  std::size_t at_ = 0;
  std::size_t values_ = 0;
};

std::string named(std::string_view key, const char* what) { return "'" + std::string(key) + "' " + what; }

}  // namespace

Json Json::parse(std::string_view text, const JsonLimits& limits) { return Parser(text, limits).document(); }

const Json* Json::find(std::string_view key) const {
  for (std::size_t i = 0; i < keys.size(); ++i)
    if (keys[i] == key) return &items[i];
  return nullptr;
}

const Json& Json::at(std::string_view key) const {
  const Json* found = find(key);
  if (found == nullptr) throw JsonError(named(key, "is absent"));
  return *found;
}

const Json& Json::typed(std::string_view key, Type wanted, const char* wanted_name) const {
  const Json& found = at(key);
  if (found.type != wanted) throw JsonError(named(key, "is not ") + wanted_name);
  return found;
}

const Json& Json::object_at(std::string_view key) const { return typed(key, Type::object, "an object"); }

const std::string& Json::string_at(std::string_view key) const { return typed(key, Type::string, "a string").string; }

bool Json::boolean_at(std::string_view key) const { return typed(key, Type::boolean, "true or false").boolean; }

double Json::finite_at(std::string_view key) const {
  const double found = typed(key, Type::number, "a number").number;
  if (!std::isfinite(found)) throw JsonError(named(key, "is not finite"));
  return found;
}

std::vector<std::string> Json::strings_at(std::string_view key) const {
  std::vector<std::string> result;
  for (const Json& item : typed(key, Type::array, "a list").items) {
    if (item.type != Type::string) throw JsonError(named(key, "holds something that is not a string"));
    result.push_back(item.string);
  }
  return result;
}

std::vector<std::int64_t> Json::integers_at(std::string_view key) const {
  std::vector<std::int64_t> result;
  for (const Json& item : typed(key, Type::array, "a list").items) {
    const bool fits = item.type == Type::number && item.number >= 0.0 && item.number <= 0x1p53 &&
                      item.number == std::floor(item.number);
    if (!fits) throw JsonError(named(key, "holds something that is not an integer of 0 … 2^53"));
    result.push_back(static_cast<std::int64_t>(item.number));
  }
  return result;
}

std::string json_quote(std::string_view text) {
  constexpr std::string_view meanings = "\"\\\b\f\n\r\t";
  constexpr std::string_view names = "\"\\bfnrt";
  constexpr std::string_view hex = "0123456789abcdef";
  std::string result = "\"";
  const auto unit = [&](std::uint32_t value) {
    result += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) result += hex[value >> shift & 15];
  };
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint point = decode(text, at);
    if (point.length == 0) throw JsonError("not UTF-8");
    at += point.length;
    const auto known = point.value < 0x80 ? meanings.find(static_cast<char>(point.value)) : meanings.npos;
    if (known != meanings.npos) {
      result += '\\';
      result += names[known];
    } else if (point.value >= 0x20 && point.value < 0x7f) {
      result += static_cast<char>(point.value);
    } else if (point.value < 0x10000) {
      unit(point.value);
    } else {
      unit(0xd800 + ((point.value - 0x10000) >> 10));
      unit(0xdc00 + (point.value & 0x3ff));
    }
  }
  return result + "\"";
}

}  // namespace pygrade::detail
