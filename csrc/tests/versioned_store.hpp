// A store in memory with versions, for tests with threads.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "pygrade/store.hpp"

namespace pygrade::inline v0_2::tests {

class VersionedStore final : public Store {
 public:
  using Table = std::map<std::int64_t, std::string>;
  using Version = std::map<std::string, Table, std::less<>>;

  explicit VersionedStore(std::string version = "first") : shared_(std::make_shared<Shared>()) {
    shared_->current = std::move(version);
    shared_->versions[shared_->current];
  }

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
           std::optional<std::chrono::steady_clock::time_point>) override {
    const std::lock_guard lock(shared_->mutex);
    ++shared_->reads;
    if (shared_->failing) throw StoreUnreachableError(url_ + " does not answer");
    const auto pinned = shared_->versions.find(version_);
    read(values_of(pinned == shared_->versions.end() ? current_version() : pinned->second, queries));
  }

  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double>) override {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->failing) throw StoreUnreachableError(url_ + " does not answer");
    Version& version = current_version();
    const std::vector<std::string_view> before = values_of(version, queries);
    std::vector<std::string> after(before.size());
    change(before, after);
    std::size_t at = 0;
    for (const auto& query : queries)
      for (const std::int64_t key : query.keys) version[std::string(query.table)][key] = std::move(after[at++]);
  }

  std::shared_ptr<Store> at(const std::string& version) override {
    auto other = std::make_shared<VersionedStore>();
    other->shared_ = shared_;
    other->version_ = version;
    return other;
  }

  std::optional<std::string> current() override {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->failing) throw StoreUnreachableError(url_ + " does not answer");
    return shared_->current;
  }
  bool reachable() const noexcept override {
    const std::lock_guard lock(shared_->mutex);
    return !shared_->failing;
  }
  const std::string& url() const override { return url_; }

  using Store::put;
  void put(const std::string& version, const std::string& table, std::int64_t key, std::string value) {
    const std::lock_guard lock(shared_->mutex);
    shared_->versions[version][table][key] = std::move(value);
  }
  void copy_version(const std::string& from, const std::string& to) {
    const std::lock_guard lock(shared_->mutex);
    shared_->versions[to] = shared_->versions[from];
  }
  void switch_to(const std::string& version) override {
    const std::lock_guard lock(shared_->mutex);
    shared_->current = version;
  }
  void drop(const std::string& version) override {
    const std::lock_guard lock(shared_->mutex);
    shared_->versions.erase(version);
  }
  void fail(bool failing) {
    const std::lock_guard lock(shared_->mutex);
    shared_->failing = failing;
  }
  Version content(const std::string& version) {
    const std::lock_guard lock(shared_->mutex);
    return shared_->versions[version];
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::map<std::string, Version> versions;
    std::string current;
    bool failing = false;
    std::size_t reads = 0;
  };

  Version& current_version() { return shared_->versions[shared_->current]; }

  // Of this thread's next call, too: a warm reader allocates nothing.
  static const std::vector<std::string_view>& values_of(const Version& version, std::span<const StoreQuery> queries) {
    thread_local std::vector<std::string_view> values;
    values.clear();
    for (const auto& query : queries) {
      const auto table = version.find(query.table);
      for (const std::int64_t key : query.keys) {
        values.emplace_back();
        if (table == version.end()) continue;
        if (const auto found = table->second.find(key); found != table->second.end()) values.back() = found->second;
      }
    }
    return values;
  }

  std::shared_ptr<Shared> shared_;
  const std::string url_ = "memory:";
  std::string version_;
};

}  // namespace pygrade::inline v0_2::tests
