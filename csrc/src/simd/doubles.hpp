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

PYGRADE_ROW_OP Part fill_part(double x) { return x - Part{}; }  // x + 0 would have to turn -0 into 0
PYGRADE_ROW_OP Doubles fill(double x) {
  return by_part<Doubles>([x](int) { return fill_part(x); });
}
PYGRADE_ROW_OP Part load_part(const double* p) { return *reinterpret_cast<const PartInMemory*>(p); }
PYGRADE_ROW_OP Part load_part(const float* p) {
#if defined(__AVX512F__)  // __builtin_convertvector takes four instructions
  return _mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(__AVX2__)
  return _mm256_cvtps_pd(_mm_loadu_ps(p));
#else
  return __builtin_convertvector(*reinterpret_cast<const PartOfFloats*>(p), Part);
#endif
}
PYGRADE_ROW_OP void store_part(double* p, Part x) { *reinterpret_cast<PartInMemory*>(p) = x; }
PYGRADE_ROW_OP void store_part(float* p, Part x) {
#if defined(__AVX512F__)
  _mm256_storeu_ps(p, _mm512_cvtpd_ps(x));
#elif defined(__AVX2__)
  _mm_storeu_ps(p, _mm256_cvtpd_ps(x));
#else
  *reinterpret_cast<PartOfFloats*>(p) = __builtin_convertvector(x, PartOfFloats);
#endif
}
PYGRADE_ROW_OP Doubles load(const double* p) {
  return by_part<Doubles>([p](int i) { return load_part(p + i * part_lanes); });
}
PYGRADE_ROW_OP Doubles load(const float* p) {
  return by_part<Doubles>([p](int i) { return load_part(p + i * part_lanes); });
}
PYGRADE_ROW_OP void store(double* p, Doubles x) {
#pragma GCC unroll 4
  for (int i = 0; i < parts; ++i) store_part(p + i * part_lanes, x.part[i]);
}
PYGRADE_ROW_OP void store(float* p, Doubles x) {
#pragma GCC unroll 4
  for (int i = 0; i < parts; ++i) store_part(p + i * part_lanes, x.part[i]);
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
PYGRADE_ROW_OP Part multiply_add(Part a, Part b, double c) { return multiply_add(a, b, fill_part(c)); }
PYGRADE_ROW_OP Part multiply_add(Part a, double b, Part c) { return multiply_add(a, fill_part(b), c); }
PYGRADE_ROW_OP Part multiply_add(Part a, double b, double c) { return multiply_add(a, fill_part(b), fill_part(c)); }
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

// --- one part: its first lanes, and sums across

// 0 in the lanes from `count` on.
PYGRADE_ROW_OP Part keep_first(Part x, int count) {
  PartMask lane;
#pragma GCC unroll 8
  for (int i = 0; i < part_lanes; ++i) lane[i] = i;
  return lane < count ? x : Part{};
}
// `count` ≤ part_lanes values and 0 in the other lanes, whose memory is not touched.
template <class Float>
PYGRADE_ROW_OP Part load_first(const Float* p, int count) {
  if (count == part_lanes) return load_part(p);
  alignas(64) Float lane[part_lanes] = {};
  for (int l = 0; l < count; ++l) lane[l] = p[l];
  return load_part(lane);
}
template <class Float>
PYGRADE_ROW_OP void store_first(Float* p, Part x, int count) {
  if (count == part_lanes) return store_part(p, x);
  for (int l = 0; l < count; ++l) p[l] = static_cast<Float>(x[l]);
}

// Lane i is all lanes of v[i] joined, for part_lanes vectors.
template <class Join>
PYGRADE_ROW_OP Part across(const Part* v, Join join) {
#if defined(__AVX512F__)
  Part pair[4], four[2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    pair[i] = join(__builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14),
                   __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    four[i] = join(__builtin_shufflevector(pair[2 * i], pair[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13),
                   __builtin_shufflevector(pair[2 * i], pair[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15));
  return join(__builtin_shufflevector(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11),
              __builtin_shufflevector(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15));
#elif defined(__AVX2__)
  Part pair[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    pair[i] = join(__builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 4, 2, 6),
                   __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 5, 3, 7));
  return join(__builtin_shufflevector(pair[0], pair[1], 0, 1, 4, 5),
              __builtin_shufflevector(pair[0], pair[1], 2, 3, 6, 7));
#else
  return join(__builtin_shufflevector(v[0], v[1], 0, 2), __builtin_shufflevector(v[0], v[1], 1, 3));
#endif
}
// Lane j of v[i] and lane i of v[j] in each other's place, for part_lanes vectors.
PYGRADE_ROW_OP void transpose_parts(Part* v) {
#if defined(__AVX512F__)
  Part pair[8], four[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pair[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    pair[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const int j = i / 2 * 4 + i % 2;
    four[j] = __builtin_shufflevector(pair[j], pair[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    four[j + 2] = __builtin_shufflevector(pair[j], pair[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(four[i], four[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(four[i], four[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#elif defined(__AVX2__)
  Part pair[4];
#pragma GCC unroll 2
  for (int i = 0; i < 4; i += 2) {
    pair[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 4, 2, 6);
    pair[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 1, 5, 3, 7);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    v[i] = __builtin_shufflevector(pair[i], pair[i + 2], 0, 1, 4, 5);
    v[i + 2] = __builtin_shufflevector(pair[i], pair[i + 2], 2, 3, 6, 7);
  }
#else
  const Part first = __builtin_shufflevector(v[0], v[1], 0, 2);
  v[1] = __builtin_shufflevector(v[0], v[1], 1, 3);
  v[0] = first;
#endif
}
PYGRADE_ROW_OP Part sums_across(const Part* v) {
  return across(v, [](Part a, Part b) { return a + b; });
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
PYGRADE_ROW_OP Part raised(Part x, Part least) {
#if defined(__AVX512F__)
  return _mm512_max_pd(least, x);  // the second where they are not ordered
#elif defined(__AVX2__)
  return _mm256_max_pd(least, x);
#else
  return x < least ? least : x;
#endif
}
PYGRADE_ROW_OP Doubles raised(Doubles x, Doubles least) {
  return by_part<Doubles>([&](int i) { return raised(x.part[i], least.part[i]); });
}
// The smaller; x where it is NaN.
PYGRADE_ROW_OP Part lowered(Part x, Part most) {
#if defined(__AVX512F__)
  return _mm512_min_pd(most, x);
#elif defined(__AVX2__)
  return _mm256_min_pd(most, x);
#else
  return most < x ? most : x;
#endif
}
PYGRADE_ROW_OP Doubles lowered(Doubles x, Doubles most) {
  return by_part<Doubles>([&](int i) { return lowered(x.part[i], most.part[i]); });
}

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
