#include "stores/redis_cache.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

constexpr std::size_t entry_bytes = 150;  // beside the key and the record

}  // namespace

std::optional<bool> RedisCache::find(std::string_view key, Time now, std::string& records) {
  Shard& shard = shards_[place(key)];
  const std::lock_guard lock(shard.mutex);
  auto found = shard.newer.find(key);
  if (found == shard.newer.end()) {
    if (const auto old = shard.older.find(key); old != shard.older.end()) {
      auto node = shard.older.extract(old);
      insert(shard, std::move(node.key()), std::move(node.mapped()));
      found = shard.newer.find(key);
    }
  }
  if (found == shard.newer.end() || now - found->second.asked >= life_) return std::nullopt;
  if (found->second.record) records += *found->second.record;
  return found->second.record.has_value();
}

RedisCache::Stamps RedisCache::stamps() const {
  Stamps stamps;
  for (std::size_t i = 0; i < stamps.size(); ++i) stamps[i] = shards_[i].stamp.load();
  return stamps;
}

void RedisCache::keep(std::string_view key, std::string_view record, Time asked, const Stamps& stamps) {
  Shard& shard = shards_[place(key)];
  const std::lock_guard lock(shard.mutex);
  if (shard.stamp.load() != stamps[place(key)]) return;
  Entry entry{record.data() == nullptr ? std::nullopt : std::optional(std::string(record)), asked};
  insert(shard, std::string(key), std::move(entry));
}

void RedisCache::forget(std::string_view key) {
  Shard& shard = shards_[place(key)];
  const std::lock_guard lock(shard.mutex);
  ++shard.stamp;
  for (Map* map : {&shard.newer, &shard.older})
    if (const auto found = map->find(key); found != map->end()) map->erase(found);
}

void RedisCache::insert(Shard& shard, std::string key, Entry entry) {
  const std::size_t bytes = entry_bytes + key.size() + (entry.record ? entry.record->size() : 0);
  if (shard.bytes + bytes > max_bytes_ / shards_.size() / 2) {
    shard.older = std::move(shard.newer);
    shard.newer.clear();
    shard.bytes = 0;
  }
  shard.bytes += bytes;
  shard.newer.insert_or_assign(std::move(key), std::move(entry));
}

}  // namespace pygrade::inline v0_2::detail
