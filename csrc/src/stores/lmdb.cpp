// The embedded store; pygrade/stores/lmdb.py documents its entries.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "stores/backends.hpp"
#include "stores/lmdb_file.hpp"
#include "util/blake2b.hpp"

namespace pygrade::detail {

namespace {

using namespace std::string_view_literals;

constexpr std::string_view format_key = "\0\0\0\0format"sv, current_key = "\0\0\0\0current"sv,
                           version_key = "\0\0\0\0version"sv;
constexpr std::size_t id_bytes = 4, hash_bytes = 8, key_bytes = 8;
constexpr std::size_t chunk = 1024;  // records between two looks at the clock
using Id = std::array<char, id_bytes>;

// The name of a record: version, table, key. The table's hash is made once, the key for each record.
class Name {
 public:
  Name(const Id& version, std::string_view table) {
    std::ranges::copy(version, bytes_.begin());
    std::uint8_t hash[hash_bytes];
    blake2b(table, hash);
    std::ranges::copy(hash, bytes_.begin() + id_bytes);
  }
  const LmdbName& bytes_of(std::int64_t key) {
    for (std::size_t i = 0; i < key_bytes; ++i)
      bytes_[id_bytes + hash_bytes + i] = static_cast<char>(static_cast<std::uint64_t>(key) >> (56 - 8 * i));
    return bytes_;
  }
  MDB_val of(std::int64_t key) {
    bytes_of(key);
    return {bytes_.size(), bytes_.data()};
  }

 private:
  static_assert(sizeof(LmdbName) == id_bytes + hash_bytes + key_bytes);
  LmdbName bytes_;
};

class LmdbStore final : public Store {
 public:
  // `version`: that `get` reads while it is there; "": the current one.
  LmdbStore(const std::string& directory, bool read_only, std::size_t max_bytes, std::string version = "")
      : url_("lmdb:" + directory),
        file_(LmdbFile::open(directory, url_, read_only)),
        read_only_(read_only || file_->read_only()),
        max_bytes_(max_bytes),
        version_(std::move(version)) {
    file_->read(
        [&](LmdbReader& reader) {
          const auto format = entry(reader.transaction, format_key);
          if (!format) throw NotAStoreError(url_ + " is an LMDB file, but not a store");
          if (*format != store_format) throw other_format(url_, *format);
        },
        {});
  }

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read, Deadline deadline) override {
    const std::size_t count = check_queries(queries);
    check_deadline(deadline, url_);
    file_->read(
        [&](LmdbReader& reader) {
          reader.values.resize(count);
          if (!find_at_once(reader, queries, deadline))
            look_up(reader.transaction, read_id(reader.transaction), queries, reader.values, deadline);
          unpack_records(reader.values, now_ms(), url_);
          read(reader.values);
        },
        deadline);
  }

  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override {
    const std::size_t count = check_queries(queries, true);
    check_ttl(ttl);
    if (read_only_) throw StoreError(url_ + " is open read-only; nothing can be written");
    std::vector<std::string_view> values(count);
    std::vector<std::string> changed(count);
    std::string record;
    file_->write(
        [&](MDB_txn* transaction) {
          const Id id = current_id(transaction);
          look_up(transaction, id, queries, values, {});
          unpack_records(values, now_ms(), url_);
          for (auto& value : changed) value.clear();
          change(values, changed);
          const std::string header = record_header(ttl);
          std::size_t at = 0;
          for (const auto& query : queries) {
            Name name(id, query.table);
            for (const std::int64_t key : query.keys) {
              pack_record(header, changed[at++], record);
              MDB_val place = name.of(key), content{record.size(), record.data()};
              if (const int code = mdb_put(transaction, file_->tree(), &place, &content, 0); code != 0) return code;
            }
          }
          return 0;
        },
        max_bytes_);
  }

  std::shared_ptr<Store> at(const std::string& version) override {
    return std::make_shared<LmdbStore>(url_.substr(sizeof "lmdb:" - 1), read_only_, max_bytes_, version);
  }

  std::optional<std::string> current() override {
    std::optional<std::string> name;
    file_->read(
        [&](LmdbReader& reader) {
          const auto id = entry(reader.transaction, current_key);
          if (!id) return;
          const auto version = entry(reader.transaction, std::string(version_key) + std::string(*id));
          if (!version || version->empty()) throw StoreError(url_ + " is damaged: its current version has no entry");
          name = version->substr(1);  // after its state
        },
        {});
    return name;
  }

  const std::string& url() const override { return url_; }

 private:
  std::optional<std::string_view> entry(MDB_txn* transaction, std::string_view key) const {
    MDB_val place{key.size(), const_cast<char*>(key.data())}, value;
    const int code = mdb_get(transaction, file_->tree(), &place, &value);
    if (code == MDB_NOTFOUND) return {};
    if (code != 0) file_->fail(code);
    return std::string_view(static_cast<const char*>(value.mv_data), value.mv_size);
  }

  StoreError missing() const { return StoreError(url_ + " has no current version; fill one and switch to it"); }
  StoreError damaged() const { return StoreError(url_ + " is damaged: its current version is no number"); }

  Id current_id(MDB_txn* transaction) const {
    const auto stored = entry(transaction, current_key);
    if (!stored) throw missing();
    Id id;
    if (stored->size() != id.size()) throw damaged();
    std::ranges::copy(*stored, id.begin());
    return id;
  }

  // That of `version_` if it is complete. The number is kept, since numbers are never used twice.
  Id read_id(MDB_txn* transaction) const {
    if (version_.empty()) return current_id(transaction);
    const Id kept = id_of(number_.load(std::memory_order_relaxed));
    if (const auto state = entry(transaction, entry_of(kept)); state && is_complete(*state)) return kept;
    const std::uint32_t number = find_number(transaction);
    number_.store(number, std::memory_order_relaxed);
    return number == 0 ? current_id(transaction) : id_of(number);
  }

  static Id id_of(std::uint32_t number) {
    Id id;
    std::memcpy(id.data(), &number, id.size());
    return id;
  }
  static std::string entry_of(const Id& id) { return std::string(version_key).append(id.data(), id.size()); }
  bool is_complete(std::string_view state) const { return state.starts_with('r') && state.substr(1) == version_; }

  // The bytes of the number of the version named `version_`; 0 if there is none.
  std::uint32_t find_number(MDB_txn* transaction) const {
    MDB_cursor* opened = nullptr;
    if (const int code = mdb_cursor_open(transaction, file_->tree(), &opened); code != 0) file_->fail(code);
    const std::unique_ptr<MDB_cursor, decltype(&mdb_cursor_close)> cursor(opened, &mdb_cursor_close);
    MDB_val key{version_key.size(), const_cast<char*>(version_key.data())}, value;
    int code = mdb_cursor_get(opened, &key, &value, MDB_SET_RANGE);
    for (; code == 0; code = mdb_cursor_get(opened, &key, &value, MDB_NEXT)) {
      const std::string_view name(static_cast<const char*>(key.mv_data), key.mv_size);
      if (!name.starts_with(version_key) || name.size() != version_key.size() + id_bytes) return 0;
      const std::string_view state(static_cast<const char*>(value.mv_data), value.mv_size);
      if (!is_complete(state)) continue;
      std::uint32_t number;
      std::memcpy(&number, name.data() + version_key.size(), sizeof number);
      return number;
    }
    if (code != MDB_NOTFOUND) file_->fail(code);
    return 0;
  }

  // The records of all queries of one commit. False if LMDB must find them, or another version.
  bool find_at_once(LmdbReader& reader, std::span<const StoreQuery> queries, Deadline deadline) const {
    auto tree = file_->open_tree(reader.transaction);
    if (!tree) return false;
    const auto search = [&](auto&&... arguments) {
      if (tree->find(arguments...)) return;
      file_->extend(*tree);  // the commit may be newer than the size of the file that was seen
      if (!tree->find(arguments...)) throw StoreError(url_ + " is damaged: a page is not what its tree says");
    };
    Id id = id_of(number_.load(std::memory_order_relaxed));
    std::string_view stored;
    if (version_.empty()) {
      search(current_key, stored);
      if (stored.data() == nullptr) throw missing();
      if (stored.size() != id.size()) throw damaged();
      std::ranges::copy(stored, id.begin());
    } else {
      search(entry_of(id), stored);
      if (!is_complete(stored)) return false;
    }
    reader.names.resize(reader.values.size());
    std::size_t at = 0;
    for (const auto& query : queries) {
      Name name(id, query.table);
      for (const std::int64_t key : query.keys) reader.names[at++] = name.bytes_of(key);
    }
    for (std::size_t start = 0; start < at; start += chunk) {
      const std::size_t count = std::min(chunk, at - start);
      check_deadline(deadline, url_);  // the disk may be slow
      search(std::span<const LmdbName>(reader.names).subspan(start, count),
             std::span(reader.values).subspan(start, count), reader.work);
    }
    return true;
  }

  // The records of all queries, data() null where there is none.
  void look_up(MDB_txn* transaction, const Id& id, std::span<const StoreQuery> queries,
               std::span<std::string_view> records, Deadline deadline) const {
    std::size_t at = 0;
    for (const auto& query : queries) {
      Name name(id, query.table);
      for (const std::int64_t key : query.keys) {
        MDB_val place = name.of(key), value;
        const int code = mdb_get(transaction, file_->tree(), &place, &value);
        if (code != 0 && code != MDB_NOTFOUND) file_->fail(code);
        records[at++] =
            code == 0 ? std::string_view(static_cast<const char*>(value.mv_data), value.mv_size) : std::string_view();
        if (at % 64 == 0) check_deadline(deadline, url_);  // the disk may be slow
      }
    }
  }

  const std::string url_;
  const LmdbFile::Handle file_;
  const bool read_only_;
  const std::size_t max_bytes_;
  const std::string version_;
  mutable std::atomic<std::uint32_t> number_{0};  // the bytes of that of version_, 0: not known
};

}  // namespace

std::shared_ptr<Store> open_lmdb(const std::string& url, const StoreOptions& options) {
  constexpr std::string_view suffix = "?read_only=1";
  std::string directory = url.substr(sizeof "lmdb:" - 1);
  const bool read_only = directory.ends_with(suffix);
  if (read_only) directory.resize(directory.size() - suffix.size());
  return std::make_shared<LmdbStore>(directory, read_only || options.read_only, options.max_bytes);
}

}  // namespace pygrade::detail
