#include "stores/redis_connection.hpp"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pygrade::inline v0_2::detail {

namespace {

using ReplyKind = RedisReplies::Kind;

constexpr std::size_t read_size = 256 << 10;  // of one call, without TLS

timeval left_until(Time until) {
  const auto left = std::max(until - std::chrono::steady_clock::now(), Time::duration(std::chrono::microseconds(1)));
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  return {static_cast<time_t>(seconds.count()),
          std::chrono::duration_cast<std::chrono::microseconds>(left - seconds).count()};
}

[[noreturn]] void fail(int number, const char* what) {
  throw ConnectionError(std::string(what) + ": " + std::strerror(number));
}

// What hiredis calls for each answer that it has read. It takes a null pointer for a failure, so a place counts from 1.
void* add(const redisReadTask* task, ReplyKind kind, std::string_view text, std::int64_t integer = 0,
          std::size_t elements = 0) {
  return reinterpret_cast<void*>(static_cast<RedisReplies*>(task->privdata)->add(kind, text, integer, elements) + 1);
}
void* add_text(const redisReadTask* task, char* text, size_t size) {
  const ReplyKind kind = task->type == REDIS_REPLY_ERROR    ? ReplyKind::error
                         : task->type == REDIS_REPLY_STATUS ? ReplyKind::status
                                                            : ReplyKind::text;
  return add(task, kind, {text, size});
}
void* add_array(const redisReadTask* task, size_t elements) { return add(task, ReplyKind::array, {}, 0, elements); }
void* add_integer(const redisReadTask* task, long long value) { return add(task, ReplyKind::integer, {}, value); }
void* add_double(const redisReadTask* task, double, char* text, size_t size) {
  return add(task, ReplyKind::text, {text, size});
}
void* add_nothing(const redisReadTask* task) { return add(task, ReplyKind::nothing, {}); }
void* add_boolean(const redisReadTask* task, int value) { return add(task, ReplyKind::integer, {}, value); }
void keep(void*) {}

redisReplyObjectFunctions functions = {add_text, add_array, add_integer, add_double, add_nothing, add_boolean, keep};

}  // namespace

void RedisConnection::Free::operator()(redisContext* context) const { redisFree(context); }

RedisConnection::RedisConnection(const RedisLogin& login, const std::string& ip, Time until)
    : tls_(login.tls != nullptr), received_(tls_ ? 0 : read_size) {
  const timeval left = left_until(until);
  redisOptions options = {};
  options.connect_timeout = &left;
  options.command_timeout = &left;  // of the handshake; what follows does not block
  if (login.node.port == 0)
    REDIS_OPTIONS_SET_UNIX(&options, login.node.host.c_str());
  else
    REDIS_OPTIONS_SET_TCP(&options, ip.c_str(), login.node.port);
  context_.reset(redisConnectWithOptions(&options));
  if (context_ == nullptr) throw std::bad_alloc();
  const auto check = [&](const std::string& error) {
    if (error.empty()) return;
    if (std::chrono::steady_clock::now() >= until) throw ConnectionTimeout("it accepts no connection");
    throw ConnectionError(error);
  };
  check(context_->err == 0 ? "" : context_->errstr);
  fcntl(context_->fd, F_SETFD, FD_CLOEXEC);
  if (tls_) check(login.tls->start(context_.get(), login.node.host));
  fcntl(context_->fd, F_SETFL, fcntl(context_->fd, F_GETFL) | O_NONBLOCK);
  context_->flags &= ~REDIS_BLOCK;
  context_->reader->fn = &functions;
  context_->reader->privdata = &replies;
  context_->reader->maxbuf = 0;  // it keeps its memory
  log_in(login, until);
}

RedisConnection::~RedisConnection() = default;

void RedisConnection::log_in(const RedisLogin& login, Time until) {
  std::size_t answers = 0;
  if (!login.password.empty() || !login.user.empty()) {
    if (login.user.empty())
      commands.command({"AUTH", login.password});
    else
      commands.command({"AUTH", login.user, login.password});
    ++answers;
  }
  if (login.database != 0) {
    commands.command({"SELECT", std::to_string(login.database)});
    ++answers;
  }
  if (answers == 0) return;
  send(until);
  receive(answers, until);
  for (std::size_t i = 0; i < replies.size(); ++i)
    if (replies[i].kind == ReplyKind::error) throw ConnectionRefusal(std::string(replies.text(i)));
}

bool RedisConnection::quiet() const {
  char byte;
  return recv(context_->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

void RedisConnection::send(Time until) {
  std::string_view left = commands.bytes();
  if (tls_ && redisAppendFormattedCommand(context_.get(), left.data(), left.size()) != REDIS_OK) throw std::bad_alloc();
  for (int done = 0; tls_ && done == 0;) {
    if (redisBufferWrite(context_.get(), &done) != REDIS_OK) throw ConnectionError(context_->errstr);
    if (done == 0) wait(POLLOUT, until);
  }
  while (!tls_ && !left.empty()) {
    const ssize_t count = ::send(context_->fd, left.data(), left.size(), MSG_NOSIGNAL);
    if (count > 0)
      left.remove_prefix(static_cast<std::size_t>(count));
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
      wait(POLLOUT, until);
    else if (errno != EINTR)
      fail(errno, "the connection was lost");
  }
  commands.clear();
}

void RedisConnection::receive(std::size_t answers, Time until) {
  replies.clear();
  while (answers > 0) {
    void* reply = nullptr;
    if (redisReaderGetReply(context_->reader, &reply) != REDIS_OK)
      throw ConnectionError(std::string("the answer is damaged: ") + context_->reader->errstr);
    if (reply != nullptr)
      --answers;
    else
      read_some(until);
  }
}

void RedisConnection::read_some(Time until) {
  if (tls_) {
    const std::size_t before = context_->reader->len;
    if (redisBufferRead(context_.get()) != REDIS_OK) throw ConnectionError(context_->errstr);
    if (context_->reader->len == before) wait(POLLIN, until);
    return;
  }
  const ssize_t count = recv(context_->fd, received_.data(), received_.size(), 0);
  if (count > 0)
    redisReaderFeed(context_->reader, received_.data(), static_cast<std::size_t>(count));
  else if (count == 0)
    throw ConnectionError("the server closed the connection");
  else if (errno == EAGAIN || errno == EWOULDBLOCK)
    wait(POLLIN, until);
  else if (errno != EINTR)
    fail(errno, "the connection was lost");
}

void RedisConnection::wait(short event, Time until) const {
  const auto left = until - std::chrono::steady_clock::now();
  if (left <= Time::duration::zero()) throw ConnectionTimeout("it does not answer in time");
  const timeval time = left_until(until);
  const timespec limit = {time.tv_sec, time.tv_usec * 1000};
  pollfd file = {context_->fd, event, 0};
  ppoll(&file, 1, &limit, nullptr);  // the next attempt tells what became of it
}

}  // namespace pygrade::inline v0_2::detail
