// One weight vector over item-major rows without a transposed tile: registers full of rows are multiplied in place and
// reduced by shuffles that add halves pairwise, the order of fusion.hpp's tree. No gathers.
#pragma once

#include <type_traits>

#include "../fusion.hpp"
#include "fuse.hpp"
#include "numerics.hpp"
#include "select.hpp"
#include "simd.hpp"
#include "tile.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
#if defined(__AVX2__)

constexpr std::int64_t row_overread = 32;  // scores that fuse_rows may read past its rows; their values do not matter

// Fuses the scores themselves.
struct Unchanged {
  PYGRADE_INLINE Floats operator()(Floats p, Floats) const { return p; }
};

// Fuses an approximation of the logarithms of x = slope · p + offset: (log(x) ± log_error) / log_step plus a constant
// if slope, p and offset are not negative and x is neither denormal nor infinite. The bits of x taken for an integer
// are a chord of log2 over each octave; a cubic of the mantissa adds the rest. Keeps the largest bits of p seen.
struct NearLogs {
  Floats offset;
  Ints* largest;
  PYGRADE_INLINE Floats operator()(Floats p, Floats slope) const {
    *largest = max_bits(*largest, p);
    const Floats x = fma(slope, p, offset), m = mantissa(x);
    const Floats steep = fma(fma(broadcast(0.158248703f * 0x1p23f), m, broadcast(-1.05187502f * 0x1p23f)), m,
                             broadcast(2.04788415f * 0x1p23f));
    return fma(steep, m, number_of_bits(x));
  }
};
constexpr float log_step = 0x1p-23f * 0.693147181f;
constexpr float log_error = 7e-4f;  // of the cubic 4.5e-4; the rest is rounding in both fused scores

// The fused scores of `lanes` candidates. P (1, 2, 4 … 64) is the padded number of tasks; Whole: there are exactly P
// tasks, so that rows need no spreading. Map: how a score enters its sum.
template <int P, bool Whole, class Map>
struct RowFuser {
  static constexpr int registers = P > 2 * lanes ? P / (2 * lanes) : 1;  // per half row
#if defined(__AVX512F__)
  using Present = __mmask16;
#else
  using Present = Floats;
#endif

  Map map;
  std::int64_t number_of_tasks;
  Floats first[registers], second[registers];  // weights of tasks [0, P/2) and [P/2, P), repeated to fill a register
  Floats first_slope[registers], second_slope[registers];  // of the map, likewise
  Ints order;                                              // undoes the reduction's permutation
  Ints spread;                 // moves rows of T to a distance of P (P = 4, and P = 8 if a register holds two rows)
  Present present[registers];  // lanes of `second` with a task

  PYGRADE_INLINE std::int64_t tasks() const { return Whole ? P : number_of_tasks; }

  // slope: of each task; null: all 1
  RowFuser(const float* weights, const float* slope, std::int64_t tasks, Map how) : map(how), number_of_tasks(tasks) {
    constexpr int half = P > 1 ? P / 2 : 1;
    constexpr int groups = lanes / 4;
    std::int32_t at[lanes], from[lanes];
    for (int i = 0; i < lanes; ++i) {
      at[i] = P > 2 ? i % groups * 4 + i / groups : i % (lanes / 2) / 2 * 4 + i / (lanes / 2) * 2 + i % 2;
      const auto moved = static_cast<std::int32_t>(i / P * tasks + i % P);
      from[i] = moved < lanes ? moved : 0;
    }
    order = load(at);
    spread = load(from);
    for (int r = 0; r < registers; ++r) {
      float low[lanes], high[lanes], low_slope[lanes], high_slope[lanes];
      unsigned exists = 0;
      for (int i = 0; i < lanes; ++i) {
        const int j = (r * lanes + i) % half;
        const bool both = j + half < tasks;
        low[i] = weights[j];
        high[i] = both ? weights[j + half] : 0.0f;
        low_slope[i] = slope != nullptr ? slope[j] : 1.0f;
        high_slope[i] = slope != nullptr && both ? slope[j + half] : 1.0f;
        exists |= both ? 1u << i : 0u;
      }
      first[r] = load(low);
      second[r] = load(high);
      first_slope[r] = load(low_slope);
      second_slope[r] = load(high_slope);
#if defined(__AVX512F__)
      present[r] = static_cast<__mmask16>(exists);
#else
      present[r] = _mm256_castsi256_ps(lanes_of(exists));
#endif
    }
  }

  // Products of the first half, plus those of the second half for the tasks that exist.
  PYGRADE_INLINE Floats halves(Floats low, Floats high, int r = 0) const {
    const Floats x = mul(map(low, first_slope[r]), first[r]);
    high = map(high, second_slope[r]);
    if constexpr (Whole) return fma(high, second[r], x);
#if defined(__AVX512F__)
    return _mm512_mask3_fmadd_ps(high, second[r], x, present[r]);
#else
    return _mm256_blendv_ps(x, fma(high, second[r], x), present[r]);
#endif
  }

  // x_j, j < lanes, of one row of at least 2 · lanes tasks.
  template <class Element>
  PYGRADE_INLINE Floats wide(const Element* p, int n) const {
    const Element* row = p + n * tasks();
    Floats x[registers];
#pragma GCC unroll 4
    for (int r = 0; r < registers; ++r)
      x[r] = halves(load_scores(row + r * lanes), load_scores(row + P / 2 + r * lanes), r);
#pragma GCC unroll 4
    for (int step = registers / 2; step > 0; step /= 2)
      for (int r = 0; r < step; ++r) x[r] = add(x[r], x[r + step]);
    return x[0];
  }

#if defined(__AVX512F__)
  // A register of rows from row n on: 16 / P rows, at a distance of P.
  template <class Element>
  PYGRADE_INLINE Floats rows(const Element* p, int n) const {
    const Floats raw = load_scores(p + n * tasks());
    return P == 16 || Whole ? raw : _mm512_permutexvar_ps(spread, raw);
  }
  static PYGRADE_INLINE Floats even_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0x44); }
  static PYGRADE_INLINE Floats odd_pairs(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0xee); }
  static PYGRADE_INLINE Floats even(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0x88); }
  static PYGRADE_INLINE Floats odd(Floats a, Floats b) { return _mm512_shuffle_ps(a, b, 0xdd); }
  static PYGRADE_INLINE Floats even_fours(Floats a, Floats b) { return _mm512_shuffle_f32x4(a, b, 0x88); }
  static PYGRADE_INLINE Floats odd_fours(Floats a, Floats b) { return _mm512_shuffle_f32x4(a, b, 0xdd); }
  // x_j, j < 4, of four rows from row n on.
  template <class Element>
  PYGRADE_INLINE Floats fours(const Element* p, int n) const {
    if constexpr (P == 8 && Whole && std::is_same_v<Element, Bfloat16>) {  // widens by interleaving with zeros
      const __m512i zero = _mm512_setzero_si512(), a = _mm512_loadu_si512(p + n * P);
      return halves(_mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, a)),
                    _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, a)));
    } else if constexpr (P == 8) {
      const Floats a = rows(p, n), b = rows(p, n + 2);
      return halves(even_fours(a, b), odd_fours(a, b));
    } else {
      const Floats x = eights(p, n), y = eights(p, n + 2);
      return add(even_fours(x, y), odd_fours(x, y));
    }
  }
  // x_j, j < 8, of two rows.
  template <class Element>
  PYGRADE_INLINE Floats eights(const Element* p, int n) const {
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
  template <class Element>
  PYGRADE_INLINE Floats rows(const Element* p, int n) const {
    const Floats raw = load_scores(p + n * tasks());
    return P >= 8 || Whole ? raw : _mm256_permutevar8x32_ps(raw, spread);
  }
  static PYGRADE_INLINE Floats even_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0x44); }
  static PYGRADE_INLINE Floats odd_pairs(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0xee); }
  static PYGRADE_INLINE Floats even(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0x88); }
  static PYGRADE_INLINE Floats odd(Floats a, Floats b) { return _mm256_shuffle_ps(a, b, 0xdd); }
  static PYGRADE_INLINE Floats even_fours(Floats a, Floats b) { return _mm256_permute2f128_ps(a, b, 0x20); }
  static PYGRADE_INLINE Floats odd_fours(Floats a, Floats b) { return _mm256_permute2f128_ps(a, b, 0x31); }
  // x_j, j < 4, of two rows.
  template <class Element>
  PYGRADE_INLINE Floats fours(const Element* p, int n) const {
    if constexpr (P == 8 && std::is_same_v<Element, Bfloat16>) {  // widens by interleaving with zeros
      const auto at = [&](int row) { return reinterpret_cast<const __m128i*>(p + row * tasks()); };
      const __m256i zero = _mm256_setzero_si256(), a = _mm256_loadu2_m128i(at(n + 1), at(n));
      return halves(_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, a)),
                    _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, a)));
    } else if constexpr (P == 8) {
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
  template <class Element>
  PYGRADE_INLINE Floats pairs(const Element* p, int n) const {
    constexpr int step = lanes / 4;  // rows per register if there are four values per row
    if constexpr (P == 4) {
      const Floats a = rows(p, n), b = rows(p, n + step);
      return halves(even_pairs(a, b), odd_pairs(a, b));
    } else {
      const Floats a = fours(p, n), b = fours(p, n + step);
      return add(even_pairs(a, b), odd_pairs(a, b));
    }
  }

  template <class Element>
  PYGRADE_INLINE Floats operator()(const Element* p) const {
    const Floats zero = broadcast(0.0f);  // adding it gives never -0
    if constexpr (P == 1) {
      return add(mul(map(load_scores(p), first_slope[0]), first[0]), zero);
    } else if constexpr (P == 2) {
      const Floats a = load_scores(p), b = load_scores(p + lanes);
      return add(permute(halves(even(a, b), odd(a, b)), order), zero);
    } else {
      const Floats a = pairs(p, 0), b = pairs(p, lanes / 2);
      return add(permute(add(even(a, b), odd(a, b)), order), zero);
    }
  }
};

// The transform of the scores of whole rows, in place. `slopes` repeats the options' slope for each of them.
inline void transform_rows(float* scores, std::int64_t size, const FusionOptions& options, const float* slopes) {
  if (options.transform == Transform::log) log_row(scores, scores, size, options.beta);
  if (options.transform != Transform::log1p) return;
  for (std::int64_t i = 0; i < size; ++i) scores[i] = slopes[i] * scores[i];
  log1p_row(scores, size);
}

// The scores of one request and what is made of them.
struct RowsTask {
  const Scores& scores;
  Request request;
  const FusionOptions& options;
  const float* weights;
  FusedRows fused;
  bool direct;  // true if the map applies to the scores as they are; else all of them go through a buffer
};

// Fuses the request's rows and stores their block maxima. Rows that are not mapped as they are, and the last rows, past
// which nothing may be read, go through a buffer; so do all without a pointer to the rows.
template <int P, bool Whole, class Map, class Element>
inline void fuse_rows(const RowsTask& task, const Element* rows, Map map) {
  const Request request = task.request;
  const FusionOptions& options = task.options;
  const RowFuser<P, Whole, Map> fuse(task.weights, options.slope, task.scores.tasks, map);
  const std::int64_t tasks = fuse.tasks();
  const std::int64_t vectors = vectors_of(request.count);
  const std::int64_t inside = request.count * tasks - (Whole ? 0 : row_overread);
  const std::int64_t direct = rows != nullptr && task.direct && inside > 0 ? inside / (lanes * tasks) : 0;
  float* fused = task.fused.scores;
  std::int64_t v = 0;
  std::int64_t block = 0;
  for (; v < direct; ++block) {
    Floats block_max = broadcast(-__builtin_inff());
    for (const std::int64_t end = v + task.fused.depth < direct ? v + task.fused.depth : direct; v < end; ++v) {
      const Element* from = rows + v * lanes * tasks;
      prefetch(from, lanes * tasks * static_cast<std::int64_t>(sizeof(Element)));
      const Floats score = fuse(from);
      store(fused + v * lanes, score);
      block_max = max(score, block_max);
    }
    if (task.fused.maxima != nullptr) store(task.fused.maxima + block * lanes, order_key(block_max));
  }
  float buffer[lanes * P + row_overread] = {}, slopes[lanes * P];
  if (options.transform == Transform::log1p)
    for (std::int64_t i = 0; i < lanes * tasks; ++i)
      slopes[i] = options.slope != nullptr ? options.slope[i % tasks] : 1;
  for (; v < vectors; ++v) {
    const std::int64_t size = request.count - v * lanes < lanes ? request.count - v * lanes : lanes;
    widen(scores_at(task.scores, (request.first + v * lanes) * tasks), task.scores.type, size * tasks, buffer);
    if (!task.direct) transform_rows(buffer, size * tasks, options, slopes);
    store(fused + v * lanes, fuse(buffer));
  }
  if (task.fused.maxima != nullptr && direct < vectors)
    store_maxima(fused, request.count, task.fused.depth, direct / task.fused.depth, task.fused.maxima);
}

template <bool halves, class Map>
inline void fuse_rows(const RowsTask& task, Map map) {
  const std::int64_t tasks = task.scores.tasks;
  const auto fuse_all = [&]<int P>(const auto* rows) {
    if (tasks == P) return fuse_rows<P, true>(task, rows, map);
    fuse_rows<P, false>(task, rows, map);
  };
  const auto fuse_wide = [&](const auto* rows) {
    if (tasks <= 32) return fuse_all.template operator()<32>(rows);
    fuse_all.template operator()<64>(rows);
  };
  const void* from = scores_at(task.scores, task.request.first * tasks);
  // Logarithms of many half-precision scores go through the buffer: one of the rare forms that are not compiled.
  if (tasks > 16 && std::is_same_v<Map, NearLogs>)
    return fuse_wide(task.scores.type == ScoreType::float32 ? static_cast<const float*>(from) : nullptr);
  with_elements<halves>(task.scores, task.request.first * tasks, [&](const auto* rows) {
    if constexpr (!std::is_same_v<Map, NearLogs>)
      if (tasks > 16) return fuse_wide(rows);
    if (tasks == 1) return fuse_rows<1, true>(task, rows, map);
    if (tasks == 2) return fuse_rows<2, true>(task, rows, map);
    if (tasks <= 4) return fuse_all.template operator()<4>(rows);
    if (tasks <= 8) return fuse_all.template operator()<8>(rows);
    fuse_all.template operator()<16>(rows);
  });
}

#endif

// Whether fuse_request needs no tile.
inline bool fuses_rows(const Scores& scores, const FusionOptions& options) {
#if defined(__AVX2__)
  const bool alone = options.transform == Transform::identity || options.transform == Transform::log ||
                     options.transform == Transform::log1p;
  return alone && scores.layout == Layout::item_major;
#else
  (void)scores, (void)options;
  return false;
#endif
}

// The fused scores of one weight vector and their block maxima, for requests that `fuses_rows` accepts.
template <bool halves>
inline void fuse_request_rows(const Scores& scores, Request request, const FusionOptions& options, const float* weights,
                              const FusedRows& fused) {
#if defined(__AVX2__)
  fuse_rows<halves>({scores, request, options, weights, fused, options.transform == Transform::identity}, Unchanged{});
#else
  (void)scores, (void)request, (void)options, (void)weights, (void)fused;
#endif
}

#if defined(__AVX2__)
// The rows of the candidates s.ids[kept] as floats, to s.tile.
inline void gather_rows(const Scores& scores, Request request, std::int64_t kept, const FusionScratch& s) {
  const std::int64_t tasks = scores.tasks;
  const std::int64_t whole = vectors_of(tasks);                                       // vectors that hold a row
  const std::int64_t readable = request.count - (whole * lanes + tasks - 1) / tasks;  // rows with that much after them
  with_elements(scores, request.first * tasks, [&](const auto* rows) {
    for (std::int64_t i = 0; i < kept; ++i) {
      const std::int64_t id = s.ids[i];
      if (id <= readable)
        for (std::int64_t v = 0; v < whole; ++v)
          store(s.tile + i * tasks + v * lanes, load_scores(rows + id * tasks + v * lanes));
      else
        widen(rows + id * tasks, scores.type, tasks, s.tile + i * tasks);
    }
  });
}
#endif

// Finds the few candidates that may be among the k best under log or log1p, from a cheap approximation of their fused
// scores: their positions to s.ids, their exact fused scores to s.fused. Returns how many there are, or -1 if the
// approximation does not hold or saves nothing. Only a result ≥ 0 implies that no score is negative.
inline std::int64_t fuse_contenders(const Scores& scores, const FusionOptions& options, Request request,
                                    const float* weights, std::int64_t k, const FusionScratch& s) {
#if defined(__AVX2__)
  const std::int64_t count = request.count;
  const std::int64_t tasks = scores.tasks;
  const std::int64_t depth = block_depth(count, k);
  if (depth == 0 || 4 * k > count || options.transform == Transform::identity || !fuses_rows(scores, options))
    return -1;
  const bool one_plus = options.transform == Transform::log1p;
  const float offset = one_plus ? 1.0f : options.beta;
  float steps[max_tasks];
  float total = 0.0f, slope = 1.0f;
  for (std::int64_t t = 0; t < tasks; ++t) {
    steps[t] = weights[t] * log_step;
    total += __builtin_fabsf(weights[t]);
    if (one_plus && options.slope != nullptr) slope = options.slope[t] > slope ? options.slope[t] : slope;
  }
  if (!(offset >= 0x1p-126f && offset <= 1.0f && total <= 1e30f && slope <= 1e30f)) return -1;
  Ints largest = broadcast(0);
  const FusionOptions plain{.slope = one_plus ? options.slope : nullptr};
  fuse_rows<true>({scores, request, plain, steps, {s.fused, 0, s.maxima, depth}, true},
                  NearLogs{broadcast(offset), &largest});
  std::int32_t bits[lanes];
  store(bits, largest);
  for (const std::int32_t b : bits)  // negative, -0 or NaN, or x is near overflow
    if (b < 0 || !(from_bits(static_cast<std::uint32_t>(b)) * slope < 1e38f)) return -1;
  const std::int32_t threshold = threshold_of(s.maxima, (vectors_of(count) + depth - 1) / depth, k, k / 8 + 4).low;
  if (threshold <= key_lowest) return -1;
  // At least k candidates have an exact score above the threshold minus the error, up to the constant.
  const float bound = score_of_key(threshold) - 2.0f * log_error * total;
  const std::int64_t kept = keep_reaching(s.fused, count, k, bound, s.ids);
  if (2 * kept > count) return -1;
  gather_rows(scores, request, kept, s);
  const Scores contenders{s.tile, ScoreType::float32, 1, kept, tasks, kept, nullptr, Layout::item_major};
  fuse_request_rows<false>(contenders, {0, kept}, options, weights, {s.fused, 0});
  return kept;
#else
  (void)scores, (void)options, (void)request, (void)weights, (void)k, (void)s;
  return -1;
#endif
}

// The fused scores of one weight vector over all candidates of a request, to s.fused, by the fastest method, and the
// maxima of blocks of `depth` vectors to s.maxima; depth 0: without maxima.
template <bool halves>
inline void fuse_request(const Scores& scores, const FusionOptions& options, Request request, const float* weights,
                         const FusionScratch& s, std::int64_t depth = 0) {
  const FusedRows fused{s.fused, s.stride, depth > 0 ? s.maxima : nullptr, depth > 0 ? depth : 16};
  if (fuses_rows(scores, options)) return fuse_request_rows<halves>(scores, request, options, weights, fused);
  const bool columns_fuse = scores.type == ScoreType::float32 || scores.tasks <= half_columns;
  if (scores.layout == Layout::task_major && options.transform == Transform::identity && columns_fuse) {
    const std::int64_t stride = scores.offsets != nullptr ? scores.rows : scores.candidates;
    return with_elements<halves>(scores, task_row(scores, request, 0), [&](const auto* columns) {
      fuse_columns(columns, stride, scores.tasks, weights, request.count, fused);
    });
  }
  load_request(scores, options, request, s);
  if (depth > 0) pad_tile(s.tile, s.stride, scores.tasks, request.count);
  fuse_tile(s.tile, s.stride, scores.tasks, weights, 1, request.count, fused);
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
