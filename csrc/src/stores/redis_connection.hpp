// A connection to a Redis server: commands out, answers back, none of it beyond a point in time.
#pragma once

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "stores/redis_address.hpp"
#include "stores/redis_protocol.hpp"
#include "stores/redis_tls.hpp"

struct redisContext;

namespace pygrade::inline v0_2::detail {

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

// How a connection to a node begins.
struct RedisLogin {
  RedisNode node;
  std::string user, password;
  int database = 0;
  std::shared_ptr<const TlsContext> tls;  // null: none
};

class RedisConnection {
 public:
  // Connects to `ip`, one of the node's addresses (a Unix socket has none), and logs in.
  RedisConnection(const RedisLogin& login, const std::string& ip, Time until);
  ~RedisConnection();

  // What the next `send` sends.
  RedisCommands commands;

  void send(Time until);
  // Reads so many answers into `replies`.
  void receive(std::size_t answers, Time until);
  RedisReplies replies;

  // Whether the server has neither closed the connection nor sent anything since the last answer.
  bool quiet() const;

 private:
  struct Free {
    void operator()(redisContext* context) const;
  };

  void log_in(const RedisLogin& login, Time until);
  void read_some(Time until);
  void wait(short event, Time until) const;

  std::unique_ptr<redisContext, Free> context_;
  bool tls_;
  std::vector<char> received_;
};

}  // namespace pygrade::inline v0_2::detail
