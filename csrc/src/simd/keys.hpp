// Sort keys: 32-bit integers in the order of the scores. Equal scores have equal keys; so have -0 and +0.
#pragma once

#include <cstdint>

#include "inline.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr std::int32_t key_none = INT32_MIN;               // of no candidate; below every key
constexpr std::int32_t key_nan = INT32_MIN + 1;            // of NaN; below -inf
constexpr std::int32_t key_lowest = INT32_MIN + 0x7fffff;  // of -inf

// The score that has this key, which is not key_nan.
PYGRADE_INLINE float score_of_key(std::int32_t key) {
  return __builtin_bit_cast(float, key < 0 ? key ^ 0x7fffffff : key);
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
