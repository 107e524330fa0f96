#include "stores/redis_server.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "util/forks.hpp"

namespace pygrade::inline v0_2::detail {
// A connection failed, and can't be used again.
struct RedisServer::Fault : std::runtime_error {
  enum Kind { lost, timeout, refusal };  // refusal: of the login
  Kind kind;
  Fault(Kind of, const std::string& text) : std::runtime_error(text), kind(of) {}
};

namespace {
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds long_timeout{2000};
constexpr milliseconds shortest_pause{10}, longest_pause{1000}, longest_pause_after_refusal{100};
constexpr milliseconds least_wait{10};  // a caller's deadline that leaves less says nothing of the server
constexpr std::size_t max_idle = 64;    // connections that are kept

timeval left_until(Time until) {
  const auto left = std::max(until - Clock::now(), Time::duration(std::chrono::microseconds(1)));
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  return {static_cast<time_t>(seconds.count()),
          std::chrono::duration_cast<std::chrono::microseconds>(left - seconds).count()};
}

// Whether the server has neither closed the connection nor sent anything since the last answer.
bool is_quiet(const redisContext& connection) {
  char byte;
  return recv(connection.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

std::string bytes_of(std::span<const RedisCommand> commands) {
  std::string bytes;
  for (const RedisCommand& command : commands) {
    bytes.append("*").append(std::to_string(command.size())).append("\r\n");
    for (const std::string_view word : command)
      bytes.append("$").append(std::to_string(word.size())).append("\r\n").append(word).append("\r\n");
  }
  return bytes;
}

// The first error among answers and their elements; "" if there is none.
std::string_view error_in(std::span<const RedisReply> replies) {
  for (const auto& reply : replies) {
    if (reply->type == REDIS_REPLY_ERROR) return text_of(*reply);
    for (std::size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements; ++i)
      if (reply->element[i]->type == REDIS_REPLY_ERROR) return text_of(*reply->element[i]);
  }
  return {};
}
}  // namespace

RedisServer::RedisServer(const RedisAddress& address, milliseconds timeout)
    : address_(address), functions_(redis_functions(address.url)), timeout_(timeout), forks_(fork_count()) {
  if (address.tls) tls_ = std::make_unique<const TlsContext>(*address.tls, address.url);
}

Limit RedisServer::limit(Deadline deadline) const {
  const Time at = Clock::now() + timeout_;
  return deadline && *deadline < at ? Limit{*deadline, true} : Limit{at, false};
}

Limit RedisServer::long_limit() const { return {Clock::now() + std::max(timeout_, long_timeout), false}; }

std::vector<RedisReply> RedisServer::run(std::span<const RedisCommand> commands, const Limit& end, bool repeat) {
  try {
    std::vector<RedisReply> replies = answers(commands, end, repeat);
    if (const std::string_view error = error_in(replies); !error.empty()) refuse(error);
    reachable_.store(true, std::memory_order_relaxed);
    return replies;
  } catch (const StoreUnreachableError&) {
    reachable_.store(false, std::memory_order_relaxed);
    throw;
  }
}

std::vector<RedisReply> RedisServer::answers(std::span<const RedisCommand> commands, const Limit& end, bool repeat) {
  struct Probe {  // ends with the call
    ~Probe() {
      if (!active) return;
      const std::lock_guard lock(server.mutex_);
      server.probing_ = false;
    }
    RedisServer& server;
    const bool active;
  };
  const Probe probe{*this, admit()};
  const Time start = Clock::now();
  try {
    Connection connection = take();
    std::vector<RedisReply> replies;
    if (connection != nullptr) try {
        replies = exchange(*connection, commands, end.at);
      } catch (const Fault& fault) {
        if (fault.kind != Fault::lost || !repeat) throw;
        connection = nullptr;
      }
    if (connection == nullptr) {
      connection = connect(end.at);
      replies = exchange(*connection, commands, end.at);
    }
    keep(std::move(connection));
    return replies;
  } catch (const Fault& fault) {
    fail(fault, end, probe.active, start);
  }
}

// --- when to leave the server alone

// Whether the call probes a server that failed. StoreUnreachableError if it is left alone.
bool RedisServer::admit() {
  const std::lock_guard lock(mutex_);
  if (forks_ != fork_count()) {  // what is open is the parent's
    idle_.clear();
    probing_ = false;
    forks_ = fork_count();
  }
  if (failures_ == 0) return false;
  if (probing_ || Clock::now() < alone_until_) throw StoreUnreachableError(fault_);
  return probing_ = true;
}

void RedisServer::fail(const Fault& fault, const Limit& end, bool probe, Time start) {
  const auto since = [](Time time) { return std::chrono::duration_cast<milliseconds>(Clock::now() - time); };
  const bool timeout = fault.kind == Fault::timeout, refusal = fault.kind == Fault::refusal;
  const std::string text = refusal   ? address_.url + ": the server refuses: " + fault.what()
                           : timeout ? address_.url + " has not answered within " +
                                           std::to_string(since(end.start).count()) + " ms: " + fault.what()
                                     : address_.url + " is not reachable: " + fault.what();
  {
    const std::lock_guard lock(mutex_);
    const bool counts = (failures_ == 0 || probe) && !refusal;
    if (counts && !(timeout && end.of_the_caller && since(start) < least_wait)) {
      const auto longest = timeout ? longest_pause : longest_pause_after_refusal;
      alone_until_ = Clock::now() + std::min(longest, shortest_pause * (1 << std::min(failures_, 10)));
      ++failures_;
      fault_ = text;
    }
  }
  if (timeout && end.of_the_caller) throw StoreUnreachableError(address_.url + " has not answered before the deadline");
  throw StoreUnreachableError(text);
}

void RedisServer::refuse(std::string_view error) const {
  const std::string text(error), refused = address_.url + ": the server refuses: " + text;
  const std::string word = text.substr(0, text.find(' '));
  if (word == "WRONGTYPE") throw StoreError(address_.url + ": keys of this prefix are no store: " + text);
  if (word == "READONLY") throw StoreError(refused + " Want the address of its master");
  for (const auto cluster : {"MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN"})
    if (word == cluster) throw StoreError(refused + ": expected a server that is no part of a cluster");
  for (const auto away : {"NOAUTH", "NOPERM", "LOADING", "MASTERDOWN"})
    if (word == away) throw StoreUnreachableError(refused);
  throw StoreError(refused);
}

// --- connections

// One that is idle and still open, or null.
RedisServer::Connection RedisServer::take() {
  for (;;) {
    Connection connection;
    {
      const std::lock_guard lock(mutex_);
      if (idle_.empty()) return nullptr;
      connection = std::move(idle_.back());
      idle_.pop_back();
    }
    if (is_quiet(*connection)) return connection;
  }
}

void RedisServer::keep(Connection connection) {
  const std::lock_guard lock(mutex_);
  failures_ = 0;
  if (idle_.size() < max_idle) idle_.push_back(std::move(connection));
}

RedisServer::Connection RedisServer::connect(Time until) const {
  const timeval left = left_until(until);
  redisOptions options = {};
  options.connect_timeout = &left;
  options.command_timeout = &left;
  if (address_.port == 0)
    REDIS_OPTIONS_SET_UNIX(&options, address_.host.c_str());
  else
    REDIS_OPTIONS_SET_TCP(&options, address_.host.c_str(), address_.port);
  Connection connection(functions_.connect(&options), {&functions_});
  if (connection == nullptr) throw std::bad_alloc();
  std::string error = connection->err == 0 ? "" : connection->errstr;
  if (error.empty()) fcntl(connection->fd, F_SETFD, FD_CLOEXEC);
  if (error.empty() && tls_ != nullptr) error = tls_->start(connection.get(), address_.host);
  if (!error.empty() && Clock::now() >= until) throw Fault(Fault::timeout, "it accepts no connection");
  if (!error.empty()) throw Fault(Fault::lost, error);
  std::vector<RedisCommand> login;
  const std::string database = std::to_string(address_.database);
  if (!address_.user.empty())
    login.push_back({"AUTH", address_.user, address_.password});
  else if (!address_.password.empty())
    login.push_back({"AUTH", address_.password});
  if (address_.database != 0) login.push_back({"SELECT", database});
  if (const auto replies = exchange(*connection, login, until); !error_in(replies).empty())
    throw Fault(Fault::refusal, std::string(error_in(replies)));
  return connection;
}

// So that the next call of the system ends in time; false if the time is over.
bool RedisServer::set_time(redisContext& connection, Time until) const {
  return Clock::now() < until && functions_.set_timeout(&connection, left_until(until)) == REDIS_OK;
}

void RedisServer::send(redisContext& connection, std::string_view bytes, Time until) const {
  const auto check = [&](bool good, const std::string& error) {
    if (Clock::now() >= until) throw Fault(Fault::timeout, "it does not answer in time");
    if (!good) throw Fault(Fault::lost, error);
  };
  if (tls_ != nullptr) {
    if (functions_.append(&connection, bytes.data(), bytes.size()) != REDIS_OK) throw std::bad_alloc();
    for (int done = 0; done == 0;) {
      check(set_time(connection, until), "");
      const bool written = functions_.write(&connection, &done) == REDIS_OK;
      check(written, *connection.errstr == 0 ? "the connection is closed" : connection.errstr);
    }
    return;
  }
  while (!bytes.empty()) {
    check(set_time(connection, until), "");
    const ssize_t count = ::send(connection.fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);  // hiredis's kills
    if (count > 0) bytes.remove_prefix(static_cast<std::size_t>(count));
    check(count > 0 || errno == EINTR || errno == EAGAIN, std::string("the connection was lost: ") + strerror(errno));
  }
}

std::vector<RedisReply> RedisServer::exchange(redisContext& connection, std::span<const RedisCommand> commands,
                                              Time until) const {
  send(connection, bytes_of(commands), until);
  std::vector<RedisReply> replies;
  while (replies.size() < commands.size()) {
    void* reply = nullptr;
    if (functions_.next_reply(&connection, &reply) != REDIS_OK)
      throw Fault(Fault::lost, std::string("the answer is damaged: ") + connection.errstr);
    if (reply != nullptr) {
      replies.emplace_back(static_cast<redisReply*>(reply), RedisFree{&functions_});
    } else if (!set_time(connection, until) || functions_.read(&connection) != REDIS_OK) {
      if (Clock::now() >= until) throw Fault(Fault::timeout, "it does not answer in time");
      throw Fault(Fault::lost, *connection.errstr == 0 ? "the connection is closed" : connection.errstr);
    }
  }
  return replies;
}
}  // namespace pygrade::inline v0_2::detail
