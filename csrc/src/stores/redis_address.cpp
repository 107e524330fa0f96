#include "stores/redis_address.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string_view>

#include "stores/backends.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
constexpr double longest_time = 86'400.0;  // seconds

// With the bytes of %41 in place of it. `plus`: and a space in place of "+", as in a query.
std::string decoded(std::string_view text, bool plus = false) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const char* digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() && std::from_chars(digits, digits + 2, value, 16).ptr == digits + 2) {
      out += static_cast<char>(value);
      i += 2;
    } else {
      out += plus && text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

int database_of(const std::string& text) {
  if (text.empty()) return 0;
  int database = 0;
  const char* end = text.data() + text.size();
  const bool digits = std::ranges::all_of(text, [](char c) { return '0' <= c && c <= '9'; });
  if (!digits || text.size() > 9 || std::from_chars(text.data(), end, database).ptr != end)
    throw std::invalid_argument("url has the database '" + text + "'; expected a whole number from 0 on");
  return database;
}

std::chrono::milliseconds seconds_of(const std::string& name, const std::string& text) {
  double seconds = 0.0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, seconds);
  if (result.ec != std::errc() || result.ptr != end || !(seconds > 0.0 && seconds <= longest_time))
    throw std::invalid_argument("url has " + name + "='" + text + "'; expected seconds, above 0 and at most 86400");
  return std::chrono::milliseconds(std::max(1LL, std::llround(seconds * 1000)));
}

std::string password_in(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line) || line.empty())
    throw std::invalid_argument("url has password_file='" + path + "', which cannot be read or is empty");
  if (line.ends_with('\r')) line.pop_back();
  return line;
}

void set_option(RedisAddress& address, std::string_view option) {
  const auto equals = option.find('=');
  if (equals == option.npos || equals + 1 == option.size()) return;  // a blank one counts as left out
  const std::string name = decoded(option.substr(0, equals), true), value = decoded(option.substr(equals + 1), true);
  std::string* const file = !address.tls     ? nullptr
                            : name == "ca"   ? &address.tls->ca
                            : name == "cert" ? &address.tls->cert
                            : name == "key"  ? &address.tls->key
                            : name == "sni"  ? &address.tls->sni
                                             : nullptr;
  if (file != nullptr)
    *file = value;
  else if (name == "verify" && address.tls && (value == "host" || value == "chain" || value == "none"))
    address.tls->verify = value == "host" ? RedisTls::host : value == "chain" ? RedisTls::chain : RedisTls::none;
  else if (name == "verify" && address.tls)
    throw std::invalid_argument("url has verify='" + value + "'; expected host or chain or none");
  else if (name == "prefix")
    address.prefix = value;
  else if (name == "timeout")
    address.timeout = seconds_of(name, value);
  else if (name == "db")
    address.database = database_of(value);
  else if (name == "password_file")
    address.password = address.password.empty() ? password_in(value) : address.password;
  else
    throw std::invalid_argument("url has the option '" + name + "'; expected prefix, timeout, db or password_file, " +
                                "and with rediss:// ca, cert, key, sni or verify");
}

// Sets host and port, of which either may be left out.
void set_server(RedisAddress& address, std::string_view server) {
  std::string_view port;
  if (server.starts_with('[')) {  // IPv6
    const auto end = std::min(server.find(']'), server.size() - 1);
    port = server.substr(end + 1);
    server = server.substr(1, end - 1);
  } else if (const auto colon = server.rfind(':'); colon != server.npos) {
    port = server.substr(colon);
    server = server.substr(0, colon);
  }
  if (!server.empty()) address.host = decoded(server);
  if (port.size() <= 1) return;
  const char* end = port.data() + port.size();
  if (std::from_chars(port.data() + 1, end, address.port).ptr != end || address.port < 1 || address.port > 65535)
    throw std::invalid_argument("url has a port that is no number from 1 to 65535");
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}
}  // namespace

bool is_ip(const std::string& host) {
  in6_addr address;
  return inet_pton(AF_INET, host.c_str(), &address) == 1 || inet_pton(AF_INET6, host.c_str(), &address) == 1;
}

RedisAddress parse_redis_address(const std::string& url) {
  const auto refuse_unescaped = [](bool wrong) {
    if (wrong)
      throw std::invalid_argument("url has a '/', '?' or '#' in its user or password; expected it percent-encoded");
  };
  RedisAddress address;
  const std::string_view whole(url);
  const auto start = whole.find("://");
  if (start == whole.npos) throw std::invalid_argument("url has no '://'; expected redis://HOST:PORT/DB?prefix=NAME");
  const std::string_view scheme = whole.substr(0, start);
  const bool socket = scheme == "unix";
  if (scheme == "rediss") address.tls.emplace();
  refuse_unescaped(whole.find('#') != whole.npos);
  const auto question = std::min(whole.find('?'), whole.size());
  std::string_view place = whole.substr(start + 3, question - start - 3);
  std::string_view query = whole.substr(std::min(question + 1, whole.size()));

  auto slash = std::min(place.find('/'), place.size());
  std::string_view server = place.substr(0, slash);
  std::string_view path = place.substr(slash);
  if (!socket) refuse_unescaped(path.find('@') != path.npos);
  if (const auto at = server.rfind('@'); at != server.npos) {
    const std::string_view login = server.substr(0, at);
    const auto colon = std::min(login.find(':'), login.size());
    address.user = decoded(login.substr(0, colon));
    address.password = decoded(login.substr(std::min(colon + 1, login.size())));
    server.remove_prefix(at + 1);
  }
  if (socket) {
    address.host = decoded(path);
    address.port = 0;
    if (path.empty()) throw std::invalid_argument("url has no path; expected unix:///SOCKET?db=DB&prefix=NAME");
  } else {
    set_server(address, server);
    if (path.starts_with('/')) path.remove_prefix(1);
    address.database = database_of(std::string(path));
  }
  while (!query.empty()) {
    const auto end = std::min(query.find('&'), query.size());
    if (!socket) refuse_unescaped(query.substr(0, std::min(query.find('='), end)).find('@') != query.npos);
    set_option(address, query.substr(0, end));
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  if (address.user.empty()) address.user = environment("PYGRADE_REDIS_USER");
  if (address.password.empty()) address.password = environment("PYGRADE_REDIS_PASSWORD");
  address.url = without_secret(url);
  return address;
}
}  // namespace pygrade::inline v0_2::detail
