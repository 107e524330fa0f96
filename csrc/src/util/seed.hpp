// Hashes that nobody outside the process can foresee, so that no request is made of ids that collide.
#pragma once

#include <cstdint>
#include <random>

namespace pygrade::inline v0_2::detail {

inline const std::uint64_t process_seed = [] {
  std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}();

// splitmix64's finalizer of the id and the seed; it differs between processes.
inline std::uint64_t seeded_hash(std::int64_t id) {
  std::uint64_t x = static_cast<std::uint64_t>(id) ^ process_seed;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

}  // namespace pygrade::inline v0_2::detail
