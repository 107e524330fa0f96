// Rows of numbers by id, remembered in this process.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "util/seed.hpp"

namespace pygrade::inline v0_2::detail {
// Rows of int64 by id, at most `limit`. Nobody waits: a reader who finds a row being written does not know it, and who
// finds another thread writing does not remember. A new row takes the place of an older one.
class RowMemory {
 public:
  RowMemory(std::size_t width, std::size_t limit);

  using Place = const std::atomic<std::uint64_t>*;

  // The place of an id, whose memory is asked for some time before its row is recalled: two lines for the first row.
  Place prefetch(std::int64_t id) const {
    const Place words = places(id);
    __builtin_prefetch(words);
    __builtin_prefetch(words + 8);
    return words;
  }
  // Copies the row of an id, if it is known.
  bool recall(std::int64_t id, std::int64_t* row) const {
    return recall(id, places(id), [&](Place words) {
      for (std::size_t w = 0; w < width_; ++w)
        row[w] = static_cast<std::int64_t>(words[w].load(std::memory_order_acquire));
      return true;
    });
  }
  // Calls take(words) with the row of an id, if it is known: false if that is, or the row changed meanwhile.
  template <class Take>
  bool recall(std::int64_t id, Place words, Take&& take) const {
    if (buckets_ == 0) return false;
    for (std::size_t way = 0; way < ways; ++way, words += stride_) {
      const std::uint64_t before = words[sequence].load(std::memory_order_acquire);
      if (before == 0) return false;  // nor has a later place a row
      if (before % 2 != 0 || words[row_id].load(std::memory_order_acquire) != static_cast<std::uint64_t>(id)) continue;
      const bool taken = take(words + content);
      if (words[sequence].load(std::memory_order_relaxed) == before) return taken;
    }
    return false;
  }
  void remember(std::int64_t id, const std::int64_t* row);
  bool crowded() const { return 2 * used_.load(std::memory_order_relaxed) > buckets_ * ways; }

 private:
  using Word = std::atomic<std::uint64_t>;
  enum : std::size_t { sequence, row_id, content };  // words of a row; sequence: 0 of none, odd while it changes
  static constexpr std::size_t ways = 8;             // places that a row may have

  Word* places(std::int64_t id) const {
    const auto bucket = static_cast<std::size_t>(static_cast<unsigned __int128>(seeded_hash(id)) * buckets_ >> 64);
    return words_.get() + bucket * ways * stride_;
  }

  const std::size_t width_, stride_, buckets_;
  std::unique_ptr<Word[], decltype(&std::free)> words_;
  Word turn_{0}, used_{0};  // rows that took the place of others; places with a row
};
}  // namespace pygrade::inline v0_2::detail
