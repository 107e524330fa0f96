#pragma once

#include <cstdint>

namespace pygrade::inline v0_2::detail {
// splitmix64's finalizer: a bijection whose output bits all depend on all input bits. Kernels use it, too, so that no
// symbol of it may remain.
[[gnu::always_inline]] inline constexpr std::uint64_t splitmix64(std::uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}
}  // namespace pygrade::inline v0_2::detail
