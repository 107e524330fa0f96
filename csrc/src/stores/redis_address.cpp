#include "stores/redis_address.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <stdexcept>
#include <string_view>

namespace pygrade::detail {

namespace {

constexpr double longest_timeout = 86'400.0;  // seconds

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
    throw std::invalid_argument("url has the database '" + text + "'; want a whole number from 0 on");
  return database;
}

std::chrono::milliseconds timeout_of(const std::string& text) {
  double seconds = 0.0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, seconds);
  if (result.ec != std::errc() || result.ptr != end || !(seconds > 0.0 && seconds <= longest_timeout))
    throw std::invalid_argument("url has timeout='" + text + "'; want seconds, above 0 and at most 86400");
  return std::chrono::milliseconds(std::max(1LL, std::llround(seconds * 1000)));
}

void set_option(RedisAddress& address, std::string_view option) {
  const auto equals = option.find('=');
  if (equals == option.npos || equals + 1 == option.size()) return;  // a blank one counts as left out
  const std::string name = decoded(option.substr(0, equals), true), value = decoded(option.substr(equals + 1), true);
  if (name == "prefix")
    address.prefix = value;
  else if (name == "timeout")
    address.timeout = timeout_of(value);
  else if (name == "db")
    address.database = database_of(value);
  else
    throw std::invalid_argument("url has the option '" + name + "'; want prefix, timeout or db");
}

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
  if (std::from_chars(port.data() + 1, end, address.port).ptr != end || address.port < 0 || address.port > 65535)
    throw std::invalid_argument("url has a port that is no number from 0 to 65535");
}

}  // namespace

RedisAddress parse_redis_address(const std::string& url) {
  const auto refuse_unescaped = [](bool wrong) {
    if (wrong)
      throw std::invalid_argument("url has a '/', '?' or '#' in its user or password; want it percent-encoded");
  };
  RedisAddress address;
  const std::string_view whole(url);
  const auto start = whole.find("://");
  if (start == whole.npos) throw std::invalid_argument("url has no '://'; want redis://HOST:PORT/DB?prefix=NAME");
  const bool socket = whole.substr(0, start) == "unix";
  address.tls = whole.substr(0, start) == "rediss";
  refuse_unescaped(whole.find('#') != whole.npos);
  const auto question = std::min(whole.find('?'), whole.size());
  std::string_view place = whole.substr(start + 3, question - start - 3);
  std::string_view query = whole.substr(std::min(question + 1, whole.size()));

  auto slash = std::min(place.find('/'), place.size());
  const std::string_view server = place.substr(0, slash);
  std::string_view path = place.substr(slash);
  if (!socket) refuse_unescaped(path.find('@') != path.npos);
  const auto at = server.rfind('@');
  if (at != server.npos) {
    const std::string_view login = server.substr(0, at);
    const auto colon = std::min(login.find(':'), login.size());
    address.user = decoded(login.substr(0, colon));
    address.password = decoded(login.substr(std::min(colon + 1, login.size())));
  }
  if (socket) {
    address.socket = decoded(path);
    if (address.socket.empty()) throw std::invalid_argument("url has no path; want unix:///SOCKET?db=DB&prefix=NAME");
  } else {
    set_server(address, at == server.npos ? server : server.substr(at + 1));
    if (path.starts_with('/')) path.remove_prefix(1);
    address.database = database_of(std::string(path));
  }
  while (!query.empty()) {
    const auto end = std::min(query.find('&'), query.size());
    if (!socket) refuse_unescaped(query.substr(0, std::min(query.find('='), end)).find('@') != query.npos);
    set_option(address, query.substr(0, end));
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return address;
}

}  // namespace pygrade::detail
