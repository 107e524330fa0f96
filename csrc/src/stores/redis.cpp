// The store on a Redis server; pygrade/stores/redis.py documents its keys.
#include <algorithm>
#include <random>
#include <thread>

#include "stores/backends.hpp"
#include "stores/redis_pool.hpp"

namespace pygrade::detail {

namespace {

constexpr int max_attempts = 1000;  // of an update while others write to the same keys

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

class RedisStore final : public Store {
 public:
  RedisStore(const std::string& url, const std::string& prefix, std::shared_ptr<RedisPool> pool,
             std::string version = "")
      : url_(url),
        prefix_(prefix),
        store_(prefix + ":store"),
        versions_(prefix + ":versions"),
        version_(std::move(version)),
        pool_(std::move(pool)) {
    if (version_.empty()) check_server();
  }

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read, Deadline deadline) override {
    check_queries(queries);
    check_deadline(deadline, url_);
    const Limit end = pool_->limit(deadline);
    const bool again = true;
    pool_->with_connection(end, again, [&](RedisConnection& connection) {
      if (!read_version(connection, queries, end.at)) read_current(connection, queries, end.at);
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
      const Limit end = pool_->limit({});
      pool_->with_connection(end, again, [&](RedisConnection& connection) {
        read_current(connection, queries, end.at);
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
    const Limit end = pool_->limit({});
    const bool again = true;
    pool_->with_connection(end, again, [&](RedisConnection& connection) {
      if (ask_current(connection, end.at)) name = connection.version;
    });
    return name;
  }

  std::shared_ptr<Store> at(const std::string& version) override {
    return std::make_shared<RedisStore>(url_, prefix_, pool_, version);
  }

  const std::string& url() const override { return url_; }

 private:
  static std::chrono::microseconds pause(int attempt) {
    thread_local std::minstd_rand random{std::random_device{}()};
    return std::chrono::microseconds(random() % static_cast<unsigned>(std::min(50'000, 500 * (attempt + 1))));
  }

  const RedisReplies& call(RedisConnection& connection, std::size_t answers, Time until) const {
    const RedisReplies& replies = connection.call(answers, until);
    if (const auto error = replies.error(); !error.empty()) {
      connection.version.clear();
      pool_->refuse(error);
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

  void table_word(RedisConnection& connection, std::string_view version, std::string_view table) const {
    connection.word({prefix_, ":v:", version, ":", table});
  }

  // Sets connection.values to the records of version_; false if it is not complete, or none is asked for.
  bool read_version(RedisConnection& connection, std::span<const StoreQuery> queries, Time until) const {
    return !version_.empty() &&
           ask_records(connection, queries, version_, versions_, version_, until).ends_with(" ready");
  }

  // Sets connection.version and connection.values, of one moment.
  void read_current(RedisConnection& connection, std::span<const StoreQuery> queries, Time until) const {
    if (connection.version.empty() && !ask_current(connection, until)) throw missing();
    for (;;) {
      const auto current = ask_records(connection, queries, connection.version, store_, "current", until);
      if (current == connection.version) return;
      connection.version = current;
      if (current.empty()) throw missing();
    }
  }

  // A field of a hash, and in connection.values the records of a version, data() null where there is none.
  std::string_view ask_records(RedisConnection& connection, std::span<const StoreQuery> queries,
                               std::string_view version, std::string_view hash, std::string_view field,
                               Time until) const {
    std::size_t tables = 0, keys = 0;
    connection.command({"MULTI"});
    connection.command({"HGET", hash, field});
    for (const auto& query : queries) {
      if (query.keys.empty()) continue;
      connection.command_head(2 + query.keys.size());
      connection.word("HMGET");
      table_word(connection, version, query.table);
      for (const std::int64_t key : query.keys) connection.word(key);
      ++tables;
      keys += query.keys.size();
    }
    connection.command({"EXEC"});
    const RedisReplies& replies = call(connection, 3 + tables, until);
    const std::size_t executed = 2 + tables;  // after OK and a QUEUED for each command: [field, [record …] …]
    if (replies.size() != executed + 2 + tables + keys || replies[executed].kind != RedisReplies::Kind::array)
      throw StoreError(url_ + ": the server's answer does not fit the request");
    connection.values.clear();
    for (std::size_t i = executed + 2; i < replies.size(); ++i)
      if (replies[i].kind != RedisReplies::Kind::array) connection.values.push_back(replies.text(i));
    return replies.text(executed + 1);
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
    connection.word({prefix_, ":tables:", connection.version});
    for (const auto& query : queries) table_word(connection, connection.version, query.table);
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
    const auto answer = call(connection, 1, pool_->limit({}).at).text(0);
    if (answer == "switched") connection.version.clear();
    return answer == "ok";
  }

  void check_server() {
    const Limit end = pool_->limit({});
    const bool again = true;
    pool_->with_connection(end, again, [&](RedisConnection& connection) {
      connection.command({"HGET", store_, "format"});
      connection.command({"INFO", "memory"});
      const RedisReplies& replies = call(connection, 2, end.at);
      const auto format = replies.text(0);
      if (format.data() == nullptr) throw NotAStoreError(url_ + ": the server holds no store of this prefix");
      if (format != store_format) throw other_format(url_, format);
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

  const std::string url_, prefix_;
  const std::string store_, versions_;  // the names of hashes
  const std::string version_;           // that `get` reads while it is complete; "": the current one
  const std::shared_ptr<RedisPool> pool_;
};

}  // namespace

std::shared_ptr<Store> open_redis(const std::string& url, const StoreOptions& options) {
  const RedisAddress address = parse_redis_address(url);
  if (address.tls)
    throw StoreError(without_secret(url) + ": the core does not speak TLS; want redis://, say to a local TLS proxy");
  const auto timeout = address.timeout.value_or(options.timeout);
  if (timeout <= std::chrono::milliseconds::zero())
    throw std::invalid_argument("timeout is " + std::to_string(timeout.count()) + " ms; want a positive number");
  const std::string shown = without_secret(url);
  return std::make_shared<RedisStore>(shown, address.prefix, std::make_shared<RedisPool>(shown, address, timeout));
}

}  // namespace pygrade::detail
