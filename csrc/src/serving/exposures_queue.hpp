// A ring of records of any size: many threads put, one takes. No lock; `reserve` and `publish` do not wait.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace pygrade::inline v0_2::detail {
class RecordQueue {
 public:
  explicit RecordQueue(std::size_t bytes);

  // Room for a record, aligned to 16 bytes, to be published after it was written; null if there is none.
  std::byte* reserve(std::size_t size);
  void publish(std::byte* record);

  // The oldest record; empty if there is none that was published.
  std::span<std::byte> front();
  void pop();  // removes it

  // A mark after everything that was reserved so far, and whether all before it was popped.
  std::uint64_t mark() const { return head_.load(std::memory_order_acquire); }
  bool passed(std::uint64_t mark) const { return tail_.load(std::memory_order_acquire) >= mark; }

  std::size_t largest() const { return capacity_ / 2 - unit; }
  bool is_half_full() const {
    return head_.load(std::memory_order_relaxed) - tail_.load(std::memory_order_relaxed) > capacity_ / 2;
  }

 private:
  static constexpr std::size_t unit = 16;  // a record starts with a head of this size
  struct Head {
    std::atomic<std::uint64_t> state;  // 0 until it is published, then its bytes with the head; + 1: of a gap
    std::uint64_t bytes;               // that were reserved
  };
  static_assert(sizeof(Head) == unit);

  Head& head_at(std::uint64_t place) { return *reinterpret_cast<Head*>(memory_.get() + place % capacity_); }

  const std::size_t capacity_;
  std::unique_ptr<std::byte[]> memory_;  // 0 wherever no record lies
  alignas(64) std::atomic<std::uint64_t> head_{0};
  alignas(64) std::atomic<std::uint64_t> tail_{0};
};
}  // namespace pygrade::inline v0_2::detail
