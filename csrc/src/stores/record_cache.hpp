// Records that were read from an LMDB file, by name, as one commit has them: checked, and without their frame.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace pygrade::inline v0_2::detail {

using LmdbName = std::array<char, 20>;  // of a record: version, table, key

// A full cache starts anew.
class RecordCache {
 public:
  // `room`: bytes that may still be taken by all caches of a file.
  explicit RecordCache(std::atomic<std::ptrdiff_t>& room) : room_(room) {}
  RecordCache(const RecordCache&) = delete;
  RecordCache& operator=(const RecordCache&) = delete;
  ~RecordCache() { clear(); }

  // The values of the names that are known, data() null if there is none or its time is over at `now`; the places of
  // the others go to `missing`. Values are valid until the cache is changed.
  void find(std::span<const LmdbName> names, std::uint64_t now, std::span<std::string_view> values,
            std::vector<std::uint32_t>& missing) const {
    missing.clear();
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto found = records_.find(names[i]);
      if (found == records_.end()) {
        missing.push_back(static_cast<std::uint32_t>(i));
        continue;
      }
      const Record& record = found->second;
      const bool over = record.none || (record.end != 0 && record.end <= now);
      values[i] = over ? std::string_view() : std::string_view(record.value);
    }
  }

  // The record that a commit has under a name, data() null: none. `end`: milliseconds, 0: never.
  void add(const LmdbName& name, std::string_view value, std::uint64_t end) {
    const auto bytes = static_cast<std::ptrdiff_t>(value.size() + overhead);
    if (room_.fetch_sub(bytes) < bytes) {
      room_ += bytes;
      return clear();
    }
    taken_ += bytes;
    records_.insert_or_assign(name, Record{std::string(value), end, value.data() == nullptr});
    const std::string_view version(name.data(), version_bytes);
    if (!holds(version)) versions_.emplace_back(version);
  }

  void forget(const LmdbName& name) { records_.erase(name); }

  void clear() {
    records_.clear();
    versions_.clear();
    room_ += taken_;
    taken_ = 0;
  }

  // True if a record of the version may be known.
  bool holds(std::string_view version) const { return std::ranges::find(versions_, version) != versions_.end(); }

 private:
  struct Record {
    std::string value;
    std::uint64_t end;
    bool none;
  };
  struct Hash {
    std::size_t operator()(const LmdbName& name) const {
      std::uint64_t table, key;
      std::memcpy(&table, name.data() + version_bytes, sizeof table);
      std::memcpy(&key, name.data() + name.size() - sizeof key, sizeof key);
      const std::uint64_t hash = (table ^ static_cast<unsigned char>(name[3])) * 0x9e3779b97f4a7c15 + key;
      return (hash ^ hash >> 32) * 0xd6e8feb86659fd93;
    }
  };
  static constexpr std::size_t version_bytes = 4, overhead = 100;  // of a record's place in the table

  std::atomic<std::ptrdiff_t>& room_;
  std::ptrdiff_t taken_ = 0;
  std::unordered_map<LmdbName, Record, Hash> records_;
  std::vector<std::string> versions_;
};

}  // namespace pygrade::inline v0_2::detail
