// One weight vector over item-major rows without a transposed tile: registers full of rows are multiplied in place and
// reduced by shuffles that add halves pairwise, the order of fusion.hpp's tree. No gathers.
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

constexpr std::int64_t row_overread = 32;  // floats that fuse_rows may read past its rows; their values do not matter

// Reads scores unchanged.
struct ReadScores {
  PYGRADE_INLINE Floats operator()(const float* p) const { return load(p); }
};

// Reads scores as the bits of p + beta taken for an integer, which is (log(p + beta) ± log_error) / log_step plus a
// constant if p and beta are not negative and p + beta is neither denormal nor infinite. Keeps the largest bits seen.
struct ReadLogBits {
  Floats beta;
  Ints* largest;
  PYGRADE_INLINE Floats operator()(const float* p) const {
    const Floats x = load(p);
    *largest = max_bits(*largest, x);
    return number_of_bits(add(x, beta));
  }
};
constexpr float log_step = 0x1p-23f * 0.693147181f;
constexpr float log_error = 0.031f;  // of a chord of log2 over an octave 0.0299, plus rounding

// The fused scores of `lanes` candidates. P (4, 8 … 64) is the padded number of tasks; Whole: there are exactly P
// tasks, so that rows need no spreading.
template <int P, bool Whole, class Read>
struct RowFuser {
  static constexpr int registers = P > 2 * lanes ? P / (2 * lanes) : 1;  // per half row
#if defined(__AVX512F__)
  using Present = __mmask16;
#else
  using Present = Floats;
#endif

  Read read;
  std::int64_t number_of_tasks;
  Floats first[registers], second[registers];  // weights of tasks [0, P/2) and [P/2, P), repeated to fill a register
  Ints order;                                  // undoes the reduction's permutation
  Ints spread;                 // moves rows of T to a distance of P (P = 4, and P = 8 if a register holds two rows)
  Present present[registers];  // lanes of `second` with a task

  PYGRADE_INLINE std::int64_t tasks() const { return Whole ? P : number_of_tasks; }

  RowFuser(const float* weights, std::int64_t tasks, Read how) : read(how), number_of_tasks(tasks) {
    constexpr int half = P / 2;
    constexpr int groups = lanes / 4;
    std::int32_t at[lanes], from[lanes];
    for (int i = 0; i < lanes; ++i) {
      at[i] = i % groups * 4 + i / groups;
      const auto moved = static_cast<std::int32_t>(i / P * tasks + i % P);
      from[i] = moved < lanes ? moved : 0;
    }
    order = load(at);
    spread = load(from);
    for (int r = 0; r < registers; ++r) {
      float low[lanes], high[lanes];
      unsigned exists = 0;
      for (int i = 0; i < lanes; ++i) {
        const int j = (r * lanes + i) % half;
        low[i] = weights[j];
        high[i] = j + half < tasks ? weights[j + half] : 0.0f;
        exists |= j + half < tasks ? 1u << i : 0u;
      }
      first[r] = load(low);
      second[r] = load(high);
#if defined(__AVX512F__)
      present[r] = static_cast<__mmask16>(exists);
#else
      present[r] = _mm256_castsi256_ps(lanes_of(exists));
#endif
    }
  }

  // Products of the first half, plus those of the second half for the tasks that exist.
  PYGRADE_INLINE Floats halves(Floats low, Floats high, int r = 0) const {
    const Floats x = mul(low, first[r]);
    if constexpr (Whole) return fma(high, second[r], x);
#if defined(__AVX512F__)
    return _mm512_mask3_fmadd_ps(high, second[r], x, present[r]);
#else
    return _mm256_blendv_ps(x, fma(high, second[r], x), present[r]);
#endif
  }

  // x_j, j < lanes, of one row of at least 2 · lanes tasks.
  PYGRADE_INLINE Floats wide(const float* p, int n) const {
    const float* row = p + n * tasks();
    Floats x[registers];
#pragma GCC unroll 4
    for (int r = 0; r < registers; ++r) x[r] = halves(read(row + r * lanes), read(row + P / 2 + r * lanes), r);
#pragma GCC unroll 4
    for (int step = registers / 2; step > 0; step /= 2)
      for (int r = 0; r < step; ++r) x[r] = add(x[r], x[r + step]);
    return x[0];
  }

#if defined(__AVX512F__)
  // A register of rows from row n on: 16 / P rows, at a distance of P.
  PYGRADE_INLINE Floats rows(const float* p, int n) const {
    const Floats raw = read(p + n * tasks());
    return P == 16 || Whole ? raw : _mm512_permutexvar_ps(spread, raw);
  }
  static PYGRADE_INLINE Floats even_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0x44); }
  static PYGRADE_INLINE Floats odd_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0xee); }
  static PYGRADE_INLINE Floats even(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0x88); }
  static PYGRADE_INLINE Floats odd(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0xdd); }
  static PYGRADE_INLINE Floats even_fours(Floats a, Floats b) { return _mm512_shuffle_f32x4(a, b, 0x88); }
  static PYGRADE_INLINE Floats odd_fours(Floats a, Floats b) { return _mm512_shuffle_f32x4(a, b, 0xdd); }
  // x_j, j < 4, of four rows from row n on.
  PYGRADE_INLINE Floats fours(const float* p, int n) const {
    if constexpr (P == 8) {
      const Floats a = rows(p, n), b = rows(p, n + 2);
      return halves(even_fours(a, b), odd_fours(a, b));
    } else {
      const Floats x = eights(p, n), y = eights(p, n + 2);
      return add(even_fours(x, y), odd_fours(x, y));
    }
  }
  // x_j, j < 8, of two rows.
  PYGRADE_INLINE Floats eights(const float* p, int n) const {
    if constexpr (P == 16) {
      const Floats a = rows(p, n), b = rows(p, n + 1);
      return halves(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    } else {
      const Floats x = wide(p, n), y = wide(p, n + 1);
      return add(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
    }
  }
  static PYGRADE_INLINE Floats permute(Floats x, Ints at) { return _mm512_permutexvar_ps(at, x); }
#else
  PYGRADE_INLINE Floats rows(const float* p, int n) const {
    const Floats raw = read(p + n * tasks());
    return P >= 8 || Whole ? raw : _mm256_permutevar8x32_ps(raw, spread);
  }
  static PYGRADE_INLINE Floats even_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0x44); }
  static PYGRADE_INLINE Floats odd_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0xee); }
  static PYGRADE_INLINE Floats even(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0x88); }
  static PYGRADE_INLINE Floats odd(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0xdd); }
  static PYGRADE_INLINE Floats even_fours(Floats a, Floats b) { return _mm256_permute2f128_ps(a, b, 0x20); }
  static PYGRADE_INLINE Floats odd_fours(Floats a, Floats b) { return _mm256_permute2f128_ps(a, b, 0x31); }
  // x_j, j < 4, of two rows.
  PYGRADE_INLINE Floats fours(const float* p, int n) const {
    if constexpr (P == 8) {
      const Floats a = rows(p, n), b = rows(p, n + 1);
      return halves(even_fours(a, b), odd_fours(a, b));
    } else {
      const Floats x = wide(p, n), y = wide(p, n + 1);
      return add(even_fours(x, y), odd_fours(x, y));
    }
  }
  static PYGRADE_INLINE Floats permute(Floats x, Ints at) { return _mm256_permutevar8x32_ps(x, at); }
#endif

  // x_j, j < 2, of half of the vector's candidates, from row n on.
  PYGRADE_INLINE Floats pairs(const float* p, int n) const {
    constexpr int step = lanes / 4;  // rows per register if there are four values per row
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

// Fuses the request's rows to fused[count] and stores the maxima of blocks of `depth` vectors (unless null). Rows that
// are not plain floats, and the last rows, past which nothing may be read, go through a buffer.
template <int P, bool Whole, class Read>
inline void fuse_rows(const Scores& scores, Request request, const FusionOptions& options, const float* weights,
                      float* fused, std::int32_t* maxima, std::int64_t depth, Read read) {
  const RowFuser<P, Whole, Read> fuse(weights, scores.tasks, read);
  const std::int64_t tasks = fuse.tasks();
  const std::int64_t vectors = vectors_of(request.count);
  const bool plain = scores.type == ScoreType::float32 && options.transform == Transform::identity;
  const std::int64_t readable = (request.count * tasks - row_overread) / (lanes * tasks);
  const std::int64_t direct = plain && request.count * tasks > row_overread ? readable : 0;
  const float* rows = static_cast<const float*>(scores.data) + request.first * tasks;
  float buffer[lanes * P + row_overread] = {};
  std::int64_t v = 0;
  std::int64_t block = 0;
  for (; v < direct; ++block) {
    Floats block_max = broadcast(-__builtin_inff());
    for (const std::int64_t end = v + depth < direct ? v + depth : direct; v < end; ++v) {
      const float* from = rows + v * lanes * tasks;
      prefetch(from, lanes * tasks);
      const Floats score = fuse(from);
      store(fused + v * lanes, score);
      block_max = max(score, block_max);
    }
    if (maxima != nullptr) store(maxima + block * lanes, order_key(block_max));
  }
  for (; v < vectors; ++v) {
    const std::int64_t size = request.count - v * lanes < lanes ? request.count - v * lanes : lanes;
    widen(scores_at(scores, (request.first + v * lanes) * tasks), scores.type, size * tasks, buffer);
    if (options.transform == Transform::log)
      for (std::int64_t i = 0; i < size * tasks; ++i) buffer[i] = log(buffer[i] + options.beta);
    store(fused + v * lanes, fuse(buffer));
  }
  if (maxima != nullptr) store_maxima(fused, request.count, depth, block > 0 ? block - 1 : 0, maxima);
}

#endif

// Whether fuse_request needs no tile.
inline bool fuses_rows(const Scores& scores, const FusionOptions& options) {
#if defined(__AVX2__)
  const bool alone = options.transform == Transform::identity || options.transform == Transform::log;
  return alone && scores.layout == Layout::item_major && scores.tasks >= 3;
#else
  (void)scores, (void)options;
  return false;
#endif
}

#if defined(__AVX2__)
template <class Read>
inline void fuse_rows(const Scores& scores, Request request, const FusionOptions& options, const float* weights,
                      float* fused, std::int32_t* maxima, std::int64_t depth, Read read) {
  const auto fuse_all = [&]<int P>() {
    if (scores.tasks == P) return fuse_rows<P, true>(scores, request, options, weights, fused, maxima, depth, read);
    fuse_rows<P, false>(scores, request, options, weights, fused, maxima, depth, read);
  };
  if (scores.tasks <= 4) return fuse_all.template operator()<4>();
  if (scores.tasks <= 8) return fuse_all.template operator()<8>();
  if (scores.tasks <= 16) return fuse_all.template operator()<16>();
  if (scores.tasks <= 32) return fuse_all.template operator()<32>();
  fuse_all.template operator()<64>();
}
#endif

// The fused scores of one weight vector to fused[count] and the maxima of blocks of `depth` vectors to `maxima` (unless
// null), for requests that `fuses_rows` accepts.
inline void fuse_request_rows(const Scores& scores, Request request, const FusionOptions& options, const float* weights,
                              float* fused, std::int32_t* maxima, std::int64_t depth) {
#if defined(__AVX2__)
  fuse_rows(scores, request, options, weights, fused, maxima, depth, ReadScores{});
#else
  (void)scores, (void)request, (void)options, (void)weights, (void)fused, (void)maxima, (void)depth;
#endif
}

// Finds the few candidates that may be among the k best under the log transform, from a cheap approximation of their
// fused scores: their positions to s.ids, their exact fused scores to s.fused. Returns how many there are, or -1 if the
// approximation does not hold or saves nothing. Only a result ≥ 0 implies that no score is negative.
inline std::int64_t fuse_contenders(const Scores& scores, const FusionOptions& options, Request request,
                                    const float* weights, std::int64_t k, const FusionScratch& s) {
#if defined(__AVX2__)
  const std::int64_t count = request.count;
  const std::int64_t tasks = scores.tasks;
  const std::int64_t depth = block_depth(count, k);
  if (depth == 0 || 4 * k > count || options.transform != Transform::log || scores.type != ScoreType::float32 ||
      !fuses_rows(scores, options) || !(options.beta >= 0x1p-126f && options.beta <= 1.0f))
    return -1;
  float steps[max_tasks];
  float total = 0.0f;
  for (std::int64_t t = 0; t < tasks; ++t) {
    steps[t] = weights[t] * log_step;
    total += __builtin_fabsf(weights[t]);
  }
  if (!(total <= 1e30f)) return -1;
  Ints largest = broadcast(0);
  const FusionOptions plain;
  fuse_rows(scores, request, plain, steps, s.fused, s.maxima, depth, ReadLogBits{broadcast(options.beta), &largest});
  std::int32_t bits[lanes];
  store(bits, largest);
  for (const std::int32_t b : bits)
    if (b < 0 || b >= 0x7f000000) return -1;  // negative, -0, NaN, or near overflow
  const std::int32_t threshold = threshold_of(s.maxima, (vectors_of(count) + depth - 1) / depth, k, k / 8 + 4).low;
  if (threshold <= key_lowest) return -1;
  // At least k candidates have an exact score above the threshold minus the error, up to the constant.
  const float bound = score_of_key(threshold) - 2.0f * log_error * total;
  const std::int64_t kept = keep_reaching(s.fused, count, k, bound, s.ids);
  if (2 * kept > count) return -1;
  const float* rows = static_cast<const float*>(scores.data) + request.first * tasks;
  for (std::int64_t i = 0; i < kept; ++i)
    for (std::int64_t t = 0; t < tasks; ++t) s.tile[i * tasks + t] = rows[s.ids[i] * tasks + t];
  const Scores contenders{s.tile, ScoreType::float32, 1, kept, tasks, kept, nullptr, Layout::item_major};
  fuse_request_rows(contenders, {0, kept}, options, weights, s.fused, nullptr, 16);
  return kept;
#else
  (void)scores, (void)options, (void)request, (void)weights, (void)k, (void)s;
  return -1;
#endif
}

// The fused scores of one weight vector over all candidates of a request, to s.fused, by the fastest method.
inline void fuse_request(const Scores& scores, const FusionOptions& options, Request request, const float* weights,
                         const FusionScratch& s) {
  if (fuses_rows(scores, options)) {
    fuse_request_rows(scores, request, options, weights, s.fused, nullptr, 16);
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
  fuse_tile(s.tile, s.stride, scores.tasks, weights, 1, request.count, {s.fused, s.stride});
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
