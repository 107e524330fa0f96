#include "stores/redis_pool.hpp"

#include "util/forks.hpp"

namespace pygrade::detail {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto rest = std::chrono::seconds(1);  // without requests to a server that did not answer in time
constexpr std::size_t max_idle = 64;            // connections that are kept

}  // namespace

RedisPool::RedisPool(const std::string& url, const RedisAddress& address, std::chrono::milliseconds timeout)
    : url_(url), address_(address), timeout_(timeout), forks_(fork_count()) {}

Limit RedisPool::limit(Deadline deadline) const {
  const Time at = Clock::now() + timeout_;
  return deadline && *deadline < at ? Limit{*deadline, true} : Limit{at, false};
}

void RedisPool::refuse(std::string_view error) const {
  const bool foreign = error.find("WRONGTYPE") != error.npos;
  throw StoreError(url_ + (foreign ? ": keys of this prefix are no store: " : ": the server refuses: ") +
                   std::string(error));
}

// One that is idle and still open, or null.
RedisPool::Connection RedisPool::take() {
  const std::lock_guard lock(mutex_);
  if (forks_ != fork_count()) {  // the idle ones are the parent's
    idle_.clear();
    forks_ = fork_count();
  }
  if (Clock::now() < down_until_) throw StoreError(url_ + " has not answered within the last second");
  while (!idle_.empty()) {
    Connection connection = std::move(idle_.back());
    idle_.pop_back();
    if (connection->quiet()) return connection;
  }
  return nullptr;
}

void RedisPool::give(Connection connection) {
  const std::lock_guard lock(mutex_);
  if (seen_ != connection->version) seen_ = connection->version;
  if (idle_.size() < max_idle && forks_ == fork_count()) idle_.push_back(std::move(connection));
}

void RedisPool::with_connection(const Limit& end, const bool& again, FunctionRef<void(RedisConnection&)> body) {
  for (;;) {
    Connection connection = take();
    const bool idle = connection != nullptr;
    try {
      if (!idle) connection = std::make_unique<RedisConnection>(address_, end.at);
      {
        const std::lock_guard lock(mutex_);
        connection->version = seen_;
      }
      body(*connection);
      return give(std::move(connection));
    } catch (const ConnectionTimeout& error) {
      if (end.of_the_caller) throw StoreTimeout(url_ + " has not answered before the deadline");
      const std::lock_guard lock(mutex_);
      down_until_ = Clock::now() + rest;
      throw StoreError(url_ + " has not answered within " + std::to_string(timeout_.count()) + " ms: " + error.what());
    } catch (const ConnectionError& error) {
      if (idle && again) continue;
      throw StoreError(url_ + " is not reachable: " + error.what());
    } catch (const ConnectionRefusal& error) {
      refuse(error.what());
    } catch (const StoreError&) {  // every answer was read, so the connection can go on
      give(std::move(connection));
      throw;
    }
  }
}

}  // namespace pygrade::detail
