// Attributes of users and items in one version of the store, remembered in this process.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

namespace pygrade::inline v0_2::detail {

// Rows of int64 by id, at most `limit`. Nobody waits: a reader who finds a row being written does not know it, and who
// finds another thread writing does not remember. A new row takes the place of an older one.
class RowMemory {
 public:
  RowMemory(std::size_t width, std::size_t limit);

  // Copies the row of an id, if it is known.
  bool recall(std::int64_t id, std::int64_t* row) const;
  void remember(std::int64_t id, const std::int64_t* row);
  bool crowded() const { return 2 * used_.load(std::memory_order_relaxed) > buckets_ * ways; }

 private:
  using Word = std::atomic<std::uint64_t>;
  enum : std::size_t { sequence, row_id, content };  // words of a row; sequence: 0 of none, odd while it changes
  static constexpr std::size_t ways = 8;             // places that a row may have

  Word* places(std::int64_t id) const;

  const std::size_t width_, stride_, buckets_;
  std::unique_ptr<Word[], decltype(&std::free)> words_;
  Word turn_{0}, used_{0};  // rows that took the place of others; places with a row
};

// Version of the store, as its table "meta" describes it; "": none was seen yet.
struct AttributeVersion {
  std::string description;
  bool other;  // it is not the one that was asked for, which is gone
  RowMemory users, items;
};

class AttributeCache {
 public:
  AttributeCache(std::size_t user_width, std::size_t item_width, std::size_t limit);

  // One of more places, and without rows yet, if half of them are taken.
  std::shared_ptr<AttributeVersion> version();
  // Another version is current.
  void change_version(std::string_view description, bool other);

 private:
  std::shared_ptr<AttributeVersion> make(std::string_view description, bool other) const;

  const std::size_t user_width_, item_width_, limit_;
  std::mutex mutex_;  // guards the following
  std::size_t rows_;  // that there are places for
  std::shared_ptr<AttributeVersion> version_;
};

}  // namespace pygrade::inline v0_2::detail
