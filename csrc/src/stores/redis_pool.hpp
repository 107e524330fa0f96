// The connections to one Redis server, and when to leave it alone.
#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "stores/record.hpp"
#include "stores/redis_connection.hpp"

namespace pygrade::inline v0_2::detail {

// When a call must have ended, and whose limit that is.
struct Limit {
  Time at;
  bool of_the_caller;
  Time start = std::chrono::steady_clock::now();
};

class RedisPool;

// A connection for one call. It returns to the pool only if `answered` was called.
class RedisLease {
 public:
  RedisLease() = default;
  RedisLease(std::shared_ptr<RedisPool> pool, bool probe);
  RedisLease(RedisLease&&) = default;
  RedisLease& operator=(RedisLease&& other) noexcept;
  ~RedisLease();

  RedisConnection* operator->() const { return connection.get(); }
  void answered() { answered_ = true; }  // every answer was read

  std::unique_ptr<RedisConnection> connection;
  bool idle = false;  // it was open before this call
  Time start;

 private:
  friend class RedisPool;
  std::shared_ptr<RedisPool> pool_;
  bool probe_ = false, answered_ = false;
};

// A server that fails is left alone for 10 ms, twice as long after each further failure, and at most for a second if it
// did not answer, a tenth of one if it refused. Between these pauses one call at a time tries it while the others fail
// at once; so a server that hung for a moment costs about the calls of that moment.
class RedisPool : public std::enable_shared_from_this<RedisPool> {
 public:
  // `url` is for messages.
  RedisPool(RedisLogin login, std::string url);

  const RedisNode& node() const { return login_.node; }
  bool failing();

  // StoreUnreachableError if the server can't be reached or is left alone. `fresh`: a new connection.
  RedisLease open(const Limit& end, bool fresh = false);

  // Throws the StoreError for what a lease's connection threw.
  [[noreturn]] void fail(RedisLease& lease, const std::exception& error, const Limit& end);

 private:
  friend class RedisLease;

  std::unique_ptr<RedisConnection> take();
  std::unique_ptr<RedisConnection> connect(Time until);
  std::vector<std::string> resolve(Time until);
  void end(RedisLease& lease);

  const RedisLogin login_;
  const std::string url_;

  std::mutex mutex_;  // no call of the system below it
  std::vector<std::unique_ptr<RedisConnection>> idle_;
  int failures_ = 0;
  bool probing_ = false;
  Time alone_until_{};
  std::string fault_;
  std::vector<std::string> ips_;
  Time ips_until_{};
  std::shared_future<std::vector<std::string>> resolving_;
  int forks_;
};

}  // namespace pygrade::inline v0_2::detail
