// A value that is replaced while threads use it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

#include "util/forks.hpp"

namespace pygrade::inline v0_2::detail {
template <class Value, class Memory>
struct alignas(64) HotSlot {
  std::atomic<const Value*> value{nullptr};  // in use; nullptr: the slot is free
  const int process = fork_count();          // that made the slot; others leave it alone
  HotSlot* next = nullptr;
  Memory memory{};
};

// Every user holds a slot, and the slot names the value in use (a hazard pointer). `swap` publishes the next value and
// waits until no slot names the one before. A user pays one compare-and-swap on a cache line of its own; a
// std::atomic<std::shared_ptr> would lock, and count references on a line that all threads share. A forked child may
// go on with what its parent had.
//
// `Memory` is what a user works in; slots are made as users need them and live as long as this does.
template <class Value, class Memory>
class HotSwap {
 public:
  using Slot = HotSlot<Value, Memory>;

  explicit HotSwap(std::unique_ptr<const Value> first) : current_(first.release()), id_(next_id()) {}
  HotSwap(const HotSwap&) = delete;
  HotSwap& operator=(const HotSwap&) = delete;
  ~HotSwap() {
    delete current_.load();
    for (Slot* slot = slots_.load(); slot != nullptr;) {
      Slot* next = slot->next;
      // A thread of the parent process may have been writing to a slot that was in use at the fork.
      if (slot->process == fork_count() || slot->value.load() == nullptr) delete slot;
      slot = next;
    }
  }

  // A slot that holds the current value until `release`.
  Slot& hold() const {
    const Value* held = current_.load();
    Slot& slot = claim(held);
    // The value may have been swapped before the slot named it: only one that is current afterwards is safe.
    for (const Value* now = current_.load(); now != held; now = current_.load()) {
      held = now;
      slot.value.store(now);
    }
    return slot;
  }
  // A slot that holds a value which another slot holds meanwhile.
  Slot& claim(const Value* value) const {
    // The slot that this thread used last is most likely free and warm. Ids are never used twice, so a stale entry of
    // one that is gone is not followed.
    static thread_local std::uint64_t last_id = 0;
    static thread_local Slot* last_slot = nullptr;
    const int process = fork_count();
    const auto take = [&](Slot* slot) {
      const Value* nobody = nullptr;
      return slot->process == process && slot->value.load(std::memory_order_relaxed) == nullptr &&
             slot->value.compare_exchange_strong(nobody, value);
    };
    if (last_id == id_ && take(last_slot)) return *last_slot;
    Slot* slot = slots_.load();
    while (slot != nullptr && !take(slot)) slot = slot->next;
    if (slot == nullptr) {
      slot = new Slot;
      slot->value.store(value);
      slot->next = slots_.load();
      while (!slots_.compare_exchange_weak(slot->next, slot)) {
      }
    }
    last_id = id_;
    last_slot = slot;
    return *slot;
  }
  static void release(Slot& slot) noexcept { slot.value.store(nullptr, std::memory_order_release); }

  // Puts `next` in place. Returns the value before it when no slot holds that any more.
  std::unique_ptr<const Value> swap(std::unique_ptr<const Value> next) {
    std::unique_ptr<const Value> before(current_.exchange(next.release()));
    int turns = 0;
    for (const Slot* slot = slots_.load(); slot != nullptr; slot = slot->next)
      while (slot->process == fork_count() && slot->value.load() == before.get())
        if (++turns < 100)
          std::this_thread::yield();
        else
          std::this_thread::sleep_for(std::chrono::microseconds(50));
    return before;
  }

  template <class Call>
  void for_each_slot(Call&& call) const {
    for (const Slot* slot = slots_.load(); slot != nullptr; slot = slot->next) call(*slot);
  }

 private:
  static std::uint64_t next_id() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
  }

  std::atomic<const Value*> current_;
  mutable std::atomic<Slot*> slots_{nullptr};
  const std::uint64_t id_;
};
}  // namespace pygrade::inline v0_2::detail
