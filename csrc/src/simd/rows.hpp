// One weight vector over item-major rows without a transposed tile: registers full of rows are multiplied as they stand
// and reduced by shuffles that split each pair of halves, which is what the tree of fusion.hpp asks for. No gathers.
#pragma once

#include "../fusion.hpp"
#include "fuse.hpp"
#include "numerics.hpp"
#include "select.hpp"
#include "simd.hpp"
#include "tile.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

#if defined(__AVX2__)

constexpr std::int64_t row_overread = 16;  // floats that fuse_rows may read behind its rows, whatever stands there

// The fused scores of `lanes` candidates, P (4, 8 or 16) being the padded number of tasks.
template <int P>
struct RowFuser {
  std::int64_t tasks;
  Floats first, second;  // weights of tasks [0, P/2) and [P/2, P), repeated over the register
  Ints order;            // undoes the order that the reduction leaves
  Ints spread;           // moves rows of T to a distance of P (P = 4, and 8 where a register holds two rows)
#if defined(__AVX512F__)
  __mmask16 present;  // lanes of `second` whose task exists
#else
  Floats present;
#endif

  RowFuser(const float* weights, std::int64_t number_of_tasks) : tasks(number_of_tasks) {
    constexpr int half = P / 2;
    constexpr int groups = lanes / 4;
    float low[lanes], high[lanes];
    std::int32_t at[lanes], from[lanes];
    unsigned exists = 0;
    for (int i = 0; i < lanes; ++i) {
      const int j = i % half;
      low[i] = weights[j];
      high[i] = j + half < tasks ? weights[j + half] : 0.0f;
      exists |= j + half < tasks ? 1u << i : 0u;
      at[i] = i % groups * 4 + i / groups;
      const auto moved = static_cast<std::int32_t>(i / P * tasks + i % P);
      from[i] = moved < lanes ? moved : 0;
    }
    first = load(low);
    second = load(high);
    order = load(at);
    spread = load(from);
#if defined(__AVX512F__)
    present = static_cast<__mmask16>(exists);
#else
    present = _mm256_castsi256_ps(lanes_of(exists));
#endif
  }

  // Adds the second half's products where those tasks exist.
  PYGRADE_INLINE Floats halves(Floats low, Floats high) const {
    const Floats x = mul(low, first);
#if defined(__AVX512F__)
    return _mm512_mask3_fmadd_ps(high, second, x, present);
#else
    return _mm256_blendv_ps(x, fma(high, second, x), present);
#endif
  }

#if defined(__AVX512F__)
  // A register of rows from the n-th of the vector on: 16 / P of them, at a distance of P.
  PYGRADE_INLINE Floats rows(const float* p, int n) const {
    const Floats raw = load(p + n * tasks);
    return P == 16 || tasks == P ? raw : _mm512_permutexvar_ps(spread, raw);
  }
  static PYGRADE_INLINE Floats even_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0x44); }
  static PYGRADE_INLINE Floats odd_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0xee); }
  static PYGRADE_INLINE Floats even(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0x88); }
  static PYGRADE_INLINE Floats odd(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0xdd); }
  static PYGRADE_INLINE Floats even_fours(Floats a, Floats b) { return _mm512_shuffle_f32x4(a, b, 0x88); }
  static PYGRADE_INLINE Floats odd_fours(Floats a, Floats b) { return _mm512_shuffle_f32x4(a, b, 0xdd); }
  // x_j, j < 4, of the four rows from n on
  PYGRADE_INLINE Floats fours(const float* p, int n) const {
    if constexpr (P == 8) {
      const Floats a = rows(p, n), b = rows(p, n + 2);
      return halves(even_fours(a, b), odd_fours(a, b));
    } else {
      const Floats x = eights(p, n), y = eights(p, n + 2);
      return add(even_fours(x, y), odd_fours(x, y));
    }
  }
  // x_j, j < 8, of two rows
  PYGRADE_INLINE Floats eights(const float* p, int n) const {
    const Floats a = rows(p, n), b = rows(p, n + 1);
    return halves(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  static PYGRADE_INLINE Floats permute(Floats x, Ints at) { return _mm512_permutexvar_ps(at, x); }
#else
  PYGRADE_INLINE Floats rows(const float* p, int n) const {
    const Floats raw = load(p + n * tasks);
    return P >= 8 || tasks == P ? raw : _mm256_permutevar8x32_ps(raw, spread);
  }
  static PYGRADE_INLINE Floats even_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0x44); }
  static PYGRADE_INLINE Floats odd_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0xee); }
  static PYGRADE_INLINE Floats even(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0x88); }
  static PYGRADE_INLINE Floats odd(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0xdd); }
  static PYGRADE_INLINE Floats even_fours(Floats a, Floats b) { return _mm256_permute2f128_ps(a, b, 0x20); }
  static PYGRADE_INLINE Floats odd_fours(Floats a, Floats b) { return _mm256_permute2f128_ps(a, b, 0x31); }
  // x_j, j < 4, of two rows
  PYGRADE_INLINE Floats fours(const float* p, int n) const {
    if constexpr (P == 8) {
      const Floats a = rows(p, n), b = rows(p, n + 1);
      return halves(even_fours(a, b), odd_fours(a, b));
    } else {
      const Floats x = halves(load(p + n * tasks), load(p + n * tasks + 8));
      const Floats y = halves(load(p + (n + 1) * tasks), load(p + (n + 1) * tasks + 8));
      return add(even_fours(x, y), odd_fours(x, y));
    }
  }
  static PYGRADE_INLINE Floats permute(Floats x, Ints at) { return _mm256_permutevar8x32_ps(x, at); }
#endif

  // x_j, j < 2, of half the candidates of the vector, from row n on
  PYGRADE_INLINE Floats pairs(const float* p, int n) const {
    constexpr int step = lanes / 4;  // rows in a register of four a row
    if constexpr (P == 4) {
      const Floats a = rows(p, n), b = rows(p, n + step);
      return halves(even_pairs(a, b), odd_pairs(a, b));
    } else {
      const Floats a = fours(p, n), b = fours(p, n + step);
      return add(even_pairs(a, b), odd_pairs(a, b));
    }
  }

  PYGRADE_INLINE Floats operator()(const float* p) const {
    const Floats a = pairs(p, 0), b = pairs(p, lanes / 2);
    return add(permute(add(even(a, b), odd(a, b)), order), broadcast(0.0f));  // never -0
  }
};

// Fuses the request's rows to fused[count] and notes the maxima of blocks of `depth` vectors (where maxima is not
// null). Rows that are not plain floats, and the last ones, behind which there may be nothing to read, go through a
// buffer.
template <int P>
inline void fuse_rows(const Scores& scores, Request request, const FusionOptions& options, const float* weights,
                      float* fused, std::int32_t* maxima, std::int64_t depth) {
  const RowFuser<P> fuse(weights, scores.tasks);
  const std::int64_t tasks = scores.tasks;
  const std::int64_t vectors = vectors_of(request.count);
  const bool plain = scores.type == ScoreType::float32 && options.transform == Transform::identity;
  const std::int64_t readable = (request.count * tasks - row_overread) / (lanes * tasks);
  const std::int64_t direct = plain && request.count * tasks > row_overread ? readable : 0;
  const float* rows = static_cast<const float*>(scores.data) + request.first * tasks;
  float buffer[lanes * P + row_overread] = {};
  Ints most = broadcast(key_none);
  std::int64_t left = depth;
  std::int64_t written = 0;  // blocks
  const auto put = [&](std::int64_t v, Floats x, unsigned valid) {
    store(fused + v * lanes, x);
    if (maxima == nullptr) return;
    const Ints key = order_key(x);
    most = max(most, valid == all_lanes ? key : select(valid, key, broadcast(key_none)));
    if (--left == 0 || v + 1 == vectors) {
      store(maxima + written++ * lanes, most);
      most = broadcast(key_none);
      left = depth;
    }
  };
  std::int64_t v = 0;
  for (; v < direct; ++v) put(v, fuse(rows + v * lanes * tasks), all_lanes);
  for (; v < vectors; ++v) {
    const std::int64_t size = request.count - v * lanes < lanes ? request.count - v * lanes : lanes;
    widen(scores_at(scores, (request.first + v * lanes) * tasks), scores.type, size * tasks, buffer);
    if (options.transform == Transform::log)
      for (std::int64_t i = 0; i < size * tasks; ++i) buffer[i] = log(buffer[i] + options.beta);
    put(v, fuse(buffer), first_lanes(size));
  }
}

#endif

// True where fuse_request needs no tile.
inline bool fuses_rows(const Scores& scores, const FusionOptions& options) {
#if defined(__AVX2__)
  const bool alone = options.transform == Transform::identity || options.transform == Transform::log;
  return alone && scores.layout == Layout::item_major && scores.tasks >= 3 && scores.tasks <= 16;
#else
  (void)scores, (void)options;
  return false;
#endif
}

// The fused scores of one weight vector to fused[count], the maxima of blocks of `depth` vectors to maxima (unless it
// is null). For requests that `fuses_rows` admits.
inline void fuse_request_rows(const Scores& scores, Request request, const FusionOptions& options, const float* weights,
                              float* fused, std::int32_t* maxima, std::int64_t depth) {
#if defined(__AVX2__)
  if (scores.tasks <= 4) return fuse_rows<4>(scores, request, options, weights, fused, maxima, depth);
  if (scores.tasks <= 8) return fuse_rows<8>(scores, request, options, weights, fused, maxima, depth);
  fuse_rows<16>(scores, request, options, weights, fused, maxima, depth);
#else
  (void)scores, (void)request, (void)options, (void)weights, (void)fused, (void)maxima, (void)depth;
#endif
}

// The fused scores of one weight vector over all candidates of a request, to s.fused, by the shortest way.
inline void fuse_request(const Scores& scores, const FusionOptions& options, Request request, const float* weights,
                         const FusionScratch& s) {
  if (fuses_rows(scores, options)) {
    fuse_request_rows(scores, request, options, weights, s.fused, nullptr, 1);
    return;
  }
  if (scores.layout == Layout::task_major && scores.type == ScoreType::float32 &&
      options.transform == Transform::identity) {
    const auto* columns = static_cast<const float*>(scores.data) + task_row(scores, request, 0);
    const std::int64_t stride = scores.offsets != nullptr ? scores.rows : scores.candidates;
    fuse_columns(columns, stride, scores.tasks, weights, request.count, s.fused);
    return;
  }
  load_request(scores, options, request, s);
  fuse_tile(s.tile, s.stride, scores.tasks, weights, 1, request.count, s.fused, s.stride);
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
