// A small strict JSON reader for files that may be damaged or malicious.
//
// RFC 8259 within `JsonLimits`; the text must be UTF-8 without byte-order mark or lone surrogates, the keys of an
// object distinct, and numbers within double. One extension: the literals NaN, Infinity and -Infinity, which Python's
// writer produces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace pygrade::detail {

struct JsonLimits {
  std::size_t bytes = std::size_t{8} << 20;
  std::size_t values = std::size_t{1} << 20;  // about 100 bytes of memory each
  int depth = 32;
};

// The message starts with the position: "byte 17 (line 2, column 5): …".
class JsonError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Json {
 public:
  enum class Type : std::uint8_t { null, boolean, number, string, array, object };

  static Json parse(std::string_view text, const JsonLimits& limits = {});

  Type type = Type::null;
  bool boolean = false;
  bool whole = false;  // the number is an integer within int64, which is exact in `integer`
  std::int64_t integer = 0;
  double number = 0.0;
  std::string string;
  std::vector<std::string> keys;  // of an object, in text order
  std::vector<Json> items;        // of an array, or the values of `keys`

  // The value of a key of an object, or nullptr.
  const Json* find(std::string_view key) const;

  // The value of a key, of the type asked for; JsonError names the key if it is missing or of another type.
  const Json& at(std::string_view key) const;
  const Json& object_at(std::string_view key) const;
  const std::string& string_at(std::string_view key) const;
  bool boolean_at(std::string_view key) const;
  double finite_at(std::string_view key) const;
  std::vector<std::string> strings_at(std::string_view key) const;
  std::vector<std::int64_t> integers_at(std::string_view key) const;  // each 0 … 2^53

 private:
  const Json& typed(std::string_view key, Type wanted, const char* wanted_name) const;
};

// `text` as a JSON string in ASCII, as Python's json.dumps writes it; text must be valid UTF-8.
std::string json_quote(std::string_view text);

}  // namespace pygrade::detail
