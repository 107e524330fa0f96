#include "stores/record_cache.hpp"

#include <algorithm>
#include <cstring>

namespace pygrade::inline v0_2::detail {

struct RecordCache::Record {
  std::uint64_t hash, end;
  std::uint32_t size;  // or `none`, or `forgotten`
  LmdbName name;

  static constexpr std::uint32_t none = ~std::uint32_t{0}, forgotten = none - 1, most = 1 << 14;

  const char* bytes() const { return reinterpret_cast<const char*>(this + 1); }
};

namespace {

std::uint64_t hash_of(const LmdbName& name) {
  std::uint64_t head, key;
  std::uint32_t table;
  std::memcpy(&head, name.data(), sizeof head);
  std::memcpy(&table, name.data() + sizeof head, sizeof table);
  std::memcpy(&key, name.data() + sizeof head + sizeof table, sizeof key);
  std::uint64_t hash = (head ^ table) * 0x9e3779b97f4a7c15 + __builtin_bswap64(key);
  hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93;
  hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93;
  return hash ^ hash >> 32;
}

}  // namespace

RecordCache::~RecordCache() { room_ += static_cast<std::ptrdiff_t>(taken_); }

void RecordCache::find(std::span<const LmdbName> names, std::uint64_t now, std::span<std::string_view> values,
                       std::vector<std::uint32_t>& missing) {
  missing.clear();
  if (count_ == 0) {
    for (std::size_t i = 0; i < names.size(); ++i) missing.push_back(static_cast<std::uint32_t>(i));
    return;
  }
  // What a later step reads is fetched meanwhile: the place of a name, its record, and the value.
  constexpr std::size_t to_record = 8, to_value = 4, ring = 2 * to_record, most = 1024;
  std::uint64_t hashes[ring];
  const std::size_t mask = places_.size() - 1;
  const auto first = [&](std::size_t i) { return places_[hashes[i % ring] & mask]; };
  const auto prepare = [&](std::size_t i) {
    if (i >= names.size()) return;
    hashes[i % ring] = hash_of(names[i]);
    __builtin_prefetch(&places_[hashes[i % ring] & mask]);
  };
  for (std::size_t i = 0; i < ring - 1; ++i) prepare(i);
  for (std::size_t i = 0; i < names.size(); ++i) {
    prepare(i + ring - 1);
    if (i + to_record < names.size()) __builtin_prefetch(first(i + to_record));
    if (i + to_value < names.size())
      if (const Record* next = first(i + to_value); next != nullptr && next->size <= Record::most)
        for (std::size_t at = 0; at < std::min<std::size_t>(next->size, most); at += 64)
          __builtin_prefetch(next->bytes() + at);
    const std::uint64_t hash = hashes[i % ring];
    const Record* record = nullptr;
    for (std::size_t place = hash & mask; (record = places_[place]) != nullptr; place = (place + 1) & mask)
      if (record->hash == hash && record->name == names[i]) break;
    if (record == nullptr || record->size == Record::forgotten)
      missing.push_back(static_cast<std::uint32_t>(i));
    else if (record->size == Record::none || (record->end != 0 && record->end <= now))
      values[i] = {};
    else
      values[i] = {record->bytes(), record->size};
  }
}

void RecordCache::add(const LmdbName& name, std::string_view value, std::uint64_t end) {
  if (value.size() > Record::most) return;
  const std::uint64_t hash = hash_of(name);
  char* memory = nullptr;
  for (int tries = 0; memory == nullptr && tries < 2; ++tries) {
    if (2 * (count_ + 1) <= places_.size() || grow()) memory = allocate(sizeof(Record) + value.size());
    if (memory == nullptr) clear();
  }
  if (memory == nullptr) return;
  auto* record = new (memory) Record{hash, end, static_cast<std::uint32_t>(value.size()), name};
  if (value.data() == nullptr)
    record->size = Record::none;
  else
    std::memcpy(memory + sizeof(Record), value.data(), value.size());
  Record** place = place_of(name, hash);
  count_ += *place == nullptr;
  *place = record;
  const std::string_view version(name.data(), sizeof(versions_[0]));
  if (!holds(version)) std::ranges::copy(version, versions_.emplace_back().begin());
}

void RecordCache::forget(const LmdbName& name) {
  if (count_ == 0) return;
  if (Record* record = *place_of(name, hash_of(name)); record != nullptr) record->size = Record::forgotten;
}

void RecordCache::clear() {
  if (count_ > 0) std::ranges::fill(places_, nullptr);
  count_ = block_ = used_ = 0;
  versions_.clear();
}

bool RecordCache::holds(std::string_view version) const {
  return std::ranges::any_of(versions_, [&](const auto& own) { return version == std::string_view(own.data(), 4); });
}

// Where a name's record lies, or may be put.
RecordCache::Record** RecordCache::place_of(const LmdbName& name, std::uint64_t hash) {
  std::size_t place = hash & (places_.size() - 1);
  while (places_[place] != nullptr && !(places_[place]->hash == hash && places_[place]->name == name))
    place = (place + 1) & (places_.size() - 1);
  return &places_[place];
}

bool RecordCache::take(std::size_t bytes) {
  const auto wanted = static_cast<std::ptrdiff_t>(bytes);
  if (room_.fetch_sub(wanted) < wanted) {
    room_ += wanted;
    return false;
  }
  taken_ += bytes;
  return true;
}

bool RecordCache::grow() {
  const std::size_t size = places_.empty() ? first_places : 2 * places_.size();
  if (!take((size - places_.size()) * sizeof(Record*))) return false;
  std::vector<Record*> before(size);
  before.swap(places_);
  for (Record* record : before)
    if (record != nullptr) *place_of(record->name, record->hash) = record;
  return true;
}

char* RecordCache::allocate(std::size_t bytes) {
  bytes = (bytes + 7) / 8 * 8;
  if (!blocks_.empty() && used_ + bytes > block_bytes) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    if (!take(block_bytes)) return nullptr;
    blocks_.push_back(std::make_unique_for_overwrite<char[]>(block_bytes));
  }
  char* memory = blocks_[block_].get() + used_;
  used_ += bytes;
  return memory;
}

}  // namespace pygrade::inline v0_2::detail
