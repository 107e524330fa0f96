"""The page whose items depend on the items above them: a program searches one request's page at a time.

csrc/include/pygrade/page_search.hpp fixes the bits. What a program keeps of its prefixes is in global memory, because a
request may have any number of candidates; prefix w of a side is row side · beam + w.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fusion import request
from .launch import launch, resident_programs
from .numerics import exp, log, tree_sum
from .select import EMPTY, NOTHING, index_of, key_of, order_of, score_of

_LEAST_VARIANCE = tl.constexpr(1e-6)
_PAGE_VALUE = tl.constexpr(0)
_LOG_DET = tl.constexpr(2)
_OPEN = tl.constexpr(1)  # of a candidate, for a prefix; 0: closed
_TAKEN = tl.constexpr(2)  # on the page, or pinned to it


@triton.jit
def _likeness(
    categories, pairs, embeddings, above, row, inside, category_count, width, cosine, objective, TN: tl.constexpr
):  # fmt: skip
    """l(above, i) of rows[TN]; above and row count among all requests. above may be a row each, too."""
    d = tl.arange(0, 16)[None, :]
    sums = tl.zeros([TN, 16], tl.float32)
    for begin in range(0, width, 16):
        there = inside[:, None] & (begin + d < width)
        x = tl.load(embeddings + above[:, None] * width + begin + d, mask=there, other=0.0)
        y = tl.load(embeddings + row[:, None] * width + begin + d, mask=there, other=0.0)
        sums = tl.fma(y, x, sums)
    dot = tl.reshape(tree_sum(sums, TN, 16, 4), [TN])
    if objective != _LOG_DET:
        dot = tl.where(dot > 0.0, dot, 0.0)
    pair = tl.zeros([TN], tl.float32)
    if category_count > 0:
        own = tl.load(categories + above, mask=inside, other=-1)
        below = tl.load(categories + row, mask=inside, other=-1)
        known = (own >= 0) & (below >= 0) & (own < category_count) & (below < category_count)
        pair = tl.load(pairs + own.to(tl.int64) * category_count + below, mask=known, other=0.0)
    return tl.fma(tl.zeros([TN], tl.float32) + cosine, dot, pair)


@triton.jit
def _scores(
    value, root, boost_mul, boost_add, row, inside, state, multiplied, added, objective, trade_off, rest,
    TN: tl.constexpr,
):  # fmt: skip
    """Final scores of rows[TN] below a prefix of this state."""
    worth = tl.load(value + row, mask=inside, other=0.0)
    if objective == _PAGE_VALUE:
        score = tl.fma(tl.load(root + row, mask=inside, other=0.0), exp(state), worth)
    else:
        weight = tl.zeros([TN], tl.float32) + rest
        worth = worth * trade_off
        if objective == _LOG_DET:
            score = tl.fma(weight, log(tl.where(state > _LEAST_VARIANCE, state, _LEAST_VARIANCE)), worth)
        else:
            score = tl.fma(-weight, state, worth)
    if multiplied:
        factor = tl.load(boost_mul + row, mask=inside, other=1.0)
        score = tl.where(score < 0.0, tl.div_rn(score, factor), score * factor)
    if added:
        score = score + tl.load(boost_add + row, mask=inside, other=0.0)
    return score + 0.0


@triton.jit
def _close(open_, groups, caps, first, count, columns, item, TN: tl.constexpr):
    """Takes an item to a prefix: closes the candidates of every group that it fills."""
    i = tl.arange(0, TN)
    tl.debug_barrier()
    tl.store(open_ + item, _TAKEN)
    tl.debug_barrier()
    for a in range(0, columns):
        cap = tl.load(caps + a)
        group = tl.load(groups + (first + item) * columns + a)
        if (cap >= 0) & (group >= 0):
            members = tl.zeros([TN], tl.int32)
            for begin in range(0, count, TN):
                inside = begin + i < count
                flag = tl.load(open_ + begin + i, mask=inside, other=0)
                own = tl.load(groups + (first + begin + i) * columns + a, mask=inside, other=-1)
                members += ((flag == _TAKEN) & (own == group)).to(tl.int32)
            if tl.sum(members) >= cap:
                tl.debug_barrier()
                for begin in range(0, count, TN):
                    inside = begin + i < count
                    flag = tl.load(open_ + begin + i, mask=inside, other=0)
                    own = tl.load(groups + (first + begin + i) * columns + a, mask=inside, other=-1)
                    tl.store(open_ + begin + i, 0, mask=inside & (flag == _OPEN) & (own == group))
            tl.debug_barrier()


@triton.jit
def _start(
    categories, pairs, embeddings, mask, groups, caps, pins, states, open_, placed, first, count, k, columns,
    category_count, width, cosine, objective, masked, pinned, TN: tl.constexpr,
):  # fmt: skip
    """The empty prefix in row 0: eligible candidates without pins, which count for the caps."""
    i = tl.arange(0, TN)
    for begin in range(0, count, TN):
        inside = begin + i < count
        row = first + begin + i
        eligible = inside
        if masked:
            eligible = eligible & (tl.load(mask + row, mask=inside, other=0) != 0)
        for a in range(0, columns):
            group = tl.load(groups + row * columns + a, mask=inside, other=-1)
            eligible = eligible & ((tl.load(caps + a) != 0) | (group < 0))
        tl.store(open_ + begin + i, eligible.to(tl.int8), mask=inside)
        state = tl.zeros([TN], tl.float32)
        if objective == _LOG_DET:
            state = _likeness(
                categories, pairs, embeddings, row, row, inside, category_count, width, cosine, objective, TN
            )  # fmt: skip
        tl.store(states + begin + i, state, mask=inside)
    for slot in range(0, k):
        pin = -1
        if pinned:
            pin = tl.load(pins + slot)
        tl.debug_barrier()
        found = (pin >= 0) & (pin < count)
        if tl.load(open_ + pin, mask=found, other=0) == _OPEN:
            _close(open_, groups, caps, first, count, columns, pin, TN)
            tl.store(placed + slot, pin)
        else:
            tl.store(placed + slot, -1)
    tl.debug_barrier()


@triton.jit
def _extend(
    value, root, boost_mul, boost_add, states, open_, keys, totals, pin, examined, first, count, live, stride, beam,
    multiplied, added, objective, trade_off, rest, TN: tl.constexpr,
):  # fmt: skip
    """The keys of all extensions, [beam, stride + 1]: of a prefix's candidates, and of an empty slot in the end."""
    i = tl.arange(0, TN)
    for w in range(0, live):
        total = tl.load(totals + w)
        place = w * (stride + 1)
        any_ = tl.zeros([TN], tl.int32)
        for begin in range(0, count, TN):
            index = begin + i
            inside = index < count
            state = tl.load(states + w * stride + index, mask=inside, other=0.0)
            score = _scores(
                value, root, boost_mul, boost_add, first + index, inside, state, multiplied, added, objective,
                trade_off, rest, TN,
            )  # fmt: skip
            if beam > 1:
                zeros = tl.zeros([TN], tl.float32)
                score = tl.fma(zeros + examined, score, zeros + total)
            may = tl.load(open_ + w * stride + index, mask=inside, other=0) == _OPEN
            may = tl.where(pin >= 0, index == pin, may) & inside
            any_ += may.to(tl.int32)
            key = tl.where(may, key_of(order_of(score), place + index), EMPTY)
            tl.store(keys + place + index, key, mask=inside)
        stuck = key_of(tl.zeros([], tl.int32) + NOTHING, place + stride)
        tl.store(keys + place + stride, tl.where(tl.sum(any_) == 0, stuck, EMPTY))
    tl.debug_barrier()


@triton.jit
def _next_key(keys, before, count, live, stride, TN: tl.constexpr):
    """The best key below ``before``; EMPTY: none."""
    i = tl.arange(0, TN)
    found = tl.zeros([TN], tl.int64) + EMPTY
    for w in range(0, live):
        for begin in range(0, count, TN):
            key = tl.load(keys + w * (stride + 1) + begin + i, mask=begin + i < count, other=EMPTY)
            found = tl.maximum(found, tl.where(key < before, key, EMPTY))
        stuck = tl.load(keys + w * (stride + 1) + stride)
        found = tl.maximum(found, tl.where(stuck < before, stuck, EMPTY))
    return tl.max(found, axis=0)


@triton.jit
def _follow(
    categories, pairs, embeddings, groups, caps, old_states, new_states, old_open, new_open, factor, attended, item,
    taken, first, count, stride, columns, category_count, width, cosine, objective, TN: tl.constexpr,
):  # fmt: skip
    """The prefix with one more item, or with none (-1)."""
    i = tl.arange(0, TN)
    rest = tl.load(old_states + item, mask=item >= 0, other=1.0)
    deviation = tl.sqrt_rn(tl.where(rest > _LEAST_VARIANCE, rest, _LEAST_VARIANCE))
    for begin in range(0, count, TN):
        index = begin + i
        inside = index < count
        tl.store(new_open + index, tl.load(old_open + index, mask=inside, other=0), mask=inside)
        state = tl.load(old_states + index, mask=inside, other=0.0)
        if item >= 0:
            row = first + index
            above = tl.zeros([TN], tl.int64) + first + item
            likeness = _likeness(
                categories, pairs, embeddings, above, row, inside, category_count, width, cosine, objective, TN
            )  # fmt: skip
            if objective == _PAGE_VALUE:
                state = tl.fma(tl.zeros([TN], tl.float32) + attended, likeness, state)
            elif objective == _LOG_DET:
                for t in range(0, taken):
                    own = tl.zeros([TN], tl.float32) + tl.load(factor + t * stride + item)
                    before = tl.load(factor + t * stride + index, mask=inside, other=0.0)
                    likeness = tl.fma(-own, before, likeness)
                likeness = tl.div_rn(likeness, tl.zeros([TN], tl.float32) + deviation)
                tl.store(factor + taken * stride + index, likeness, mask=inside)
                state = tl.fma(-likeness, likeness, state)
            else:
                state = tl.where(likeness > state, likeness, state)
        tl.store(new_states + index, state, mask=inside)
    tl.debug_barrier()
    if item >= 0:
        _close(new_open, groups, caps, first, count, columns, item, TN)


@triton.jit
def _search_kernel(
    value,  # [B, N] or [M], as all arrays by candidate
    root,  # [M]
    categories,  # int32 [M], -1: none
    pairs,  # [category_count, category_count]
    embeddings,  # [M, width]
    mask,  # uint8 [M]
    boost_mul,  # [M]
    boost_add,  # [M]
    groups,  # int32 [M, columns], -1: none
    caps,  # int32 [columns], -1: none
    pins,  # int32 [B, k], -1: none
    attention,  # [k]
    examination,  # [k]
    offsets,  # int64 [B + 1]
    states,  # [2 · beam · kept], scratch as the next seven; kept: candidates in memory at a time
    open_,  # int8 [2 · beam · kept]
    keys,  # int64 [beam · (kept + max(B, programs))]
    factor,  # [k · kept] of log_det, else empty
    totals,  # [programs, 2, beam]
    history,  # int32 [programs, k, beam, 2]
    scores,  # [programs, k, beam]
    placed,  # int32 [programs, k]
    values,  # → float32 [B, k]
    indices,  # → int32 [B, k]
    rows,  # M
    batch,  # B
    most,  # N; jagged: 0
    k,
    beam,  # prefixes that are kept
    columns,  # group columns
    category_count,
    width,  # of an embedding
    cosine,  # coefficient of likeness
    objective,  # 0: value of the page, 1: mmr, 2: log_det
    trade_off,  # λ of mmr and log_det
    rest,  # 1 - λ
    jagged,
    masked,  # mask is read
    multiplied,  # boost_mul is read
    added,  # boost_add is read
    pinned,  # pins are read
    TN: tl.constexpr,
):  # fmt: skip
    """Persistent: one request at a time. history[k, beam, 2] are the rank of what was extended and the item.

    What depends on the candidates is kept by program; jagged, where no program knows the longest request, by request.
    """
    own = tl.program_id(0).to(tl.int64)
    totals += own * 2 * beam
    history += own * k * beam * 2
    scores += own * k * beam
    placed += own * k
    all_states, all_open, all_keys, all_factors = states, open_, keys, factor
    for b in range(tl.program_id(0), batch, tl.num_programs(0)):
        first, count = request(offsets, b, 0, rows, True)
        page = (tl.zeros([], tl.int64) + b) * k
        stride = tl.maximum(tl.where(jagged, count, most), 0)
        base = tl.where(jagged, first, own * most)
        states = all_states + base * 2 * beam
        open_ = all_open + base * 2 * beam
        keys = all_keys + (base + tl.where(jagged, b, own)) * beam
        factor = all_factors + base * tl.where(objective == _LOG_DET, k, 0)
        if count >= 0:
            _start(
                categories, pairs, embeddings, mask, groups, caps, pins + page, states, open_, placed, first, count, k,
                columns, category_count, width, cosine, objective, masked, pinned, TN,
            )  # fmt: skip
        tl.store(totals, 0.0)
        tl.debug_barrier()
        side = 0
        live = 1
        taken = 0
        for slot in range(0, tl.where(count >= 0, k, 0)):
            here = side * beam
            there = (1 - side) * beam
            _extend(
                value, root, boost_mul, boost_add, states + here * stride, open_ + here * stride, keys, totals + here,
                tl.load(placed + slot), tl.load(examination + slot), first, count, live, stride, beam, multiplied,
                added, objective, trade_off, rest, TN,
            )  # fmt: skip
            made = 0
            key = tl.full([], 2**63 - 1, tl.int64)
            for w in range(0, beam):
                key = _next_key(keys, key, count, live, stride, TN)
                if key != EMPTY:
                    place = index_of(key)
                    parent = tl.minimum(place // (stride + 1), live - 1)  # overlapping requests share their memory
                    item = tl.where(place % (stride + 1) < count, place % (stride + 1), -1)
                    old = here + parent
                    index = first + tl.where(item >= 0, item, 0) + tl.zeros([1], tl.int64)
                    at = slot * beam + w
                    exists = tl.zeros([1], tl.int32) + item >= 0
                    state = tl.load(states + old * stride + item + tl.zeros([1], tl.int64), mask=exists, other=0.0)
                    score = _scores(
                        value, root, boost_mul, boost_add, index, exists, state, multiplied, added, objective,
                        trade_off, rest, 1,
                    )  # fmt: skip
                    tl.store(scores + at + tl.zeros([1], tl.int32), tl.where(exists, score, float("-inf")))
                    tl.store(history + 2 * at, parent)
                    tl.store(history + 2 * at + 1, item)
                    tl.store(totals + there + w, tl.where(item >= 0, score_of(key), tl.load(totals + old)))
                    _follow(
                        categories, pairs, embeddings, groups, caps, states + old * stride,
                        states + (there + w) * stride, open_ + old * stride, open_ + (there + w) * stride, factor,
                        tl.load(attention + slot), item, taken, first, count, stride, columns, category_count, width,
                        cosine, objective, TN,
                    )  # fmt: skip
                    taken += tl.where(item >= 0, 1, 0)
                    made += 1
            live = made
            side = 1 - side
            tl.debug_barrier()
        rank = 0
        for r in range(0, k):
            at = (k - 1 - r) * beam + rank
            to = page + k - 1 - r
            tl.store(values + to, tl.load(scores + at, mask=count >= 0, other=float("-inf")))
            tl.store(indices + to, tl.load(history + 2 * at + 1, mask=count >= 0, other=-1))
            rank = tl.load(history + 2 * at, mask=count >= 0, other=0)
        tl.debug_barrier()


def search_page(
    rows: dict[str, Any],
    terms: dict[str, Any],
    pins: Tensor | None,
    offsets: Tensor | None,
    options: dict[str, Any],
    values: Tensor,
    indices: Tensor,
) -> None:
    """rows: what each candidate has; terms: pairs, attention, examination and caps; None where there is none.

    → values, indices [B, k]; empty pages of a request with bad offsets, any page of requests that overlap.
    """
    value: Tensor = rows["value"]
    batch, k = values.shape
    beam = options["beam"]
    if values.numel() == 0:
        return
    jagged = offsets is not None
    most = 0 if jagged else value.shape[1]
    if beam * (value.numel() + batch) >= 2**31:
        raise ValueError(f"{value.numel()} candidates and a beam of {beam}; want fewer than 2^31 extensions on a GPU")
    if offsets is None:
        offsets = torch.arange(batch + 1, device=value.device) * most
    programs = min(batch, resident_programs(value.device, 4, 192))
    kept = value.numel() if jagged else programs * most  # candidates whose states are in memory at a time

    def memory(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=value.device)

    def array_of(array: Tensor | None, dtype: torch.dtype = torch.float32) -> Tensor:
        """The array, or for None memory of the right dtype that is never read."""
        return (value.view(dtype) if array is None else array.view(dtype)).contiguous()

    ones = torch.ones(k, device=value.device)
    arrays = (
        value,
        array_of(rows["root"]),
        array_of(rows["categories"], torch.int32),
        array_of(terms["pairs"]),
        array_of(rows["embeddings"]),
        array_of(rows["mask"], torch.uint8),
        array_of(rows["boost_mul"]),
        array_of(rows["boost_add"]),
        array_of(rows["groups"], torch.int32),
        array_of(terms["caps"], torch.int32),
        array_of(pins, torch.int32),
        ones if terms["attention"] is None else terms["attention"],
        ones if terms["examination"] is None else terms["examination"],
        offsets,
        memory(2 * beam * kept),
        memory(2 * beam * kept, dtype=torch.int8),
        memory(beam * (kept + max(batch, programs)), dtype=torch.int64),
        memory(k * kept if options["objective"] == _LOG_DET.value else 0),
        memory(programs, 2 * beam),
        memory(programs, k, beam, 2, dtype=torch.int32),
        memory(programs, k, beam),
        memory(programs, k, dtype=torch.int32),
        values,
        indices,
    )
    columns = 0 if terms["caps"] is None else terms["caps"].shape[0]
    count = 0 if terms["pairs"] is None else terms["pairs"].shape[0]
    width = 0 if rows["embeddings"] is None else rows["embeddings"].shape[-1]
    numbers = (options["cosine"], options["objective"], options["trade_off"], options["likeness_share"])
    present = (rows["mask"], rows["boost_mul"], rows["boost_add"], pins)
    flags = (jagged, *(array is not None for array in present))
    sizes = (value.numel(), batch, most, k, beam, columns, count, width)
    launch(_search_kernel, (programs,), *arrays, *sizes, *numbers, *flags, TN=128, num_warps=4, maxnreg=192)
