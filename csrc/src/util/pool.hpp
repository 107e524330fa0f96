// Memory of requests that no request uses, acquired and released without a lock.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <utility>

namespace pygrade::inline v0_2::detail {
template <class T>
class Pool {
 public:
  Pool() = default;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { clear(); }

  std::unique_ptr<T> acquire() {
    for (auto& place : free_)
      if (place.load(std::memory_order_relaxed) != nullptr)
        if (T* found = place.exchange(nullptr, std::memory_order_acquire)) return std::unique_ptr<T>(found);
    return std::make_unique<T>();
  }
  // More than it has places for are freed.
  void release(std::unique_ptr<T> value) noexcept {
    for (auto& place : free_) {
      T* nothing = nullptr;
      if (place.compare_exchange_strong(nothing, value.get(), std::memory_order_release, std::memory_order_relaxed)) {
        value.release();
        return;
      }
    }
  }

  // Frees those that no request uses.
  void clear() {
    for (auto& place : free_) delete place.exchange(nullptr, std::memory_order_acquire);
  }

 private:
  std::array<std::atomic<T*>, 64> free_{};
};

// One of a pool for the time of a request.
template <class P>
class Loan {
 public:
  explicit Loan(P& pool) : pool_(pool), value_(pool.acquire()) {}
  ~Loan() { pool_.release(std::move(value_)); }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  auto& operator*() const { return *value_; }

 private:
  P& pool_;
  decltype(std::declval<P&>().acquire()) value_;
};
}  // namespace pygrade::inline v0_2::detail
