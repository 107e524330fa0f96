// The store for many machines: a Redis server, a cluster of them, or a master with replicas.
//
//     PREFIX:store                  hash    format; next, a counter; current = "<number> <version>";
//                                           v:<version> = "<number> filling" or "<number> ready"
//     PREFIX:r:<number>:KEY:TABLE   string  the record of an int64 key (stores/record.hpp)
//
// A cluster spreads the records by their whole keys. `begin` gives a version a number that is never used again, so what
// a dropped version leaves behind, or a writer who comes late adds to it, is in nobody's way; `sweep` removes it.
// Records that expire are removed by the server, and not read once the reader's clock is past their end.
//
// What is guaranteed, and how:
// - A read has one version over all its tables. It asks for the current version's number and, in the same round trip,
//   for the records of the number that was current at the last read; if the numbers differ, it asks again. On one
//   server that is a transaction. In a cluster the parts of a read run at different times while no record of a version
//   can disappear before it is dropped; `drop` first takes the version's name away and then waits for drop_delay, and a
//   read that took longer than that and misses records asks for the number again.
// - An update loses none: a script writes a record only if it is as it was read, else the update begins anew. On one
//   server one script takes all records of the call and the number that is current: all are written, or none, to the
//   current version. In a cluster that holds for each record alone: readers may see some records of a call before the
//   others, and if the caller dies in between, the others are not written. If another version has become current
//   meanwhile, the update is done in that one, too.
// - A replica may lag behind: its reads have one version, but not always the newest one nor the newest update.
#include <algorithm>
#include <charconv>
#include <mutex>
#include <random>
#include <thread>

#include "stores/backends.hpp"
#include "stores/redis_cache.hpp"
#include "stores/redis_servers.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

using Clock = std::chrono::steady_clock;
using Access = RedisServers::Access;

constexpr int max_attempts = 1000;         // of an update while others write to the same keys
constexpr std::size_t put_records = 1000;  // of one script: other clients wait only for these
constexpr std::int64_t scan_keys = 1000;
constexpr std::size_t cache_bytes = std::size_t{64} << 20;
constexpr std::chrono::milliseconds drop_delay{50};

// KEYS: the store's hash, unless ARGV[1] is '', then records. ARGV: a field of the hash, the start of its value that is
// wanted, the end of the records in milliseconds or '', '1' if the old records come next ('' for none) and must be what
// stands there, and the new ones.
constexpr std::string_view write_script = R"(
local first, at = 1, 4
if ARGV[1] ~= '' then
  local value = redis.call('HGET', KEYS[1], ARGV[1]) or ''
  if string.sub(value, 1, #ARGV[2]) ~= ARGV[2] then return 'switched' end
  first = 2
end
if ARGV[4] == '1' then
  for i = first, #KEYS do
    at = at + 1
    if (redis.call('GET', KEYS[i]) or '') ~= ARGV[at] then return 'changed' end
  end
end
for i = first, #KEYS do
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

std::optional<std::int64_t> record_end(std::string_view header) {  // milliseconds since 1970
  if (header.size() == 1) return std::nullopt;
  std::uint64_t end = 0;
  for (const unsigned char byte : header.substr(1)) end = end << 8 | byte;
  return static_cast<std::int64_t>(end);
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

// What the stores of one address share.
struct Shared {
  Shared(const RedisAddress& address, std::chrono::milliseconds timeout, bool make)
      : url(address.url),
        prefix(address.prefix),
        store(prefix + ":store"),
        store_slot(slot_of(store)),
        create(make),
        servers(address, timeout),
        cache(address.cache, cache_bytes) {}

  const std::string url, prefix, store;
  const int store_slot;
  const bool create;
  RedisServers servers;
  RedisCache cache;
  RedisScript write{write_script}, begin{begin_script}, switch_to{switch_script}, drop{drop_script};
  std::mutex checking;
  std::atomic<bool> checked{false};
};

// The names of records: those of several queries, one after another, of one version.
class RecordKeys {
 public:
  RecordKeys(const std::string& prefix, std::string_view number, std::span<const StoreQuery> queries) {
    const std::string head = prefix + ":r:" + std::string(number) + ":";
    for (const auto& query : queries) {
      text_.reserve(text_.size() + query.keys.size() * (head.size() + query.table.size() + 21));
      for (const std::int64_t key : query.keys) {
        starts_.push_back(text_.size());
        char digits[24];
        text_.append(head).append(digits, std::to_chars(digits, digits + sizeof digits, key).ptr);
        text_.append(1, ':').append(query.table);
      }
    }
  }
  std::size_t size() const { return starts_.size(); }
  std::string_view operator[](std::size_t i) const {
    const std::size_t stop = i + 1 < starts_.size() ? starts_[i + 1] : text_.size();
    return std::string_view(text_).substr(starts_[i], stop - starts_[i]);
  }

 private:
  std::string text_;
  std::vector<std::size_t> starts_;
};

class RedisStore final : public Store {
 public:
  RedisStore(std::shared_ptr<Shared> shared, std::string version = "")
      : shared_(std::move(shared)), servers_(shared_->servers), version_(std::move(version)) {}

  // --- records ---

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read, Deadline deadline) override {
    check_queries(queries);
    check_deadline(deadline, url());
    const Limit end = servers_.limit(deadline);
    check_server(end);
    RedisBatch batch;
    std::string cached;
    std::vector<std::string_view> values;
    if (!shared_->cache.on())
      read_records(batch, queries, values, end, Access::read);
    else
      read_cached(batch, queries, values, cached, end);
    unpack_records(values, now_ms(), url());
    read(values);
  }

  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override {
    check_ttl(ttl);
    const std::size_t count = check_queries(queries, true);
    check_server(servers_.limit({}));
    std::vector<std::string> changed(count), before(count);  // before: records that this call has replaced
    std::vector<bool> done(count);
    std::string number;  // of the version that they are in
    for (int attempt = 0; attempt < max_attempts; ++attempt) {
      const Limit end = servers_.limit({});
      RedisBatch batch;
      std::vector<std::string_view> records;
      const std::string current = read_records(batch, queries, records, end, Access::write);
      if (current != number) done.assign(count, false);
      number = current;
      for (std::size_t i = 0; i < count; ++i)
        if (done[i]) records[i] = before[i].empty() ? std::string_view() : std::string_view(before[i]);
      std::vector<std::string_view> values = records;
      unpack_records(values, now_ms(), url());
      for (auto& value : changed) value.clear();
      change(values, changed);
      const RecordKeys keys(shared_->prefix, number_text(number), queries);
      const Limit write_end = servers_.limit({});
      const bool all = servers_.is_cluster(write_end)
                           ? write_each(keys, records, changed, record_header(ttl), before, done, write_end) &&
                                 ask_field("current", write_end, Access::write) == number
                           : write_all(keys, "current", number, true, records, changed, record_header(ttl), write_end);
      if (all) return;
      std::this_thread::sleep_for(pause(attempt));  // let others finish
    }
    throw StoreError(url() + ": others wrote to the same keys before each of " + std::to_string(max_attempts) +
                     " attempts of an update");
  }

  void put(std::string_view table, std::span<const std::int64_t> keys, std::span<const std::string_view> values,
           const std::string& version, std::optional<double> ttl) override {
    check_put(table, keys.size(), values.size(), version, ttl);
    const std::string header = record_header(ttl), field = version.empty() ? "current" : "v:" + version;
    check_server(servers_.long_limit());
    for (std::size_t start = 0; start < keys.size(); start += put_records) {
      const std::size_t count = std::min(put_records, keys.size() - start);
      const StoreQuery part{table, keys.subspan(start, count)};
      std::string wanted;
      do {
        const Limit end = servers_.long_limit();
        wanted = ask_field(field, end, Access::write);
        if (wanted.empty()) throw missing_version(url(), version);
        // what is filled may become ready meanwhile
        if (!version.empty()) wanted = std::string(number_text(wanted)) + " ";
        const RecordKeys names(shared_->prefix, number_text(wanted), {&part, 1});
        if (!servers_.is_cluster(end)) {
          if (write_all(names, field, wanted, false, {}, values.subspan(start, count), header, end)) break;
          continue;
        }
        put_each(names, values.subspan(start, count), header, end);
        if (ask_field(field, end, Access::write).starts_with(wanted)) break;
      } while (true);
    }
  }

  std::size_t sweep() override {
    check_server(servers_.long_limit());
    // A version that begins from now on gets a number beyond `next`.
    std::vector<std::int64_t> numbers;
    std::int64_t next = 0;
    read_versions([&](std::string_view name, std::string_view value) {
      if (name == "next") next = number_of(value);
      if (name.starts_with("v:")) numbers.push_back(number_of(value));
    });
    return remove_records(
        "", [&](std::int64_t number) { return number <= next && std::ranges::find(numbers, number) == numbers.end(); });
  }

  // --- versions ---

  void begin(const std::string& version) override {
    const std::string state = manage(shared_->begin, version);
    if (state == "ready") throw version_is_complete(url(), version);
    if (!state.empty()) remove_version(number_of(state));  // an unfinished fill
  }

  void switch_to(const std::string& version) override {
    if (manage(shared_->switch_to, version) == "missing") throw missing_version(url(), version);
  }

  std::vector<StoreVersion> versions() override {
    check_server(servers_.long_limit());
    std::string current;
    std::vector<std::pair<std::int64_t, StoreVersion>> found;
    read_versions([&](std::string_view name, std::string_view value) {
      if (name == "current") current = value.substr(value.find(' ') + 1);
      if (!name.starts_with("v:")) return;
      const auto state = value.ends_with(" ready") ? VersionState::ready : VersionState::filling;
      found.push_back({number_of(value), {std::string(name.substr(2)), state}});
    });
    std::ranges::sort(found, {}, &std::pair<std::int64_t, StoreVersion>::first);
    std::vector<StoreVersion> versions;
    for (auto& [number, version] : found) {
      if (version.name == current) version.state = VersionState::current;
      versions.push_back(std::move(version));
    }
    return versions;
  }

  void drop(const std::string& version) override {
    const std::string state = manage(shared_->drop, version);
    if (state == "missing") throw missing_version(url(), version);
    if (state == "current") throw version_is_current(url(), version);
    if (servers_.is_cluster(servers_.long_limit())) std::this_thread::sleep_for(drop_delay);  // see above
    remove_version(number_of(state));
  }

  std::optional<std::string> current() override {
    const Limit end = servers_.limit({});
    check_server(end);
    const std::string value = ask_field("current", end, Access::read);
    if (value.empty()) return std::nullopt;
    return value.substr(value.find(' ') + 1);
  }

  std::shared_ptr<Store> at(const std::string& version) override {
    return std::make_shared<RedisStore>(shared_, version);
  }

  bool reachable() const noexcept override { return servers_.reachable(); }
  const std::string& url() const override { return shared_->url; }

  // Whether it is a store of this format; makes it if it is to be made. Until it has been answered once.
  void check_server(const Limit& end) {
    if (shared_->checked.load(std::memory_order_acquire)) return;
    RedisBatch batch;
    const std::size_t first = shared_->create ? 1 : 0;
    if (shared_->create) batch.add(shared_->store_slot).command({"HSETNX", shared_->store, "format", store_format});
    batch.add(shared_->store_slot).command({"HGET", shared_->store, "format"});
    batch.add(shared_->store_slot).command({"INFO", "memory"});
    servers_.run(batch, end, shared_->create ? Access::write : Access::read);
    const std::string_view format = batch[first].text(), lines = batch[first + 1].text();
    if (format.data() == nullptr) throw NotAStoreError(url() + ": the server holds no store of this prefix");
    if (format != store_format)
      throw StoreFormatError(url() + " has format '" + std::string(format) + "'; this release reads '" +
                             std::string(store_format) + "': remove its keys, or take another prefix, and fill it " +
                             "again with pygrade pipeline");
    const std::string_view policy = info(lines, "maxmemory_policy"), bytes = info(lines, "maxmemory");
    if (policy.starts_with("allkeys") && !bytes.empty() && bytes != "0")
      throw StoreError(url() + ": the server may evict records (maxmemory-policy " + std::string(policy) +
                       "); want noeviction");
    load_scripts(end);
  }

 private:
  static std::chrono::microseconds pause(int attempt) {
    thread_local std::minstd_rand random{std::random_device{}()};
    return std::chrono::microseconds(random() % static_cast<unsigned>(std::min(50'000, 500 * (attempt + 1))));
  }
  static std::string_view number_text(std::string_view value) { return value.substr(0, value.find(' ')); }

  // Learns the hashes. A login that may not load scripts sends them whole.
  void load_scripts(const Limit& end) {
    RedisScript* const scripts[] = {&shared_->write, &shared_->begin, &shared_->switch_to, &shared_->drop};
    RedisBatch batch;
    for (const RedisScript* script : scripts) batch.add(shared_->store_slot).command({"SCRIPT", "LOAD", script->text});
    bool loaded = true;
    try {
      servers_.run(batch, end, Access::read);
    } catch (const StoreUnreachableError&) {
      loaded = false;
    }
    const std::lock_guard lock(shared_->checking);
    if (shared_->checked.load(std::memory_order_acquire)) return;
    for (std::size_t i = 0; loaded && i < batch.size(); ++i) scripts[i]->hash = batch[i].text();
    shared_->checked.store(true, std::memory_order_release);
  }

  // --- reading

  // A field of the store's hash; "" if there is none.
  std::string ask_field(std::string_view field, const Limit& end, Access access) {
    RedisBatch batch;
    batch.add(shared_->store_slot).command({"HGET", shared_->store, field});
    servers_.run(batch, end, access);
    return std::string(batch[0].text());
  }

  // A field and the records of a version, in one round trip.
  std::string_view ask_records(RedisBatch& batch, const RecordKeys& keys, std::vector<std::string_view>& values,
                               std::string_view field, const Limit& end, Access access) {
    values.clear();
    if (servers_.is_cluster(end)) {
      batch.add(shared_->store_slot).command({"HGET", shared_->store, field});
      for (std::size_t i = 0; i < keys.size(); ++i) batch.add(slot_of(keys[i])).command({"GET", keys[i]});
      servers_.run(batch, end, access);
      for (std::size_t i = 0; i < keys.size(); ++i) values.push_back(batch[1 + i].text());
      return batch[0].text();
    }
    const std::size_t commands = keys.size() > 0 ? 2 : 1;
    RedisCommands& out = batch.add(shared_->store_slot, 2 + commands);
    out.command({"MULTI"});
    out.command({"HGET", shared_->store, field});
    if (keys.size() > 0) {
      out.head(1 + keys.size());
      out.word("MGET");
      for (std::size_t i = 0; i < keys.size(); ++i) out.word(keys[i]);
    }
    out.command({"EXEC"});
    servers_.run(batch, end, access);
    RedisAnswer answer{batch[0].replies, batch[0].at + 1 + commands};  // after OK and a QUEUED for each command
    if (answer.size() != commands) throw StoreError(url() + ": the server's answer does not fit the request");
    answer = answer.first();
    const std::string_view value = answer.text();
    if (keys.size() > 0) {
      answer = answer.next();
      if (answer.size() != keys.size()) throw StoreError(url() + ": the server's answer does not fit the request");
      for (RedisAnswer one = answer.first(); values.size() < keys.size(); ++one.at) values.push_back(one.text());
    }
    return value;
  }

  // Reads the records of the version that `field` names, and returns the field's value, of one moment; "" if it names
  // no complete version. `known`: the value that is expected.
  std::string read_field(RedisBatch& batch, std::span<const StoreQuery> queries, std::vector<std::string_view>& values,
                         std::string_view field, std::string known, const Limit& end, Access access) {
    const auto complete = [&](std::string_view value) { return field == "current" || value.ends_with(" ready"); };
    if (known.empty()) known = ask_field(field, end, access);
    while (!known.empty() && complete(known)) {
      batch = RedisBatch();
      const RecordKeys keys(shared_->prefix, number_text(known), queries);
      const auto start = Clock::now();
      std::string value(ask_records(batch, keys, values, field, end, access));
      const bool missing = std::ranges::any_of(values, [](auto record) { return record.data() == nullptr; });
      if (value == known && missing && Clock::now() - start >= drop_delay && servers_.is_cluster(end))
        value = ask_field(field, end, access);
      if (value == known) return known;
      known = std::move(value);
    }
    return {};
  }

  // Reads the records of version_, or, if it is not complete, of the current one. What names the version.
  std::string read_records(RedisBatch& batch, std::span<const StoreQuery> queries,
                           std::vector<std::string_view>& values, const Limit& end, Access access) {
    const bool update = access == Access::write;
    std::string value;
    if (!version_.empty() && !update) {
      value = read_field(batch, queries, values, "v:" + version_, seen(seen_version_), end, access);
      remember(seen_version_, value);
    }
    if (value.empty()) {
      value = read_field(batch, queries, values, "current", seen(seen_current_), end, access);
      remember(seen_current_, value);
      if (value.empty()) throw missing_version(url(), "");
    }
    return value;
  }

  std::string seen(const std::string& place) {
    const std::lock_guard lock(mutex_);
    return place;
  }
  void remember(std::string& place, const std::string& value) {
    const std::lock_guard lock(mutex_);
    if (place != value) place = value;
  }

  // The same, where the cache has records of a version that was still the one to read a moment ago.
  void read_cached(RedisBatch& batch, std::span<const StoreQuery> queries, std::vector<std::string_view>& values,
                   std::string& cached, const Limit& end) {
    RedisCache& cache = shared_->cache;
    const Time start = Clock::now();
    const auto stamps = cache.stamps();
    std::string expected;
    bool verified;
    {
      const std::lock_guard lock(mutex_);
      expected = read_value_;
      verified = start - read_at_ < cache.life();
    }
    struct Place {
      std::size_t start, size;
      bool here, none;
    };
    std::vector<Place> places;
    std::vector<std::vector<std::int64_t>> absent(queries.size());
    std::size_t hits = 0;
    const RecordKeys keys(shared_->prefix, number_text(expected), queries);
    for (std::size_t q = 0; q < queries.size(); ++q)
      for (const std::int64_t key : queries[q].keys) {
        const std::size_t at = cached.size();
        const auto found = expected.empty() ? std::nullopt : cache.find(keys[places.size()], start, cached);
        places.push_back({at, cached.size() - at, found.has_value(), found == false});
        if (found)
          ++hits;
        else
          absent[q].push_back(key);
      }
    const auto fill_in = [&] {
      std::size_t next = 0;
      const std::vector<std::string_view> read = std::move(values);
      values.clear();
      for (const Place& place : places)
        values.push_back(!place.here  ? read[next++]
                         : place.none ? std::string_view()
                                      : std::string_view(cached).substr(place.start, place.size));
    };
    if (hits == places.size() && verified) return fill_in();
    std::vector<StoreQuery> rest;
    for (std::size_t q = 0; q < queries.size(); ++q) rest.push_back({queries[q].table, absent[q]});
    const std::string value = read_records(batch, rest, values, end, Access::read);
    const bool whole = hits > 0 && value != expected;  // what the cache gave is of another version
    if (whole) {
      const std::string again = read_records(batch, queries, values, end, Access::read);
      return keep(queries, again, values, start, stamps);
    }
    keep(rest, value, values, start, stamps);
    fill_in();
  }

  void keep(std::span<const StoreQuery> queries, const std::string& value, std::span<const std::string_view> records,
            Time start, const RedisCache::Stamps& stamps) {
    const RecordKeys keys(shared_->prefix, number_text(value), queries);
    for (std::size_t i = 0; i < keys.size(); ++i) shared_->cache.keep(keys[i], records[i], start, stamps);
    const std::lock_guard lock(mutex_);
    read_value_ = value;
    read_at_ = start;
  }

  // --- writing

  void forget(const RecordKeys& keys) {
    if (!shared_->cache.on()) return;
    for (std::size_t i = 0; i < keys.size(); ++i) shared_->cache.forget(keys[i]);
  }

  // The words of the write script after its keys.
  static void write_words(RedisCommands& out, std::string_view field, std::string_view wanted, std::string_view header,
                          bool compare) {
    out.word(field);
    out.word(wanted);
    if (const auto end = record_end(header))
      out.word(*end);
    else
      out.word("");
    out.word(compare ? "1" : "");
  }

  // Writes all, if the field's value begins with what is wanted and, with `compare`, the records have not changed.
  template <class Values>
  bool write_all(const RecordKeys& keys, std::string_view field, std::string_view wanted, bool compare,
                 std::span<const std::string_view> records, const Values& values, const std::string& header,
                 const Limit& end) {
    RedisBatch batch;
    RedisCommands& out =
        batch.add_script(shared_->store_slot, shared_->write, 1 + keys.size(), 4 + (compare ? 2 : 1) * keys.size());
    out.word(shared_->store);
    for (std::size_t i = 0; i < keys.size(); ++i) out.word(keys[i]);
    write_words(out, field, wanted, header, compare);
    for (const auto record : records) out.word(record);
    std::string record;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      pack_record(header, values[i], record);
      out.word(record);
    }
    run_write(batch, keys, end);
    return batch[0].text() == "ok";
  }

  // In a cluster: writes each record that is not done, if it has not changed. Whether all are done now.
  bool write_each(const RecordKeys& keys, std::span<const std::string_view> records,
                  std::span<const std::string> values, const std::string& header, std::span<std::string> before,
                  std::vector<bool>& done, const Limit& end) {
    RedisBatch batch;
    std::vector<std::size_t> sent;
    std::string record;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (done[i]) continue;
      RedisCommands& out = batch.add_script(slot_of(keys[i]), shared_->write, 1, 6);
      out.word(keys[i]);
      write_words(out, "", "", header, true);
      out.word(records[i]);
      pack_record(header, values[i], record);
      out.word(record);
      sent.push_back(i);
    }
    run_write(batch, keys, end);
    for (std::size_t n = 0; n < sent.size(); ++n)
      if (batch[n].text() == "ok") {
        done[sent[n]] = true;
        before[sent[n]] = records[sent[n]];
      }
    return std::ranges::find(done, false) == done.end();
  }

  void put_each(const RecordKeys& keys, std::span<const std::string_view> values, const std::string& header,
                const Limit& end) {
    RedisBatch batch;
    std::string record;
    const auto end_time = record_end(header);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      RedisCommands& out = batch.add(slot_of(keys[i]));
      pack_record(header, values[i], record);
      if (end_time)
        out.command({"SET", keys[i], record, "PXAT", std::to_string(*end_time)});
      else
        out.command({"SET", keys[i], record});
    }
    run_write(batch, keys, end);
  }

  void run_write(RedisBatch& batch, const RecordKeys& keys, const Limit& end) {
    try {
      servers_.run(batch, end, Access::write);
    } catch (...) {  // it may have been done
      forget(keys);
      throw;
    }
    forget(keys);
  }

  // --- versions

  std::string manage(const RedisScript& script, const std::string& version) {
    check_version(version);
    const Limit end = servers_.long_limit();
    check_server(end);
    RedisBatch batch;
    RedisCommands& out = batch.add_script(shared_->store_slot, script, 1, 1);
    out.word(shared_->store);
    out.word(version);
    servers_.run(batch, end, Access::write);
    return std::string(batch[0].text());
  }

  void read_versions(FunctionRef<void(std::string_view, std::string_view)> take) {
    RedisBatch batch;
    batch.add(shared_->store_slot).command({"HGETALL", shared_->store});
    servers_.run(batch, servers_.long_limit(), Access::write);
    RedisAnswer field = batch[0].first();
    for (std::size_t i = 0; i < batch[0].size(); i += 2, field = field.next().next())
      take(field.text(), field.next().text());
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
    for (const auto& server : servers_.masters(servers_.long_limit())) {
      std::string cursor = "0";
      do {
        RedisBatch page;
        page.add(-1).command({"SCAN", cursor, "MATCH", pattern, "COUNT", std::to_string(scan_keys)});
        servers_.run(page, servers_.long_limit(), server);
        cursor = page[0].first().text();
        const RedisAnswer names = page[0].first().next();
        RedisBatch batch;
        RedisAnswer name = names.first();
        for (std::size_t i = 0; i < names.size(); ++i, name = name.next()) {
          std::string_view rest = name.text().substr(head.size());  // <number>:KEY:TABLE
          const auto colon = rest.find(':');
          std::int64_t key;
          const auto parsed =
              std::from_chars(rest.data() + std::min(colon + 1, rest.size()), rest.data() + rest.size(), key);
          const bool record = colon != rest.npos && parsed.ec == std::errc() &&
                              parsed.ptr != rest.data() + rest.size() && *parsed.ptr == ':';
          if (record && unwanted(number_of(rest))) batch.add(slot_of(name.text())).command({"UNLINK", name.text()});
        }
        if (batch.size() > 0) servers_.run(batch, servers_.long_limit(), Access::write);
        for (std::size_t i = 0; i < batch.size(); ++i) removed += static_cast<std::size_t>(batch[i].integer());
      } while (cursor != "0");
    }
    return removed;
  }

  const std::shared_ptr<Shared> shared_;
  RedisServers& servers_;
  const std::string version_;  // that `get` reads while it is complete; "": the current one
  std::mutex mutex_;
  std::string seen_current_, seen_version_;  // values at the last read
  std::string read_value_;                   // of the version that the cache holds records of
  Time read_at_{};                           // when it was the one to read
};

}  // namespace

std::shared_ptr<Store> open_redis(const std::string& url, const StoreOptions& options) {
  const RedisAddress address = parse_redis_address(url);
  const auto timeout = address.timeout.value_or(options.timeout);
  if (timeout <= std::chrono::milliseconds::zero())
    throw std::invalid_argument("timeout is " + std::to_string(timeout.count()) + " ms; want a positive number");
  const auto shared = std::make_shared<Shared>(address, timeout, options.create);
  const auto store = std::make_shared<RedisStore>(shared);
  if (options.wait_for_server) store->check_server(shared->servers.long_limit());
  return store;
}

}  // namespace pygrade::inline v0_2::detail
