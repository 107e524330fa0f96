"""The k best of a stream of scores. A candidate is a 64-bit key, the order of its score above that of its index. No
two keys are equal, so a cut by bisection is exact. csrc/include/pygrade/fusion.hpp defines the order.
"""

import triton
import triton.language as tl

EMPTY = tl.constexpr(-(2**63))  # the key of no candidate
NOTHING = tl.constexpr(-(2**31))  # an order below that of every score
_NAN = tl.constexpr(-(2**31) + 1)


@triton.jit
def order_of(score):
    """An int32 in the order of the scores, NaN below -inf; a score is never -0."""
    bits = score.to(tl.int32, bitcast=True)
    return tl.where(score == score, bits ^ ((bits >> 31) & 0x7FFFFFFF), _NAN)


@triton.jit
def key_of(order, index):
    """An int64 in ranking order: among equal scores the smaller index first."""
    return (order.to(tl.int64) << 32) | (0xFFFFFFFF - index.to(tl.int64))


@triton.jit
def score_of(key):
    """The score of a key; -inf of EMPTY."""
    order = (key >> 32).to(tl.int32)
    score = (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.where(key == EMPTY, float("-inf"), tl.where(order == _NAN, float("nan"), score))


@triton.jit
def index_of(key):
    """The index of a key; -1 of EMPTY."""
    return tl.where(key == EMPTY, -1, (0xFFFFFFFF - (key & 0xFFFFFFFF)).to(tl.int32))


@triton.jit
def _shrink(buffer, filled, least, MOST: tl.constexpr, CAPACITY: tl.constexpr):
    """Moves the best of more than MOST keys, at least ``least`` and at most MOST of them, to the front of the buffer.

    Returns their number and an order that a later candidate must beat.
    """
    slot = tl.arange(0, CAPACITY)
    tl.debug_barrier()
    keys = tl.load(buffer + slot, mask=slot < filled, other=EMPTY)
    low = tl.min(tl.where(keys == EMPTY, 2**63 - 1, keys), axis=0)
    high = tl.max(keys, axis=0) + 1
    cut = low
    reached = filled
    while (reached > MOST) | (reached < least):
        cut = (low & high) + ((low ^ high) >> 1)
        reached = tl.sum((keys >= cut).to(tl.int32), axis=0)
        low = tl.where(reached > MOST, cut, low)
        high = tl.where(reached < least, cut, high)
    kept = keys >= cut
    tl.debug_barrier()
    tl.store(buffer + tl.cumsum(kept.to(tl.int32), axis=0) - 1, keys, mask=kept)
    return reached, (cut >> 32).to(tl.int32)


@triton.jit
def _running(new, LISTS: tl.constexpr, TN: tl.constexpr):
    """Inclusive running counts along the last axis; Triton 3.6 can't scan beside an axis of one element."""
    if LISTS == 1:
        return tl.reshape(tl.cumsum(tl.reshape(new, [TN]), axis=0), [1, TN])
    else:
        return tl.cumsum(new, axis=1)


@triton.jit
def append(
    buffer, order, index, eligible, filled, bound, k,
    LISTS: tl.constexpr, TN: tl.constexpr, KP: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Adds a tile of candidates, order[LISTS, TN] and index[TN], to the buffers [LISTS, CAPACITY] of this program.

    Takes and returns filled[LISTS], the keys in each buffer, and bound[LISTS], the order that a candidate must beat.
    """
    row = tl.arange(0, LISTS)
    better = eligible & (order > bound[:, None])
    new = better.to(tl.int32)
    added = tl.sum(new, axis=1)
    if tl.max(added, axis=0) > 0:  # seldom not so, but in long lists, of which most tiles add nothing
        slot = row[:, None] * CAPACITY + filled[:, None] + _running(new, LISTS, TN) - 1
        tl.store(buffer + slot, key_of(order, index[None, :]), mask=better)
        filled += added
        for i in range(LISTS):
            mine = tl.sum(tl.where(row == i, filled, 0), axis=0)
            if mine > CAPACITY - TN:
                left, beaten = _shrink(buffer + i * CAPACITY, mine, k, KP, CAPACITY)
                filled = tl.where(row == i, left, filled)
                bound = tl.where(row == i, beaten, bound)
        tl.debug_barrier()
    return filled, bound


@triton.jit
def _descending(keys, LEVELS: tl.constexpr):
    """Bitonic sort of 2^LEVELS keys, best first; each bit of the position is an axis."""
    x = tl.reshape(keys, [2] * LEVELS)
    for stage in tl.static_range(1, LEVELS + 1):
        for bit in tl.static_range(stage - 1, -1, -1):
            last = tl.reshape(tl.arange(0, 2), [1] * (LEVELS - 1 - bit) + [2] + [1] * bit)
            if stage < LEVELS:
                last = last ^ tl.reshape(tl.arange(0, 2), [1] * (LEVELS - 1 - stage) + [2] + [1] * stage)
            other = tl.sum(x, axis=LEVELS - 1 - bit, keep_dims=True) - x
            x = tl.where((x > other) == (last != 0), other, x)
    return tl.reshape(x, keys.shape)


@triton.jit
def best(buffer, filled, k, KP: tl.constexpr, LEVELS: tl.constexpr, CAPACITY: tl.constexpr):
    """The best keys of one buffer[CAPACITY], sorted, [KP = 2^LEVELS ≥ k], padded with EMPTY."""
    left = filled
    if filled > KP:
        left, _ = _shrink(buffer, filled, k, KP, CAPACITY)
    tl.debug_barrier()
    place = tl.arange(0, KP)
    keys = _descending(tl.load(buffer + place, mask=place < left, other=EMPTY), LEVELS)
    tl.debug_barrier()
    return tl.where(place < k, keys, EMPTY)
