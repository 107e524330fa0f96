#include <charconv>
#include <cstring>
#include <random>

#include "check.hpp"
#include "service/input.hpp"
#include "util/json.hpp"

using pygrade::detail::Json;
using pygrade::detail::json_quote;
using pygrade::detail::JsonError;
using pygrade::detail::JsonReader;

namespace {
void check_refused(const std::string& text, const std::string& reason) {
  CHECK_THROWS(JsonError, reason, Json::parse(text));
}

// The bits of a list's numbers and ids, or the errors.
std::string list_of(const std::string& text) {
  std::string result;
  const auto add = [&](auto read) {
    try {
      JsonReader reader(text, {.infinite = false});
      const auto values = read(reader);
      reader.end();
      result.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]);
    } catch (const std::exception& error) {
      result += error.what();
    }
  };
  add([](JsonReader& reader) {
    std::vector<float> numbers;
    pygrade::detail::read_floats(reader, "p", 4, -1e30, 1e30, true, numbers);
    return numbers;
  });
  add([](JsonReader& reader) {
    std::vector<std::int64_t> ids;
    for (reader.enter_list(); reader.next_item();)
      if (reader.take_ids(4, ids) == 0) ids.push_back(reader.number().integer);
    return ids;
  });
  add([](JsonReader& reader) { return reader.skip(); });
  return result;
}

// A number as clients write it, or with digits and exponents of any length.
std::string draw_number(std::mt19937_64& random) {
  const auto below = [&](std::uint64_t count) { return random() % count; };
  const auto digits = [&](std::uint64_t count) {
    std::string text;
    while (text.size() < count) text += static_cast<char>('0' + (below(3) == 0 ? 0 : below(10)));
    return text;
  };
  char text[40];
  const double share = static_cast<double>(random() >> 11) * 0x1p-53;
  switch (below(5)) {
    case 0:
      return {text,
              std::to_chars(text, text + sizeof text, share * std::pow(10.0, -static_cast<double>(below(9)))).ptr};
    case 1:
      return {text, std::to_chars(text, text + sizeof text, static_cast<double>(static_cast<float>(share))).ptr};
    case 2:
      return {text, std::to_chars(text, text + sizeof text, random() >> below(64)).ptr};
    default: {
      std::string number =
          (below(4) == 0 ? "-" : "") + (below(2) == 0 ? "0" : std::to_string(1 + below(9)) + digits(below(22)));
      if (below(4) > 0) number += "." + digits(1 + below(28));
      if (below(4) == 0) number += (below(2) == 0 ? "e-" : "E") + std::to_string(below(30));
      return number;
    }
  }
}
}  // namespace

TEST(every_kind_of_value_is_read) {
  const Json value = Json::parse(R"( {"a": [1, -2.5e+3, true, false, null], "b": {"c": "x"}, "": []} )");
  CHECK_EQUAL(value.keys.size(), std::size_t{3});
  const Json& list = value.at("a");
  CHECK_EQUAL(list.items[0].number, 1.0);
  CHECK_EQUAL(list.items[1].number, -2500.0);
  CHECK(list.items[2].boolean && !list.items[3].boolean);
  CHECK(list.items[3].type == Json::Type::boolean && list.items[4].type == Json::Type::null);
  CHECK_EQUAL(value.at("b").string_at("c"), "x");
  CHECK(value.at("").type == Json::Type::array);
  CHECK(value.find("d") == nullptr);
  CHECK(Json::parse("0").number == 0.0 && Json::parse("\"\"").string.empty());
}

TEST(numbers_are_exact_and_python_s_literals_are_known) {
  CHECK_EQUAL(Json::parse("0.1").number, 0.1);
  CHECK_EQUAL(Json::parse("5e-324").number, 5e-324);
  CHECK_EQUAL(Json::parse("123456789012345678901234567890").number, 123456789012345678901234567890.0);
  CHECK(std::isnan(Json::parse("NaN").number));
  CHECK_EQUAL(Json::parse("[-Infinity]").items[0].number, -std::numeric_limits<double>::infinity());
  for (const char* bad : {"01", "-", "1.", ".5", "1e", "+1", "0x1", "1e999", "nan", "Inf", "-NaN", "tru", "1 2"})
    CHECK_THROWS(JsonError, "byte ", Json::parse(bad));
}

// A number with much text behind it is read in a tight loop.
TEST(numbers_read_in_tight_loops_are_those_read_alone_and_the_closest) {
  const std::string space(100, ' ');
  std::mt19937_64 random(1);
  for (int i = 0; i < 100'000; ++i) {
    const std::string text = draw_number(random);
    double closest = 0.0;
    std::from_chars(text.data(), text.data() + text.size(), closest);
    const Json alone = Json::parse(text), fast = Json::parse(text + space);
    for (const Json& read : {alone, fast}) {
      if (std::memcmp(&read.number, &closest, sizeof closest) != 0) throw std::runtime_error("another number: " + text);
      CHECK(read.whole == alone.whole && read.integer == alone.integer);
    }
  }
}

TEST(lists_read_in_tight_loops_are_those_read_one_by_one) {
  const std::string space(100, ' ');
  constexpr std::string_view others = "0123456789.eE+-,, ]nN\"";
  std::mt19937_64 random(2);
  std::size_t read = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::string text = "[";
    for (std::uint64_t n = 1 + random() % 3; n > 0; --n)
      text += (random() % 8 == 0 ? "null" : draw_number(random)) + (n == 1 ? "]" : random() % 2 == 0 ? "," : " , ");
    if (text.size() > 76) continue;
    for (std::uint64_t n = random() % 3; n > 0; --n)
      text.insert(text.begin() + static_cast<std::ptrdiff_t>(random() % text.size()), others[random() % others.size()]);
    if (list_of(text) != list_of(text + space)) throw std::runtime_error("another list: " + text);
    ++read;
  }
  CHECK(read > 50'000);
  std::vector<float> numbers;
  std::vector<std::int64_t> ids;
  const std::string two = "[[0.5, null, 1e-3, 2], [3, 18446744073709551615]]" + space;
  JsonReader reader(two);
  reader.enter_list();
  CHECK(reader.next_item());
  reader.enter_list();
  CHECK(reader.next_item());
  CHECK_EQUAL(reader.take_floats(9, 0.0, 1.0, true, numbers), std::size_t{3});  // 2 is beyond 1
  CHECK_EQUAL(numbers[2], 1e-3f);
  CHECK(reader.next_item() && reader.number().integer == 2 && !reader.next_item() && reader.next_item());
  reader.enter_list();
  CHECK(reader.next_item());
  CHECK_EQUAL(reader.take_ids(9, ids), std::size_t{1});
}

TEST(strings_are_utf8) {
  CHECK_EQUAL(Json::parse(R"("\u00e9\n\/\ud83d\ude00\"")").string, "\xc3\xa9\n/\xf0\x9f\x98\x80\"");
  CHECK_EQUAL(Json::parse("\"\xc3\xa9\"").string, "\xc3\xa9");
  for (const char* bad :
       {"\"\xc3\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xff\"", "\"\x80\""})
    check_refused(bad, "not UTF-8");
  check_refused(R"("\ud800")", "byte 1 (line 1, column 2): a lone surrogate");
  check_refused(R"("\udc00")", "lone surrogate");
  check_refused(R"("\ud800\u0041")", "lone surrogate");
  check_refused(R"("\u12g4")", "four hexadecimal digits");
  check_refused(R"("\u12)", "ends within an escape");
  check_refused(R"("\x")", "unknown escape");
  check_refused("\"a\nb\"", "control character");
  check_refused("\"abc", "byte 0 (line 1, column 1): a string without an end");
  check_refused("\xef\xbb\xbf{}", "expected a value");
}

TEST(quoting_is_python_s) {
  CHECK_EQUAL(json_quote("a\"\\\b\f\n\r\t/\x01\x7f"), R"("a\"\\\b\f\n\r\t/\u0001\u007f")");
  CHECK_EQUAL(json_quote("\xc3\xa9\xf0\x9f\x98\x80"), R"("\u00e9\ud83d\ude00")");
  CHECK_THROWS(JsonError, "not UTF-8", json_quote("\xff"));
}

TEST(structure_is_strict_and_places_are_told) {
  check_refused("", "byte 0 (line 1, column 1): the text ends");
  check_refused("{\"a\": 1,\n \"b\" 2}", "byte 14 (line 2, column 6): expected ':'");
  check_refused("{\"a\": 1,}", "expected a key");
  check_refused("[1,]", "expected a value");
  check_refused("[1 2]", "expected ',' or ']'");
  check_refused("{\"a\": 1", "expected ',' or '}'");
  check_refused("{a: 1}", "expected a key in quotes");
  check_refused("[] []", "text after the end");
  check_refused("{\"a\": 1, \"b\": 2, \"\\u0061\": 3}", "byte 17 (line 1, column 18): a key occurs twice");
  check_refused(std::string("[1\0]", 4), "expected ',' or ']'");
}

TEST(limits_hold) {
  check_refused(std::string(33, '[') + std::string(33, ']'), "nested deeper than 32");
  Json::parse(std::string(32, '[') + std::string(32, ']'));
  check_refused(std::string(5'000'000, '['), "nested deeper than 32");
  CHECK_THROWS(JsonError, "more than 3 values", Json::parse("[1, 2, 3]", {.values = 3}));
  const std::string list = "[1, 2, 3]" + std::string(100, ' ');
  CHECK_THROWS(JsonError, "more than 3 values", JsonReader(list, {.values = 3}).skip());
  CHECK_THROWS(JsonError, "at most 4 are read", Json::parse("[1, 2]", {.bytes = 4}));
}

TEST(typed_access_names_the_key) {
  const Json value = Json::parse(R"({"s": "x", "n": 1.5, "l": [1, 2.5], "t": ["a", 1], "inf": Infinity, "i": [0, 7]})");
  CHECK_THROWS(JsonError, "'none' is absent", value.at("none"));
  CHECK_THROWS(JsonError, "'n' is not a string", value.string_at("n"));
  CHECK_THROWS(JsonError, "'s' is not a number", value.finite_at("s"));
  CHECK_THROWS(JsonError, "'inf' is not finite", value.finite_at("inf"));
  CHECK_THROWS(JsonError, "'l' holds something that is not an integer", value.integers_at("l"));
  CHECK_THROWS(JsonError, "'t' holds something that is not a string", value.strings_at("t"));
  CHECK_THROWS(JsonError, "'s' is not a list", value.strings_at("s"));
  CHECK_THROWS(JsonError, "'s' is not an object", value.object_at("s"));
  CHECK_THROWS(JsonError, "'s' is not true or false", value.boolean_at("s"));
  CHECK_EQUAL(value.integers_at("i"), (std::vector<std::int64_t>{0, 7}));
}
