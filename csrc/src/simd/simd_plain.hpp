// Floats and Ints for any processor: 4 lanes, plain loops that the compiler vectorizes. simd_avx512.hpp documents the
// operations.
#pragma once

#include <cstdint>

#include "keys.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr int lanes = 4;
struct Floats {
  float at[lanes];
};
struct Ints {
  std::int32_t at[lanes];
};

template <class Vector, class Function>
PYGRADE_INLINE Vector each(Function function) {
  Vector result;
  for (int i = 0; i < lanes; ++i) result.at[i] = function(i);
  return result;
}
template <class Function>
PYGRADE_INLINE unsigned each_bit(Function function) {
  unsigned mask = 0;
  for (int i = 0; i < lanes; ++i) mask |= static_cast<unsigned>(function(i)) << i;
  return mask;
}

PYGRADE_INLINE Floats load(const float* p) {
  return each<Floats>([p](int i) { return p[i]; });
}
PYGRADE_INLINE void store(float* p, Floats v) { __builtin_memcpy(p, v.at, sizeof v.at); }
PYGRADE_INLINE Floats broadcast(float x) {
  return each<Floats>([x](int) { return x; });
}
PYGRADE_INLINE Floats add(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] + b.at[i]; });
}
PYGRADE_INLINE Floats sub(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] - b.at[i]; });
}
PYGRADE_INLINE Floats mul(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] * b.at[i]; });
}
PYGRADE_INLINE Floats div(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] / b.at[i]; });
}
PYGRADE_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return __builtin_fmaf(a.at[i], b.at[i], c.at[i]); });
}
PYGRADE_INLINE Floats max(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
PYGRADE_INLINE Floats min(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
}
PYGRADE_INLINE unsigned greater_equal(Floats a, Floats b) {
  return each_bit([&](int i) { return a.at[i] >= b.at[i]; });
}
PYGRADE_INLINE Floats select(unsigned mask, Floats yes, Floats no) {
  return each<Floats>([&](int i) { return (mask >> i & 1) ? yes.at[i] : no.at[i]; });
}
PYGRADE_INLINE Ints load(const std::int32_t* p) {
  return each<Ints>([p](int i) { return p[i]; });
}
PYGRADE_INLINE void store(std::int32_t* p, Ints v) { __builtin_memcpy(p, v.at, sizeof v.at); }
PYGRADE_INLINE Ints broadcast(std::int32_t x) {
  return each<Ints>([x](int) { return x; });
}
PYGRADE_INLINE Ints as_ints(Floats a) { return __builtin_bit_cast(Ints, a); }
PYGRADE_INLINE Floats number_of_bits(Floats a) {
  return each<Floats>([&](int i) { return static_cast<float>(__builtin_bit_cast(std::int32_t, a.at[i])); });
}
PYGRADE_INLINE Floats as_floats(Ints a) { return __builtin_bit_cast(Floats, a); }
PYGRADE_INLINE Ints add(Ints a, Ints b) {  // wraps as instructions do: unused lanes may hold anything
  return each<Ints>([&](int i) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.at[i]) + static_cast<std::uint32_t>(b.at[i]));
  });
}
PYGRADE_INLINE Ints sub(Ints a, Ints b) {
  return each<Ints>([&](int i) {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.at[i]) - static_cast<std::uint32_t>(b.at[i]));
  });
}
PYGRADE_INLINE Ints max(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
PYGRADE_INLINE Ints min(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
}
PYGRADE_INLINE Ints iota() {
  return each<Ints>([](int i) { return i; });
}
PYGRADE_INLINE unsigned greater(Ints a, Ints b) {
  return each_bit([&](int i) { return a.at[i] > b.at[i]; });
}
PYGRADE_INLINE unsigned greater_equal(Ints a, Ints b) {
  return each_bit([&](int i) { return a.at[i] >= b.at[i]; });
}
PYGRADE_INLINE Ints count_greater(Ints count, Ints a, Ints b) {
  return each<Ints>([&](int i) { return count.at[i] + (a.at[i] > b.at[i] ? 1 : 0); });
}
PYGRADE_INLINE Ints select(unsigned mask, Ints yes, Ints no) {
  return each<Ints>([&](int i) { return (mask >> i & 1) ? yes.at[i] : no.at[i]; });
}
PYGRADE_INLINE void compress(std::int32_t* p, unsigned mask, Ints v) {
  for (int i = 0; i < lanes; ++i) {
    *p = v.at[i];
    p += mask >> i & 1;
  }
}
PYGRADE_INLINE void compress(float* p, unsigned mask, Floats v) {
  for (int i = 0; i < lanes; ++i) {
    *p = v.at[i];
    p += mask >> i & 1;
  }
}
PYGRADE_INLINE Ints order_key(Floats x) {
  return each<Ints>([&](int i) {
    const float canonical = x.at[i] + 0.0f;
    const std::int32_t bits = __builtin_bit_cast(std::int32_t, canonical);
    const std::int32_t key = bits ^ (bits < 0 ? 0x7fffffff : 0);
    return x.at[i] == x.at[i] ? key : key_nan;
  });
}
PYGRADE_INLINE Ints shift_left(Ints a, int bits) {
  return each<Ints>([&](int i) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.at[i]) << bits); });
}
// table[index % 8]
PYGRADE_INLINE Floats look_up8(const float* table, Ints index) {
  Floats found;
  for (int i = 0; i < lanes; ++i) found.at[i] = table[index.at[i] & 7];
  return found;
}
PYGRADE_INLINE Ints shift_right(Ints a, int bits) {
  return each<Ints>([&](int i) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(a.at[i]) >> bits); });
}
PYGRADE_INLINE std::uint64_t reaching64(const float* p, Floats bound) {
  std::uint64_t word = 0;
  for (int i = 0; i < 64; i += lanes) word |= std::uint64_t{greater_equal(load(p + i), bound)} << i;
  return word;
}

PYGRADE_INLINE Ints bits_and(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] & b.at[i]; });
}
PYGRADE_INLINE Ints bits_or(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] | b.at[i]; });
}
PYGRADE_INLINE Ints bits_xor(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.at[i] ^ b.at[i]; });
}
template <int distance>
PYGRADE_INLINE Ints swap_lanes(Ints a) {
  return each<Ints>([&](int i) { return a.at[i ^ distance]; });
}
PYGRADE_INLINE Ints next_lanes(Ints a) {
  return each<Ints>([&](int i) { return a.at[(i + 1) % lanes]; });
}
PYGRADE_INLINE std::int32_t max_of(Ints a) {
  std::int32_t result = a.at[0];
  for (int i = 1; i < lanes; ++i) result = a.at[i] > result ? a.at[i] : result;
  return result;
}
PYGRADE_INLINE std::int32_t min_of(Ints a) {
  std::int32_t result = a.at[0];
  for (int i = 1; i < lanes; ++i) result = a.at[i] < result ? a.at[i] : result;
  return result;
}
PYGRADE_INLINE unsigned nonzero(const std::uint8_t* p) {
  return each_bit([p](int i) { return p[i] != 0; });
}
PYGRADE_INLINE float float_of_float16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 0x1fu;
  const std::uint32_t fraction = half & 0x3ffu;
  if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return __builtin_bit_cast(float, sign | (exponent + 112) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * 0x1p-24f;  // subnormal: exact
  return sign != 0 ? -small : small;
}
PYGRADE_INLINE Floats widen_float16(const std::uint16_t* p) {
  return each<Floats>([p](int i) { return float_of_float16(p[i]); });
}
PYGRADE_INLINE Floats widen_bfloat16(const std::uint16_t* p) {
  return each<Floats>([p](int i) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(p[i]) << 16); });
}

PYGRADE_INLINE std::int32_t lowest_bit(std::uint64_t word) { return word == 0 ? 0 : __builtin_ctzll(word); }
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
