#include "serving/exposures_queue.hpp"

#include <cstring>

namespace pygrade::inline v0_2::detail {
RecordQueue::RecordQueue(std::size_t bytes)
    : capacity_((bytes + unit - 1) / unit * unit), memory_(std::make_unique<std::byte[]>(capacity_)) {}

std::byte* RecordQueue::reserve(std::size_t size) {
  const std::uint64_t needed = (size + 2 * unit - 1) / unit * unit;
  if (needed > capacity_ / 2) return nullptr;
  std::uint64_t head = head_.load(std::memory_order_relaxed);
  std::uint64_t gap = 0;
  do {
    const std::uint64_t left = capacity_ - head % capacity_;
    gap = needed <= left ? 0 : left;
    if (head + gap + needed - tail_.load(std::memory_order_acquire) > capacity_) return nullptr;
  } while (!head_.compare_exchange_weak(head, head + gap + needed, std::memory_order_acq_rel));
  if (gap > 0) head_at(head).state.store(gap + 1, std::memory_order_release);
  Head& start = head_at(head + gap);
  start.bytes = needed;
  return reinterpret_cast<std::byte*>(&start) + unit;
}

void RecordQueue::publish(std::byte* record) {
  Head& start = *reinterpret_cast<Head*>(record - unit);
  start.state.store(start.bytes, std::memory_order_release);
}

std::span<std::byte> RecordQueue::front() {
  for (;;) {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    Head& start = head_at(tail);
    const std::uint64_t state = start.state.load(std::memory_order_acquire);
    if (state == 0) return {};
    if (state % unit == 0) return {reinterpret_cast<std::byte*>(&start) + unit, static_cast<std::size_t>(state) - unit};
    start.state.store(0, std::memory_order_relaxed);  // a gap at the end
    tail_.store(tail + state - 1, std::memory_order_release);
  }
}

void RecordQueue::pop() {
  const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
  Head& start = head_at(tail);
  const std::uint64_t bytes = start.state.load(std::memory_order_relaxed);
  std::memset(reinterpret_cast<std::byte*>(&start) + unit, 0, bytes - unit);
  start.bytes = 0;
  start.state.store(0, std::memory_order_relaxed);
  tail_.store(tail + bytes, std::memory_order_release);
}
}  // namespace pygrade::inline v0_2::detail
