// Hashes that nobody outside the process can foresee, so that no request is made of ids that collide.
#pragma once

#include <cstdint>
#include <random>

#include "util/hash.hpp"

namespace pygrade::inline v0_2::detail {
inline const std::uint64_t process_seed = [] {
  std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}();

inline std::uint64_t seeded_hash(std::int64_t id) { return splitmix64(static_cast<std::uint64_t>(id) ^ process_seed); }
}  // namespace pygrade::inline v0_2::detail
