#include "features/attribute_cache.hpp"

#include <algorithm>

#include "features/numbers.hpp"

namespace pygrade::detail {

namespace {

constexpr std::size_t fewest_slots = 64;
constexpr std::size_t ahead = 8;  // ids whose memory is fetched in advance

}  // namespace

RowMemory::RowMemory(std::size_t width, std::size_t limit)
    : width_(width), limit_(std::min(limit, std::size_t{1} << 31)), slots_(fewest_slots) {}

std::size_t RowMemory::start(std::int64_t id) const {
  return static_cast<std::size_t>(splitmix64(static_cast<std::uint64_t>(id))) & (slots_.size() - 1);
}

std::size_t RowMemory::recall(std::span<const std::int64_t> ids, std::int64_t* rows, std::uint32_t* unknown) const {
  const std::size_t count = ids.size(), mask = slots_.size() - 1;
  std::size_t found = 0, missing = 0;
  // First the row of every id, then its content, so that fetching from memory overlaps. `unknown` holds the rows
  // meanwhile.
  for (std::size_t i = 0; i < std::min(count, ahead); ++i) __builtin_prefetch(&slots_[start(ids[i])]);
  for (std::size_t i = 0; i < count; ++i) {
    if (i + ahead < count) __builtin_prefetch(&slots_[start(ids[i + ahead])]);
    std::size_t at = start(ids[i]);
    while (slots_[at].row != 0 && slots_[at].id != ids[i]) at = (at + 1) & mask;
    unknown[i] = slots_[at].row;
    found += slots_[at].row != 0;
  }
  const auto fetch = [&](std::size_t i) {
    if (unknown[i] == 0) return;
    const auto* content = reinterpret_cast<const char*>(row(unknown[i] - 1));
    for (std::size_t byte = 0; byte < 8 * width_; byte += 64) __builtin_prefetch(content + byte);
  };
  if (found > 0)
    for (std::size_t i = 0; i < std::min(count, ahead); ++i) fetch(i);
  for (std::size_t i = 0; i < count; ++i) {
    if (i + ahead < count) fetch(i + ahead);
    const std::uint32_t place = unknown[i];
    if (place != 0)
      std::copy_n(row(place - 1), width_, rows + i * width_);
    else
      unknown[missing++] = static_cast<std::uint32_t>(i);
  }
  return missing;
}

void RowMemory::grow() {
  std::vector<Slot> before(2 * slots_.size());
  before.swap(slots_);
  for (const Slot& slot : before) {
    if (slot.row == 0) continue;
    std::size_t at = start(slot.id);
    while (slots_[at].row != 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = slot;
  }
}

void RowMemory::remember(std::span<const std::int64_t> ids, const std::int64_t* rows) {
  if (used_ + ids.size() > limit_) forget();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::size_t at = start(ids[i]);
    while (slots_[at].row != 0 && slots_[at].id != ids[i]) at = (at + 1) & (slots_.size() - 1);
    if (slots_[at].row != 0) continue;
    if (used_ == blocks_.size() * block_rows)
      blocks_.push_back(std::make_unique<std::int64_t[]>(std::max<std::size_t>(block_rows * width_, 1)));
    std::copy_n(rows + i * width_, width_, row(used_));
    slots_[at] = {ids[i], static_cast<std::uint32_t>(++used_)};
    if (2 * used_ > slots_.size()) grow();
  }
}

void RowMemory::forget() {
  ++stamp_;
  used_ = 0;
  if (slots_.size() > fewest_slots)
    slots_ = std::vector<Slot>(fewest_slots);
  else
    std::ranges::fill(slots_, Slot{});
}

}  // namespace pygrade::detail
