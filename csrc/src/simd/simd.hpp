// Vectors of floats and 32-bit integers for the instruction set that a file is compiled for, `lanes` values each. Every
// operation is exact per lane (IEEE or integer), so that algorithms written with it have the same bits everywhere.
// Masks are plain bits; lane 0 is the lowest. README.md has the overview.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#include "simd_avx512.hpp"
#elif defined(__AVX2__)
#include "simd_avx2.hpp"
#else
#include "simd_plain.hpp"
#endif

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr unsigned all_lanes = (1u << lanes) - 1;

// The lanes whose number has this bit.
PYGRADE_INLINE constexpr unsigned lanes_with(int bit) {
  unsigned mask = 0;
  for (int i = 0; i < lanes; ++i) mask |= static_cast<unsigned>((i & bit) != 0) << i;
  return mask;
}

// The lanes below `count`, which may be negative or beyond the vector.
PYGRADE_INLINE unsigned first_lanes(std::int64_t count) {
  return count >= lanes ? all_lanes : count <= 0 ? 0u : (1u << count) - 1;
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
