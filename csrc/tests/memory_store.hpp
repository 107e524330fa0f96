// A store in memory, for tests. It can fail, change its version between reads, and hold damaged values.
#pragma once

#include <functional>
#include <map>
#include <unordered_map>

#include "pygrade/store.hpp"

namespace pygrade::inline v0_2::tests {
class MemoryStore final : public Store {
 public:
  using Tables = std::map<std::string, std::unordered_map<std::int64_t, std::string>, std::less<>>;

  Tables tables;
  std::function<void()> before_get;  // called before every read
  int gets = 0, updates = 0;
  std::string asked;  // tables of the last read, each after a space

  void get(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues)> read,
           std::optional<std::chrono::steady_clock::time_point> deadline) override {
    ++gets;
    if (before_get) before_get();
    if (deadline && std::chrono::steady_clock::now() >= *deadline) throw StoreUnreachableError("memory: took too long");
    read(find(queries));
  }

  void update(std::span<const StoreQuery> queries, FunctionRef<void(StoreValues, std::span<std::string>)> change,
              std::optional<double>) override {
    ++updates;
    const StoreValues values = find(queries);
    std::vector<std::string> changed(values.size());
    change(values, changed);
    std::size_t at = 0;
    for (const StoreQuery& query : queries)
      for (const std::int64_t key : query.keys) tables[std::string(query.table)][key] = changed[at++];
  }

  std::optional<std::string> current() override { return "v1"; }
  const std::string& url() const override { return url_; }

 private:
  StoreValues find(std::span<const StoreQuery> queries) {
    values_.clear();
    asked.clear();
    for (const StoreQuery& query : queries) {
      asked.append(" ").append(query.table);
      const auto table = tables.find(query.table);
      for (const std::int64_t key : query.keys) {
        values_.emplace_back();
        if (table == tables.end()) continue;
        const auto found = table->second.find(key);
        if (found != table->second.end()) values_.back() = found->second;
      }
    }
    return values_;
  }

  const std::string url_ = "memory:";
  std::vector<std::string_view> values_;
};
}  // namespace pygrade::inline v0_2::tests
