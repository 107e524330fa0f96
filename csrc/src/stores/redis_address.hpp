// The address of a Redis store, as pygrade/stores/redis.py takes it.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace pygrade::detail {

struct RedisAddress {
  std::string host = "localhost";
  int port = 6379;
  std::string socket;  // path of a Unix socket, in place of host and port
  std::string user, password;
  int database = 0;
  std::string prefix = "pygrade";
  std::optional<std::chrono::milliseconds> timeout;
  bool tls = false;
};

// std::invalid_argument, which never shows a user or password.
RedisAddress parse_redis_address(const std::string& url);

}  // namespace pygrade::detail
