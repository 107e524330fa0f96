// The connections to one Redis server, and the time that its answers may take.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "pygrade/function_ref.hpp"
#include "stores/record.hpp"
#include "stores/redis_connection.hpp"

namespace pygrade::detail {

// When a call must have ended, and whose limit that is.
struct Limit {
  Time at;
  bool of_the_caller;
};

class RedisPool {
 public:
  RedisPool(const std::string& url, const RedisAddress& address, std::chrono::milliseconds timeout);

  Limit limit(Deadline deadline) const;

  // Calls `body` with a connection. `again`: once more if the server has closed an idle one. Failures of the connection
  // become StoreErrors; what else `body` throws is passed on.
  void with_connection(const Limit& end, const bool& again, FunctionRef<void(RedisConnection&)> body);

  // Throws the StoreError for an error that the server answered with.
  [[noreturn]] void refuse(std::string_view error) const;

 private:
  using Connection = std::unique_ptr<RedisConnection>;

  Connection take();
  void give(Connection connection);

  const std::string url_;
  const RedisAddress address_;
  const std::chrono::milliseconds timeout_;

  std::mutex mutex_;
  std::vector<Connection> idle_;
  std::string seen_;  // the version that was current at the last read
  Time down_until_{};
  int forks_;
};

}  // namespace pygrade::detail
