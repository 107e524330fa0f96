// The store for many machines: a Redis server, or a proxy that looks like one.
//
//     PREFIX:store                  hash    format; next, a counter; current = "<number> <version>";
//                                           v:<version> = "<number> filling" or "<number> ready"
//     PREFIX:r:<number>:KEY:TABLE   string  the record of an int64 key (stores/record.hpp)
//
// `begin` gives a version a number that is never used again, so what a dropped version leaves behind, or a writer who
// comes late adds to it, is in nobody's way; `sweep` removes it. Records that expire are removed by the server, and not
// read once the reader's clock is past their end.
//
// Guarantees, and how they are kept:
// - A read has one version over all its tables: a transaction asks for the current version's number and for the records
//   of the number that was current at the last read; if the numbers differ, it asks again.
// - An update loses none: a script writes all records if they are as they were read and the number is still current,
//   else the update begins anew.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <mutex>
#include <random>
#include <thread>

#include "stores/backends.hpp"
#include "stores/redis_server.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
using Clock = std::chrono::steady_clock;

constexpr int max_attempts = 1000;         // of an update while others write to the same keys
constexpr std::size_t put_records = 1000;  // of one script: other clients wait only for these
constexpr std::string_view scan_keys = "1000";

// KEYS: the store's hash, then records. ARGV: a field of the hash, the start of its value that is wanted, the end of
// the records in milliseconds or '', '1' if the old records come next ('' for none) and must be what stands there, and
// the new ones.
constexpr std::string_view write_script = R"(
local value, at = redis.call('HGET', KEYS[1], ARGV[1]) or '', 4
if string.sub(value, 1, #ARGV[2]) ~= ARGV[2] then return 'switched' end
if ARGV[4] == '1' then
  for i = 2, #KEYS do
    at = at + 1
    if (redis.call('GET', KEYS[i]) or '') ~= ARGV[at] then return 'changed' end
  end
end
for i = 2, #KEYS do
  at = at + 1
  if ARGV[3] == '' then redis.call('SET', KEYS[i], ARGV[at])
  else redis.call('SET', KEYS[i], ARGV[at], 'PXAT', ARGV[3]) end
end
return 'ok'
)";

// KEYS: the store's hash. ARGV: a version.
constexpr std::string_view begin_script = R"(
local state = redis.call('HGET', KEYS[1], 'v:' .. ARGV[1])
if state and string.find(state, ' ready', 1, true) then return 'ready' end
local number = redis.call('HINCRBY', KEYS[1], 'next', 1)
redis.call('HSET', KEYS[1], 'v:' .. ARGV[1], string.format('%d filling', number))
return state or ''
)";
constexpr std::string_view switch_script = R"(
local state = redis.call('HGET', KEYS[1], 'v:' .. ARGV[1])
if not state then return 'missing' end
local number = string.match(state, '^%d+')
redis.call('HSET', KEYS[1], 'v:' .. ARGV[1], number .. ' ready', 'current', number .. ' ' .. ARGV[1])
return 'ok'
)";
constexpr std::string_view drop_script = R"(
local state = redis.call('HGET', KEYS[1], 'v:' .. ARGV[1])
if not state then return 'missing' end
local number = string.match(state, '^%d+')
if redis.call('HGET', KEYS[1], 'current') == number .. ' ' .. ARGV[1] then return 'current' end
redis.call('HDEL', KEYS[1], 'v:' .. ARGV[1])
return number
)";

std::int64_t number_of(std::string_view text) {  // at its start
  std::int64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// A line "name:value" of the server's description of itself.
std::string_view info(std::string_view lines, std::string_view name) {
  while (!lines.empty()) {
    const std::string_view line = lines.substr(0, lines.find("\r\n"));
    if (line.starts_with(name) && line.substr(name.size()).starts_with(':')) return line.substr(name.size() + 1);
    lines.remove_prefix(std::min(line.size() + 2, lines.size()));
  }
  return {};
}

// The names of records: those of several queries, one after another, of one version.
std::vector<std::string> names_of(const std::string& prefix, std::string_view number,
                                  std::span<const StoreQuery> queries) {
  const std::string head = prefix + ":r:" + std::string(number) + ":";
  std::vector<std::string> names;
  for (const auto& query : queries)
    for (const std::int64_t key : query.keys)
      names.push_back((head + std::to_string(key)).append(":").append(query.table));
  return names;
}

// State that the stores of one address share.
struct Shared {
  Shared(const RedisAddress& address, std::chrono::milliseconds timeout, bool make)
      : url(address.url), prefix(address.prefix), store(prefix + ":store"), create(make), server(address, timeout) {}

  const std::string url, prefix, store;
  const bool create;
  RedisServer server;
  std::atomic<bool> checked{false};
};

class RedisStore final : public Store {
 public:
  RedisStore(std::shared_ptr<Shared> shared, std::string version = "")
      : shared_(std::move(shared)), server_(shared_->server), version_(std::move(version)) {}

  // --- records ---

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read, Deadline deadline) override {
    check_queries(queries);
    check_deadline(deadline, url());
    const Limit end = server_.limit(deadline);
    check_server(end);
    Records records;
    if (version_.empty() || !read_field(queries, "v:" + version_, seen_version_, records, end))
      read_current(queries, records, end);
    unpack_records(records.values, now_ms(), url());
    read(records.values);
  }

  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override {
    check_ttl(ttl);
    const std::size_t count = check_queries(queries, true);
    check_server(server_.limit());
    std::vector<std::string> changed(count);
    for (int attempt = 0; attempt < max_attempts; ++attempt) {
      Records records;
      read_current(queries, records, server_.limit());
      std::vector<std::string_view> values = records.values;
      unpack_records(values, now_ms(), url());
      for (auto& value : changed) value.clear();
      change(values, changed);
      const auto names = names_of(shared_->prefix, number_text(records.named), queries);
      if (write(names, "current", records.named, &records.values, changed, ttl, server_.limit())) return;
      std::this_thread::sleep_for(pause(attempt));  // let others finish
    }
    throw StoreError(url() + ": others wrote to the same keys before each of " + std::to_string(max_attempts) +
                     " attempts of an update");
  }

  void put(std::string_view table, std::span<const std::int64_t> keys, std::span<const std::string_view> values,
           const std::string& version, std::optional<double> ttl) override {
    check_put(table, keys.size(), values.size(), version, ttl);
    const std::string field = version.empty() ? "current" : "v:" + version;
    check_server(server_.long_limit());
    for (std::size_t start = 0; start < keys.size(); start += put_records) {
      const std::size_t count = std::min(put_records, keys.size() - start);
      const StoreQuery part{table, keys.subspan(start, count)};
      for (bool done = false; !done;) {
        const Limit end = server_.long_limit();
        std::string wanted = ask_field(field, end);
        if (wanted.empty()) throw missing_version(url(), version);
        // what is filled may become ready meanwhile
        if (!version.empty()) wanted = std::string(number_text(wanted)) + " ";
        const auto names = names_of(shared_->prefix, number_text(wanted), {&part, 1});
        done = write(names, field, wanted, nullptr, values.subspan(start, count), ttl, end);
      }
    }
  }

  std::size_t sweep() override {
    check_server(server_.long_limit());
    // A version that begins from now on gets a number beyond `next`.
    std::vector<std::int64_t> numbers;
    std::int64_t next = 0;
    for (const auto& [name, value] : read_fields()) {
      if (name == "next") next = number_of(value);
      if (name.starts_with("v:")) numbers.push_back(number_of(value));
    }
    return remove_records(
        "", [&](std::int64_t number) { return number <= next && std::ranges::find(numbers, number) == numbers.end(); });
  }

  // --- versions ---

  void begin(const std::string& version) override {
    const std::string state = manage(begin_script, version);
    if (state == "ready") throw version_is_complete(url(), version);
    if (!state.empty()) remove_version(number_of(state));  // an unfinished fill
  }

  void switch_to(const std::string& version) override {
    if (manage(switch_script, version) == "missing") throw missing_version(url(), version);
  }

  std::vector<StoreVersion> versions() override {
    check_server(server_.long_limit());
    std::string current;
    std::vector<std::pair<std::int64_t, StoreVersion>> found;
    for (const auto& [name, value] : read_fields()) {
      if (name == "current") current = value.substr(value.find(' ') + 1);
      if (!name.starts_with("v:")) continue;
      const auto state = value.ends_with(" ready") ? VersionState::ready : VersionState::filling;
      found.push_back({number_of(value), {name.substr(2), state}});
    }
    std::ranges::sort(found, {}, &std::pair<std::int64_t, StoreVersion>::first);
    std::vector<StoreVersion> versions;
    for (auto& [number, version] : found) {
      if (version.name == current) version.state = VersionState::current;
      versions.push_back(std::move(version));
    }
    return versions;
  }

  void drop(const std::string& version) override {
    const std::string state = manage(drop_script, version);
    if (state == "missing") throw missing_version(url(), version);
    if (state == "current") throw version_is_current(url(), version);
    remove_version(number_of(state));
  }

  std::optional<std::string> current() override {
    const Limit end = server_.limit();
    check_server(end);
    const std::string value = ask_field("current", end);
    if (value.empty()) return std::nullopt;
    return value.substr(value.find(' ') + 1);
  }

  std::shared_ptr<Store> at(const std::string& version) override {
    return std::make_shared<RedisStore>(shared_, version);
  }

  bool reachable() const noexcept override { return server_.reachable(); }
  const std::string& url() const override { return shared_->url; }

  // Checks, until it was answered once, that it is a store of this format; makes it if it is to be made.
  void check_server(const Limit& end) {
    if (shared_->checked) return;
    std::vector<RedisCommand> commands = {{"HGET", shared_->store, "format"}, {"INFO", "memory"}};
    if (shared_->create) commands.insert(commands.begin(), {"HSETNX", shared_->store, "format", store_format});
    const auto replies = server_.run(commands, end, true);
    const std::string_view format = text_of(*replies[commands.size() - 2]), lines = text_of(*replies.back());
    if (format.data() == nullptr) throw StoreError(url() + ": the server holds no store of this prefix");
    if (format != store_format)
      throw StoreError(url() + " has format '" + std::string(format) + "'; this release reads '" +
                       std::string(store_format) + "': remove its keys, or take another prefix, and fill it " +
                       "again with pygrade pipeline");
    const std::string_view policy = info(lines, "maxmemory_policy"), bytes = info(lines, "maxmemory");
    if (policy.starts_with("allkeys") && !bytes.empty() && bytes != "0")
      throw StoreError(url() + ": the server may evict records (maxmemory-policy " + std::string(policy) +
                       "); expected noeviction");
    shared_->checked = true;
  }

 private:
  struct Records {
    std::string named;  // the field that names the version
    std::vector<std::string_view> values;
    std::vector<RedisReply> replies;  // which hold the values
  };

  static std::chrono::microseconds pause(int attempt) {
    thread_local std::minstd_rand random{std::random_device{}()};
    return std::chrono::microseconds(random() % static_cast<unsigned>(std::min(50'000, 500 * (attempt + 1))));
  }
  static std::string_view number_text(std::string_view value) { return value.substr(0, value.find(' ')); }

  std::string run(const RedisCommand& command, const Limit& end, bool repeat) {
    return std::string(text_of(*server_.run({&command, 1}, end, repeat)[0]));
  }

  // --- reading

  // A field of the store's hash; "" if there is none.
  std::string ask_field(std::string_view field, const Limit& end) {
    return run({"HGET", shared_->store, field}, end, true);
  }

  std::vector<std::pair<std::string, std::string>> read_fields() {
    const RedisCommand command = {"HGETALL", shared_->store};
    const auto replies = server_.run({&command, 1}, server_.long_limit(), true);
    std::vector<std::pair<std::string, std::string>> fields;
    for (std::size_t i = 0; i + 1 < replies[0]->elements; i += 2)
      fields.emplace_back(text_of(*replies[0]->element[i]), text_of(*replies[0]->element[i + 1]));
    return fields;
  }

  void read_current(std::span<const StoreQuery> queries, Records& records, const Limit& end) {
    if (!read_field(queries, "current", seen_current_, records, end)) throw missing_version(url(), "");
  }

  // Reads the field, and the records of the version that it names, of one moment. Whether the version is complete.
  // `seen`: the field at the last read, which saves to ask for it first.
  bool read_field(std::span<const StoreQuery> queries, const std::string& field, std::string& seen, Records& records,
                  const Limit& end) {
    const auto complete = [&](std::string_view value) {
      return field == "current" ? !value.empty() : value.ends_with(" ready");
    };
    std::string known = copy_of(seen);
    if (known.empty()) known = ask_field(field, end);
    while (complete(known)) {
      ask_records(names_of(shared_->prefix, number_text(known), queries), field, records, end);
      if (records.named == known) break;
      known = records.named;
    }
    const std::lock_guard lock(mutex_);
    if (seen != known) seen = known;
    return complete(known);
  }

  std::string copy_of(const std::string& seen) {
    const std::lock_guard lock(mutex_);
    return seen;
  }

  void ask_records(const std::vector<std::string>& names, std::string_view field, Records& records, const Limit& end) {
    std::vector<RedisCommand> commands = {{"MULTI"}, {"HGET", shared_->store, field}};
    if (!names.empty()) {
      RedisCommand& values = commands.emplace_back(RedisCommand{"MGET"});
      values.insert(values.end(), names.begin(), names.end());
    }
    commands.push_back({"EXEC"});
    records.replies = server_.run(commands, end, true);
    const redisReply& answer = *records.replies.back();
    if (answer.elements != commands.size() - 2 || (!names.empty() && answer.element[1]->elements != names.size()))
      throw StoreError(url() + ": the server's answer does not fit the request");
    records.named = text_of(*answer.element[0]);
    records.values.clear();
    for (std::size_t i = 0; i < names.size(); ++i) records.values.push_back(text_of(*answer.element[1]->element[i]));
  }

  // --- writing

  // Writes all, if the field's value begins with what is wanted and the records are still `before`, if that is given.
  bool write(const std::vector<std::string>& names, std::string_view field, std::string_view wanted,
             const std::vector<std::string_view>* before, const auto& values, std::optional<double> ttl,
             const Limit& end) {
    const std::uint64_t end_ms = end_of(ttl);
    const std::string header = record_header(end_ms), count = std::to_string(1 + names.size());
    const std::string over = ttl ? std::to_string(end_ms) : "";
    RedisCommand command = {"EVAL", write_script, count, shared_->store};
    command.insert(command.end(), names.begin(), names.end());
    command.insert(command.end(), {field, wanted, over, before == nullptr ? "" : "1"});
    if (before != nullptr) command.insert(command.end(), before->begin(), before->end());
    std::vector<std::string> records(names.size());
    for (std::size_t i = 0; i < names.size(); ++i) {
      pack_record(header, values[i], records[i]);
      command.push_back(records[i]);
    }
    return run(command, end, false) == "ok";
  }

  // --- versions

  std::string manage(std::string_view script, const std::string& version) {
    check_version(version);
    const Limit end = server_.long_limit();
    check_server(end);
    return run({"EVAL", script, "1", shared_->store, version}, end, false);
  }

  void remove_version(std::int64_t number) {
    remove_records(std::to_string(number) + ":", [&](std::int64_t found) { return found == number; });
  }

  // Removes the records of the versions whose numbers are `unwanted`. `start`: of what follows "PREFIX:r:". How many.
  std::size_t remove_records(const std::string& start, FunctionRef<bool(std::int64_t)> unwanted) {
    const std::string head = shared_->prefix + ":r:";
    std::string pattern;
    for (const char c : head + start) {
      if (std::string_view("*?[]\\").find(c) != std::string_view::npos) pattern += '\\';
      pattern += c;
    }
    pattern += '*';
    std::size_t removed = 0;
    std::string cursor = "0";
    do {
      const RedisCommand scan = {"SCAN", cursor, "MATCH", pattern, "COUNT", scan_keys};
      const auto page = server_.run({&scan, 1}, server_.long_limit(), true);
      const redisReply& names = *page[0]->element[1];
      RedisCommand unlink = {"UNLINK"};
      for (std::size_t i = 0; i < names.elements; ++i) {
        const std::string_view name = text_of(*names.element[i]), rest = name.substr(head.size());
        if (is_record(rest) && unwanted(number_of(rest))) unlink.push_back(name);
      }
      if (unlink.size() > 1)
        removed += static_cast<std::size_t>(server_.run({&unlink, 1}, server_.long_limit(), true)[0]->integer);
      cursor = text_of(*page[0]->element[0]);
    } while (cursor != "0");
    return removed;
  }

  // Whether the end of a key is <number>:KEY:TABLE.
  static bool is_record(std::string_view rest) {
    std::int64_t number;
    const char* const end = rest.data() + rest.size();
    const auto first = std::from_chars(rest.data(), end, number);
    if (first.ec != std::errc() || first.ptr == end || *first.ptr != ':') return false;
    const auto key = std::from_chars(first.ptr + 1, end, number);
    return key.ec == std::errc() && key.ptr != end && *key.ptr == ':';
  }

  const std::shared_ptr<Shared> shared_;
  RedisServer& server_;
  const std::string version_;  // that `get` reads while it is complete; "": the current one
  std::mutex mutex_;
  std::string seen_current_, seen_version_;  // values at the last read
};
}  // namespace

std::shared_ptr<Store> open_redis(const std::string& url, const StoreOptions& options) {
  const RedisAddress address = parse_redis_address(url);
  const auto timeout = address.timeout.value_or(options.timeout);
  if (timeout <= std::chrono::milliseconds::zero())
    throw std::invalid_argument("timeout is " + std::to_string(timeout.count()) + " ms; expected a positive number");
  const auto shared = std::make_shared<Shared>(address, timeout, options.create);
  const auto store = std::make_shared<RedisStore>(shared);
  if (options.wait_for_server) store->check_server(shared->server.long_limit());
  return store;
}
}  // namespace pygrade::inline v0_2::detail
