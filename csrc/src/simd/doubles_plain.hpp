// Part, a vector of doubles, for any processor: 2 lanes. doubles_avx512.hpp documents the operations.
#pragma once

#include "inline.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr int part_lanes = 2;
typedef double Part __attribute__((vector_size(16)));
typedef float PartOfFloats __attribute__((vector_size(8), aligned(4), may_alias));

PYGRADE_INLINE Part load_part(const float* p) {
  return __builtin_convertvector(*reinterpret_cast<const PartOfFloats*>(p), Part);
}
PYGRADE_INLINE void store_part(float* p, Part x) {
  *reinterpret_cast<PartOfFloats*>(p) = __builtin_convertvector(x, PartOfFloats);
}

template <class Float>
PYGRADE_INLINE Part load_fewer(const Float* p, int count) {
  return Part{count > 0 ? static_cast<double>(p[0]) : 0.0, 0.0};
}

PYGRADE_INLINE double multiply_add(double a, double b, double c) { return a * b + c; }
PYGRADE_INLINE Part multiply_add(Part a, Part b, Part c) { return a * b + c; }
PYGRADE_INLINE Part square_root(Part a) { return Part{__builtin_sqrt(a[0]), __builtin_sqrt(a[1])}; }

PYGRADE_INLINE Part max(Part a, Part b) { return b < a ? a : b; }
PYGRADE_INLINE Part min(Part a, Part b) { return a < b ? a : b; }

template <class Join>
PYGRADE_INLINE Part across(const Part* v, Join join) {
  return join(__builtin_shufflevector(v[0], v[1], 0, 2), __builtin_shufflevector(v[0], v[1], 1, 3));
}

PYGRADE_INLINE void transpose_parts(Part* v) {
  const Part first = __builtin_shufflevector(v[0], v[1], 0, 2);
  v[1] = __builtin_shufflevector(v[0], v[1], 1, 3);
  v[0] = first;
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
