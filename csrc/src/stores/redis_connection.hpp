// A connection to a Redis server: commands out, answers back, none of it beyond a point in time.
#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "stores/redis_address.hpp"

struct redisContext;
struct redisReader;

namespace pygrade::detail {

using Time = std::chrono::steady_clock::time_point;

// The connection failed: it can't be used again.
struct ConnectionError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct ConnectionTimeout : ConnectionError {
  using ConnectionError::ConnectionError;
};
// The server does not accept the login.
struct ConnectionRefusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

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
  // The first error; empty if there is none.
  std::string_view error() const;

  std::size_t add(Kind kind, std::string_view text, std::int64_t integer, std::size_t elements);

 private:
  std::vector<Reply> replies_;
  std::string texts_;
};

class RedisConnection {
 public:
  // Connects and logs in.
  RedisConnection(const RedisAddress& address, Time until);
  ~RedisConnection();

  // Appends to the commands to be sent.
  void command(std::initializer_list<std::string_view> words);
  void command_head(std::size_t words);  // the start of a command of so many words
  void word(std::string_view text);
  void word(std::initializer_list<std::string_view> parts);
  void word(std::int64_t number);

  // Sends the commands and reads that many answers.
  const RedisReplies& call(std::size_t answers, Time until);

  // Whether the server has neither closed the connection nor sent anything since the last answer.
  bool quiet() const;

  // The caller's: the version that it reads, and its records. They are kept with the connection.
  std::string version;
  std::vector<std::string_view> values;

 private:
  struct Free {
    void operator()(redisContext* context) const;
    void operator()(redisReader* reader) const;
  };

  void log_in(const RedisAddress& address, Time until);
  void send(Time until);
  void receive(std::size_t answers, Time until);
  void wait(short event, Time until) const;

  std::unique_ptr<redisContext, Free> context_;
  std::unique_ptr<redisReader, Free> reader_;
  std::string commands_;
  std::vector<char> received_;
  RedisReplies replies_;
};

}  // namespace pygrade::detail
