// The floating-point environment that the kernels are written for.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#include <cstdint>

namespace pygrade::inline v0_2::detail {
// Rounds to nearest and keeps denormals in the calling thread during its lifetime, then restores the caller's settings.
// Servers and torch.set_flush_denormal often flush denormals to zero, which would change results.
class FloatEnvironment {
 public:
#if defined(__SSE__)
  FloatEnvironment() : saved_(_mm_getcsr()) {
    if (changes()) _mm_setcsr(kDefault);
  }
  ~FloatEnvironment() {
    if (changes()) _mm_setcsr(saved_);
  }

 private:
  static constexpr unsigned kDefault = 0x1f80;  // all exceptions masked, round to nearest, no FTZ, no DAZ
  static constexpr unsigned kFlags = 0x3f;      // sticky exception flags; no effect on results
  bool changes() const { return (saved_ & ~kFlags) != kDefault; }
  unsigned saved_;
#elif defined(__aarch64__)
  FloatEnvironment() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    set(0);
  }
  ~FloatEnvironment() { set(saved_); }

 private:
  static void set(std::uint64_t value) { __asm__ volatile("msr fpcr, %0" : : "r"(value)); }
  std::uint64_t saved_ = 0;
#else
  FloatEnvironment() = default;
  ~FloatEnvironment() = default;
#endif

 public:
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;
};
}  // namespace pygrade::inline v0_2::detail
