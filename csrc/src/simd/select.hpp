// The k best of a row of fused scores: block maxima → a threshold that at least k candidates reach → compress what
// reaches it → sort. Scores are compared as the integers of `order_key`, so NaN, -0 and ties fall out of integer order;
// ids ascend wherever candidates are compared, and every step is stable.
#pragma once

#include "simd.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

// Rows of scratch_stride integers; `best` is where the result comes.
struct SelectScratch {
  std::int32_t *keys, *ids, *other_keys, *other_ids, *maxima, *best;

  SelectScratch(float* memory, std::int64_t stride) {
    auto* row = reinterpret_cast<std::int32_t*>(memory);
    keys = row;
    ids = row + stride;
    other_keys = row + 2 * stride;
    other_ids = row + 3 * stride;
    maxima = row + 4 * stride;
    best = row + 5 * stride;
  }
};

inline std::int64_t vectors_of(std::int64_t count) { return (count + lanes - 1) / lanes; }

inline std::int64_t count_reaching(const std::int32_t* keys, std::int64_t vectors, std::int32_t threshold) {
  const Ints bound = broadcast(threshold);
  Ints even = broadcast(0);
  Ints odd = broadcast(0);
  std::int64_t v = 0;
  for (; v + 2 <= vectors; v += 2) {
    even = count_greater_equal(even, load(keys + v * lanes), bound);
    odd = count_greater_equal(odd, load(keys + (v + 1) * lanes), bound);
  }
  if (v < vectors) even = count_greater_equal(even, load(keys + v * lanes), bound);
  return sum_of(add(even, odd));
}

// A key that at least k of the keys reach, and at most k + slack unless ties forbid it. The keys fill their vectors.
inline std::int32_t threshold_of(const std::int32_t* keys, std::int64_t vectors, std::int64_t k, std::int64_t slack) {
  Ints low_lanes = load(keys);
  Ints high_lanes = low_lanes;
  for (std::int64_t v = 1; v < vectors; ++v) {
    const Ints x = load(keys + v * lanes);
    low_lanes = min(low_lanes, x);
    high_lanes = max(high_lanes, x);
  }
  std::int32_t low = min_of(low_lanes);                      // reached by all
  std::int64_t high = std::int64_t{max_of(high_lanes)} + 1;  // by none
  while (high - low > 1) {
    const auto middle = static_cast<std::int32_t>(low + (high - low) / 2);
    const std::int64_t reaching = count_reaching(keys, vectors, middle);
    if (reaching < k) {
      high = middle;
    } else {
      low = middle;
      if (reaching <= k + slack) break;
    }
  }
  return low;
}

inline void pad_keys(std::int32_t* keys, std::int64_t count) {
  for (std::int64_t i = count; i < vectors_of(count) * lanes; ++i) keys[i] = key_none;
}

// Sorts few candidates by counting, for each, those that come before it; the first k ids go to best.
inline void sort_by_counting(std::int32_t* keys, const std::int32_t* ids, std::int64_t count, std::int64_t k,
                             std::int32_t* best) {
  pad_keys(keys, count);
  for (std::int64_t begin = 0; begin < count; begin += lanes) {
    const Ints mine = load(keys + begin);
    const std::int64_t end = begin + lanes < count ? begin + lanes : count;
    Ints even = broadcast(0);
    Ints odd = broadcast(0);
    std::int64_t j = 0;
    for (; j < begin; j += 2) {  // lanes is even: an equal key before comes first
      even = count_greater_equal(even, broadcast(keys[j]), mine);
      odd = count_greater_equal(odd, broadcast(keys[j + 1]), mine);
    }
    for (; j < end; ++j) {
      const Ints theirs = broadcast(keys[j]);
      const unsigned later = all_lanes & (~1u << (j - begin));
      even = increment(even, greater(theirs, mine) | (equal(theirs, mine) & later));
    }
    for (; j + 1 < count; j += 2) {  // an equal key behind comes later
      even = count_greater(even, broadcast(keys[j]), mine);
      odd = count_greater(odd, broadcast(keys[j + 1]), mine);
    }
    if (j < count) even = count_greater(even, broadcast(keys[j]), mine);
    std::int32_t rank[lanes];
    store(rank, add(even, odd));
    for (std::int64_t i = begin; i < end; ++i)
      if (rank[i - begin] < k) best[rank[i - begin]] = ids[i];
  }
}

// Sorts many candidates, keys descending and stable, byte by byte from the lowest. Returns the ids, in one of the two
// id rows.
inline const std::int32_t* sort_by_bytes(const SelectScratch& s, std::int64_t count) {
  std::uint32_t starts[4][256] = {};
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t digits = ~static_cast<std::uint32_t>(s.keys[i]) ^ 0x80000000u;
    for (int byte = 0; byte < 4; ++byte) ++starts[byte][digits >> (8 * byte) & 0xff];
  }
  std::int32_t *keys = s.keys, *ids = s.ids, *to_keys = s.other_keys, *to_ids = s.other_ids;
  for (int byte = 0; byte < 4; ++byte) {
    std::uint32_t sum = 0;
    bool one_bucket = false;
    for (std::uint32_t& start : starts[byte]) {
      const std::uint32_t size = start;
      one_bucket |= size == static_cast<std::uint32_t>(count);
      start = sum;
      sum += size;
    }
    if (one_bucket) continue;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint32_t digits = ~static_cast<std::uint32_t>(keys[i]) ^ 0x80000000u;
      const std::uint32_t to = starts[byte][digits >> (8 * byte) & 0xff]++;
      to_keys[to] = keys[i];
      to_ids[to] = ids[i];
    }
    std::int32_t* const swapped_keys = keys;
    std::int32_t* const swapped_ids = ids;
    keys = to_keys;
    ids = to_ids;
    to_keys = swapped_keys;
    to_ids = swapped_ids;
  }
  return ids;
}

constexpr std::int64_t counting_limit = 256;

// Sorts keys and ids, as many as `count`; the first k ids go to best.
inline void sort_candidates(const SelectScratch& s, std::int64_t count, std::int64_t k) {
  if (count <= counting_limit) {
    sort_by_counting(s.keys, s.ids, count, k, s.best);
  } else {
    __builtin_memcpy(s.best, sort_by_bytes(s, count), static_cast<std::size_t>(k) * sizeof(std::int32_t));
  }
}

// Of `count` keys and ids that compete for k places, keeps exactly the k that win them, in order of their ids.
inline void keep_winners(const SelectScratch& s, std::int64_t count, std::int64_t k) {
  pad_keys(s.keys, count);
  const std::int64_t vectors = vectors_of(count);
  const std::int32_t last = threshold_of(s.keys, vectors, k, 0);
  const Ints bound = broadcast(last);
  std::int64_t above = 0;
  for (std::int64_t v = 0; v < vectors; ++v) above += __builtin_popcount(greater(load(s.keys + v * lanes), bound));
  std::int64_t ties = k - above;
  std::int64_t kept = 0;
  for (std::int64_t v = 0; v < vectors; ++v) {
    const Ints keys = load(s.keys + v * lanes);
    const Ints ids = load(s.ids + v * lanes);
    unsigned tied = equal(keys, bound) & first_lanes(count - v * lanes);
    while (__builtin_popcount(tied) > ties) tied &= ~(1u << (31 - __builtin_clz(tied)));
    ties -= __builtin_popcount(tied);
    const unsigned winners = greater(keys, bound) | tied;
    compress(s.keys + kept, winners, keys);
    compress(s.ids + kept, winners, ids);
    kept += __builtin_popcount(winners);
  }
}

// The order keys of vector v of row[count]; key_none beyond the end.
PYGRADE_INLINE Ints key_at(const float* row, std::int64_t count, std::int64_t v) {
  const Ints key = order_key(load(row + v * lanes));
  return (v + 1) * lanes <= count ? key : select(first_lanes(count - v * lanes), key, broadcast(key_none));
}

// How many vectors share one vector of maxima, for a threshold near the k-th best: four times k maxima, each of up to
// 16 vectors. 0 where all candidates are compared at once.
inline std::int64_t block_depth(std::int64_t count, std::int64_t k) {
  if (count <= 4 * lanes || 2 * k >= count) return 0;
  const std::int64_t depth = count / (4 * k);
  return depth < 1 ? 1 : depth > 16 ? 16 : depth;
}

// The k best of few candidates, or of not many more than k.
inline void select_from_all(const float* row, std::int64_t count, std::int64_t k, const SelectScratch& s) {
  Ints ids = iota();
  for (std::int64_t v = 0; v < vectors_of(count); ++v, ids = add(ids, broadcast(lanes))) {
    store(s.keys + v * lanes, key_at(row, count, v));
    store(s.ids + v * lanes, ids);
  }
  if (count > counting_limit && k < count) {
    keep_winners(s, count, k);
    count = k;
  }
  sort_candidates(s, count, k);
}

// The k best, given the maxima of the blocks of `depth` vectors in s.maxima.
inline void select_by_maxima(const float* row, std::int64_t count, std::int64_t k, std::int64_t depth,
                             const SelectScratch& s) {
  const std::int64_t vectors = vectors_of(count);
  const std::int64_t blocks = (vectors + depth - 1) / depth;
  std::int32_t threshold = threshold_of(s.maxima, blocks, k, k / 8 + 4);
  threshold = threshold > key_none ? threshold : key_nan;  // every candidate reaches key_nan, and there are k
  const Ints bound = broadcast(threshold);
  std::int64_t kept = 0;
  for (std::int64_t block = 0; block < blocks; ++block) {
    if (greater_equal(load(s.maxima + block * lanes), bound) == 0) continue;
    const std::int64_t end = (block + 1) * depth < vectors ? (block + 1) * depth : vectors;
    for (std::int64_t v = block * depth; v < end; ++v) {
      const Ints key = key_at(row, count, v);
      const unsigned reaching = greater_equal(key, bound);
      compress(s.keys + kept, reaching, key);
      compress(s.ids + kept, reaching, add(iota(), broadcast(static_cast<std::int32_t>(v * lanes))));
      kept += __builtin_popcount(reaching);
    }
  }
  if (kept > 2 * k + 4 * lanes) {
    keep_winners(s, kept, k);
    kept = k;
  }
  sort_candidates(s, kept, k);
}

// Writes the positions of the k best of row[count] to s.best, best first, and returns how many there are. Reads up to a
// vector beyond the row, whatever stands there.
inline std::int64_t select_best(const float* row, std::int64_t count, std::int64_t k, const SelectScratch& s) {
  k = k < count ? k : count;
  if (k == 0) return 0;
  const std::int64_t depth = block_depth(count, k);
  if (depth == 0) {
    select_from_all(row, count, k, s);
    return k;
  }
  const std::int64_t vectors = vectors_of(count);
  for (std::int64_t v = 0, block = 0; v < vectors; ++block) {
    const std::int64_t end = v + depth < vectors ? v + depth : vectors;
    Ints most = key_at(row, count, v);
    for (++v; v < end; ++v) most = max(most, key_at(row, count, v));
    store(s.maxima + block * lanes, most);
  }
  select_by_maxima(row, count, k, depth, s);
  return k;
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
