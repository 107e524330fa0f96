// A Redis server: commands out, answers back, none of it beyond a point in time; and when to leave the server alone.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stores/record.hpp"
#include "stores/redis_address.hpp"
#include "stores/redis_libraries.hpp"

namespace pygrade::inline v0_2::detail {
using Time = std::chrono::steady_clock::time_point;

// When a call must have ended, and whose limit that is.
struct Limit {
  Time at;
  bool of_the_caller;
  Time start = std::chrono::steady_clock::now();
};

struct RedisFree {
  const pygrade_redis_functions* functions = nullptr;
  void operator()(redisReply* reply) const { functions->free_reply(reply); }
  void operator()(redisContext* connection) const { functions->free(connection); }
};
using RedisReply = std::unique_ptr<redisReply, RedisFree>;
using RedisCommand = std::vector<std::string_view>;  // words, which the caller keeps

// data() is null where there is none.
inline std::string_view text_of(const redisReply& reply) {
  return reply.str == nullptr ? std::string_view() : std::string_view(reply.str, reply.len);
}

// A server that fails is left alone for 10 ms, twice as long after each further failure, and at most for a second if it
// did not answer, a tenth of one if it refused. Between these pauses one call at a time tries it while the others fail
// at once; so a server that hung for a moment costs about the calls of that moment.
class RedisServer {
 public:
  RedisServer(const RedisAddress& address, std::chrono::milliseconds timeout);

  Limit limit(Deadline deadline = {}) const;
  Limit long_limit() const;  // of work that no page waits for

  // Sends the commands in one go and waits for their answers. StoreError for an error among these,
  // StoreUnreachableError if the server can't be reached or is left alone. `repeat`: it may run twice, so it does on
  // another connection if the one that was open turns out to be closed.
  std::vector<RedisReply> run(std::span<const RedisCommand> commands, const Limit& end, bool repeat);

  // Whether the last call got its answers.
  bool reachable() const { return reachable_.load(std::memory_order_relaxed); }

 private:
  using Connection = std::unique_ptr<redisContext, RedisFree>;
  struct Fault;

  std::vector<RedisReply> answers(std::span<const RedisCommand> commands, const Limit& end, bool repeat);
  bool admit();
  Connection take();
  void keep(Connection connection);
  Connection connect(Time until) const;
  bool set_time(redisContext& connection, Time until) const;
  void send(redisContext& connection, std::string_view bytes, Time until) const;
  std::vector<RedisReply> exchange(redisContext& connection, std::span<const RedisCommand> commands, Time until) const;
  [[noreturn]] void fail(const Fault& fault, const Limit& end, bool probe, Time start);
  [[noreturn]] void refuse(std::string_view error) const;

  const RedisAddress address_;
  const pygrade_redis_functions& functions_;
  const std::chrono::milliseconds timeout_;
  std::unique_ptr<const TlsContext> tls_;  // null: none
  std::atomic<bool> reachable_{true};

  std::mutex mutex_;  // no call of the system below it
  std::vector<Connection> idle_;
  int failures_ = 0;
  bool probing_ = false;
  Time alone_until_{};
  std::string fault_;
  int forks_;
};
}  // namespace pygrade::inline v0_2::detail
