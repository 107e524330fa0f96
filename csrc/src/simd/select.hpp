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

// The keys' own order within a vector: -1 in the lanes behind lane j of `later + 15 - j`.
constexpr std::int32_t later[32] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

// Sorts few candidates by counting, for each, those that come before it. Overwrites up to a vector behind the keys.
inline void sort_by_counting(std::int32_t* keys, const std::int32_t* ids, std::int64_t count, std::int32_t* best) {
  for (std::int64_t i = count; i < vectors_of(count) * lanes; ++i) keys[i] = key_none;
  for (std::int64_t begin = 0; begin < count; begin += lanes) {
    const Ints mine = load(keys + begin);
    const Ints below = add(mine, broadcast(-1));  // whatever is above it is equal or better
    const std::int64_t end = begin + lanes < count ? begin + lanes : count;
    Ints even = broadcast(0);
    Ints odd = broadcast(0);
    std::int64_t j = 0;
    for (; j < begin; j += 2) {  // lanes is even: an equal key before comes first
      even = count_greater(even, broadcast(keys[j]), below);
      odd = count_greater(odd, broadcast(keys[j + 1]), below);
    }
    for (; j < end; ++j) even = count_greater(even, broadcast(keys[j]), add(mine, load(later + 15 - (j - begin))));
    for (; j + 1 < count; j += 2) {  // an equal key behind comes later
      even = count_greater(even, broadcast(keys[j]), mine);
      odd = count_greater(odd, broadcast(keys[j + 1]), mine);
    }
    if (j < count) even = count_greater(even, broadcast(keys[j]), mine);
    std::int32_t rank[lanes];
    store(rank, add(even, odd));
    for (std::int64_t i = begin; i < end; ++i) best[rank[i - begin]] = ids[i];
  }
}

// Moves the candidates of [begin, end) whose key is above `middle` before the others and returns how far they reach.
inline std::int64_t partition(const SelectScratch& s, std::int64_t begin, std::int64_t end, std::int32_t middle) {
  const Ints bound = broadcast(middle);
  std::int32_t *const all_keys = s.keys, *const all_ids = s.ids;
  std::int32_t *const rest_keys = s.other_keys, *const rest_ids = s.other_ids;
  std::int64_t front = begin;
  std::int64_t rest = 0;
  for (std::int64_t i = begin; i < end; i += lanes) {
    const Ints keys = load(all_keys + i);
    const Ints ids = load(all_ids + i);
    const unsigned valid = first_lanes(end - i);
    const unsigned above = greater(keys, bound) & valid;
    compress(all_keys + front, above, keys);
    compress(all_ids + front, above, ids);
    compress(rest_keys + rest, above ^ valid, keys);
    compress(rest_ids + rest, above ^ valid, ids);
    front += __builtin_popcount(above);
    rest += __builtin_popcount(above ^ valid);
  }
  for (std::int64_t i = 0; i < rest; i += lanes) {
    store(all_keys + front + i, load(rest_keys + i));
    store(all_ids + front + i, load(rest_ids + i));
  }
  return front;
}

constexpr std::int64_t counting_limit = 64;

// The places [begin, end) of the ranking to s.best, given their candidates in s.keys and s.ids; of places from k on,
// some or none. Halves the range of the keys, 32 times at most, until few candidates are left or all are equal.
// Overwrites up to a vector behind the candidates.
inline void sort_places(const SelectScratch& s, std::int64_t begin, std::int64_t end, std::int64_t k) {
  while (begin < end && begin < k) {
    if (end - begin <= counting_limit)
      return sort_by_counting(s.keys + begin, s.ids + begin, end - begin, s.best + begin);
    Ints low = load(s.keys + begin);
    Ints high = low;
    std::int64_t i = begin + lanes;
    for (; i + lanes <= end; i += lanes) {
      const Ints keys = load(s.keys + i);
      low = min(low, keys);
      high = max(high, keys);
    }
    const Ints last = load(s.keys + end - lanes);  // again some that were seen
    const std::int32_t least = min_of(min(low, last));
    const std::int32_t most = max_of(max(high, last));
    if (least == most) {
      __builtin_memcpy(s.best + begin, s.ids + begin, static_cast<std::size_t>(end - begin) * sizeof(std::int32_t));
      return;
    }
    const auto middle = static_cast<std::int32_t>(least + (std::int64_t{most} - least) / 2);
    const std::int64_t front = partition(s, begin, end, middle);
    sort_places(s, front, end, k);  // before what overwrites its candidates
    end = front;
  }
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
  auto* const scores = reinterpret_cast<float*>(s.keys);
  std::int32_t* const positions = s.ids;
  std::int64_t kept = 0;
  for (std::int64_t block = 0; block < blocks; ++block) {
    if (greater_equal(load(maxima + block * lanes), bound) == 0) continue;
    const std::int64_t end = (block + 1) * depth < vectors ? (block + 1) * depth : vectors;
    Ints ids = add(iota(), broadcast(static_cast<std::int32_t>(block * depth * lanes)));
    for (std::int64_t v = block * depth; v < end; ++v, ids = add(ids, broadcast(lanes))) {
      const Floats x = load(row + v * lanes);
      const unsigned reaching = greater_equal(x, least);
      compress(scores + kept, reaching, x);
      compress(positions + kept, reaching, ids);
      kept += __builtin_popcount(reaching);
    }
  }
  while (positions[kept - 1] >= count) --kept;  // what stands behind the row
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
