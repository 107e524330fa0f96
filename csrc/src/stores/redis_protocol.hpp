// What goes to a Redis server and comes back: commands, answers, and the slots of keys in a cluster.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace pygrade::inline v0_2::detail {

// Answers in the order in which they came, each before its elements. The memory is used again.
class RedisReplies {
 public:
  enum class Kind : std::uint8_t { text, error, status, integer, nothing, array };
  struct Reply {
    Kind kind;
    std::size_t start, size;  // of the text; of an array: size is the number of its elements
    std::int64_t integer;
  };

  void clear();
  std::size_t size() const { return replies_.size(); }
  const Reply& operator[](std::size_t i) const { return replies_[i]; }
  // data() is null where there is none.
  std::string_view text(std::size_t i) const;
  // The place after a reply and its elements.
  std::size_t after(std::size_t i) const;

  std::size_t add(Kind kind, std::string_view text, std::int64_t integer, std::size_t elements);

 private:
  std::vector<Reply> replies_;
  std::string texts_;
};

// An answer, or an element of one, and what follows it. Valid as long as the RedisBatch that holds it.
struct RedisAnswer {
  const RedisReplies* replies = nullptr;
  std::size_t at = 0;

  RedisReplies::Kind kind() const { return (*replies)[at].kind; }
  std::string_view text() const { return replies->text(at); }
  std::int64_t integer() const { return (*replies)[at].integer; }
  std::size_t size() const { return kind() == RedisReplies::Kind::array ? (*replies)[at].size : 0; }
  RedisAnswer first() const { return {replies, at + 1}; }
  RedisAnswer next() const { return {replies, replies->after(at)}; }
  // Empty if it is none.
  std::string_view error() const { return kind() == RedisReplies::Kind::error ? text() : std::string_view(); }
};

// Commands in the protocol's bytes.
class RedisCommands {
 public:
  void head(std::size_t words);  // the start of a command of so many words
  void word(std::string_view text);
  void word(std::int64_t number);
  void command(std::initializer_list<std::string_view> words);
  void append(std::string_view bytes) { bytes_ += bytes; }

  std::string_view bytes() const { return bytes_; }
  void clear() { bytes_.clear(); }

 private:
  std::string bytes_;
};

inline constexpr int slot_count = 16384;
int slot_of(std::string_view key);

}  // namespace pygrade::inline v0_2::detail
