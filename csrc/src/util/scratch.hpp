// Working memory of a kernel, kept by the thread that used it last: a call costs no allocation and no page faults.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace pygrade::detail {

class Scratch {
 public:
  // At least `count` floats (or 32-bit integers), aligned to a cache line, holding anything. Valid until the next call.
  float* floats(std::size_t count) {
    if (count > capacity_ || capacity_ > keep) {
      memory_.reset();
      capacity_ = 0;
      memory_.reset(static_cast<float*>(::operator new(count * sizeof(float), alignment)));
      capacity_ = count;
    }
    return memory_.get();
  }

  static Scratch& of_this_thread() {
    static thread_local Scratch scratch;
    return scratch;
  }

 private:
  static constexpr std::align_val_t alignment{64};
  static constexpr std::size_t keep = std::size_t{1} << 24;  // 64 MiB: larger ones are not held on to
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, alignment); }
  };
  std::unique_ptr<float, Free> memory_;
  std::size_t capacity_ = 0;
};

}  // namespace pygrade::detail
