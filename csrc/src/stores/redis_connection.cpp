#include "stores/redis_connection.hpp"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace pygrade::detail {

namespace {

using Kind = RedisReplies::Kind;

constexpr std::size_t read_size = 256 << 10;

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
void* add(const redisReadTask* task, Kind kind, std::string_view text, std::int64_t integer = 0,
          std::size_t elements = 0) {
  return reinterpret_cast<void*>(static_cast<RedisReplies*>(task->privdata)->add(kind, text, integer, elements) + 1);
}
void* add_text(const redisReadTask* task, char* text, size_t size) {
  const Kind kind = task->type == REDIS_REPLY_ERROR    ? Kind::error
                    : task->type == REDIS_REPLY_STATUS ? Kind::status
                                                       : Kind::text;
  return add(task, kind, {text, size});
}
void* add_array(const redisReadTask* task, size_t elements) { return add(task, Kind::array, {}, 0, elements); }
void* add_integer(const redisReadTask* task, long long value) { return add(task, Kind::integer, {}, value); }
void* add_double(const redisReadTask* task, double, char* text, size_t size) {
  return add(task, Kind::text, {text, size});
}
void* add_nothing(const redisReadTask* task) { return add(task, Kind::nothing, {}); }
void* add_boolean(const redisReadTask* task, int value) { return add(task, Kind::integer, {}, value); }
void keep(void*) {}

redisReplyObjectFunctions functions = {add_text, add_array, add_integer, add_double, add_nothing, add_boolean, keep};

}  // namespace

// --- answers
// ----------------------------------------------------------------------------------------------------------

void RedisReplies::clear() {
  replies_.clear();
  texts_.clear();
}

std::size_t RedisReplies::add(Kind kind, std::string_view text, std::int64_t integer, std::size_t elements) {
  const bool array = kind == Kind::array;
  replies_.push_back({kind, texts_.size(), array ? elements : text.size(), integer});
  texts_ += text;
  return replies_.size() - 1;
}

std::string_view RedisReplies::text(std::size_t i) const {
  const Reply& reply = replies_[i];
  if (reply.kind != Kind::text && reply.kind != Kind::status && reply.kind != Kind::error) return {};
  return std::string_view(texts_).substr(reply.start, reply.size);
}

std::string_view RedisReplies::error() const {
  for (std::size_t i = 0; i < replies_.size(); ++i)
    if (replies_[i].kind == Kind::error) return text(i);
  return {};
}

// --- connection
// -------------------------------------------------------------------------------------------------------

void RedisConnection::Free::operator()(redisContext* context) const { redisFree(context); }
void RedisConnection::Free::operator()(redisReader* reader) const { redisReaderFree(reader); }

RedisConnection::RedisConnection(const RedisAddress& address, Time until) : received_(read_size) {
  const timeval left = left_until(until);
  redisOptions options = {};
  options.connect_timeout = &left;
  if (address.socket.empty())
    REDIS_OPTIONS_SET_TCP(&options, address.host.c_str(), address.port);
  else
    REDIS_OPTIONS_SET_UNIX(&options, address.socket.c_str());
  context_.reset(redisConnectWithOptions(&options));
  if (context_ == nullptr) throw std::bad_alloc();
  if (context_->err != 0) {
    if (std::chrono::steady_clock::now() >= until) throw ConnectionTimeout("it accepts no connection");
    throw ConnectionError(context_->errstr);
  }
  fcntl(context_->fd, F_SETFL, fcntl(context_->fd, F_GETFL) | O_NONBLOCK);
  fcntl(context_->fd, F_SETFD, FD_CLOEXEC);
  reader_.reset(redisReaderCreateWithFunctions(&functions));
  if (reader_ == nullptr) throw std::bad_alloc();
  reader_->privdata = &replies_;
  reader_->maxbuf = 0;  // it keeps its memory
  log_in(address, until);
}

RedisConnection::~RedisConnection() = default;

void RedisConnection::log_in(const RedisAddress& address, Time until) {
  std::size_t answers = 0;
  if (!address.password.empty() || !address.user.empty()) {
    if (address.user.empty())
      command({"AUTH", address.password});
    else
      command({"AUTH", address.user, address.password});
    ++answers;
  }
  if (address.database != 0) {
    command({"SELECT", std::to_string(address.database)});
    ++answers;
  }
  if (answers == 0) return;
  if (const auto error = call(answers, until).error(); !error.empty()) throw ConnectionRefusal(std::string(error));
}

void RedisConnection::command(std::initializer_list<std::string_view> words) {
  command_head(words.size());
  for (const auto text : words) word(text);
}

void RedisConnection::command_head(std::size_t words) {
  char text[24] = "*";
  const auto end = std::to_chars(text + 1, text + 21, words).ptr;
  commands_.append(text, end).append("\r\n");
}

void RedisConnection::word(std::initializer_list<std::string_view> parts) {
  std::size_t size = 0;
  for (const auto part : parts) size += part.size();
  char head[24] = "$";
  const auto end = std::to_chars(head + 1, head + 21, size).ptr;
  commands_.append(head, end).append("\r\n");
  for (const auto part : parts) commands_ += part;
  commands_ += "\r\n";
}

void RedisConnection::word(std::string_view text) { word({text}); }

void RedisConnection::word(std::int64_t number) {
  char text[24];
  const auto end = std::to_chars(text, text + sizeof text, number).ptr;
  word(std::string_view(text, static_cast<std::size_t>(end - text)));
}

const RedisReplies& RedisConnection::call(std::size_t answers, Time until) {
  replies_.clear();
  send(until);
  receive(answers, until);
  return replies_;
}

bool RedisConnection::quiet() const {
  char byte;
  return recv(context_->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

void RedisConnection::send(Time until) {
  for (std::size_t sent = 0; sent < commands_.size();) {
    const ssize_t count = ::send(context_->fd, commands_.data() + sent, commands_.size() - sent, MSG_NOSIGNAL);
    if (count > 0)
      sent += static_cast<std::size_t>(count);
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
      wait(POLLOUT, until);
    else if (errno != EINTR)
      fail(errno, "the connection was lost");
  }
  commands_.clear();
}

void RedisConnection::receive(std::size_t answers, Time until) {
  while (answers > 0) {
    void* reply = nullptr;
    if (redisReaderGetReply(reader_.get(), &reply) != REDIS_OK)
      throw ConnectionError(std::string("the answer is damaged: ") + reader_->errstr);
    if (reply != nullptr) {
      --answers;
      continue;
    }
    const ssize_t count = recv(context_->fd, received_.data(), received_.size(), 0);
    if (count > 0)
      redisReaderFeed(reader_.get(), received_.data(), static_cast<std::size_t>(count));
    else if (count == 0)
      throw ConnectionError("the server closed the connection");
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
      wait(POLLIN, until);
    else if (errno != EINTR)
      fail(errno, "the connection was lost");
  }
}

void RedisConnection::wait(short event, Time until) const {
  const auto left = until - std::chrono::steady_clock::now();
  if (left <= Time::duration::zero()) throw ConnectionTimeout("it does not answer in time");
  const timeval time = left_until(until);
  const timespec limit = {time.tv_sec, time.tv_usec * 1000};
  pollfd file = {context_->fd, event, 0};
  ppoll(&file, 1, &limit, nullptr);  // the next attempt tells what became of it
}

}  // namespace pygrade::detail
