// The embedded store: one LMDB file that every process of a machine maps, so that a read copies nothing.
//
// One tree holds everything:
//
//     [0, 4)   number of a version, big endian   0 for the entries below, which therefore come first
//     [4, 12)  hash of the table's name          (of number 0: "format", "current", "next", "version" + number, and
//     [12, 20) key, big endian                   the "log" of lmdb_file.cpp)
//                                                → the record (record.hpp)
//
// A read transaction sees one `current` entry and the records of that version, hence all of the old or all of the new.
// A version's entry is its state, a letter, and its name. Numbers are never used twice. A killed writer's transaction
// is discarded; LMDB gives its lock to the next one.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "stores/backends.hpp"
#include "stores/lmdb_file.hpp"
#include "util/blake2b.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
using namespace std::string_view_literals;

constexpr std::string_view format_key = "\0\0\0\0format"sv, current_key = "\0\0\0\0current"sv,
                           next_key = "\0\0\0\0next"sv, version_key = "\0\0\0\0version"sv;
constexpr LmdbVersion first_version = {0, 0, 0, 1};
constexpr char filling = 'f', ready = 'r', dropped = 'd';  // dropped: its records are being removed
constexpr std::size_t hash_bytes = 8, key_bytes = 8;
constexpr std::size_t chunk = 20'000;  // records that one transaction removes: other writers wait only for these

std::string_view bytes_of(const auto& array) { return {array.data(), array.size()}; }

// The names of the records of a table. The table's hash is made once, the key for each record.
class Names {
 public:
  Names(const LmdbVersion& version, std::string_view table) {
    std::ranges::copy(version, name_.begin());
    std::uint8_t hash[hash_bytes];
    blake2b(table, hash);
    std::ranges::copy(hash, name_.begin() + sizeof version);
  }
  const LmdbName& operator[](std::int64_t key) {
    const std::uint64_t big_endian = __builtin_bswap64(static_cast<std::uint64_t>(key));
    std::memcpy(name_.data() + name_.size() - key_bytes, &big_endian, key_bytes);
    return name_;
  }

 private:
  static_assert(sizeof(LmdbName) == sizeof(LmdbVersion) + hash_bytes + key_bytes);
  LmdbName name_;
};

void name_records(const LmdbVersion& version, std::span<const StoreQuery> queries, std::vector<LmdbName>& names) {
  names.clear();
  for (const auto& query : queries) {
    Names of_table(version, query.table);
    for (const std::int64_t key : query.keys) names.push_back(of_table[key]);
  }
}

// The entry of a version.
struct Entry {
  LmdbVersion number;
  char state;
  std::string name;
};

class LmdbStore final : public Store {
 public:
  // `version`: that `get` reads while it is there; "": the current one.
  LmdbStore(const std::string& directory, const StoreOptions& options, std::string version = "")
      : url_("lmdb:" + directory),
        options_(options),
        file_(LmdbFile::open(directory, url_, options)),
        read_only_(options.read_only || file_->read_only()),
        version_(std::move(version)) {
    const auto has_format = [&] {
      bool found = false;
      file_->read([&](LmdbReader& reader) {
        const auto format = find_entry(reader.transaction, format_key);
        if (format && *format != store_format) throw other_format(url_, *format);
        found = format.has_value();
      });
      return found;
    };
    if (has_format()) return;
    if (options.create) write([&](MDB_txn* transaction) { make(transaction); });
    if (!has_format()) throw not_a_store();
  }

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read, Deadline deadline) override {
    const std::size_t count = check_queries(queries);
    check_deadline(deadline, url_);
    file_->read([&](LmdbReader& reader) {
      name_records(read_number(reader), queries, reader.names);
      reader.values.resize(count);
      const std::uint64_t now = now_ms();
      reader.cache.find(reader.names, now, reader.values, reader.missing);
      find_missing(reader, now, deadline);
      read(reader.values);
      for (std::size_t i = 0; i < reader.missing.size(); ++i)
        reader.cache.add(reader.names[reader.missing[i]], reader.found[i].value, reader.found[i].end);
    });
  }

  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override {
    const std::size_t count = check_queries(queries, true);
    check_ttl(ttl);
    std::vector<LmdbName> names;
    std::vector<std::string_view> values(count);
    std::vector<std::string> changed(count);
    std::string record;
    write([&](MDB_txn* transaction, std::optional<LmdbChanges>& changes) {
      const LmdbVersion number = current_number(transaction);
      name_records(number, queries, names);
      for (std::size_t i = 0; i < count; ++i)
        values[i] = find_entry(transaction, bytes_of(names[i])).value_or(std::string_view());
      unpack_records(values, now_ms(), url_);
      for (auto& value : changed) value.clear();
      change(values, changed);
      const std::string header = record_header(end_of(ttl));
      for (std::size_t i = 0; i < count; ++i) {
        pack_record(header, changed[i], record);
        put_entry(transaction, bytes_of(names[i]), record);
      }
      if (count > 0) changes = LmdbChanges{number, names};
    });
  }

  void put(std::string_view table, std::span<const std::int64_t> keys, std::span<const std::string_view> values,
           const std::string& version, std::optional<double> ttl) override {
    check_put(table, keys.size(), values.size(), version, ttl);
    // In the tree's order, so that neighbors share a page and a fill can append; of equal keys the last one.
    std::vector<std::size_t> order(keys.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto key_of = [&](std::size_t i) { return static_cast<std::uint64_t>(keys[i]); };
    std::ranges::stable_sort(order, {}, key_of);
    std::vector<LmdbName> names;
    std::string record;
    write([&](MDB_txn* transaction, std::optional<LmdbChanges>& changes) {
      const LmdbVersion number = version.empty() ? current_number(transaction) : find_version(transaction, version);
      const std::string header = record_header(end_of(ttl));
      Names of_table(number, table);
      const Cursor cursor(*this, transaction);
      MDB_val last;
      bool append = false;
      names.clear();
      for (std::size_t i = 0; i < order.size(); ++i) {
        if (i + 1 < order.size() && keys[order[i]] == keys[order[i + 1]]) continue;
        const bool first = names.empty();
        names.push_back(of_table[keys[order[i]]]);
        const std::string_view name = bytes_of(names.back());
        if (first) append = !cursor.move(MDB_LAST, last) || from_lmdb(last) < name;
        pack_record(header, values[order[i]], record);
        put_entry(transaction, name, record, append ? MDB_APPEND : 0);
      }
      if (!names.empty()) changes = LmdbChanges{number, names};
    });
  }

  std::size_t sweep() override {
    remove_dropped();
    std::size_t gone = 0;
    const std::uint64_t now = now_ms();
    std::optional<LmdbName> start;
    std::vector<LmdbName> expired;
    do {
      expired.clear();
      file_->read([&](LmdbReader& reader) { start = list_expired(reader.transaction, start, now, expired); });
      if (expired.empty()) continue;
      std::size_t removed = 0;
      write([&](MDB_txn* transaction) {
        removed = 0;
        for (const LmdbName& name : expired) {
          const auto record = find_entry(transaction, bytes_of(name));
          if (!record || !is_expired(*record, now)) continue;  // it may have been written again
          remove_entry(transaction, bytes_of(name));
          ++removed;
        }
      });
      gone += removed;
    } while (start);
    return gone;
  }

  void begin(const std::string& version) override {
    check_version(version);
    if (!read_only_) file_->forget_killed_readers();
    write([&](MDB_txn* transaction) {
      for (const Entry& entry : list_versions(transaction))
        if (entry.name == version && entry.state == filling)
          put_version(transaction, entry.number, dropped, version);
        else if (entry.name == version && entry.state == ready)
          throw version_is_complete(url_, version);
      LmdbVersion number = first_version;
      if (const auto next = find_entry(transaction, next_key)) number = to_number(*next);
      LmdbVersion next = number;
      for (std::size_t i = next.size(); i-- > 0 && ++reinterpret_cast<unsigned char&>(next[i]) == 0;) {
      }
      put_entry(transaction, next_key, bytes_of(next));
      put_version(transaction, number, filling, version);
    });
    remove_dropped();
  }

  void switch_to(const std::string& version) override {
    check_version(version);
    write([&](MDB_txn* transaction) {
      const LmdbVersion number = find_version(transaction, version);
      put_version(transaction, number, ready, version);
      put_entry(transaction, current_key, bytes_of(number));
    });
    file_->sync();
  }

  std::vector<StoreVersion> versions() override {
    std::vector<StoreVersion> all;
    file_->read([&](LmdbReader& reader) {
      const auto current = find_entry(reader.transaction, current_key);
      all.clear();
      for (Entry& entry : list_versions(reader.transaction))
        if (entry.state != dropped)
          all.push_back({std::move(entry.name), bytes_of(entry.number) == current ? VersionState::current
                                                : entry.state == ready            ? VersionState::ready
                                                                                  : VersionState::filling});
    });
    return all;
  }

  void drop(const std::string& version) override {
    check_version(version);
    write([&](MDB_txn* transaction) {
      const LmdbVersion number = find_version(transaction, version);
      if (find_entry(transaction, current_key) == bytes_of(number)) throw version_is_current(url_, version);
      put_version(transaction, number, dropped, version);
    });
    remove_dropped();
  }

  std::shared_ptr<Store> at(const std::string& version) override {
    StoreOptions options = options_;
    options.create = false;
    return std::make_shared<LmdbStore>(url_.substr(sizeof "lmdb:" - 1), options, version);
  }

  std::optional<std::string> current() override {
    std::optional<std::string> name;
    file_->read([&](LmdbReader& reader) {
      const auto number = find_entry(reader.transaction, current_key);
      if (!number) return;
      const auto entry = find_entry(reader.transaction, std::string(version_key).append(*number));
      if (!entry || entry->empty()) throw StoreError(url_ + " is damaged: its current version has no entry");
      name = entry->substr(1);  // after its state
    });
    return name;
  }

  const std::string& url() const override { return url_; }

 private:
  // Cursor of one transaction.
  class Cursor {
   public:
    Cursor(const LmdbStore& store, MDB_txn* transaction) : store_(store) {
      store.check(mdb_cursor_open(transaction, store.file_->tree(), &cursor_));
    }
    Cursor(const Cursor&) = delete;
    Cursor& operator=(const Cursor&) = delete;
    ~Cursor() { mdb_cursor_close(cursor_); }

    // Whether there is an entry there, whose key and value are then found.
    bool move(MDB_cursor_op where, MDB_val& key, MDB_val* value = nullptr) const {
      MDB_val unused;
      const int code = mdb_cursor_get(cursor_, &key, value == nullptr ? &unused : value, where);
      if (code != MDB_NOTFOUND) store_.check(code);
      return code == 0;
    }
    void remove() const { store_.check(mdb_cursor_del(cursor_, 0)); }

   private:
    const LmdbStore& store_;
    MDB_cursor* cursor_ = nullptr;
  };

  void check(int code) const {
    if (code != 0) file_->fail(code);
  }

  template <class Body>
  void write(const Body& body) {
    if (read_only_) throw StoreError(url_ + " is open read-only; nothing can be written");
    file_->write([&](MDB_txn* transaction, std::optional<LmdbChanges>& changes) {
      if constexpr (std::is_invocable_v<Body, MDB_txn*>)
        body(transaction);
      else
        body(transaction, changes);
    });
  }

  // --- entries ---

  std::optional<std::string_view> find_entry(MDB_txn* transaction, std::string_view key) const {
    MDB_val place = to_lmdb(key), value;
    const int code = mdb_get(transaction, file_->tree(), &place, &value);
    if (code == MDB_NOTFOUND) return {};
    check(code);
    return from_lmdb(value);
  }
  void put_entry(MDB_txn* transaction, std::string_view key, std::string_view value, unsigned flags = 0) const {
    MDB_val place = to_lmdb(key), content = to_lmdb(value);
    check(mdb_put(transaction, file_->tree(), &place, &content, flags));
  }
  void remove_entry(MDB_txn* transaction, std::string_view key) const {
    MDB_val place = to_lmdb(key);
    check(mdb_del(transaction, file_->tree(), &place, nullptr));
  }
  void put_version(MDB_txn* transaction, const LmdbVersion& number, char state, std::string_view name) const {
    put_entry(transaction, std::string(version_key).append(bytes_of(number)), std::string(1, state).append(name));
  }

  StoreError not_a_store() const { return StoreError(url_ + " is an LMDB file, but not a store"); }

  void make(MDB_txn* transaction) const {
    MDB_stat stat;
    check(mdb_stat(transaction, file_->tree(), &stat));
    if (stat.ms_entries == 0)
      put_entry(transaction, format_key, store_format);
    else if (!find_entry(transaction, format_key))
      throw not_a_store();
  }

  // --- versions ---

  LmdbVersion to_number(std::string_view bytes) const {
    LmdbVersion number;
    if (bytes.size() != number.size()) throw StoreError(url_ + " is damaged: the number of a version is none");
    std::ranges::copy(bytes, number.begin());
    return number;
  }

  LmdbVersion current_number(MDB_txn* transaction) const {
    const auto stored = find_entry(transaction, current_key);
    if (!stored) throw missing_version(url_, "");
    return to_number(*stored);
  }

  std::vector<Entry> list_versions(MDB_txn* transaction) const {
    std::vector<Entry> entries;
    const Cursor cursor(*this, transaction);
    MDB_val key = to_lmdb(version_key), value;
    for (bool more = cursor.move(MDB_SET_RANGE, key, &value); more; more = cursor.move(MDB_NEXT, key, &value)) {
      const std::string_view name = from_lmdb(key), entry = from_lmdb(value);
      if (!name.starts_with(version_key)) break;
      if (entry.empty()) throw StoreError(url_ + " is damaged: a version has no state");
      entries.push_back({to_number(name.substr(version_key.size())), entry[0], std::string(entry.substr(1))});
    }
    return entries;
  }

  // Number of a version that was begun.
  LmdbVersion find_version(MDB_txn* transaction, std::string_view version) const {
    for (const Entry& entry : list_versions(transaction))
      if (entry.name == version && entry.state != dropped) return entry.number;
    throw missing_version(url_, version);
  }

  // That of `version_` if it is complete, else of the current one.
  LmdbVersion read_number(LmdbReader& reader) const {
    if (reader.version && reader.version_name == version_) return *reader.version;
    reader.version.reset();
    if (!version_.empty())
      for (const Entry& entry : list_versions(reader.transaction))
        if (entry.name == version_ && entry.state == ready) reader.version = entry.number;
    if (!reader.version) reader.version = current_number(reader.transaction);
    reader.version_name = version_;
    return *reader.version;
  }

  // --- records ---

  // Those that the cache does not have. (To sort their names first gained nothing.)
  void find_missing(LmdbReader& reader, std::uint64_t now, Deadline deadline) const {
    reader.found.resize(reader.missing.size());
    for (std::size_t i = 0; i < reader.missing.size(); ++i) {
      if (i % 64 == 0) check_deadline(deadline, url_);  // the disk may be slow
      MDB_val name = to_lmdb(bytes_of(reader.names[reader.missing[i]])), record;
      const int code = mdb_cursor_get(reader.cursor, &name, &record, MDB_SET);
      if (code != MDB_NOTFOUND) check(code);
      auto& found = reader.found[i] = code == 0 ? unpack_record(from_lmdb(record), url_) : RecordContent{{}, 0};
      reader.values[reader.missing[i]] = is_over(found.end, now) ? std::string_view() : found.value;
    }
  }

  // The names of expired records in the chunk from `start` on. The start of the next chunk.
  std::optional<LmdbName> list_expired(MDB_txn* transaction, const std::optional<LmdbName>& start, std::uint64_t now,
                                       std::vector<LmdbName>& expired) const {
    const Cursor cursor(*this, transaction);
    MDB_val key = start ? to_lmdb(bytes_of(*start)) : to_lmdb(bytes_of(first_version)), value;
    bool more = cursor.move(MDB_SET_RANGE, key, &value);
    LmdbName name;
    for (std::size_t i = 0; more; ++i, more = cursor.move(MDB_NEXT, key, &value)) {
      if (key.mv_size != name.size()) throw StoreError(url_ + " is damaged: the name of a record is none");
      std::ranges::copy(from_lmdb(key), name.begin());
      if (i == chunk) return name;
      if (is_expired(from_lmdb(value), now)) expired.push_back(name);
    }
    return {};
  }

  void remove_dropped() {
    std::vector<Entry> entries;
    file_->read([&](LmdbReader& reader) { entries = list_versions(reader.transaction); });
    for (const Entry& entry : entries)
      for (bool more = entry.state == dropped && !read_only_; more;)
        write([&](MDB_txn* transaction) { more = remove_some(transaction, entry.number); });
  }

  // Removes a chunk of a dropped version's records, and its entry after the last one. Whether there may be more.
  bool remove_some(MDB_txn* transaction, const LmdbVersion& number) const {
    const Cursor cursor(*this, transaction);
    MDB_val key = to_lmdb(bytes_of(number));
    bool more = cursor.move(MDB_SET_RANGE, key);
    for (std::size_t i = 0; i < chunk; ++i) {
      if (!more || !from_lmdb(key).starts_with(bytes_of(number))) {
        const std::string name = std::string(version_key).append(bytes_of(number));
        if (find_entry(transaction, name)) remove_entry(transaction, name);
        return false;
      }
      cursor.remove();
      more = cursor.move(MDB_NEXT, key);  // the one after it
    }
    return true;
  }

  const std::string url_;
  const StoreOptions options_;
  const LmdbFile::Handle file_;
  const bool read_only_;
  const std::string version_;
};
}  // namespace

std::shared_ptr<Store> open_lmdb(const std::string& url, const StoreOptions& options) {
  constexpr std::string_view suffix = "?read_only=1";
  std::string directory = url.substr(sizeof "lmdb:" - 1);
  StoreOptions own = options;
  if (directory.ends_with(suffix)) {
    directory.resize(directory.size() - suffix.size());
    own.read_only = true;
  }
  if (own.create && own.read_only)
    throw std::invalid_argument(url + ": create and read_only are both set; expected one of them");
  return std::make_shared<LmdbStore>(directory, own);
}
}  // namespace pygrade::inline v0_2::detail
