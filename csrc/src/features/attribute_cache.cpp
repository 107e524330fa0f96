#include "features/attribute_cache.hpp"

#include <algorithm>
#include <bit>
#include <new>

#include "features/numbers.hpp"
#include "util/seed.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

constexpr int fewest_bits = 3;                  // of buckets
constexpr std::size_t ids_ahead = 8;            // ids whose memory is fetched in advance
constexpr std::size_t moved_at_once = 1 << 12;  // hints
constexpr std::size_t clock_steps = 256;        // of the hand for one row

}  // namespace

RowMemory::Index::Index(int bucket_bits)
    : shift(64 - bucket_bits),
      hints(static_cast<Word*>(std::calloc(ways << bucket_bits, sizeof(Word))),
            &std::free) {  // pages come when touched
  if (hints == nullptr) throw std::bad_alloc();
}

std::uint64_t RowMemory::Index::find(std::uint64_t hash) const {
  const Word* at = bucket(hash);
  for (std::size_t way = 0; way < ways; ++way) {
    const std::uint64_t hint = at[way].load(std::memory_order_acquire);
    if (hint >> place_bits == hash >> place_bits && hint & most_rows) return hint & most_rows;
  }
  return 0;
}

RowMemory::RowMemory(std::size_t width, std::size_t limit)
    : width_(width),
      limit_(std::min(limit, most_rows)),
      stride_(content + width),
      blocks_((limit_ + block_rows - 1) / block_rows),
      newest_(std::make_unique<Index>(fewest_bits)) {
  index_ = newest_.get();
}

std::size_t RowMemory::recall(std::span<const std::int64_t> ids, std::uint64_t stamp, std::int64_t* rows,
                              std::uint32_t* unknown) const {
  const std::size_t count = ids.size();
  const Index& index = *index_.load(std::memory_order_acquire);
  std::size_t found = 0, missing = 0;
  // First the place of every id, then its content, so that fetching from memory overlaps. `unknown` holds the places
  // meanwhile.
  for (std::size_t i = 0; i < std::min(count, ids_ahead); ++i) __builtin_prefetch(index.bucket(seeded_hash(ids[i])));
  for (std::size_t i = 0; i < count; ++i) {
    if (i + ids_ahead < count) __builtin_prefetch(index.bucket(seeded_hash(ids[i + ids_ahead])));
    const std::uint64_t hash = seeded_hash(ids[i]);
    std::uint64_t place = index.find(hash);
    if (place == 0 && index.before != nullptr) place = index.before->find(hash);
    unknown[i] = static_cast<std::uint32_t>(place);
    found += place != 0;
  }
  const auto fetch = [&](std::size_t i) {
    if (unknown[i] == 0) return;
    const auto* words = reinterpret_cast<const char*>(row(unknown[i] - 1));
    for (std::size_t byte = 0; byte < 8 * stride_; byte += 64) __builtin_prefetch(words + byte);
  };
  const auto copy = [&](std::size_t place, std::int64_t id, std::int64_t* to) {
    Word* words = row(place);
    const std::uint64_t before = words[sequence].load(std::memory_order_acquire);
    if (before % 2 != 0 || words[row_id].load(std::memory_order_acquire) != static_cast<std::uint64_t>(id) ||
        words[row_stamp].load(std::memory_order_acquire) != stamp)
      return false;
    for (std::size_t w = 0; w < width_; ++w)
      to[w] = static_cast<std::int64_t>(words[content + w].load(std::memory_order_acquire));
    if (words[sequence].load(std::memory_order_relaxed) != before) return false;
    if (words[asked].load(std::memory_order_relaxed) == 0) words[asked].store(1, std::memory_order_relaxed);
    return true;
  };
  if (found > 0)
    for (std::size_t i = 0; i < std::min(count, ids_ahead); ++i) fetch(i);
  for (std::size_t i = 0; i < count; ++i) {
    if (i + ids_ahead < count) fetch(i + ids_ahead);
    const std::uint32_t place = unknown[i];
    if (place == 0 || !copy(place - 1, ids[i], rows + i * width_)) unknown[missing++] = static_cast<std::uint32_t>(i);
  }
  return missing;
}

// The place for a new row: one that was never used for this stamp, else one that was not asked for since the hand came
// by.
std::size_t RowMemory::next_place(std::uint64_t stamp) {
  if (stamp != filling_) {
    filling_ = stamp;
    used_ = 0;
  }
  if (used_ < limit_) {
    auto& block = blocks_[used_ / block_rows];
    if (block == nullptr) block = std::make_unique<Word[]>(std::min(block_rows, limit_) * stride_);
    return used_++;
  }
  for (std::size_t step = 0;; ++step) {
    const std::size_t place = hand_;
    hand_ = (hand_ + 1) % limit_;
    if (step == clock_steps || row(place)[asked].exchange(0, std::memory_order_relaxed) == 0) return place;
  }
}

bool RowMemory::is_outdated(std::uint64_t hint) const {
  const Word* words = row((hint & most_rows) - 1);
  return words[row_stamp].load(std::memory_order_relaxed) != filling_ ||
         seeded_hash(static_cast<std::int64_t>(words[row_id].load(std::memory_order_relaxed))) >> place_bits !=
             hint >> place_bits;
}

// Over an older hint of the same id, else where none is, else over an outdated one, else over any.
void RowMemory::put(std::uint64_t hint) {
  Word* at = newest_->bucket(hint);
  const auto choose = [&](auto fits) {
    for (std::size_t way = 0; way < ways; ++way)
      if (fits(at[way].load(std::memory_order_relaxed))) return at + way;
    return at + ways;
  };
  Word* target = choose([&](std::uint64_t other) { return other >> place_bits == hint >> place_bits; });
  if (target == at + ways) target = choose([](std::uint64_t other) { return other == 0; });
  if (target == at + ways) target = choose([&](std::uint64_t other) { return is_outdated(other); });
  if (target == at + ways) target = at + hint % ways;
  target->store(hint, std::memory_order_release);
}

// So many hints from the index before, unless there is a newer one of the same id.
void RowMemory::move(std::size_t count) {
  const Index* old = newest_->before.get();
  if (old == nullptr) return;
  for (const std::size_t end = newest_->moved + std::min(count, old->size() - newest_->moved); newest_->moved < end;
       ++newest_->moved) {
    const std::uint64_t hint = old->hints[newest_->moved].load(std::memory_order_relaxed);
    if (hint != 0 && newest_->find(hint) == 0) put(hint);
  }
}

void RowMemory::remember(std::span<const std::int64_t> ids, std::uint64_t stamp, const std::int64_t* rows) {
  const std::unique_lock lock(writing_, std::try_to_lock);
  if (!lock || limit_ == 0 || stamp < filling_) return;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::uint64_t hash = seeded_hash(ids[i]);
    if (const std::uint64_t known = newest_->find(hash)) {  // another thread read it, too
      const Word* words = row(known - 1);
      if (words[row_id] == static_cast<std::uint64_t>(ids[i]) && words[row_stamp] == stamp) continue;
    }
    const std::size_t place = next_place(stamp);
    Word* words = row(place);
    const std::uint64_t before = words[sequence].load(std::memory_order_relaxed);
    words[sequence].store(before + 1, std::memory_order_relaxed);
    words[row_id].store(static_cast<std::uint64_t>(ids[i]), std::memory_order_release);
    words[row_stamp].store(stamp, std::memory_order_release);
    words[asked].store(0, std::memory_order_release);
    for (std::size_t w = 0; w < width_; ++w)
      words[content + w].store(static_cast<std::uint64_t>(rows[i * width_ + w]), std::memory_order_release);
    words[sequence].store(before + 2, std::memory_order_release);
    put((hash & ~std::uint64_t{most_rows}) | (place + 1));
    if (4 * used_ <= newest_->size()) continue;  // so that hardly a bucket is full
    move(newest_->size());                       // what is left, if anything
    auto next = std::make_unique<Index>(64 - newest_->shift + 1);
    next->before = std::move(newest_);
    newest_ = std::move(next);
    index_.store(newest_.get(), std::memory_order_release);
  }
  move(std::max(moved_at_once, 4 * ids.size()));
}

void AttributeCache::add(std::string_view description, bool other) {
  versions_.push_front({std::string(description), version().stamp + 1, other});
  version_.store(&versions_.front(), std::memory_order_release);
}

void AttributeCache::change_version(std::string_view description, bool other) {
  const std::lock_guard lock(changing_);
  if (version().description != description) add(description, other);
}

void AttributeCache::forget() {
  const std::lock_guard lock(changing_);
  add(version().description, version().other);
}

}  // namespace pygrade::inline v0_2::detail
