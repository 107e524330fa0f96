// Attributes of users and items in one version of the store, remembered in this process.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pygrade::detail {

// Rows of int64 by id. Callers take care of locks.
class RowMemory {
 public:
  // Of `width` int64 each, at most `limit` rows.
  RowMemory(std::size_t width, std::size_t limit);

  // Copies the rows that are known to rows[ids, width]. Puts the places of the other ids into `unknown`, whose memory
  // suffices for all, and returns their number. Called without anybody writing.
  std::size_t recall(std::span<const std::int64_t> ids, std::int64_t* rows, std::uint32_t* unknown) const;

  // Keeps rows[ids, width] of new ids; forgets all others first if there is no room.
  void remember(std::span<const std::int64_t> ids, const std::int64_t* rows);

  void forget();
  std::uint64_t stamp() const { return stamp_; }  // changes with every `forget`

 private:
  struct Slot {
    std::int64_t id = 0;
    std::uint32_t row = 0;  // from 1 on
  };
  static constexpr std::size_t block_rows = 1 << 12;

  std::size_t start(std::int64_t id) const;
  std::int64_t* row(std::size_t place) const { return blocks_[place / block_rows].get() + place % block_rows * width_; }
  void grow();

  const std::size_t width_, limit_;
  std::size_t used_ = 0;
  std::uint64_t stamp_ = 1;
  std::vector<Slot> slots_;                              // linear probing, at most half full; a power of two
  std::vector<std::unique_ptr<std::int64_t[]>> blocks_;  // rows do not move
};

// The version whose attributes are remembered, and those of users and of items.
struct AttributeCache {
  AttributeCache(std::size_t user_width, std::size_t item_width, std::size_t limit)
      : users(user_width, limit), items(item_width, limit) {}

  // Another version is current.
  void change_version(std::string_view description) {
    const std::unique_lock lock(mutex);
    version.assign(description);
    users.forget();
    items.forget();
  }

  mutable std::shared_mutex mutex;  // guards everything
  std::string version;              // content of the store's table "meta"; "": none seen yet
  RowMemory users, items;
};

}  // namespace pygrade::detail
