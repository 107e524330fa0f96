// The k best of a row where k is small: the k-th of 16 maxima is a threshold that k candidates reach, and few more. It
// is found by comparing the maxima with each other, without a branch.
#pragma once

#include "select.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

constexpr std::int64_t few_maxima = 16;

// How many vectors share one vector of the 16 maxima: an even number, or 0 where this is not the way to go.
inline std::int64_t few_depth(std::int64_t count, std::int64_t k) {
  if (k > 12 || count < 8 * few_maxima || count > 64 * few_maxima) return 0;
  const std::int64_t vectors = vectors_of(count), blocks = few_maxima / lanes;
  return ((vectors + blocks - 1) / blocks + 1) / 2 * 2;
}

// The largest key that k of the 16 reach.
inline std::int32_t threshold_of_few(const std::int32_t* keys, std::int64_t k) {
  const Ints wanted = broadcast(static_cast<std::int32_t>(k));
  Ints least = broadcast(INT32_MAX);
  for (std::int64_t v = 0; v < few_maxima; v += lanes) {
    const Ints mine = load(keys + v);
    Ints even = broadcast(0), odd = even;
#pragma GCC unroll 8
    for (std::int64_t j = 0; j < few_maxima; j += 2) {
      even = count_greater(even, broadcast(keys[j]), mine);
      odd = count_greater(odd, broadcast(keys[j + 1]), mine);
    }
    least = min(least, select(greater(wanted, add(even, odd)), mine, least));
  }
  return min_of(least);
}

// Like select_noted, for a row behind which NaN stands up to the end of its last two vectors; `depth` is few_depth's.
inline std::int64_t select_few(const float* row, std::int64_t count, std::int64_t k, std::int64_t depth,
                               std::int32_t* maxima, const SelectScratch& s) {
  const std::int64_t vectors = vectors_of(count);
  for (std::int64_t i = (vectors + depth - 1) / depth * lanes; i < few_maxima; ++i) maxima[i] = key_none;
  const std::int32_t threshold = threshold_of_few(maxima, k);
  if (threshold <= key_lowest) {
    select_from_all(row, count, k, s);
    return k;
  }
  const Floats least = broadcast(score_of_key(threshold));
  auto* const scores = reinterpret_cast<float*>(s.keys);
  std::int64_t kept = 0;
  Ints ids = iota();
  for (std::int64_t v = 0; v < vectors; ++v, ids = add(ids, broadcast(lanes))) {
    const Floats x = load(row + v * lanes);
    const unsigned reaching = greater_equal(x, least);
    compress(scores + kept, reaching, x);
    compress(s.ids + kept, reaching, ids);
    kept += __builtin_popcount(reaching);
  }
  for (std::int64_t i = 0; i < kept; i += lanes) store(s.keys + i, order_key(load(scores + i)));
  sort_places(s, 0, kept, k);
  return k;
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
