// One connection: its requests, one after the other, as a coroutine on the loop.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#ifdef PYGRADE_SERVER_TLS
#include <boost/asio/ssl.hpp>
#endif

#include "access_log.hpp"
#include "client.hpp"
#include "head.hpp"
#include "pool.hpp"
#include "settings.hpp"
#include "tokens.hpp"

namespace pygrade::inline v0_2::server {
namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;

// A co_await stands alone in its statement: some compilers evaluate it in an operand that is skipped.
inline constexpr auto wait = asio::as_tuple(asio::use_awaitable);

// Phase of a connection. `closing`: its last answer is sent, and what the client still sends is thrown away, since
// bytes that nobody read would make the kernel take the answer back. `leaving`: its end is decided.
enum Phase : std::uint8_t { idle, head, body, working, writing, closing, leaving };
inline constexpr std::size_t phases = 7;

class Connection;

struct Counters {
  std::atomic<std::uint64_t> refused{0}, closed_idle{0}, malformed{0}, received{0}, sent{0};
  std::atomic<std::size_t> connections{0};
};

// State that connections share. The loop alone uses it, but for counters and `draining`.
struct Shared {
  Service& service;
  const Settings& settings;
  const Tokens& tokens;
  Tenants& tenants;
  Pool &pages, &others;
  AccessLog* log;
  std::array<std::list<Connection*>, phases> in{};  // by phase, since when
  Counters counters{};
  std::atomic<bool> draining{false};
  std::string date{};  // a header line
  std::uint64_t next_span = 0;
  std::map<asio::ip::address, int> clients{};  // connections of each client that has some, but those that leave

  bool full() const;  // all connections but the reserve are taken
  // Whether a client has all connections that one may have, with so many more.
  bool full_of(const asio::ip::address& client, int more) const;
};

class Connection final : public Job {
 public:
  // `client`: see client_of(); it counts against connections_each.
  Connection(Shared& shared, tcp::socket socket, std::string address, const asio::ip::address& client);
  ~Connection();
#ifdef PYGRADE_SERVER_TLS
  void use_tls(asio::ssl::context& context) { tls_.emplace(socket_, context); }
#endif

  static asio::awaitable<void> run(std::unique_ptr<Connection> self);

  // Ends what the connection waits for: because of a deadline, or to give way. It answers 408 if a request had begun.
  void expire();
  // Whether no byte of a next request has arrived.
  bool quiet() const;
  Clock::time_point since() const { return since_; }
  const asio::ip::address& client() const { return client_; }

  bool reserve = false;  // beyond `connections`: answers probes, refuses all else

 private:
  struct Request {  // views into the parser and into buffer_
    std::string_view method, target, request_id, traceparent;
    bool keep = false, probe = false, trusted = false;  // trusted: with a valid token, or none is wanted
    std::optional<std::size_t> tenant = {};             // whose token it is, if that has a name
  };

  void enter(Phase phase);
  void leave();
  bool refuse(int status, std::string_view argument, std::string message);  // false
  asio::awaitable<bool> handshake();
  asio::awaitable<bool> fill(std::size_t bytes);
  asio::awaitable<bool> send(std::string_view head, std::string_view body);
  asio::awaitable<bool> serve_one();
  asio::awaitable<bool> read_head();
  asio::awaitable<bool> read_body();
  asio::awaitable<bool> shed();
  bool admit();
  void leave_tenant();
  Pool& pool() const;
  bool no_room() const;
  bool check();
  char first_byte() const;
  std::string_view received() const;
  asio::awaitable<void> work();
  void finish() noexcept override;
  asio::awaitable<bool> answer(bool keep);
  asio::awaitable<void> linger();
  void write_line(Clock::time_point arrival, std::string_view span);

  Shared& shared_;
  tcp::socket socket_;
#ifdef PYGRADE_SERVER_TLS
  std::optional<asio::ssl::stream<tcp::socket&>> tls_;
#endif
  const std::string address_;
  const asio::ip::address client_;
  beast::flat_buffer buffer_;
  std::optional<beast::http::request_parser<beast::http::string_body>> parser_;
  std::string body_;
  Request asked_;
  std::optional<Refusal> refusal_;
  std::optional<std::size_t> page_of_;  // the tenant whose page is in progress
  int retry_after_ = 1;                 // seconds
  Clock::time_point since_, read_at_;
  Phase phase_ = idle;
  std::list<Connection*>::iterator place_;
  bool expired_ = false, ended_ = false;  // ended_: the client sends no more
  bool left_ = false;                     // is in its client's number no more
  asio::any_completion_handler<void()> done_;
};
}  // namespace pygrade::inline v0_2::server
