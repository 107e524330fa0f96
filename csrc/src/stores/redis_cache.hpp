// Records that a process has read from Redis a moment ago.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace pygrade::inline v0_2::detail {

// Keys and records, and keys that have none. What was not used for longest goes first: each shard keeps two maps, and
// when the newer one is half full, it takes the place of the older one.
class RedisCache {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Stamps = std::array<std::uint32_t, 16>;

  RedisCache(std::chrono::milliseconds life, std::size_t max_bytes) : life_(life), max_bytes_(max_bytes) {}

  bool on() const { return life_.count() > 0; }
  std::chrono::milliseconds life() const { return life_; }

  // Appends the key's record to `records`; nullopt if the key is not here, false if it has no record.
  std::optional<bool> find(std::string_view key, Time now, std::string& records);

  // A read takes the stamps before it asks the server, and `keep` drops what `forget` has made old meanwhile; so a
  // process sees its own update as soon as that has returned.
  Stamps stamps() const;
  void keep(std::string_view key, std::string_view record, Time asked, const Stamps& stamps);  // data() null: none
  void forget(std::string_view key);

 private:
  struct Entry {
    std::optional<std::string> record;
    Time asked;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  using Map = std::unordered_map<std::string, Entry, Hash, std::equal_to<>>;
  struct Shard {
    std::mutex mutex;
    std::atomic<std::uint32_t> stamp{0};
    Map newer, older;
    std::size_t bytes = 0;  // of the newer ones
  };

  static std::size_t place(std::string_view key) { return Hash()(key) >> 7 & 15; }
  void insert(Shard& shard, std::string key, Entry entry);

  const std::chrono::milliseconds life_;
  const std::size_t max_bytes_;
  std::array<Shard, 16> shards_;
};

}  // namespace pygrade::inline v0_2::detail
