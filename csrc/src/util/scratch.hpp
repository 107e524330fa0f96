// Working memory of one call of a kernel. The thread keeps it for its next call, which then costs no allocation and no
// page faults; more than 64 MiB are given back at once.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace pygrade::inline v0_2::detail {
// One at a time in a thread.
class Scratch {
 public:
  // `count` floats (or 32-bit integers), aligned to a cache line, with any content.
  explicit Scratch(std::size_t count) {
    if (count <= kept_.capacity) return;
    release();
    kept_.memory.reset(static_cast<float*>(::operator new(count * sizeof(float), alignment)));
    kept_.capacity = count;
  }
  ~Scratch() {
    if (kept_.capacity > most_kept) release();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* data() const { return kept_.memory.get(); }

 private:
  static constexpr std::align_val_t alignment{64};
  static constexpr std::size_t most_kept = std::size_t{1} << 24;
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, alignment); }
  };
  struct Memory {
    std::unique_ptr<float, Free> memory;
    std::size_t capacity = 0;
  };

  static Memory& of_this_thread() {
    static thread_local Memory memory;
    return memory;
  }
  void release() {
    kept_.memory.reset();
    kept_.capacity = 0;
  }

  Memory& kept_ = of_this_thread();
};
}  // namespace pygrade::inline v0_2::detail
