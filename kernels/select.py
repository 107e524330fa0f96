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
    slot = _slots(CAPACITY)
    tl.debug_barrier()
    keys = tl.load(buffer + slot, mask=slot < filled, other=EMPTY)
    return _keep(buffer, keys, slot < filled, filled, least, MOST)


@triton.jit
def _slots(CAPACITY: tl.constexpr):
    """0 … CAPACITY - 1 as [CAPACITY / 32, 32]: lane l has l, l + 32, …"""
    # Without the hint keys would change lanes between load and store.
    return tl.max_contiguous(tl.arange(0, CAPACITY // 32)[:, None] * 32 + tl.arange(0, 32)[None, :], [1, 1])


@triton.jit
def _keep(buffer, keys, present, filled, least, MOST: tl.constexpr):
    """Writes the best of the ``filled`` keys that are present, as `_shrink`, if they are not few enough already.

    The cut is found among orders; only if too many are equal, among keys.
    """
    orders = (keys >> 32).to(tl.int32)
    low = tl.min(tl.where(present, orders, 2**31 - 1)).to(tl.int64)
    high = tl.max(orders).to(tl.int64) + 1
    cut = low
    reached = filled
    # Bisect the orders: too many keys reach ``low``, too few ``high``; until enough and not too many reach the cut.
    while ((reached > MOST) | (reached < least)) & (high - low > 1):
        cut = (low + high) >> 1
        own = tl.sum(tl.where(orders >= cut.to(tl.int32), 1.0, 0.0), axis=0)  # floats: the integer pipe has more to do
        reached = tl.sum(own.to(tl.int32), axis=0)
        low = tl.where(reached > MOST, cut, low)
        high = tl.where(reached < least, cut, high)
    beaten = cut.to(tl.int32)
    kept = orders >= beaten
    # Too many keys share the order ``low``: bisect these keys, of which no two are equal.
    if (reached > MOST) | (reached < least):
        beaten = low.to(tl.int32)
        first = low << 32
        last = high << 32
        edge = first
        while (reached > MOST) | (reached < least):
            edge = first + ((last - first) >> 1)
            reached = tl.sum((keys >= edge).to(tl.int32))
            first = tl.where(reached > MOST, edge, first)
            last = tl.where(reached < least, edge, last)
        kept = keys >= edge
    # Any order will do: lanes count theirs first, so that only 32 counts are scanned.
    count = kept.to(tl.int32)
    column = tl.sum(count, axis=0)
    place = (tl.cumsum(column, axis=0) - column)[None, :] + tl.cumsum(count, axis=0) - 1
    tl.debug_barrier()
    tl.store(buffer + place, keys, mask=kept)
    return reached, beaten


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
    # One scan for all lists: a tile of several has at most 64 candidates, so 8 bits a list; one list has all bits.
    shift = row * 8
    packed = tl.sum(better.to(tl.int32) << shift[:, None], axis=0)
    total = tl.sum(packed, axis=0)
    if total > 0:  # of a list of 100,000 a quarter (k 100) to a half (k 10) of the tiles add nothing
        LOW: tl.constexpr = 0xFF if LISTS > 1 else 0x7FFFFFFF
        added = (total >> shift) & LOW
        before = ((tl.cumsum(packed, axis=0) - packed)[None, :] >> shift[:, None]) & LOW
        # Each better candidate goes behind the keys of its list, in the order of the tile.
        slot = row[:, None] * CAPACITY + filled[:, None] + before
        tl.store(buffer + slot, key_of(order, index[None, :]), mask=better)
        filled += added
        # A buffer without room for another tile keeps its best, whose last order is the new bound.
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
    # Stage s merges runs of 2^(s-1), every other one upward; a step compares keys whose positions differ by a bit.
    for stage in tl.static_range(1, LEVELS + 1):
        for bit in tl.static_range(stage - 1, -1, -1):
            last = tl.reshape(tl.arange(0, 2), [1] * (LEVELS - 1 - bit) + [2] + [1] * bit)
            if stage < LEVELS:
                last = last ^ tl.reshape(tl.arange(0, 2), [1] * (LEVELS - 1 - stage) + [2] + [1] * stage)
            other = tl.sum(x, axis=LEVELS - 1 - bit, keep_dims=True) - x
            x = tl.where((x > other) == (last != 0), other, x)
    return tl.reshape(x, keys.shape)


@triton.jit
def _first(buffer, filled, KP: tl.constexpr):
    """The first ``filled`` keys of a buffer that was just written, [KP], padded with EMPTY."""
    tl.debug_barrier()
    place = tl.arange(0, KP)
    return tl.load(buffer + place, mask=place < filled, other=EMPTY)


@triton.jit
def best(buffer, filled, k, KP: tl.constexpr, LEVELS: tl.constexpr, CAPACITY: tl.constexpr):
    """The best keys of one buffer[CAPACITY], sorted, [KP = 2^LEVELS ≥ k], padded with EMPTY."""
    left = filled
    if filled > KP:
        left, _ = _shrink(buffer, filled, k, KP, CAPACITY)
    keys = _descending(_first(buffer, left, KP), LEVELS)
    tl.debug_barrier()
    return tl.where(tl.arange(0, KP) < k, keys, EMPTY)


@triton.jit
def leave_best(buffer, filled, k, KP: tl.constexpr, CAPACITY: tl.constexpr):
    """Moves the best keys of one buffer[CAPACITY], unsorted, to its first KP places, padded with EMPTY."""
    left = filled
    if filled > KP:
        left, _ = _shrink(buffer, filled, k, KP, CAPACITY)
    place = tl.arange(0, KP)
    tl.store(buffer + place, tl.zeros([KP], tl.int64) + EMPTY, mask=place >= left)


@triton.jit
def merge(buffers, k, PARTS: tl.constexpr, KP: tl.constexpr, LEVELS: tl.constexpr, CAPACITY: tl.constexpr):
    """As `best`, of what `leave_best` left in buffers[PARTS, CAPACITY], which it overwrites."""
    slot = _slots(PARTS * KP)
    keys = tl.load(buffers + tl.max_contiguous(slot // KP * CAPACITY + slot % KP, [1, 1]))
    return best_of(buffers, keys, k, KP, LEVELS)


@triton.jit
def best_of(buffer, keys, k, KP: tl.constexpr, LEVELS: tl.constexpr):
    """As `best`, of keys [ROWS, COLUMNS] in registers, EMPTY among them; buffer[KP] is scratch."""
    present = keys != EMPTY
    filled = tl.sum(present.to(tl.int32))
    left, _ = _keep(buffer, keys, present, filled, tl.minimum(filled, k), KP)
    keys = _descending(_first(buffer, left, KP), LEVELS)
    return tl.where(tl.arange(0, KP) < k, keys, EMPTY)
