// Eight doubles, one to a row of the batch, in the vectors of the instruction set a file is compiled for. The row ops
// work on eight rows at once: every sum over samples or tasks then stays inside a lane.
#pragma once

#include <cstdint>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "lanes.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

inline constexpr int row_lanes = 8;

#if defined(__AVX512F__)
inline constexpr int part_lanes = 8;
#elif defined(__AVX2__)
inline constexpr int part_lanes = 4;
#else
inline constexpr int part_lanes = 2;
#endif
inline constexpr int parts = row_lanes / part_lanes;

// Vectors that the compiler knows: they have the arithmetic, the comparisons and ?: of a double, lane by lane.
typedef double Part __attribute__((vector_size(8 * part_lanes)));
typedef std::uint64_t PartBits __attribute__((vector_size(8 * part_lanes)));
typedef std::int64_t PartMask __attribute__((vector_size(8 * part_lanes)));
typedef double PartInMemory __attribute__((vector_size(8 * part_lanes), aligned(8), may_alias));
typedef float PartOfFloats __attribute__((vector_size(4 * part_lanes), aligned(4), may_alias));

struct Doubles {
  Part part[parts];
};
struct Mask {
  PartMask part[parts];
};

#define PYGRADE_ROW_OP inline __attribute__((always_inline))

template <class Vector, class Function>
PYGRADE_ROW_OP Vector by_part(Function function) {
  Vector result;
#pragma GCC unroll 4
  for (int i = 0; i < parts; ++i) result.part[i] = function(i);
  return result;
}

PYGRADE_ROW_OP Doubles fill(double x) {
  return by_part<Doubles>([x](int) { return x - Part{}; });
}
PYGRADE_ROW_OP Doubles load(const double* p) {
  return by_part<Doubles>([p](int i) { return *reinterpret_cast<const PartInMemory*>(p + i * part_lanes); });
}
PYGRADE_ROW_OP Doubles load(const float* p) {
  return by_part<Doubles>([p](int i) -> Part {
#if defined(__AVX512F__)
    return _mm512_cvtps_pd(_mm256_loadu_ps(p + i * part_lanes));  // __builtin_convertvector takes four instructions
#else
    return __builtin_convertvector(*reinterpret_cast<const PartOfFloats*>(p + i * part_lanes), Part);
#endif
  });
}
PYGRADE_ROW_OP void store(double* p, Doubles x) {
#pragma GCC unroll 4
  for (int i = 0; i < parts; ++i) *reinterpret_cast<PartInMemory*>(p + i * part_lanes) = x.part[i];
}
PYGRADE_ROW_OP void store(float* p, Doubles x) {
#pragma GCC unroll 4
  for (int i = 0; i < parts; ++i)
    *reinterpret_cast<PartOfFloats*>(p + i * part_lanes) = __builtin_convertvector(x.part[i], PartOfFloats);
}
PYGRADE_ROW_OP Doubles operator+(Doubles a, Doubles b) {
  return by_part<Doubles>([&](int i) { return a.part[i] + b.part[i]; });
}
PYGRADE_ROW_OP Doubles operator-(Doubles a, Doubles b) {
  return by_part<Doubles>([&](int i) { return a.part[i] - b.part[i]; });
}
PYGRADE_ROW_OP Doubles operator*(Doubles a, Doubles b) {
  return by_part<Doubles>([&](int i) { return a.part[i] * b.part[i]; });
}
PYGRADE_ROW_OP Doubles operator/(Doubles a, Doubles b) {
  return by_part<Doubles>([&](int i) { return a.part[i] / b.part[i]; });
}
// a · b + c: rounded once where the instruction set can, for nothing in double is promised bit by bit.
PYGRADE_ROW_OP double multiply_add(double a, double b, double c) {
#if defined(__FMA__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}
PYGRADE_ROW_OP Part multiply_add(Part a, Part b, Part c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_pd(a, b, c);
#else
  return a * b + c;
#endif
}
PYGRADE_ROW_OP Part multiply_add(Part a, Part b, double c) { return multiply_add(a, b, Part{} + c); }
PYGRADE_ROW_OP Part multiply_add(Part a, double b, Part c) { return multiply_add(a, Part{} + b, c); }
PYGRADE_ROW_OP Part multiply_add(Part a, double b, double c) { return multiply_add(a, Part{} + b, Part{} + c); }
PYGRADE_ROW_OP Doubles multiply_add(Doubles a, Doubles b, Doubles c) {
  return by_part<Doubles>([&](int i) { return multiply_add(a.part[i], b.part[i], c.part[i]); });
}
PYGRADE_ROW_OP Doubles square_root(Doubles a) {
  return by_part<Doubles>([&](int i) -> Part {
#if defined(__AVX512F__)
    return _mm512_sqrt_pd(a.part[i]);
#elif defined(__AVX2__)
    return _mm256_sqrt_pd(a.part[i]);
#else
    return Part{__builtin_sqrt(a.part[i][0]), __builtin_sqrt(a.part[i][1])};
#endif
  });
}
PYGRADE_ROW_OP Mask operator<(Doubles a, Doubles b) {
  return by_part<Mask>([&](int i) { return a.part[i] < b.part[i]; });
}
PYGRADE_ROW_OP Mask operator==(Doubles a, Doubles b) {
  return by_part<Mask>([&](int i) { return a.part[i] == b.part[i]; });
}
PYGRADE_ROW_OP Mask operator|(Mask a, Mask b) {
  return by_part<Mask>([&](int i) { return a.part[i] | b.part[i]; });
}
PYGRADE_ROW_OP Doubles select(Mask mask, Doubles yes, Doubles no) {
  return by_part<Doubles>([&](int i) { return mask.part[i] ? yes.part[i] : no.part[i]; });
}

// `count` values, and 0 in the other lanes.
PYGRADE_ROW_OP Doubles load_first(const float* values, int count) {
  if (count == row_lanes) return load(values);
  alignas(64) float lane[row_lanes] = {};
  for (int l = 0; l < count; ++l) lane[l] = values[l];
  return load(lane);
}

// The first `count` lanes together.
inline double sum_of(Doubles x, int count) {
  alignas(64) double lane[row_lanes];
  store(lane, x);
  double sum = 0.0;
  for (int l = 0; l < count; ++l) sum += lane[l];
  return sum;
}

// The larger; x where it is NaN.
PYGRADE_ROW_OP Doubles raised(Doubles x, Doubles least) { return select(x < least, least, x); }
// The smaller; x where it is NaN.
PYGRADE_ROW_OP Doubles lowered(Doubles x, Doubles most) { return select(most < x, most, x); }

// Values [count ≤ 8, length] at `rows`, `stride` floats apart → columns[j · 8 + row]. The last row stands in for those
// that are missing.
inline void to_columns(const float* rows, std::int64_t stride, int count, std::int64_t length, float* columns) {
  std::int64_t j = 0;
  if (count == row_lanes)
    for (; j + 8 <= length; j += 8) transpose8(rows + j, stride, columns + j * row_lanes, row_lanes);
  for (; j < length; ++j)
    for (int l = 0; l < row_lanes; ++l) columns[j * row_lanes + l] = rows[(l < count ? l : count - 1) * stride + j];
}

// The way back, of the first `count` rows.
inline void from_columns(const float* columns, std::int64_t length, float* rows, std::int64_t stride, int count) {
  std::int64_t j = 0;
  if (count == row_lanes)
    for (; j + 8 <= length; j += 8) transpose8(columns + j * row_lanes, row_lanes, rows + j, stride);
  for (; j < length; ++j)
    for (int l = 0; l < count; ++l) rows[l * stride + j] = columns[j * row_lanes + l];
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
