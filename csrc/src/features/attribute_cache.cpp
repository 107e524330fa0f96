#include "features/attribute_cache.hpp"

#include <algorithm>
#include <new>

#include "util/seed.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

constexpr std::size_t first_rows = 1 << 12;

}  // namespace

RowMemory::RowMemory(std::size_t width, std::size_t limit)
    : width_(width),
      stride_(content + width),
      buckets_((limit + ways - 1) / ways),
      words_(static_cast<Word*>(std::calloc(buckets_ * ways * stride_ + 1, sizeof(Word))),
             &std::free) {  // pages come when touched
  if (words_ == nullptr) throw std::bad_alloc();
}

RowMemory::Word* RowMemory::places(std::int64_t id) const {
  const auto bucket = static_cast<std::size_t>(seeded_hash(id) % buckets_);
  return words_.get() + bucket * ways * stride_;
}

bool RowMemory::recall(std::int64_t id, std::int64_t* row) const {
  if (buckets_ == 0) return false;
  const Word* words = places(id);
  for (std::size_t way = 0; way < ways; ++way, words += stride_) {
    const std::uint64_t before = words[sequence].load(std::memory_order_acquire);
    if (before == 0) return false;  // nor has a later place a row
    if (before % 2 != 0 || words[row_id].load(std::memory_order_acquire) != static_cast<std::uint64_t>(id)) continue;
    for (std::size_t w = 0; w < width_; ++w)
      row[w] = static_cast<std::int64_t>(words[content + w].load(std::memory_order_acquire));
    if (words[sequence].load(std::memory_order_relaxed) == before) return true;
  }
  return false;
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

AttributeCache::AttributeCache(std::size_t user_width, std::size_t item_width, std::size_t limit)
    : user_width_(user_width),
      item_width_(item_width),
      limit_(limit),
      rows_(std::min(limit, first_rows)),
      version_(make("", false)) {}

std::shared_ptr<AttributeVersion> AttributeCache::version() {
  const std::lock_guard lock(mutex_);
  if (rows_ < limit_ && (version_->users.crowded() || version_->items.crowded())) {
    rows_ = std::min(limit_, 4 * rows_);
    version_ = make(version_->description, version_->other);
  }
  return version_;
}

void AttributeCache::change_version(std::string_view description, bool other) {
  const std::lock_guard lock(mutex_);
  if (version_->description != description) version_ = make(description, other);
}

std::shared_ptr<AttributeVersion> AttributeCache::make(std::string_view description, bool other) const {
  return std::shared_ptr<AttributeVersion>(
      new AttributeVersion{std::string(description), other, {user_width_, rows_}, {item_width_, rows_}});
}

}  // namespace pygrade::inline v0_2::detail
