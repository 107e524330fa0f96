// Memory of requests that no request uses, taken and given back without a lock.
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
  ~Pool() {
    for (auto& place : free_) delete place.load();
  }

  std::unique_ptr<T> take() {
    for (auto& place : free_)
      if (place.load(std::memory_order_relaxed) != nullptr)
        if (T* found = place.exchange(nullptr, std::memory_order_acquire)) return std::unique_ptr<T>(found);
    return std::make_unique<T>();
  }
  // More than it has places for are freed.
  void give(std::unique_ptr<T> value) noexcept {
    for (auto& place : free_) {
      T* nothing = nullptr;
      if (place.compare_exchange_strong(nothing, value.get(), std::memory_order_release, std::memory_order_relaxed)) {
        value.release();
        return;
      }
    }
  }

  // One for the time of a request.
  class Loan {
   public:
    explicit Loan(Pool& pool) : pool_(pool), value_(pool.take()) {}
    ~Loan() { pool_.give(std::move(value_)); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    T& operator*() const { return *value_; }

   private:
    Pool& pool_;
    std::unique_ptr<T> value_;
  };

 private:
  std::array<std::atomic<T*>, 64> free_{};
};

}  // namespace pygrade::inline v0_2::detail
