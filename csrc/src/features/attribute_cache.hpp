// Attributes of users and items in one version of the store, remembered in this process.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <forward_list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pygrade::inline v0_2::detail {

// Rows of int64 by id. Nobody waits: readers take no lock, and who finds another thread writing does not remember. A
// full memory forgets what was not asked for lately (CLOCK). Each row has the stamp of what it was read from; rows of
// other stamps are unknown.
class RowMemory {
 public:
  static constexpr std::size_t most_rows = (std::size_t{1} << 24) - 1;

  // Of `width` int64 each, at most `limit` rows, and at most most_rows.
  RowMemory(std::size_t width, std::size_t limit);

  // Copies the rows that are known to rows[ids, width]. Puts the places of the other ids into `unknown`, whose memory
  // suffices for all, and returns their number.
  std::size_t recall(std::span<const std::int64_t> ids, std::uint64_t stamp, std::int64_t* rows,
                     std::uint32_t* unknown) const;

  // Keeps rows[ids, width].
  void remember(std::span<const std::int64_t> ids, std::uint64_t stamp, const std::int64_t* rows);

 private:
  using Word = std::atomic<std::uint64_t>;
  enum : std::size_t {
    sequence,
    row_id,
    row_stamp,
    asked,
    content
  };  // words of a row; sequence is odd while it changes
  static constexpr std::size_t block_rows = 1 << 12, ways = 8;
  static constexpr int place_bits = 24;

  // Where rows lie: buckets of `ways` hints by the highest bits of an id's hash. A hint holds the highest bits, too,
  // and place + 1. It may be outdated: the row says whose it is.
  struct Index {
    explicit Index(int bucket_bits);
    Word* bucket(std::uint64_t hash) const { return hints.get() + ways * static_cast<std::size_t>(hash >> shift); }
    std::size_t size() const { return ways << (64 - shift); }
    std::uint64_t find(std::uint64_t hash) const;  // place + 1, or 0

    int shift;
    std::unique_ptr<Word[], decltype(&std::free)> hints;
    std::unique_ptr<Index> before;  // half as large, consulted until all of it has moved here
    std::size_t moved = 0;          // hints of `before`
  };

  Word* row(std::size_t place) const { return blocks_[place / block_rows].get() + place % block_rows * stride_; }
  std::size_t next_place(std::uint64_t stamp);
  bool is_outdated(std::uint64_t hint) const;
  void put(std::uint64_t hint);
  void move(std::size_t count);

  const std::size_t width_, limit_, stride_;
  std::vector<std::unique_ptr<Word[]>> blocks_;  // rows do not move
  std::atomic<const Index*> index_;
  std::mutex writing_;  // guards the following
  std::unique_ptr<Index> newest_;
  std::uint64_t filling_ = 0;  // the stamp that rows are taken for
  std::size_t used_ = 0, hand_ = 0;
};

// A version of the store, as its table "meta" describes it; "": none was seen yet.
struct AttributeVersion {
  std::string description;
  std::uint64_t stamp = 1;
  bool other = false;  // it is not the one that was asked for, which is gone
};

// The version whose attributes are remembered, and those of users and of items.
class AttributeCache {
 public:
  AttributeCache(std::size_t user_width, std::size_t item_width, std::size_t limit)
      : users(user_width, limit),
        items(item_width, limit),
        absent_users(0, std::min(limit, most_absent)),
        absent_items(0, std::min(limit, most_absent)),
        versions_(1),
        version_(&versions_.front()) {}

  // Lives as long as the cache.
  const AttributeVersion& version() const { return *version_.load(std::memory_order_acquire); }

  // Another version is current.
  void change_version(std::string_view description, bool other);
  // All is unknown.
  void forget();

  RowMemory users, items;
  RowMemory absent_users, absent_items;  // ids that the store lacks: few, as callers may send any

 private:
  static constexpr std::size_t most_absent = 1 << 14;

  void add(std::string_view description, bool other);

  std::mutex changing_;                           // guards versions_
  std::forward_list<AttributeVersion> versions_;  // few: a store changes its version now and then
  std::atomic<const AttributeVersion*> version_;
};

}  // namespace pygrade::inline v0_2::detail
