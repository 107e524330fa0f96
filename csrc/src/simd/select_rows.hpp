// The k best of several fused rows, step by step for all of them, so that the processor works on one row while it waits
// for another.
#pragma once

#include "../fusion.hpp"
#include "fuse.hpp"
#include "select.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr std::int64_t few_maxima = 16;

// Number of vectors that share one vector of the 16 maxima; 0: use another method.
inline std::int64_t few_depth(std::int64_t count, std::int64_t k) {
  if (k > 12 || count < 8 * few_maxima || count > 64 * few_maxima) return 0;
  const std::int64_t vectors = vectors_of(count), blocks = few_maxima / lanes;
  return (vectors + blocks - 1) / blocks;
}

// The largest key that k of the 16 keys reach.
inline std::int32_t threshold_of_few(const std::int32_t* keys, std::int64_t k) {
  const Ints wanted = broadcast(static_cast<std::int32_t>(k));
  Ints result = broadcast(INT32_MAX);
  for (std::int64_t v = 0; v < few_maxima; v += lanes) {
    const Ints key = load(keys + v);
    Ints even = broadcast(0), odd = even;
#pragma GCC unroll 8
    for (std::int64_t j = 0; j < few_maxima; j += 2) {
      even = count_greater(even, broadcast(keys[j]), key);
      odd = count_greater(odd, broadcast(keys[j + 1]), key);
    }
    result = min(result, select(greater(wanted, add(even, odd)), key, result));
  }
  return min_of(result);
}

inline std::int32_t max_of_few(const std::int32_t* keys) {
  Ints result = load(keys);
  for (std::int64_t v = lanes; v < few_maxima; v += lanes) result = max(result, load(keys + v));
  return max_of(result);
}

// Number of vectors that share one vector of maxima; 0: sort all candidates instead.
inline std::int64_t rows_depth(std::int64_t count, std::int64_t k) {
  const std::int64_t few = few_depth(count, k);
  return few > 0 ? few : block_depth(count, k);
}

// The positions of the k best of each of the first `row_count` rows to s[i].best; returns how many there are. Rows
// store their maxima in blocks of rows_depth, unless it is 0.
inline std::int64_t select_rows(const FusedRows& rows, std::int64_t row_count, std::int64_t count, std::int64_t k,
                                const SelectScratch* s) {
  k = k < count ? k : count;
  const bool few = few_depth(count, k) > 0;
  const std::int64_t blocks = rows.maxima == nullptr ? 0 : (vectors_of(count) + rows.depth - 1) / rows.depth;
  KeyRange range[fused_rows];
  std::int64_t kept[fused_rows];
  for (std::int64_t i = 0; i < row_count; ++i) {
    range[i] = {key_lowest, key_lowest};
    std::int32_t* maxima = rows.from(i).maxima;
    if (blocks == 0) continue;
    if (!few) {
      range[i] = threshold_of(maxima, blocks, k, k / 8 + 4);
      continue;
    }
    for (std::int64_t j = blocks * lanes; j < few_maxima; ++j) maxima[j] = key_none;
    range[i] = {threshold_of_few(maxima, k), max_of_few(maxima)};
  }
  for (std::int64_t i = 0; i < row_count; ++i)
    if (range[i].low > key_lowest)
      kept[i] = keep_reaching(rows.from(i).scores, count, k, score_of_key(range[i].low), s[i].all.ids);
  for (std::int64_t i = 0; i < row_count; ++i)
    if (range[i].low > key_lowest) store_keys(rows.from(i).scores, kept[i], s[i]);
  for (std::int64_t i = 0; i < row_count; ++i) {
    if (range[i].low > key_lowest)
      sort_by_key(s[i].all, s[i].spare, kept[i], k, range[i], s[i].best);
    else
      select_from_all(rows.from(i).scores, count, k, s[i]);  // maxima do not distinguish NaN from -inf
  }
  return k;
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
