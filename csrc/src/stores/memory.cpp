// A store in the memory of one object and those that `at` gives, for tests and small tools.
#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>

#include "stores/backends.hpp"
#include "stores/record.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
struct Value {
  std::string bytes;
  std::uint64_t end;  // milliseconds, 0: never
};

struct Version {
  std::string name;
  bool ready = false;
  std::map<std::string, std::unordered_map<std::int64_t, Value>, std::less<>> tables;
};

struct Content {
  std::recursive_mutex mutex;  // an update may read
  bool updating = false;
  std::vector<Version> versions;
  std::string current;
};

class MemoryStore final : public Store {
 public:
  MemoryStore(std::shared_ptr<Content> content, std::string version)
      : content_(std::move(content)), version_(std::move(version)) {}

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read, Deadline deadline) override {
    check_queries(queries);
    check_deadline(deadline, url_);
    const std::lock_guard lock(content_->mutex);
    const Version* version = find(version_);
    read(values_of(version != nullptr && version->ready ? *version : current_version(), queries));
  }

  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override {
    check_queries(queries, true);
    check_ttl(ttl);
    const std::lock_guard lock(content_->mutex);
    check_writer();
    Version& version = current_version();
    const std::vector<std::string_view> values = values_of(version, queries);
    std::vector<std::string> changed(values.size());
    content_->updating = true;
    try {
      change(values, changed);
    } catch (...) {
      content_->updating = false;
      throw;
    }
    content_->updating = false;
    const std::uint64_t end = end_of(ttl);
    std::size_t at = 0;
    for (const auto& query : queries)
      for (const std::int64_t key : query.keys)
        version.tables[std::string(query.table)][key] = {std::move(changed[at++]), end};
  }

  void put(std::string_view table, std::span<const std::int64_t> keys, std::span<const std::string_view> values,
           const std::string& version, std::optional<double> ttl) override {
    check_put(table, keys.size(), values.size(), version, ttl);
    const std::lock_guard lock(content_->mutex);
    check_writer();
    auto& records = (version.empty() ? current_version() : begun(version)).tables[std::string(table)];
    for (std::size_t i = 0; i < keys.size(); ++i) records[keys[i]] = {std::string(values[i]), end_of(ttl)};
  }

  std::size_t sweep() override {
    const std::lock_guard lock(content_->mutex);
    check_writer();
    std::size_t gone = 0;
    const std::uint64_t now = now_ms();
    for (auto& version : content_->versions)
      for (auto& [name, records] : version.tables)
        gone += std::erase_if(records, [&](const auto& record) { return is_over(record.second.end, now); });
    return gone;
  }

  void begin(const std::string& name) override {
    check_version(name);
    const std::lock_guard lock(content_->mutex);
    check_writer();
    if (const Version* version = find(name); version != nullptr && version->ready)
      throw version_is_complete(url_, name);
    std::erase_if(content_->versions, [&](const Version& version) { return version.name == name; });
    content_->versions.push_back({name, false, {}});
  }

  void switch_to(const std::string& name) override {
    check_version(name);
    const std::lock_guard lock(content_->mutex);
    begun(name).ready = true;
    content_->current = name;
  }

  std::vector<StoreVersion> versions() override {
    const std::lock_guard lock(content_->mutex);
    std::vector<StoreVersion> all;
    for (const auto& version : content_->versions)
      all.push_back({version.name, version.name == content_->current ? VersionState::current
                                   : version.ready                   ? VersionState::ready
                                                                     : VersionState::filling});
    return all;
  }

  void drop(const std::string& name) override {
    check_version(name);
    const std::lock_guard lock(content_->mutex);
    check_writer();
    begun(name);
    if (name == content_->current) throw version_is_current(url_, name);
    std::erase_if(content_->versions, [&](const Version& version) { return version.name == name; });
  }

  std::shared_ptr<Store> at(const std::string& version) override {
    return std::make_shared<MemoryStore>(content_, version);
  }

  std::optional<std::string> current() override {
    const std::lock_guard lock(content_->mutex);
    return content_->current.empty() ? std::nullopt : std::optional(content_->current);
  }

  const std::string& url() const override { return url_; }

 private:
  Version* find(std::string_view name) const {
    const auto found = std::ranges::find(content_->versions, name, &Version::name);
    return found == content_->versions.end() ? nullptr : &*found;
  }
  Version& begun(std::string_view name) const {
    if (Version* version = find(name)) return *version;
    throw missing_version(url_, name);
  }
  Version& current_version() const { return begun(content_->current); }
  void check_writer() const {
    if (content_->updating) throw update_wrote(url_);
  }

  static std::vector<std::string_view> values_of(const Version& version, std::span<const StoreQuery> queries) {
    std::vector<std::string_view> values;
    const std::uint64_t now = now_ms();
    for (const auto& query : queries) {
      const auto table = version.tables.find(query.table);
      for (const std::int64_t key : query.keys) {
        values.emplace_back();
        if (table == version.tables.end()) continue;
        const auto found = table->second.find(key);
        if (found != table->second.end() && !is_over(found->second.end, now))
          values.back() = {found->second.bytes.data(), found->second.bytes.size()};
      }
    }
    return values;
  }

  const std::shared_ptr<Content> content_;
  const std::string version_;
  const std::string url_ = "memory:";
};
}  // namespace

std::shared_ptr<Store> open_memory(const std::string&, const StoreOptions&) {
  return std::make_shared<MemoryStore>(std::make_shared<Content>(), "");
}
}  // namespace pygrade::inline v0_2::detail
