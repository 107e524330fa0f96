// The address of a Redis store; docs/guides/storage.md lists its forms and options.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace pygrade::inline v0_2::detail {
struct RedisTls {
  std::string ca, cert, key;  // files in PEM; ca "": those that the system trusts
  std::string sni;            // the name that the server's certificate must have; "": its host
  enum Verify { host, chain, none } verify = host;
};

struct RedisAddress {
  std::string url;                 // without user and password, as messages name it
  std::string host = "localhost";  // or the path of a Unix socket, if the port is 0
  int port = 6379;
  std::string user, password;
  int database = 0;
  std::string prefix = "pygrade";
  std::optional<std::chrono::milliseconds> timeout;
  std::optional<RedisTls> tls;
};

// Whether a host is an address, not a name.
bool is_ip(const std::string& host);

// Parses an address. A user or password that it leaves out comes from the file `password_file`, or from
// PYGRADE_REDIS_USER and PYGRADE_REDIS_PASSWORD. std::invalid_argument, which never shows a user or password.
RedisAddress parse_redis_address(const std::string& url);
}  // namespace pygrade::inline v0_2::detail
