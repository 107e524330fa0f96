#include "util/json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>

namespace pygrade::inline v0_2::detail {

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

std::string named(std::string_view key, const char* what) { return "'" + std::string(key) + "' " + what; }

}  // namespace

void JsonReader::start(std::string_view text, const JsonLimits& limits) {
  text_ = text;
  limits_ = limits;
  at_ = values_ = 0;
  depth_ = 0;
  first_ = false;
  keys_.clear();
  decoded_.clear();
  if (text.size() > limits.bytes)
    throw JsonError("it has " + std::to_string(text.size()) + " bytes; at most " + std::to_string(limits.bytes) +
                    " are read");
}

void JsonReader::fail_at(std::size_t at, const std::string& what) const {
  const std::string_view before = text_.substr(0, at);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t column = at - (line == 1 ? 0 : before.rfind('\n') + 1) + 1;
  throw JsonError("byte " + std::to_string(at) + " (line " + std::to_string(line) + ", column " +
                  std::to_string(column) + "): " + what);
}

void JsonReader::space() {
  while (!done() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
}

bool JsonReader::take(std::string_view word) {
  if (text_.substr(at_, word.size()) != word) return false;
  at_ += word.size();
  return true;
}

Json::Type JsonReader::peek() {
  space();
  switch (here()) {
    case '{':
      return Json::Type::object;
    case '[':
      return Json::Type::array;
    case '"':
      return Json::Type::string;
    case 't':
    case 'f':
      return Json::Type::boolean;
    case 'n':
      return Json::Type::null;
    default:
      if (done()) fail("the text ends before a value");
      return Json::Type::number;
  }
}

std::size_t JsonReader::place() {
  space();
  return at_;
}

// Counts the value and checks its type.
void JsonReader::begin(Json::Type wanted) {
  constexpr std::string_view names[] = {"null", "true or false", "a number", "a text", "a list", "an object"};
  const Json::Type found = peek();
  if (++values_ > limits_.values) fail("more than " + std::to_string(limits_.values) + " values");
  if (found != wanted) fail("want " + std::string(names[static_cast<std::size_t>(wanted)]));
}

void JsonReader::null() {
  begin(Json::Type::null);
  if (!take("null")) fail("want a value");
}

bool JsonReader::boolean() {
  begin(Json::Type::boolean);
  const bool result = take("true");
  if (!result && !take("false")) fail("want a value");
  return result;
}

// NaN, Infinity or -Infinity.
bool JsonReader::literal(double& value) {
  const std::size_t start = at_;
  value = take("NaN")         ? std::numeric_limits<double>::quiet_NaN()
          : take("Infinity")  ? std::numeric_limits<double>::infinity()
          : take("-Infinity") ? -std::numeric_limits<double>::infinity()
                              : 0.0;
  if (value == 0.0) return false;
  if (!limits_.infinite) fail_at(start, "no number of JSON; want null where a number is missing");
  return true;
}

JsonReader::Number JsonReader::number() {
  begin(Json::Type::number);
  Number result;
  const char first = here();
  if ((first == 'N' || first == 'I' || (first == '-' && text_.substr(at_, 2) == "-I")) && literal(result.value))
    return result;
  const std::size_t start = at_;
  const bool negative = first == '-';
  at_ += negative;
  std::uint64_t mantissa = 0;  // of all digits, without the point; exact below 20 digits
  std::size_t count = 0;
  const auto digits = [&] {
    if (!is_digit()) fail(at_ == start ? "want a value" : "a number lacks a digit");
    for (; is_digit(); ++at_, ++count) mantissa = mantissa * 10 + static_cast<std::uint64_t>(text_[at_] - '0');
  };
  if (here() == '0') {
    ++at_;
    if (is_digit()) fail("a number starts with 0");
  } else {
    digits();
  }
  bool digits_only = true;
  int exponent = 0;  // of 10, on the mantissa
  if (here() == '.') {
    digits_only = false;
    const std::size_t point = ++at_;
    digits();
    exponent = -static_cast<int>(std::min<std::size_t>(at_ - point, 1000));
  }
  bool simple = count < 20;
  if (here() == 'e' || here() == 'E') {
    digits_only = false;
    ++at_;
    const bool minus = here() == '-';
    if (minus || here() == '+') ++at_;
    const std::uint64_t before = mantissa;
    const std::size_t digits_before = count;
    mantissa = count = 0;
    digits();
    simple = simple && count < 5;
    const int shift = static_cast<int>(std::min<std::uint64_t>(mantissa, 10'000));
    exponent += minus ? -shift : shift;
    mantissa = before;
    count = digits_before;
  }
  // Below 2^53 and 10^22 both parts are exact, and so their quotient or product is the closest double.
  constexpr double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                               1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  if (simple && mantissa <= std::uint64_t{1} << 53 && exponent >= -22 && exponent <= 22) {
    const auto exact = static_cast<double>(mantissa);
    const double size = exponent < 0 ? exact / powers[-exponent] : exact * powers[exponent];
    result.value = negative ? -size : size;
  } else if (std::from_chars(text_.data() + start, text_.data() + at_, result.value).ec != std::errc{}) {
    fail_at(start, "a number that no double holds");
  }
  if (digits_only) {
    result.whole = std::from_chars(text_.data() + start, text_.data() + at_, result.integer).ec == std::errc{};
  } else if (std::fabs(result.value) <= 0x1p53 && result.value == std::floor(result.value)) {
    result.whole = true;
    result.integer = static_cast<std::int64_t>(result.value);
  }
  return result;
}

std::uint32_t JsonReader::hex4() {
  std::uint32_t unit = 0;
  if (text_.size() - at_ < 4) fail("the text ends within an escape");
  const auto parsed = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, unit, 16);
  if (parsed.ptr != text_.data() + at_ + 4) fail("\\u lacks four hexadecimal digits");
  at_ += 4;
  return unit;
}

void JsonReader::escape() {
  constexpr std::string_view names = "\"\\/bfnrt";
  constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
  const std::size_t start = at_ - 1;
  if (const auto known = done() ? names.npos : names.find(text_[at_]); known != names.npos) {
    decoded_ += meanings[known];
    ++at_;
    return;
  }
  if (!take("u")) fail("an unknown escape");
  std::uint32_t value = hex4();
  if (value >= 0xd800 && value < 0xdc00 && take("\\u")) {
    const std::uint32_t low = hex4();
    if (low < 0xdc00 || low > 0xdfff) fail_at(start, "a lone surrogate");
    value = 0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00);
  } else if (value >= 0xd800 && value < 0xe000) {
    fail_at(start, "a lone surrogate");
  }
  encode(value, decoded_);
}

std::string_view JsonReader::string() {
  begin(Json::Type::string);
  const std::size_t start = at_++;
  std::size_t plain = at_;                      // of what was not copied yet
  std::size_t copied = std::string_view::npos;  // where the copy begins, if there are escapes
  for (;;) {
    if (done()) fail_at(start, "a string without an end");
    const char c = text_[at_];
    if (c == '"') break;
    if (c == '\\') {
      if (copied == std::string_view::npos) {
        decoded_.reserve(text_.size());  // for all strings, so that none of them moves
        copied = decoded_.size();
      }
      decoded_.append(text_, plain, at_ - plain);
      ++at_;
      escape();
      plain = at_;
      continue;
    }
    if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
    if (static_cast<unsigned char>(c) < 0x80) {
      ++at_;
      continue;
    }
    const CodePoint point = decode(text_, at_);
    if (point.length == 0) fail("not UTF-8");
    at_ += point.length;
  }
  const std::size_t end = at_++;
  if (copied == std::string_view::npos) return text_.substr(plain, end - plain);
  decoded_.append(text_, plain, end - plain);
  return std::string_view(decoded_).substr(copied);
}

void JsonReader::enter(Json::Type type) {
  begin(type);
  if (depth_ >= limits_.depth) fail("nested deeper than " + std::to_string(limits_.depth));
  ++depth_;
  ++at_;
  first_ = true;
}

// True if there is another element before `end`, which is consumed.
bool JsonReader::next(char end) {
  space();
  if (here() == end) {
    ++at_;
    --depth_;
    first_ = false;
    return false;
  }
  if (first_) {
    first_ = false;
    return true;
  }
  if (here() != ',') fail(std::string("want ',' or '") + end + "'");
  ++at_;
  return true;
}

void JsonReader::enter_list() { enter(Json::Type::array); }
bool JsonReader::next_item() { return next(']'); }

void JsonReader::enter_object() {
  enter(Json::Type::object);
  keys_.push_back({{}, at_});  // where the object's keys begin
}

bool JsonReader::next_key(std::string_view& key) {
  if (!next('}')) {
    check_keys();
    return false;
  }
  space();
  if (done() || here() != '"') fail("want a key in quotes");
  const std::size_t place = at_;
  --values_;  // a key is no value
  key = string();
  space();
  if (!take(":")) fail("want ':'");
  keys_.push_back({key, place});
  return true;
}

// The keys of the object that ends are distinct.
void JsonReader::check_keys() {
  auto first = keys_.end();
  while ((first - 1)->name.data() != nullptr) --first;
  std::sort(first, keys_.end(),
            [](const Key& a, const Key& b) { return a.name != b.name ? a.name < b.name : a.place < b.place; });
  for (auto key = first; key != keys_.end() && key + 1 != keys_.end(); ++key)
    if (key->name == (key + 1)->name) fail_at((key + 1)->place, "a key occurs twice in an object");
  keys_.erase(first - 1, keys_.end());
}

std::string_view JsonReader::skip() {
  const Json::Type type = peek();
  const std::size_t start = at_;
  std::string_view key;
  switch (type) {
    case Json::Type::null:
      null();
      break;
    case Json::Type::boolean:
      boolean();
      break;
    case Json::Type::number:
      number();
      break;
    case Json::Type::string: {
      const std::size_t kept = decoded_.size();
      string();
      decoded_.resize(kept);
      break;
    }
    case Json::Type::array:
      for (enter_list(); next_item();) skip();
      break;
    case Json::Type::object:
      for (enter_object(); next_key(key);) skip();
      break;
  }
  return text_.substr(start, at_ - start);
}

Json JsonReader::tree() {
  Json result;
  result.type = peek();
  std::string_view key;
  switch (result.type) {
    case Json::Type::null:
      null();
      break;
    case Json::Type::boolean:
      result.boolean = boolean();
      break;
    case Json::Type::number: {
      const Number found = number();
      result.number = found.value;
      result.integer = found.integer;
      result.whole = found.whole;
      break;
    }
    case Json::Type::string:
      result.string = string();
      break;
    case Json::Type::array:
      for (enter_list(); next_item();) result.items.push_back(tree());
      break;
    case Json::Type::object:
      for (enter_object(); next_key(key);) {
        result.keys.emplace_back(key);
        result.items.push_back(tree());
      }
      break;
  }
  return result;
}

void JsonReader::end() {
  space();
  if (!done()) fail("text after the end of the document");
}

Json Json::parse(std::string_view text, const JsonLimits& limits) {
  JsonReader reader(text, limits);
  Json result = reader.tree();
  reader.end();
  return result;
}

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

std::string plain_number(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

std::string json_text(const Json& value) {
  using Type = Json::Type;
  if (value.type == Type::boolean) return value.boolean ? "true" : "false";
  if (value.type == Type::string) return json_quote(value.string);
  if (value.type == Type::number && value.whole) return std::to_string(value.integer);
  if (value.type == Type::number && std::isfinite(value.number)) return plain_number(value.number);
  if (value.type != Type::array && value.type != Type::object) return "null";
  std::string text;
  for (std::size_t i = 0; i < value.items.size(); ++i) {
    text += text.empty() ? "" : ",";
    if (value.type == Type::object) text += json_quote(value.keys[i]) + ":";
    text += json_text(value.items[i]);
  }
  return value.type == Type::array ? "[" + text + "]" : "{" + text + "}";
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

}  // namespace pygrade::inline v0_2::detail
