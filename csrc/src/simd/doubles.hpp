// Doubles: eight doubles, one for each of eight rows of the batch, as one or more Parts, the double vectors of the
// instruction set. Sums over samples or tasks then stay inside a lane.
#pragma once

#include <cstdint>

#include "lanes.hpp"

#if defined(__AVX512F__)
#include "doubles_avx512.hpp"
#elif defined(__AVX2__)
#include "doubles_avx2.hpp"
#else
#include "doubles_plain.hpp"
#endif

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
inline constexpr int row_lanes = 8;
inline constexpr int parts = row_lanes / part_lanes;

// Vector extensions of the compiler: arithmetic, comparisons and ?: work lane by lane.
typedef std::uint64_t PartBits __attribute__((vector_size(8 * part_lanes)));
typedef std::int64_t PartMask __attribute__((vector_size(8 * part_lanes)));
typedef double PartInMemory __attribute__((vector_size(8 * part_lanes), aligned(8), may_alias));

struct Doubles {
  Part part[parts];
};
struct Mask {
  PartMask part[parts];
};

template <class Vector, class Function>
PYGRADE_INLINE Vector by_part(Function function) {
  Vector result;
#pragma GCC unroll 4
  for (int i = 0; i < parts; ++i) result.part[i] = function(i);
  return result;
}

PYGRADE_INLINE Part fill_part(double x) { return x - Part{}; }  // x + 0 would turn -0 into 0
PYGRADE_INLINE Doubles fill(double x) {
  return by_part<Doubles>([x](int) { return fill_part(x); });
}
PYGRADE_INLINE Part load_part(const double* p) { return *reinterpret_cast<const PartInMemory*>(p); }
PYGRADE_INLINE void store_part(double* p, Part x) { *reinterpret_cast<PartInMemory*>(p) = x; }
PYGRADE_INLINE Doubles load(const double* p) {
  return by_part<Doubles>([p](int i) { return load_part(p + i * part_lanes); });
}
PYGRADE_INLINE Doubles load(const float* p) {
  return by_part<Doubles>([p](int i) { return load_part(p + i * part_lanes); });
}
PYGRADE_INLINE void store(double* p, Doubles x) {
#pragma GCC unroll 4
  for (int i = 0; i < parts; ++i) store_part(p + i * part_lanes, x.part[i]);
}
PYGRADE_INLINE void store(float* p, Doubles x) {
#pragma GCC unroll 4
  for (int i = 0; i < parts; ++i) store_part(p + i * part_lanes, x.part[i]);
}
PYGRADE_INLINE Doubles operator+(Doubles a, Doubles b) {
  return by_part<Doubles>([&](int i) { return a.part[i] + b.part[i]; });
}
PYGRADE_INLINE Doubles operator-(Doubles a, Doubles b) {
  return by_part<Doubles>([&](int i) { return a.part[i] - b.part[i]; });
}
PYGRADE_INLINE Doubles operator*(Doubles a, Doubles b) {
  return by_part<Doubles>([&](int i) { return a.part[i] * b.part[i]; });
}
PYGRADE_INLINE Doubles operator/(Doubles a, Doubles b) {
  return by_part<Doubles>([&](int i) { return a.part[i] / b.part[i]; });
}
PYGRADE_INLINE Part multiply_add(Part a, Part b, double c) { return multiply_add(a, b, fill_part(c)); }
PYGRADE_INLINE Part multiply_add(Part a, double b, Part c) { return multiply_add(a, fill_part(b), c); }
PYGRADE_INLINE Part multiply_add(Part a, double b, double c) { return multiply_add(a, fill_part(b), fill_part(c)); }
PYGRADE_INLINE Doubles multiply_add(Doubles a, Doubles b, Doubles c) {
  return by_part<Doubles>([&](int i) { return multiply_add(a.part[i], b.part[i], c.part[i]); });
}
PYGRADE_INLINE Doubles square_root(Doubles a) {
  return by_part<Doubles>([&](int i) { return square_root(a.part[i]); });
}
PYGRADE_INLINE Mask operator<(Doubles a, Doubles b) {
  return by_part<Mask>([&](int i) { return a.part[i] < b.part[i]; });
}
PYGRADE_INLINE Mask operator==(Doubles a, Doubles b) {
  return by_part<Mask>([&](int i) { return a.part[i] == b.part[i]; });
}
PYGRADE_INLINE Doubles select(Mask mask, Doubles yes, Doubles no) {
  return by_part<Doubles>([&](int i) { return mask.part[i] ? yes.part[i] : no.part[i]; });
}

// --- one part: its first lanes, and sums across lanes

// x with 0 in the lanes from `count` on.
PYGRADE_INLINE Part keep_first(Part x, int count) {
  PartMask lane;
#pragma GCC unroll 8
  for (int i = 0; i < part_lanes; ++i) lane[i] = i;
  return lane < count ? x : Part{};
}
// `count` ≤ part_lanes values, 0 in the other lanes. Reads no memory beyond the values.
template <class Float>
PYGRADE_INLINE Part load_first(const Float* p, int count) {
  return count == part_lanes ? load_part(p) : load_fewer(p, count);
}
template <class Float>
PYGRADE_INLINE void store_first(Float* p, Part x, int count) {
  if (count == part_lanes) return store_part(p, x);
  for (int l = 0; l < count; ++l) p[l] = static_cast<Float>(x[l]);
}

PYGRADE_INLINE Part sums_across(const Part* v) {
  return across(v, [](Part a, Part b) { return a + b; });
}

// The sum of the first `count` lanes.
inline double sum_of(Doubles x, int count) {
  alignas(64) double lane[row_lanes];
  store(lane, x);
  double sum = 0.0;
  for (int l = 0; l < count; ++l) sum += lane[l];
  return sum;
}

PYGRADE_INLINE Doubles max(Doubles a, Doubles b) {
  return by_part<Doubles>([&](int i) { return max(a.part[i], b.part[i]); });
}

// rows[count ≤ 8, length], `stride` floats apart → columns[j · 8 + row]. Missing rows repeat the last one.
inline void to_columns(const float* rows, std::int64_t stride, int count, std::int64_t length, float* columns) {
  std::int64_t j = 0;
  if (count == row_lanes)
    for (; j + 8 <= length; j += 8) transpose8(rows + j, stride, columns + j * row_lanes, row_lanes);
  for (; j < length; ++j)
    for (int l = 0; l < row_lanes; ++l) columns[j * row_lanes + l] = rows[(l < count ? l : count - 1) * stride + j];
}

// The inverse of to_columns, for the first `count` rows.
inline void from_columns(const float* columns, std::int64_t length, float* rows, std::int64_t stride, int count) {
  std::int64_t j = 0;
  if (count == row_lanes)
    for (; j + 8 <= length; j += 8) transpose8(columns + j * row_lanes, row_lanes, rows + j, stride);
  for (; j < length; ++j)
    for (int l = 0; l < count; ++l) rows[l * stride + j] = columns[j * row_lanes + l];
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
