// A store in memory with versions, for tests with threads.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "memory_store.hpp"

namespace pygrade::inline v0_2::tests {
class VersionedStore final : public Store {
 public:
  explicit VersionedStore(std::string version = "first") : shared_(std::make_shared<Shared>()) {
    shared_->current = std::move(version);
    shared_->versions[shared_->current];
  }

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
           std::optional<std::chrono::steady_clock::time_point>) override {
    const auto lock = reach();
    const auto pinned = shared_->versions.find(version_);
    (pinned == shared_->versions.end() ? shared_->versions[shared_->current] : pinned->second).get(queries, read, {});
  }

  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double> ttl) override {
    const auto lock = reach();
    shared_->versions[shared_->current].update(queries, change, ttl);
  }

  std::shared_ptr<Store> at(const std::string& version) override {
    auto other = std::make_shared<VersionedStore>();
    other->shared_ = shared_;
    other->version_ = version;
    return other;
  }

  std::optional<std::string> current() override {
    const auto lock = reach();
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
    shared_->versions[version].tables[table][key] = std::move(value);
  }
  void copy_version(const std::string& from, const std::string& to) {
    const std::lock_guard lock(shared_->mutex);
    shared_->versions[to].tables = shared_->versions[from].tables;
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

 private:
  struct Shared {
    std::mutex mutex;
    std::map<std::string, MemoryStore> versions;
    std::string current;
    bool failing = false;
  };

  std::unique_lock<std::mutex> reach() const {
    std::unique_lock lock(shared_->mutex);
    if (shared_->failing) throw StoreUnreachableError(url_ + " does not answer");
    return lock;
  }

  std::shared_ptr<Shared> shared_;
  const std::string url_ = "memory:";
  std::string version_;
};
}  // namespace pygrade::inline v0_2::tests
