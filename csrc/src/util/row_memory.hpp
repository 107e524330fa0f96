// Rows of numbers by id, remembered in this process.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace pygrade::inline v0_2::detail {

// Rows of int64 by id, at most `limit`. Nobody waits: a reader who finds a row being written does not know it, and who
// finds another thread writing does not remember. A new row takes the place of an older one.
class RowMemory {
 public:
  RowMemory(std::size_t width, std::size_t limit);

  // Asks for the memory of an id's row some time before it is recalled.
  void prefetch(std::int64_t id) const;
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

}  // namespace pygrade::inline v0_2::detail
