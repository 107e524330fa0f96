// Stable descending sort of candidates by key: ids that come in ascending order break ties. Up to 256 are sorted by a
// network in registers, as 22 bits of the distance from the highest key and 8 bits of position; an insertion sort then
// corrects what 22 bits cannot tell apart. More are partitioned first.
#pragma once

#include "simd.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// Keys and the ids of their candidates.
struct Keyed {
  std::int32_t *keys, *ids;
  Keyed from(std::int64_t i) const { return {keys + i, ids + i}; }
};

// From the lowest key to the highest.
struct KeyRange {
  std::int32_t low, high;
  std::uint32_t size() const { return static_cast<std::uint32_t>(high) - static_cast<std::uint32_t>(low); }
};

inline KeyRange range_of(const std::int32_t* keys, std::int64_t count) {
  KeyRange range{keys[0], keys[0]};
  std::int64_t i = 0;
  if (lanes <= count) {
    Ints low = load(keys), high = low;
    for (; i + lanes <= count; i += lanes) {
      low = min(low, load(keys + i));
      high = max(high, load(keys + i));
    }
    range = {min_of(low), max_of(high)};
  }
  for (; i < count; ++i) {
    range.low = keys[i] < range.low ? keys[i] : range.low;
    range.high = keys[i] > range.high ? keys[i] : range.high;
  }
  return range;
}

// Orders lanes that are `distance` apart, ascending.
template <int distance, int R>
PYGRADE_INLINE void order_lanes(Ints (&x)[R]) {
  for (Ints& v : x) {
    const Ints other = swap_lanes<distance>(v);
    v = select(lanes_with(distance), max(v, other), min(v, other));
  }
  if constexpr (distance > 1) order_lanes<distance / 2>(x);
}

// Orders registers that are `distance` apart: ascending, or descending if the register's number has the bit `down`.
template <int distance, int R>
PYGRADE_INLINE void order_registers(Ints (&x)[R], int down) {
  if constexpr (distance > 0) {
    for (int i = 0; i < R; ++i) {
      if ((i & distance) != 0) continue;
      const Ints low = min(x[i], x[i + distance]), high = max(x[i], x[i + distance]);
      x[i] = (i & down) != 0 ? high : low;
      x[i + distance] = (i & down) != 0 ? low : high;
    }
    order_registers<distance / 2>(x, down);
  }
}

// Complements the lanes that have exactly one of two bits, which reverses their order.
template <int R>
PYGRADE_INLINE void complement(Ints (&x)[R], int first, int second) {
  const Ints which = select(lanes_with(first) ^ lanes_with(second), broadcast(-1), broadcast(0));
  for (Ints& v : x) v = bits_xor(v, which);
}

// Bitonic merges of 2, 4, … registers, lane by lane.
template <int size, int R>
PYGRADE_INLINE void merge_registers(Ints (&x)[R]) {
  if constexpr (size < R) {
    order_registers<size / 2>(x, size);
    merge_registers<2 * size>(x);
  }
}

// Bitonic merges across the lanes of all registers, `size` lanes at a time; every other one descends, by complement.
template <int size, int R>
PYGRADE_INLINE void merge_lanes(Ints (&x)[R]) {
  complement(x, size / 2, size < lanes ? size : 0);
  if constexpr (size > 1) order_lanes<size / 2>(x);
  order_registers<R / 2>(x, 0);
  if constexpr (size < lanes) merge_lanes<2 * size>(x);
}

// Sorts ascending. Element i is lane i / R of register i % R, so that most steps compare whole registers.
template <int R>
PYGRADE_INLINE void sort_network(Ints (&x)[R]) {
  merge_registers<2>(x);
  merge_lanes<1>(x);
}

// Insertion sort of nearly sorted keys.
inline void insertion_sort(Keyed all, std::int64_t count) {
  for (std::int64_t i = 1; i < count; ++i) {
    const std::int32_t key = all.keys[i], id = all.ids[i];
    std::int64_t to = i;
    for (; to > 0 && all.keys[to - 1] < key; --to) all.keys[to] = all.keys[to - 1], all.ids[to] = all.ids[to - 1];
    all.keys[to] = key, all.ids[to] = id;
  }
}

constexpr int max_registers = 16;
constexpr std::int64_t network_limit = max_registers * lanes;  // at most 256: 8 bits of position

// The ids of up to R · lanes candidates to `best`, in order, or at least the first `wanted` of them.
template <int R>
__attribute__((noinline)) void sort_small(Keyed all, Keyed spare, std::int64_t count, std::int64_t wanted,
                                          KeyRange range, std::int32_t* best) {
  const Ints high = broadcast(range.high), distance_bits = broadcast(~0xff), after_last = broadcast(0x40000000);
  const int shift = __builtin_clz(range.size() | 1u);
  Ints x[R];
  Ints position = iota();
  for (int r = 0; r < R; ++r, position = add(position, broadcast(lanes))) {
    const Ints distance = shift_right(shift_left(sub(high, load(all.keys + r * lanes)), shift), 2);
    const Ints code = bits_or(bits_and(distance, distance_bits), position);
    x[r] = select(first_lanes(count - r * lanes), code, bits_or(after_last, shift_left(position, 8)));
  }
  sort_network(x);
  // the smallest difference between neighbors
  Ints difference = select(first_lanes(lanes - 1), bits_xor(x[R - 1], next_lanes(x[0])), after_last);
  for (int r = 0; r + 1 < R; ++r) difference = min(difference, bits_xor(x[r], x[r + 1]));
  bool ambiguous = greater(broadcast(0x100), difference) != 0;
  if (ambiguous) {  // not if the keys differ in the 22 bits alone, as those of half-precision scores often do
    Ints lost = broadcast(0);
    for (int r = 0; r < R; ++r) {
      const Ints distance = shift_left(sub(high, load(all.keys + r * lanes)), shift);
      lost = bits_or(lost, select(first_lanes(count - r * lanes), bits_and(distance, broadcast(0x3ff)), broadcast(0)));
    }
    ambiguous = greater(lost, broadcast(0)) != 0;
  }
  alignas(64) std::int32_t sorted[R * lanes];
  for (int r = 0; r < R; ++r) store(sorted + r * lanes, x[r]);
  wanted = ambiguous || wanted > count ? count : wanted;
  for (std::int64_t i = 0; i < wanted; i += R)
    for (int r = 0; r < R; ++r) best[i + r] = all.ids[sorted[r * lanes + i / R] & 0xff];
  if (!ambiguous) return;
  for (std::int64_t i = 0; i < count; ++i) spare.keys[i] = all.keys[sorted[i % R * lanes + i / R] & 0xff];
  insertion_sort({spare.keys, best}, count);
}

// A key near the median, such that some keys are above it and some are not. The range holds more than one key.
inline std::int32_t split_key(const std::int32_t* keys, std::int64_t count, KeyRange range) {
  Ints sorted_samples[1];
  std::int32_t samples[lanes];
  for (int i = 0; i < lanes; ++i) samples[i] = keys[count / lanes * i];
  sorted_samples[0] = load(samples);
  sort_network(sorted_samples);
  store(samples, sorted_samples[0]);
  const std::int32_t middle = samples[lanes / 2];
  return middle < range.high ? middle : range.high - 1;
}

// The ids of the candidates to `best`, in order, or at least the first `wanted` of them; the keys are from range.low to
// range.high. Overwrites the candidates, and as many of `spare`; both and `best` have room for 64 more integers. Large
// inputs are split by a sampled key; after an uneven split by halving the range, so that no input causes many splits.
inline void sort_by_key(Keyed all, Keyed spare, std::int64_t count, std::int64_t wanted, KeyRange range,
                        std::int32_t* best, bool misled = false) {
  if (wanted <= 0 || count == 0) return;
  if (range.size() == 0) {
    __builtin_memcpy(best, all.ids, static_cast<std::size_t>(count) * sizeof(std::int32_t));
    return;
  }
  if (count <= lanes) return sort_small<1>(all, spare, count, wanted, range, best);
  if (count <= 2 * lanes) return sort_small<2>(all, spare, count, wanted, range, best);
  if (count <= 4 * lanes) return sort_small<4>(all, spare, count, wanted, range, best);
  if (count <= 8 * lanes) return sort_small<8>(all, spare, count, wanted, range, best);
  if (count <= network_limit) return sort_small<max_registers>(all, spare, count, wanted, range, best);
  const auto halfway = static_cast<std::int32_t>(range.low + (std::int64_t{range.high} - range.low) / 2);
  const std::int32_t key = misled ? halfway : split_key(all.keys, count, range);
  std::int64_t above = 0, others = 0;
  for (std::int64_t i = 0; i < count; i += lanes) {  // candidates above go to `spare`, the others move together
    const Ints keys = load(all.keys + i), ids = load(all.ids + i);
    const unsigned inside = first_lanes(count - i);
    const unsigned first = greater(keys, broadcast(key)) & inside;
    const unsigned second = ~first & inside;
    compress(spare.keys + above, first, keys);
    compress(spare.ids + above, first, ids);
    compress(all.keys + others, second, keys);
    compress(all.ids + others, second, ids);
    above += __builtin_popcount(first);
    others += __builtin_popcount(second);
  }
  misled = !misled && (above < count / 16 || others < count / 16);
  sort_by_key(spare, all.from(others), above, wanted, {key + 1, range.high}, best, misled);
  sort_by_key(all, spare, others, wanted - above, {range.low, key}, best + above, misled);
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
