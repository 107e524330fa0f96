// The store on a Redis server; pygrade/stores/redis.py documents its keys.
#include <algorithm>
#include <mutex>
#include <random>
#include <thread>

#include "stores/backends.hpp"
#include "stores/forks.hpp"
#include "stores/record.hpp"
#include "stores/redis_connection.hpp"

namespace pygrade::detail {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto rest = std::chrono::seconds(1);  // without requests to a server that did not answer in time
constexpr int max_attempts = 1000;              // of an update while others write to the same keys
constexpr std::size_t max_idle = 64;            // connections that are kept

// The script of Python's RedisStore.update_tables.
constexpr std::string_view update_script = R"(
if redis.call('HGET', KEYS[1], 'current') ~= ARGV[1] then return 'switched' end
local at = 2
for t = 3, #KEYS do
  local n = tonumber(ARGV[at + 1])
  for i = at + 2, at + 1 + n do
    if (redis.call('HGET', KEYS[t], ARGV[i]) or '') ~= ARGV[i + n] then return 'changed' end
  end
  at = at + 2 + 3 * n
end
at = 2
for t = 3, #KEYS do
  local n = tonumber(ARGV[at + 1])
  redis.call('SADD', KEYS[2], ARGV[at])
  for i = at + 2, at + 1 + n do redis.call('HSET', KEYS[t], ARGV[i], ARGV[i + 2 * n]) end
  at = at + 2 + 3 * n
end
return 'ok'
)";

// When a call must have ended, and whose limit that is.
struct Limit {
  Time at;
  bool of_the_caller;
};

class RedisStore final : public Store {
 public:
  RedisStore(const std::string& url, const RedisAddress& address, std::chrono::milliseconds timeout)
      : url_(without_secret(url)),
        address_(address),
        timeout_(timeout),
        store_(address.prefix + ":store"),
        forks_(fork_count()) {
    check_server();
  }

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read, Deadline deadline) override {
    check_queries(queries);
    check_deadline(deadline, url_);
    const Limit end = limit(deadline);
    const bool again = true;
    with_connection(end, again, [&](RedisConnection& connection) {
      read_records(connection, queries, end.at);
      unpack_records(connection.values, now_ms(), url_);
      read(connection.values);
    });
  }

  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override {
    check_ttl(ttl);
    std::vector<std::string> changed(check_queries(queries, true));
    std::vector<std::string_view> values;
    for (int attempt = 0; attempt < max_attempts; ++attempt) {
      bool done = false;
      bool again = true;  // until the update was sent: without an answer, it may have been done or not
      const Limit end = limit({});
      with_connection(end, again, [&](RedisConnection& connection) {
        read_records(connection, queries, end.at);
        values = connection.values;
        unpack_records(values, now_ms(), url_);
        for (auto& value : changed) value.clear();
        change(values, changed);
        again = false;
        done = write(connection, queries, changed, record_header(ttl));
      });
      if (done) return;
      std::this_thread::sleep_for(pause(attempt));  // let others finish
    }
    throw StoreError(url_ + ": others wrote to the same keys before each of " + std::to_string(max_attempts) +
                     " attempts of an update");
  }

  std::optional<std::string> current() override {
    std::optional<std::string> name;
    const Limit end = limit({});
    const bool again = true;
    with_connection(end, again, [&](RedisConnection& connection) {
      if (ask_current(connection, end.at)) name = connection.version;
    });
    return name;
  }

  const std::string& url() const override { return url_; }

 private:
  using Connection = std::unique_ptr<RedisConnection>;

  Limit limit(Deadline deadline) const {
    const Time at = Clock::now() + timeout_;
    return deadline && *deadline < at ? Limit{*deadline, true} : Limit{at, false};
  }

  static std::chrono::microseconds pause(int attempt) {
    thread_local std::minstd_rand random{std::random_device{}()};
    return std::chrono::microseconds(random() % static_cast<unsigned>(std::min(50'000, 500 * (attempt + 1))));
  }

  // --- connections
  // ----------------------------------------------------------------------------------------------------

  // One that is idle and still open, or null.
  Connection take() {
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

  void give(Connection connection) {
    const std::lock_guard lock(mutex_);
    if (seen_ != connection->version) seen_ = connection->version;
    if (idle_.size() < max_idle && forks_ == fork_count()) idle_.push_back(std::move(connection));
  }

  // Calls `body` with a connection. `again`: once more if the server closed an idle one.
  void with_connection(const Limit& end, const bool& again, FunctionRef<void(RedisConnection&)> body) {
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
        throw StoreError(url_ + " has not answered within " + std::to_string(timeout_.count()) +
                         " ms: " + error.what());
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

  // --- requests
  // -------------------------------------------------------------------------------------------------------

  [[noreturn]] void refuse(std::string_view error) const {
    const bool foreign = error.find("WRONGTYPE") != error.npos;
    throw StoreError(url_ + (foreign ? ": keys of this prefix are no store: " : ": the server refuses: ") +
                     std::string(error));
  }

  const RedisReplies& call(RedisConnection& connection, std::size_t answers, Time until) const {
    const RedisReplies& replies = connection.call(answers, until);
    if (const auto error = replies.error(); !error.empty()) {
      connection.version.clear();
      refuse(error);
    }
    return replies;
  }

  StoreError missing() const { return StoreError(url_ + " has no current version; fill one and switch to it"); }

  // Sets connection.version. Whether there is one.
  bool ask_current(RedisConnection& connection, Time until) const {
    connection.command({"HGET", store_, "current"});
    connection.version = call(connection, 1, until).text(0);
    return !connection.version.empty();
  }

  void table_word(RedisConnection& connection, std::string_view table) const {
    connection.word({address_.prefix, ":v:", connection.version, ":", table});
  }

  // Sets connection.version and connection.values, of one moment: the records, data() null where there is none.
  void read_records(RedisConnection& connection, std::span<const StoreQuery> queries, Time until) const {
    if (connection.version.empty() && !ask_current(connection, until)) throw missing();
    while (!ask_records(connection, queries, until)) {
    }
  }

  // The same of the version connection.version; false if another is current, which it then names.
  bool ask_records(RedisConnection& connection, std::span<const StoreQuery> queries, Time until) const {
    std::size_t tables = 0, keys = 0;
    connection.command({"MULTI"});
    connection.command({"HGET", store_, "current"});
    for (const auto& query : queries) {
      if (query.keys.empty()) continue;
      connection.command_head(2 + query.keys.size());
      connection.word("HMGET");
      table_word(connection, query.table);
      for (const std::int64_t key : query.keys) connection.word(key);
      ++tables;
      keys += query.keys.size();
    }
    connection.command({"EXEC"});
    const RedisReplies& replies = call(connection, 3 + tables, until);
    const std::size_t executed = 2 + tables;  // after OK and a QUEUED for each command: [current, [record …] …]
    if (replies.size() != executed + 2 + tables + keys || replies[executed].kind != RedisReplies::Kind::array)
      throw StoreError(url_ + ": the server's answer does not fit the request");
    const auto current = replies.text(executed + 1);
    if (current != connection.version) {
      connection.version = current;
      if (current.empty()) throw missing();
      return false;
    }
    connection.values.clear();
    for (std::size_t i = executed + 2; i < replies.size(); ++i)
      if (replies[i].kind != RedisReplies::Kind::array) connection.values.push_back(replies.text(i));
    return true;
  }

  // Writes the changed values of connection.values. False if another writer or version came first.
  bool write(RedisConnection& connection, std::span<const StoreQuery> queries, std::span<const std::string> changed,
             const std::string& header) {
    std::string record;
    connection.command_head(6 + 3 * queries.size() + 3 * changed.size());
    connection.word("EVAL");
    connection.word(update_script);
    connection.word(static_cast<std::int64_t>(2 + queries.size()));
    connection.word(store_);
    connection.word({address_.prefix, ":tables:", connection.version});
    for (const auto& query : queries) table_word(connection, query.table);
    connection.word(connection.version);
    std::size_t start = 0;
    for (const auto& query : queries) {
      const std::size_t count = query.keys.size();
      connection.word(query.table);
      connection.word(static_cast<std::int64_t>(count));
      for (const std::int64_t key : query.keys) connection.word(key);
      for (std::size_t i = 0; i < count; ++i) connection.word(connection.values[start + i]);  // none is empty
      for (std::size_t i = 0; i < count; ++i) {
        pack_record(header, changed[start + i], record);
        connection.word(record);
      }
      start += count;
    }
    const auto answer = call(connection, 1, limit({}).at).text(0);
    if (answer == "switched") connection.version.clear();
    return answer == "ok";
  }

  void check_server() {
    const Limit end = limit({});
    const bool again = true;
    with_connection(end, again, [&](RedisConnection& connection) {
      connection.command({"HGET", store_, "format"});
      connection.command({"INFO", "memory"});
      const RedisReplies& replies = call(connection, 2, end.at);
      const auto format = replies.text(0);
      if (format.data() == nullptr) throw StoreError(url_ + ": the server holds no store of this prefix");
      if (format != store_format) throw StoreError(url_ + other_format(format));
      const std::string_view policy = info(replies.text(1), "maxmemory_policy");
      const std::string_view bytes = info(replies.text(1), "maxmemory");
      if (policy.starts_with("allkeys") && !bytes.empty() && bytes != "0")
        throw StoreError(url_ + ": the server may evict whole tables (maxmemory-policy " + std::string(policy) +
                         "); want noeviction");
    });
  }

  // A line "name:value" of the server's description of itself.
  static std::string_view info(std::string_view lines, std::string_view name) {
    while (!lines.empty()) {
      const std::string_view line = lines.substr(0, lines.find("\r\n"));
      if (line.starts_with(name) && line.substr(name.size()).starts_with(':')) return line.substr(name.size() + 1);
      lines.remove_prefix(std::min(line.size() + 2, lines.size()));
    }
    return {};
  }

  const std::string url_;
  const RedisAddress address_;
  const std::chrono::milliseconds timeout_;
  const std::string store_;  // the name of a hash

  std::mutex mutex_;
  std::vector<Connection> idle_;
  std::string seen_;  // the version that was current at the last read
  Time down_until_{};
  int forks_;
};

}  // namespace

std::shared_ptr<Store> open_redis(const std::string& url, const StoreOptions& options) {
  const RedisAddress address = parse_redis_address(url);
  if (address.tls)
    throw StoreError(without_secret(url) + ": the core does not speak TLS; want redis://, say to a local TLS proxy");
  const auto timeout = address.timeout.value_or(options.timeout);
  if (timeout <= std::chrono::milliseconds::zero())
    throw std::invalid_argument("timeout is " + std::to_string(timeout.count()) + " ms; want a positive number");
  return std::make_shared<RedisStore>(url, address, timeout);
}

}  // namespace pygrade::detail
