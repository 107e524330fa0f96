// The k best of a row of fused scores: block maxima → a threshold that at least k candidates reach → compress what
// reaches it → sort. Candidates are sorted by the integers of `order_key`, so NaN, -0 and ties fall out of integer
// order; ids ascend wherever candidates are compared, and every step is stable.
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

  // The same with the two pairs of keys and ids in each other's place.
  SelectScratch swapped() const {
    SelectScratch s = *this;
    s.keys = other_keys, s.ids = other_ids, s.other_keys = keys, s.other_ids = ids;
    return s;
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
    const bool few = reaching < k;
    high = few ? middle : high;  // moves and no branch, which nobody could predict
    low = few ? low : middle;
    if (static_cast<std::uint64_t>(reaching - k) <= static_cast<std::uint64_t>(slack)) break;
  }
  return low;
}

// The keys' own order within a vector: -1 in the lanes behind lane j of `later + 15 - j`.
constexpr std::int32_t later[32] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

// The places of the candidates [i, i + lanes) ∩ [i, to) to best, by counting those of [from, to) that come before each.
// Whatever stands before `from` comes before them, whatever stands from `to` on comes after.
PYGRADE_INLINE void place_by_counting(const std::int32_t* keys, const std::int32_t* ids, std::int64_t i,
                                      std::int64_t from, std::int64_t to, std::int32_t* best) {
  const Ints mine = load(keys + i);
  const Ints below = add(mine, broadcast(-1));  // whatever is above it is equal or better
  const std::int64_t end = i + lanes < to ? i + lanes : to;
  Ints even = broadcast(static_cast<std::int32_t>(from));
  Ints odd = broadcast(0);
  std::int64_t j = from;
  for (; j + 1 < i; j += 2) {  // an equal key before comes first
    even = count_greater(even, broadcast(keys[j]), below);
    odd = count_greater(odd, broadcast(keys[j + 1]), below);
  }
  if (j < i) odd = count_greater(odd, broadcast(keys[j]), below);
  for (j = i; j < end; ++j) even = count_greater(even, broadcast(keys[j]), add(mine, load(later + 15 - (j - i))));
  for (; j + 1 < to; j += 2) {  // an equal key behind comes later
    even = count_greater(even, broadcast(keys[j]), mine);
    odd = count_greater(odd, broadcast(keys[j + 1]), mine);
  }
  if (j < to) even = count_greater(even, broadcast(keys[j]), mine);
  std::int32_t place[lanes];
  store(place, add(even, odd));
  for (j = i; j < end; ++j) best[place[j - i]] = ids[j];
}

constexpr std::int64_t counting_limit = 12 * lanes;
constexpr std::uint32_t most_buckets = 256;

// The places [begin, end) of the ranking to s.best, given their candidates in s.keys and s.ids; of places from k on,
// some or none. Spreads them stably over buckets, evenly by their keys, and sorts a bucket that got many likewise, or
// else by counting. Overwrites keys and ids.
inline void sort_places(const SelectScratch& s, std::int64_t begin, std::int64_t end, std::int64_t k) {
  if (end - begin <= counting_limit) {
    for (std::int64_t i = begin; i < end; i += lanes) place_by_counting(s.keys, s.ids, i, begin, end, s.best);
    return;
  }
  Ints low = load(s.keys + end - lanes);
  Ints high = low;
  for (std::int64_t i = begin; i + lanes <= end; i += lanes) {
    const Ints keys = load(s.keys + i);
    low = min(low, keys);
    high = max(high, keys);
  }
  const auto most = static_cast<std::uint32_t>(max_of(high));
  const std::uint32_t range = most - static_cast<std::uint32_t>(min_of(low));
  if (range == 0) {
    __builtin_memcpy(s.best + begin, s.ids + begin, static_cast<std::size_t>(end - begin) * sizeof(std::int32_t));
    return;
  }
  int shift = 0;
  while (range >> shift >= most_buckets) ++shift;
  const auto bucket_of = [&](std::int32_t key) { return (most - static_cast<std::uint32_t>(key)) >> shift; };
  std::int32_t ends[most_buckets + 1] = {};  // where bucket b ends stands in ends[b + 1], where it begins in ends[b]
  for (std::int64_t i = begin; i < end; ++i) ++ends[bucket_of(s.keys[i]) + 1];
  auto filled = static_cast<std::int32_t>(begin);
  std::int32_t largest = 0;
  for (std::int32_t& place : ends) {  // until the candidates are there, a bucket ends where it begins
    const std::int32_t size = place;
    place = filled;
    filled += size;
    largest = size > largest ? size : largest;
  }
  const SelectScratch moved = s.swapped();
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int32_t key = s.keys[i];
    const std::int32_t to = ends[bucket_of(key) + 1]++;
    moved.keys[to] = key;
    moved.ids[to] = s.ids[i];
  }

  std::int64_t from = begin;  // what is not sorted yet
  const auto place_buckets_until = [&](std::int64_t to) {
    for (; from < to; from += lanes) {
      const std::int64_t last = from + lanes < to ? from + lanes - 1 : to - 1;
      const std::int64_t first = ends[bucket_of(moved.keys[from])];
      if (first >= k) return;
      place_by_counting(moved.keys, moved.ids, from, first, ends[bucket_of(moved.keys[last]) + 1], s.best);
    }
  };
  if (largest > counting_limit)
    for (std::uint32_t b = 0; b < most_buckets && ends[b] < k; ++b) {
      if (ends[b + 1] - ends[b] <= counting_limit) continue;
      place_buckets_until(ends[b]);
      from = ends[b + 1];
      sort_places(moved, ends[b], from, k);
    }
  place_buckets_until(end);
}

// The k best, compared all.
inline void select_from_all(const float* row, std::int64_t count, std::int64_t k, const SelectScratch& s) {
  Ints ids = iota();
  for (std::int64_t i = 0; i < count; i += lanes, ids = add(ids, broadcast(lanes))) {
    store(s.keys + i, order_key(load(row + i)));
    store(s.ids + i, ids);
  }
  sort_places(s, 0, count, k);
}

// How many vectors share one vector of maxima, for a threshold near the k-th best: four times k maxima, each of 2 to 16
// vectors, an even number. 0 where all candidates are compared at once.
inline std::int64_t block_depth(std::int64_t count, std::int64_t k) {
  if (count <= 4 * lanes || 2 * k >= count) return 0;
  const std::int64_t depth = count / (4 * k) / 2 * 2;
  return depth < 2 ? 2 : depth > 16 ? 16 : depth;
}

// The maxima of the blocks of `depth` vectors from block `first` on, lane by lane, as keys. NaN counts as -inf.
inline void note_maxima(const float* row, std::int64_t count, std::int64_t depth, std::int64_t first,
                        std::int32_t* maxima) {
  const Floats lowest = broadcast(-__builtin_inff());
  for (std::int64_t block = first; block * depth * lanes < count; ++block) {
    Floats most = lowest;
    for (std::int64_t i = block * depth * lanes; i < count && i < (block + 1) * depth * lanes; i += lanes)
      most = max(select(first_lanes(count - i), load(row + i), lowest), most);
    store(maxima + block * lanes, order_key(most));
  }
}

// The k best, given the block maxima.
inline void select_by_maxima(const float* row, std::int64_t count, std::int64_t k, std::int64_t depth,
                             const std::int32_t* maxima, const SelectScratch& s) {
  const std::int64_t vectors = vectors_of(count);
  const std::int64_t blocks = (vectors + depth - 1) / depth;
  const std::int32_t threshold = threshold_of(maxima, blocks, k, k / 8 + 4);
  if (threshold <= key_lowest) return select_from_all(row, count, k, s);  // where the maxima do not tell NaN from -inf
  const Ints bound = broadcast(threshold);
  const Floats least = broadcast(score_of_key(threshold));
  std::int32_t* const positions = s.ids;
  std::int64_t kept = 0;
  for (std::int64_t block = 0; block < blocks; ++block) {
    if (greater_equal(load(maxima + block * lanes), bound) == 0) continue;
    const std::int64_t end = (block + 1) * depth < vectors ? (block + 1) * depth : vectors;
    Ints ids = add(iota(), broadcast(static_cast<std::int32_t>(block * depth * lanes)));
    for (std::int64_t v = block * depth; v < end; ++v, ids = add(ids, broadcast(lanes))) {
      const unsigned reaching = greater_equal(load(row + v * lanes), least);
      compress(positions + kept, reaching, ids);
      kept += __builtin_popcount(reaching);
    }
  }
  while (positions[kept - 1] >= count) --kept;  // what stands behind the row
  auto* const scores = reinterpret_cast<float*>(s.keys);
  for (std::int64_t i = 0; i < kept; ++i) scores[i] = row[positions[i]];
  for (std::int64_t i = 0; i < kept; i += lanes) store(s.keys + i, order_key(load(scores + i)));
  sort_places(s, 0, kept, k);
}

// Writes the positions of the k best of row[count] to s.best, best first, and returns how many there are; `depth` is
// block_depth's, and the maxima are noted where it is not 0. Reads up to a vector beyond the row, whatever stands
// there.
inline std::int64_t select_noted(const float* row, std::int64_t count, std::int64_t k, std::int64_t depth,
                                 const std::int32_t* maxima, const SelectScratch& s) {
  k = k < count ? k : count;
  if (depth == 0)
    select_from_all(row, count, k, s);
  else
    select_by_maxima(row, count, k, depth, maxima, s);
  return k;
}

// The same for a row whose maxima nobody noted.
inline std::int64_t select_best(const float* row, std::int64_t count, std::int64_t k, const SelectScratch& s) {
  const std::int64_t depth = block_depth(count, k);
  if (depth > 0) note_maxima(row, count, depth, 0, s.maxima);
  return select_noted(row, count, k, depth, s.maxima, s);
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
