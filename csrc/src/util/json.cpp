#include "util/json.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
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

// ---- plain numbers: those of at most 19 digits, read in tight loops; JsonReader::number reads all others

static_assert(std::endian::native == std::endian::little, "eight characters are looked at as one integer");

constexpr std::size_t plain_bytes = 80;  // that must follow where a plain number begins: more than are looked at
constexpr std::ptrdiff_t max_digits = 19, max_read = 24;
constexpr std::uint64_t all_bytes = 0x0101010101010101, high_bits = 0x80 * all_bytes;

// Powers of ten that a double holds.
constexpr double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                             1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr std::uint64_t whole_powers[] = {1, 10, 100, 1'000, 10'000, 100'000, 1'000'000, 10'000'000, 100'000'000};

std::uint64_t load_eight(const char* at) {
  std::uint64_t bytes = 0;
  std::memcpy(&bytes, at, sizeof bytes);
  return bytes;
}

bool is_digit_at(const char* at) { return static_cast<unsigned char>(*at - '0') < 10; }

// Appends the digits at a place to a number, at most eight, and returns how many.
[[gnu::always_inline]] inline int append_digits(const char* at, std::uint64_t& number) {
  std::uint64_t digits = load_eight(at) - '0' * all_bytes;
  const std::uint64_t others = (digits | (digits + (0x80 - 10) * all_bytes)) & high_bits;  // right up to the first
  const int count = others == 0 ? 8 : std::countr_zero(others) / 8;
  if (count == 0) return 0;
  digits <<= 64 - 8 * count;             // zeros before them
  digits = digits * 10 + (digits >> 8);  // two in each byte of even place
  constexpr std::uint64_t pairs = 0x000000ff000000ff;
  constexpr std::uint64_t first = 100 + (std::uint64_t{1'000'000} << 32), second = 1 + (std::uint64_t{10'000} << 32);
  const std::uint64_t value = ((digits & pairs) * first + (digits >> 16 & pairs) * second) >> 32;
  number = number * whole_powers[count] + value;
  return count;
}

// Appends the digits at a place, at most max_read, and moves it behind them.
[[gnu::always_inline]] inline void read_digits(const char*& at, std::uint64_t& number) {
  int count = append_digits(at, number);
  at += count;
  for (int more = 0; count == 8 && more < 2; ++more) at += count = append_digits(at, number);
}

struct Plain {
  std::uint64_t digits = 0;  // without the point
  int exponent = 0;          // of 10, on the digits
  bool negative = false, digits_only = true;
};

// Reads a plain number; the place behind it, or nullptr if it is anything else.
[[gnu::always_inline]] inline const char* scan(const char* at, Plain& number) {
  number.negative = *at == '-';
  at += number.negative;
  std::ptrdiff_t count = 0;
  if (*at == '0') {
    ++at;
    if (is_digit_at(at)) return nullptr;
  } else {
    const char* const first = at;
    read_digits(at, number.digits);
    if ((count = at - first) == 0) return nullptr;
  }
  if (*at == '.') {
    const char* const point = ++at;
    read_digits(at, number.digits);
    const std::ptrdiff_t decimals = at - point;
    if (decimals == 0 || decimals == max_read) return nullptr;
    if (count == 0 && decimals > max_digits)
      count = point - std::find_if(point, at, [](char c) { return c != '0'; });  // zeros before the first that counts
    count += decimals;
    number.exponent = -static_cast<int>(decimals);
    number.digits_only = false;
  }
  if (count > max_digits) return nullptr;
  if ((*at | 0x20) == 'e') {
    ++at;
    const bool minus = *at == '-';
    if (minus || *at == '+') ++at;
    int shift = 0;
    const char* const begin = at;
    for (; is_digit_at(at) && at - begin < 4; ++at) shift = shift * 10 + (*at - '0');
    if (at == begin || is_digit_at(at)) return nullptr;
    number.exponent += minus ? -shift : shift;
    number.digits_only = false;
  }
  return at;
}

constexpr int max_five = 27;  // the highest power of 5 below 2^64

constexpr auto fives = [] {
  std::array<std::uint64_t, max_five + 1> all{1};
  for (std::size_t i = 1; i < all.size(); ++i) all[i] = all[i - 1] * 5;
  return all;
}();

// 2^127 / 5^i, where the divisor is shifted to 64 bits.
constexpr auto reciprocals = [] {
  std::array<std::uint64_t, max_five + 1> all{};
  for (std::size_t i = 1; i < all.size(); ++i)
    all[i] = static_cast<std::uint64_t>((static_cast<unsigned __int128>(1) << 127) /
                                        (fives[i] << std::countl_zero(fives[i])));
  return all;
}();

// The double closest to digits / 10^power; digits > 0, power 1 … max_five. The product with the reciprocal is below the
// quotient by less than 4 of its 64 bits' last; where these may decide how it is rounded to 53, division does, and sets
// the last if there is a rest.
double divide(std::uint64_t digits, int power) {
  const auto at = static_cast<std::size_t>(power);
  const int shift = std::countl_zero(digits), five_shift = std::countl_zero(fives[at]);
  const std::uint64_t divisor = fives[at] << five_shift;
  digits <<= shift;
  const int bits = digits >= divisor ? 63 : 64;
  auto quotient = static_cast<std::uint64_t>(static_cast<unsigned __int128>(digits) * reciprocals[at] >> (127 - bits));
  if (((quotient - 0x3fc) & 0x7ff) <= 4) {
    const auto dividend = static_cast<unsigned __int128>(digits) << bits;
    quotient = static_cast<std::uint64_t>(dividend / divisor);
    quotient |= quotient * divisor != static_cast<std::uint64_t>(dividend);
  }
  const int exponent = five_shift - shift - bits - power;
  return static_cast<double>(quotient) * std::bit_cast<double>(static_cast<std::uint64_t>(1023 + exponent) << 52);
}

// The double closest to a plain number; false if another way must find it.
[[gnu::always_inline]] inline bool convert(const Plain& number, double& value) {
  double size = 0.0;
  // Below 2^53 and 10^22 both parts are exact, and so their quotient or product is the closest double.
  if (number.digits <= std::uint64_t{1} << 53 && number.exponent >= -22 && number.exponent <= 22) {
    const auto exact = static_cast<double>(static_cast<std::int64_t>(number.digits));
    size = number.exponent < 0 ? exact / powers[-number.exponent] : exact * powers[number.exponent];
  } else if (number.digits > 0 && number.exponent < 0 && number.exponent >= -max_five) {
    size = divide(number.digits, -number.exponent);
  } else if (number.exponent == 0) {
    size = static_cast<double>(number.digits);
  } else {
    return false;
  }
  value = number.negative ? -size : size;
  return true;
}

// Reads a plain number, of any size, and moves the place behind it; false if it is anything else.
[[gnu::always_inline]] inline bool read_plain(const char*& at, double& value) {
  Plain number;
  const char* const end = scan(at, number);
  if (end == nullptr || !convert(number, value)) return false;
  at = end;
  return true;
}

// The integer of a number with a point or an exponent, if it is one.
void find_integer(JsonReader::Number& number) {
  if (std::fabs(number.value) > 0x1p53 || number.value != std::floor(number.value)) return;
  number.whole = true;
  number.integer = static_cast<std::int64_t>(number.value);
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
  if (found != wanted) fail("expected " + std::string(names[static_cast<std::size_t>(wanted)]));
}

void JsonReader::null() {
  begin(Json::Type::null);
  if (!take("null")) fail("expected a value");
}

bool JsonReader::boolean() {
  begin(Json::Type::boolean);
  const bool result = take("true");
  if (!result && !take("false")) fail("expected a value");
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
  if (!limits_.infinite) fail_at(start, "no number of JSON; expected null where a number is missing");
  return true;
}

// Reads a plain number whose integer, if it is one, is within int64; false: nothing was read.
bool JsonReader::plain(Number& result) {
  if (text_.size() - at_ < plain_bytes) return false;
  Plain number;
  const char* const end = scan(text_.data() + at_, number);
  if (end == nullptr || !convert(number, result.value)) return false;
  if (number.digits_only) {
    if (number.digits > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) return false;
    result.whole = true;
    result.integer = static_cast<std::int64_t>(number.digits) * (number.negative ? -1 : 1);
  } else {
    find_integer(result);
  }
  at_ = static_cast<std::size_t>(end - text_.data());
  return true;
}

JsonReader::Number JsonReader::number() {
  begin(Json::Type::number);
  Number result;
  if (plain(result)) return result;
  const char first = here();
  if ((first == 'N' || first == 'I' || (first == '-' && text_.substr(at_, 2) == "-I")) && literal(result.value))
    return result;
  const std::size_t start = at_;
  at_ += first == '-';
  const auto digits = [&] {
    if (!is_digit()) fail(at_ == start ? "expected a value" : "a number lacks a digit");
    while (is_digit()) ++at_;
  };
  if (here() == '0') {
    ++at_;
    if (is_digit()) fail("a number starts with 0");
  } else {
    digits();
  }
  const std::size_t integer_end = at_;
  if (here() == '.') {
    ++at_;
    digits();
  }
  if (here() == 'e' || here() == 'E') {
    ++at_;
    if (here() == '-' || here() == '+') ++at_;
    digits();
  }
  const char* const begin = text_.data() + start;
  if (std::from_chars(begin, text_.data() + at_, result.value).ec != std::errc{})
    fail_at(start, "a number that no double holds");
  if (at_ == integer_end)
    result.whole = std::from_chars(begin, text_.data() + at_, result.integer).ec == std::errc{};
  else
    find_integer(result);
  return result;
}

// `each` reads an element at a place and moves that behind it, or returns false.
template <class Each>
std::size_t JsonReader::take(std::size_t most, Each&& each) {
  space();
  if (text_.size() < plain_bytes) return 0;
  const char* at = text_.data() + at_;
  const char* const last = text_.data() + text_.size() - plain_bytes;
  const char* end = at;  // of what was taken
  std::size_t count = 0;
  for (most = std::min(most, limits_.values - values_); count < most && at <= last && each(at); ++count) {
    end = at;
    if (*at != ',') {
      ++count;
      break;
    }
    ++at;
    while (at < last && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) ++at;
  }
  at_ = static_cast<std::size_t>(end - text_.data());
  values_ += count;
  return count;
}

std::size_t JsonReader::take_floats(std::size_t most, double low, double high, bool missing, std::vector<float>& out) {
  return take(most, [&](const char*& at) {
    if (missing && *at == 'n' && std::memcmp(at, "null", 4) == 0) {
      out.push_back(std::numeric_limits<float>::quiet_NaN());
      at += 4;
      return true;
    }
    double value = 0.0;
    if (!read_plain(at, value) || !(value >= low && value <= high)) return false;
    out.push_back(static_cast<float>(value));
    return true;
  });
}

std::size_t JsonReader::take_ids(std::size_t most, std::vector<std::int64_t>& out) {
  return take(most, [&](const char*& at) {
    Plain number;
    const char* const end = scan(at, number);
    if (end == nullptr || !number.digits_only || number.negative ||
        number.digits > std::uint64_t{std::numeric_limits<std::int64_t>::max()})
      return false;
    out.push_back(static_cast<std::int64_t>(number.digits));
    at = end;
    return true;
  });
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
    while (text_.size() - at_ >= 8) {  // plain ASCII, neither a quote nor a backslash
      const std::uint64_t bytes = load_eight(text_.data() + at_);
      const std::uint64_t quote = bytes ^ ('"' * all_bytes), backslash = bytes ^ ('\\' * all_bytes);
      const std::uint64_t below = (bytes - 0x20 * all_bytes) | (quote - all_bytes) | (backslash - all_bytes);
      const std::uint64_t others = (below | bytes) & high_bits;  // right up to the first
      at_ += others == 0 ? 8 : static_cast<std::size_t>(std::countr_zero(others) / 8);
      if (others != 0) break;
    }
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

// Whether there is another element before `end`, which is consumed.
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
  if (here() != ',') fail(std::string("expected ',' or '") + end + "'");
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
  if (done() || here() != '"') fail("expected a key in quotes");
  const std::size_t place = at_;
  --values_;  // a key is no value
  key = string();
  space();
  if (!take(":")) fail("expected ':'");
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
      for (enter_list(); next_item();)
        if (double value = 0.0; take(limits_.values, [&](const char*& at) { return read_plain(at, value); }) == 0)
          skip();
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
    const std::size_t start = at;
    while (at < text.size() && text[at] >= 0x20 && text[at] < 0x7f && text[at] != '"' && text[at] != '\\') ++at;
    result.append(text, start, at - start);
    if (at == text.size()) break;
    const CodePoint point = decode(text, at);
    if (point.length == 0) throw JsonError("not UTF-8");
    at += point.length;
    const auto known = point.value < 0x80 ? meanings.find(static_cast<char>(point.value)) : meanings.npos;
    if (known != meanings.npos) {
      result += '\\';
      result += names[known];
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
