#include "util/row_memory.hpp"

#include <new>

#include "util/huge_pages.hpp"

namespace pygrade::inline v0_2::detail {
RowMemory::RowMemory(std::size_t width, std::size_t limit)
    : width_(width),
      stride_(content + width),
      buckets_((limit + ways - 1) / ways),
      words_(static_cast<Word*>(std::calloc(buckets_ * ways * stride_ + 1, sizeof(Word))),
             &std::free) {  // pages come when touched
  if (words_ == nullptr) throw std::bad_alloc();
  ask_for_huge_pages(words_.get(), buckets_ * ways * stride_ * sizeof(Word));
}

void RowMemory::remember(std::int64_t id, const std::int64_t* row) {
  if (buckets_ == 0) return;
  Word* words = places(id);
  Word* target = words + turn_.fetch_add(1, std::memory_order_relaxed) % ways * stride_;  // else by turns
  for (std::size_t way = 0; way < ways; ++way, words += stride_) {
    const bool free = words[sequence].load(std::memory_order_acquire) == 0;
    if (free) used_.fetch_add(1, std::memory_order_relaxed);
    if (!free && words[row_id].load(std::memory_order_relaxed) != static_cast<std::uint64_t>(id)) continue;
    target = words;
    break;
  }
  std::uint64_t before = target[sequence].load(std::memory_order_relaxed);
  if (before % 2 != 0 || !target[sequence].compare_exchange_strong(before, before + 1, std::memory_order_acquire))
    return;
  target[row_id].store(static_cast<std::uint64_t>(id), std::memory_order_release);
  for (std::size_t w = 0; w < width_; ++w)
    target[content + w].store(static_cast<std::uint64_t>(row[w]), std::memory_order_release);
  target[sequence].store(before + 2, std::memory_order_release);
}
}  // namespace pygrade::inline v0_2::detail
