// The stream of Dirichlet draws: seed << 32 | offset.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <random>
#include <stdexcept>

namespace pygrade::inline v0_2::detail {
inline constexpr std::uint64_t max_draw_of_seed = 0xffffffff;

// The first draw of a seed, by default from the system. std::invalid_argument for one that is not below 2^31.
inline std::uint64_t first_draw(std::optional<std::uint32_t> seed) {
  if (seed && *seed >> 31) throw std::invalid_argument("seed must be below 2^31");
  return static_cast<std::uint64_t>(seed ? *seed : std::random_device{}() >> 1) << 32;
}

// The first of `count` draws of one seed, count below 2^32.
inline std::uint64_t reserve_draws(std::atomic<std::uint64_t>& stream, std::uint64_t count) {
  std::uint64_t first, before = stream.load(std::memory_order_relaxed);
  do {
    const bool full = (before & max_draw_of_seed) + count > max_draw_of_seed;  // on with the next seed
    first = full ? ((before >> 32) + 1) % (std::uint64_t{1} << 31) << 32 : before;
  } while (!stream.compare_exchange_weak(before, first + count, std::memory_order_relaxed));
  return first;
}
}  // namespace pygrade::inline v0_2::detail
