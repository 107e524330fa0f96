// A small strict JSON reader for files and requests that may be damaged or malicious.
//
// RFC 8259 within `JsonLimits`; the text must be UTF-8 without byte-order mark or lone surrogates, the keys of an
// object distinct, and numbers within double. One extension: the literals NaN, Infinity and -Infinity, which Python's
// writer produces. `JsonReader` gives the values one by one, so that lists go straight into typed arrays; `Json` is the
// tree of a document.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace pygrade::inline v0_2::detail {
struct JsonLimits {
  std::size_t bytes = std::size_t{8} << 20;
  std::size_t values = std::size_t{1} << 20;  // about 100 bytes of memory each
  int depth = 32;
  bool infinite = true;  // true if the literals NaN, Infinity and -Infinity are numbers
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

// Reads a document from front to back. What it asks for must come next, else a JsonError; `text` outlives the reader.
class JsonReader {
 public:
  JsonReader() = default;
  explicit JsonReader(std::string_view text, const JsonLimits& limits = {}) { start(text, limits); }
  // As a new reader, with the memory of this one.
  void start(std::string_view text, const JsonLimits& limits);

  struct Number {
    double value = 0.0;
    std::int64_t integer = 0;
    bool whole = false;  // see Json::whole
  };

  Json::Type peek();  // type of the next value; JsonError if there is none
  void null();
  bool boolean();
  Number number();
  std::string_view string();  // lives as long as text and reader, as the following
  std::string_view skip();    // a value of any type, checked; its text
  Json tree();                // a value of any type
  void enter_object();        // `next_key` until it is false, a value after each
  bool next_key(std::string_view& key);
  void enter_list();  // `next_item` until it is false, a value after each
  bool next_item();
  // After `next_item`, reads values of a list as long as they are what most are, at most so many, and appends them to
  // `out`: numbers in low … high, if `missing` null as NaN; or whole numbers from 0 on. Returns how many. The next one,
  // if there is one, is read as any value; a reader of it alone gives the same.
  std::size_t take_floats(std::size_t most, double low, double high, bool missing, std::vector<float>& out);
  std::size_t take_ids(std::size_t most, std::vector<std::int64_t>& out);
  void end();  // of the document

  // Where the value that comes next begins, for coming back to it within the same list or object.
  std::size_t place();
  void go_back(std::size_t place) { at_ = place; }

  std::size_t memory() const { return keys_.capacity() * sizeof(Key) + decoded_.capacity(); }  // bytes that are held

 private:
  struct Key {
    std::string_view name;
    std::size_t place;
  };

  [[noreturn]] void fail(const std::string& what) const { fail_at(at_, what); }
  [[noreturn]] void fail_at(std::size_t at, const std::string& what) const;
  bool done() const { return at_ == text_.size(); }
  char here() const { return done() ? '\0' : text_[at_]; }
  bool is_digit() const { return here() >= '0' && here() <= '9'; }
  void space();
  bool take(std::string_view word);
  void begin(Json::Type wanted);
  void enter(Json::Type type);
  bool next(char end);
  bool plain(Number& result);
  template <class Each>
  std::size_t take(std::size_t most, Each&& each);
  bool literal(double& value);
  std::uint32_t hex4();
  void escape();
  void check_keys();

  std::string_view text_;
  JsonLimits limits_;
  std::size_t at_ = 0, values_ = 0;
  int depth_ = 0;
  bool first_ = false;     // nothing of the list or object was read yet
  std::vector<Key> keys_;  // of the open objects; one without a name before those of each
  std::string decoded_;    // strings with escapes; never more than the text
};

// `text` as a JSON string in ASCII, as Python's json.dumps writes it; text must be valid UTF-8.
std::string json_quote(std::string_view text);

// The text of a document that was read; null stands for numbers that are not finite.
std::string json_text(const Json& value);

// The shortest text that reads as the number: 1, 0.5, 1e+30.
std::string plain_number(double value);
}  // namespace pygrade::inline v0_2::detail
