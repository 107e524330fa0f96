// The k best of a row of fused scores: block maxima → a threshold that at least k candidates reach → the candidates
// that reach it → sort. Candidates are compared by the integers of `order_key`, which order NaN, -0 and ties; ids
// ascend wherever candidates are compared, and every step is stable.
#pragma once

#include "order.hpp"
#include "simd.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// Rows of scratch_stride integers; the result goes to `best`.
struct SelectScratch {
  Keyed all, spare;
  std::int32_t *maxima, *best;

  SelectScratch(float* memory, std::int64_t stride) {
    auto* row = reinterpret_cast<std::int32_t*>(memory);
    for (std::int32_t** part : {&all.keys, &all.ids, &spare.keys, &spare.ids, &maxima, &best}) {
      *part = row;
      row += stride;
    }
  }
};

inline std::int64_t vectors_of(std::int64_t count) { return (count + lanes - 1) / lanes; }

inline std::int64_t count_reaching(const std::int32_t* keys, std::int64_t vectors, std::int32_t threshold) {
  const Ints bound = broadcast(threshold);
  std::int64_t count = 0;
#pragma GCC unroll 4
  for (std::int64_t v = 0; v < vectors; ++v) count += __builtin_popcount(greater_equal(load(keys + v * lanes), bound));
  return count;
}

// A key above `low` and at most `high`. Halfway between their scores if these may differ in sign, because
// most keys belong to scores near zero; halfway between the keys if that makes no progress.
inline std::int32_t middle_of(std::int32_t low, std::int64_t high, bool by_score) {
  const auto halfway = static_cast<std::int32_t>(low + (high - low) / 2);
  if (low >= 0 || !by_score) return halfway;
  const float score = 0.5f * score_of_key(low) + 0.5f * score_of_key(static_cast<std::int32_t>(high - 1));
  const std::int32_t bits = __builtin_bit_cast(std::int32_t, score);
  const std::int32_t key = bits ^ (bits < 0 ? 0x7fffffff : 0);
  return key > low && key < high ? key : halfway;  // infinities give infinity or NaN
}

// The range from a key that at least k of the keys reach (at most k + slack unless ties prevent it) to the highest
// key. The keys fill whole vectors.
inline KeyRange threshold_of(const std::int32_t* keys, std::int64_t vectors, std::int64_t k, std::int64_t slack) {
  Ints low_lanes = load(keys);
  Ints high_lanes = low_lanes;
  for (std::int64_t v = 1; v < vectors; ++v) {
    const Ints x = load(keys + v * lanes);
    low_lanes = min(low_lanes, x);
    high_lanes = max(high_lanes, x);
  }
  std::int32_t low = min_of(low_lanes);  // all keys reach it
  const std::int32_t highest = max_of(high_lanes);
  std::int64_t high = std::int64_t{highest} + 1;  // no key reaches it
  for (int tries = 0; high - low > 1; ++tries) {
    const std::int32_t middle = middle_of(low, high, tries < 16);
    const std::int64_t reaching = count_reaching(keys, vectors, middle);
    const bool few = reaching < k;
    high = few ? middle : high;  // branch-free: the outcome is unpredictable
    low = few ? low : middle;
    if (static_cast<std::uint64_t>(reaching - k) <= static_cast<std::uint64_t>(slack)) break;
  }
  return {low, highest};
}

// Appends first + the position of each bit of the word to `to`, ascending; may write up to 8 integers past the end.
// Unrolled so that the loop rarely iterates twice: the number of bits is unpredictable.
template <int unroll>
PYGRADE_INLINE void append_bits(std::uint64_t word, std::int32_t first, std::int32_t* to) {
  do {
#pragma GCC unroll 8
    for (int i = 0; i < unroll; ++i) {
      to[i] = first + lowest_bit(word);
      __asm__("" : : : "memory");  // keeps the compiler from collecting them in a vector, which is slower
      word &= word - 1;
    }
    to += unroll;
  } while (word != 0);
}

template <int unroll>
inline std::int64_t keep_reaching(const float* row, std::int64_t begin, std::int64_t end, Floats bound,
                                  std::int32_t* ids, std::int64_t kept) {
  for (std::int64_t i = begin; i < end; i += 64) {
    const std::uint64_t inside = end - i < 64 ? (std::uint64_t{1} << (end - i)) - 1 : ~std::uint64_t{0};
    const std::uint64_t word = reaching64(row + i, bound) & inside;
    append_bits<unroll>(word, static_cast<std::int32_t>(i), ids + kept);
    kept += __builtin_popcountll(word);
  }
  return kept;
}

// The positions in row[count] that reach the threshold, about k, to `ids`, ascending. Returns how many there are;
// writes up to 64 integers past the end.
inline std::int64_t keep_reaching(const float* row, std::int64_t count, std::int64_t k, float threshold,
                                  std::int32_t* ids) {
  const Floats bound = broadcast(threshold);
  return 32 * k < count ? keep_reaching<4>(row, 0, count, bound, ids, 0)
                        : keep_reaching<8>(row, 0, count, bound, ids, 0);
}

// The k best, by sorting all candidates.
inline void select_from_all(const float* row, std::int64_t count, std::int64_t k, const SelectScratch& s) {
  Ints ids = iota();
  for (std::int64_t i = 0; i < count; i += lanes, ids = add(ids, broadcast(lanes))) {
    store(s.all.keys + i, order_key(load(row + i)));
    store(s.all.ids + i, ids);
  }
  if (count > 0) sort_by_key(s.all, s.spare, count, k, range_of(s.all.keys, count), s.best);
}

// Number of vectors that share one vector of maxima: about 3 k maxima, each of 2 to 16 vectors, give a threshold near
// the k-th best. 0: sort all candidates instead.
inline std::int64_t block_depth(std::int64_t count, std::int64_t k) {
  if (count <= 4 * lanes || 2 * k >= count) return 0;
  const std::int64_t depth = count / (3 * k);
  return depth < 2 ? 2 : depth > 16 ? 16 : depth;
}

// The maxima of the blocks of `depth` vectors from block `first` on, lane by lane, as keys. NaN counts as -inf.
inline void store_maxima(const float* row, std::int64_t count, std::int64_t depth, std::int64_t first,
                         std::int32_t* maxima) {
  const Floats lowest = broadcast(-__builtin_inff());
  for (std::int64_t block = first; block * depth * lanes < count; ++block) {
    Floats block_max = lowest;
    for (std::int64_t i = block * depth * lanes; i < count && i < (block + 1) * depth * lanes; i += lanes)
      block_max = max(select(first_lanes(count - i), load(row + i), lowest), block_max);
    store(maxima + block * lanes, order_key(block_max));
  }
}

// The scores of the candidates in s.all.ids, as keys, to s.all.keys. In steps of 16, so that the trip count is
// predictable.
inline void store_keys(const float* row, std::int64_t kept, const SelectScratch& s) {
  for (std::int64_t i = kept; i < kept + 16; i += lanes) store(s.all.ids + i, broadcast(0));
  auto* const scores = reinterpret_cast<float*>(s.all.keys);
  for (std::int64_t i = 0; i < kept; i += 16)
#pragma GCC unroll 16
    for (std::int64_t j = i; j < i + 16; ++j) scores[j] = row[s.all.ids[j]];
  for (std::int64_t i = 0; i < kept; i += lanes) store(s.all.keys + i, order_key(load(scores + i)));
}

// The k best, given the block maxima.
inline void select_by_maxima(const float* row, std::int64_t count, std::int64_t k, std::int64_t depth,
                             const std::int32_t* maxima, const SelectScratch& s) {
  const std::int64_t blocks = (vectors_of(count) + depth - 1) / depth;
  const KeyRange range = threshold_of(maxima, blocks, k, k / 8 + 4);
  if (range.low <= key_lowest) return select_from_all(row, count, k, s);  // maxima do not distinguish NaN from -inf
  const std::int64_t kept = keep_reaching(row, count, k, score_of_key(range.low), s.all.ids);
  store_keys(row, kept, s);
  sort_by_key(s.all, s.spare, kept, k, range, s.best);
}

// Writes the positions of the k best of row[count] to s.best, best first, and returns how many there are. Reads up to
// 64 numbers past the row, whatever their values.
inline std::int64_t select_best(const float* row, std::int64_t count, std::int64_t k, const SelectScratch& s) {
  k = k < count ? k : count;
  const std::int64_t depth = block_depth(count, k);
  if (depth == 0) {
    select_from_all(row, count, k, s);
  } else {
    store_maxima(row, count, depth, 0, s.maxima);
    select_by_maxima(row, count, k, depth, s.maxima, s);
  }
  return k;
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
