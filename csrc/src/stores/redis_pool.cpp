#include "stores/redis_pool.hpp"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <thread>

#include "util/forks.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds shortest_pause{10}, longest_pause{1000}, longest_pause_after_refusal{100};
constexpr milliseconds least_wait{10};  // a caller's deadline that leaves less says nothing of the server
constexpr std::size_t max_idle = 64;    // connections that are kept
constexpr auto ip_life = std::chrono::seconds(30);

std::vector<std::string> look_up(const std::string& host) {
  addrinfo hints = {}, *list = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int error = getaddrinfo(host.c_str(), nullptr, &hints, &list); error != 0)
    throw ConnectionError(std::string("its name is not known: ") + gai_strerror(error));
  std::vector<std::string> ips;
  for (const addrinfo* one = list; one != nullptr; one = one->ai_next) {
    char text[NI_MAXHOST];
    if (getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0)
      ips.emplace_back(text);
  }
  freeaddrinfo(list);
  if (ips.empty()) throw ConnectionError("its name has no address");
  return ips;
}

}  // namespace

// --- a lease

RedisLease::RedisLease(std::shared_ptr<RedisPool> pool, bool probe)
    : start(Clock::now()), pool_(std::move(pool)), probe_(probe) {}

RedisLease& RedisLease::operator=(RedisLease&& other) noexcept {
  if (pool_ != nullptr) pool_->end(*this);
  connection = std::move(other.connection);
  idle = other.idle;
  start = other.start;
  pool_ = std::move(other.pool_);
  probe_ = other.probe_;
  answered_ = other.answered_;
  return *this;
}

RedisLease::~RedisLease() {
  if (pool_ != nullptr) pool_->end(*this);
}

// --- the pool

RedisPool::RedisPool(RedisLogin login, std::string url)
    : login_(std::move(login)), url_(std::move(url)), forks_(fork_count()) {}

bool RedisPool::failing() {
  const std::lock_guard lock(mutex_);
  return failures_ > 0 && (probing_ || Clock::now() < alone_until_);
}

RedisLease RedisPool::open(const Limit& end, bool fresh) {
  bool probe;
  {
    const std::lock_guard lock(mutex_);
    if (forks_ != fork_count()) {  // what is open is the parent's, and its threads are not here
      idle_.clear();
      resolving_ = {};
      probing_ = false;
      forks_ = fork_count();
    }
    probe = failures_ > 0;
    if (probe && (probing_ || Clock::now() < alone_until_)) throw StoreUnreachableError(fault_);
    if (probe) probing_ = true;
  }
  RedisLease lease(shared_from_this(), probe);
  try {
    if (!fresh) lease.connection = take();
    lease.idle = lease.connection != nullptr;
    if (!lease.idle) lease.connection = connect(end.at);
  } catch (const std::runtime_error& error) {
    fail(lease, error, end);
  }
  return lease;
}

// One that is idle and still open, or null.
std::unique_ptr<RedisConnection> RedisPool::take() {
  for (;;) {
    std::unique_ptr<RedisConnection> connection;
    {
      const std::lock_guard lock(mutex_);
      if (idle_.empty()) return nullptr;
      connection = std::move(idle_.back());
      idle_.pop_back();
    }
    if (connection->quiet()) return connection;
  }
}

std::unique_ptr<RedisConnection> RedisPool::connect(Time until) {
  const auto ips = resolve(until);
  for (std::size_t i = 0;; ++i) try {
      return std::make_unique<RedisConnection>(login_, ips[i], until);
    } catch (const ConnectionError&) {
      if (i + 1 < ips.size() && Clock::now() < until) continue;
      const std::lock_guard lock(mutex_);
      ips_until_ = {};  // the name may have moved
      throw;
    }
}

// The addresses of the host. The system's resolver keeps no deadline, so a thread asks it; while there is no answer,
// old addresses serve.
std::vector<std::string> RedisPool::resolve(Time until) {
  if (login_.node.port == 0 || is_ip(login_.node.host)) return {login_.node.host};
  std::shared_future<std::vector<std::string>> answer;
  {
    const std::lock_guard lock(mutex_);
    if (Clock::now() < ips_until_) return ips_;
    answer = resolving_;
  }
  if (!answer.valid()) {
    std::packaged_task<std::vector<std::string>()> task([host = login_.node.host] { return look_up(host); });
    answer = task.get_future().share();
    std::thread(std::move(task)).detach();
    const std::lock_guard lock(mutex_);
    resolving_ = answer;
  }
  const bool done = answer.wait_until(until) == std::future_status::ready;
  const std::lock_guard lock(mutex_);
  if (done) {
    resolving_ = {};
    try {
      ips_ = answer.get();
      ips_until_ = Clock::now() + ip_life;
    } catch (const ConnectionError&) {
      if (ips_.empty()) throw;
    }
  }
  if (ips_.empty()) throw ConnectionTimeout("its name is not resolved in time");
  return ips_;
}

void RedisPool::fail(RedisLease& lease, const std::exception& error, const Limit& end) {
  const bool timeout = dynamic_cast<const ConnectionTimeout*>(&error) != nullptr;
  const bool refusal = dynamic_cast<const ConnectionRefusal*>(&error) != nullptr;
  const auto since = [](Time start) { return std::chrono::duration_cast<milliseconds>(Clock::now() - start); };
  const std::string where = url_.find(login_.node.text()) == url_.npos ? url_ + " at " + login_.node.text() : url_;
  const std::string fault = refusal   ? where + ": the server refuses: " + error.what()
                            : timeout ? where + " has not answered within " + std::to_string(since(end.start).count()) +
                                            " ms: " + error.what()
                                      : where + " is not reachable: " + error.what();
  {
    const std::lock_guard lock(mutex_);
    const bool counts = (failures_ == 0 || lease.probe_) && !refusal;
    if (counts && !(timeout && end.of_the_caller && since(lease.start) < least_wait)) {
      const auto longest = timeout ? longest_pause : longest_pause_after_refusal;
      alone_until_ = Clock::now() + std::min(longest, shortest_pause * (1 << std::min(failures_, 10)));
      ++failures_;
      fault_ = fault;
    }
  }
  if (timeout && end.of_the_caller) throw StoreTimeout(url_ + " has not answered before the deadline");
  throw StoreUnreachableError(fault);
}

void RedisPool::end(RedisLease& lease) {
  std::unique_ptr<RedisConnection> closed;  // outside the lock
  const std::lock_guard lock(mutex_);
  if (lease.probe_) probing_ = false;
  if (!lease.answered_) return;
  failures_ = 0;
  if (idle_.size() < max_idle && forks_ == fork_count())
    idle_.push_back(std::move(lease.connection));
  else
    closed = std::move(lease.connection);
}

}  // namespace pygrade::inline v0_2::detail
