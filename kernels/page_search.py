"""The page whose items depend on the items above them: a program searches one request's page at a time.

csrc/include/pygrade/page_search.hpp fixes the bits. What a program keeps of its prefixes is in global memory, because a
request may have any number of candidates; prefix w of a side is row side · beam + w. An array that is None is compiled
away.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fusion import request
from .launch import SIZES, launch, resident_programs
from .numerics import exp, log, tree_sum
from .select import EMPTY, NOTHING, index_of, key_of, order_of, score_of

_LEAST_VARIANCE = tl.constexpr(1e-6)
_PAGE_VALUE = tl.constexpr(0)
_LOG_DET = tl.constexpr(2)
_OPEN = tl.constexpr(1)  # of a candidate, for a prefix; 0: closed
_TAKEN = tl.constexpr(2)  # on the page, or pinned to it


class Candidates(NamedTuple):
    """The candidates of all requests: M rows, [B, N] or jagged."""

    value: Any  # float32 [M]
    root: Any  # float32 [M], read for the value of a page
    categories: Any  # int32 [M] or None, -1: unknown
    embeddings: Any  # float32 [M, width] or None
    offsets: Any  # int64 [B + 1], None: dense


class Terms(NamedTuple):
    """Scores by what stands above."""

    pairs: Any  # float32 [category_count, category_count] or None
    attention: Any  # float32 [k] or None: 1
    examination: Any  # float32 [k] or None: 1
    category_count: Any
    width: Any  # of an embedding
    cosine: Any  # coefficient of similarity
    objective: Any  # 0: value of the page, 1: mmr, 2: log_det
    trade_off: Any  # λ of mmr and log_det
    rest: Any  # 1 - λ
    beam: Any  # prefixes that are kept


class Rules(NamedTuple):
    """The rules of the page; each array may be None."""

    mask: Any  # uint8 [M]
    boost_mul: Any  # float32 [M]
    boost_add: Any  # float32 [M]
    groups: Any  # int32 [M, columns], -1: none
    caps: Any  # int32 [columns], -1: none
    cap_slots: Any  # int32 [columns], -1: the whole page
    decay: Any  # float32 [columns]
    pins: Any  # int32 [B, k], -1: none
    columns: Any


class Memory(NamedTuple):
    """Scratch; kept: candidates in memory at a time. A prefix has its part of the first three from an offset on."""

    states: Any  # float32 [2 · beam · kept]
    decays: Any  # float32 [2 · beam · kept] or None
    open: Any  # int8 [2 · beam · kept]
    keys: Any  # int64 [beam · (kept + max(B, programs))]
    factor: Any  # float32 [k · kept] of log_det, else [0]
    totals: Any  # float32 [programs, 2, beam]
    filled: Any  # int32 [programs, 2, beam]: items
    history: Any  # int32 [programs, k, beam, 2]: the rank of what was extended, and the item
    scores: Any  # float32 [programs, k, beam]
    placed: Any  # int32 [programs, k]: pins that hold


@triton.jit
def _similarity(candidates, terms, above, row, inside, TN: tl.constexpr):
    """l(above, i) of rows[TN]; above and row count among all requests. above may be a row each, too."""
    dot = tl.zeros([TN], tl.float32)
    if candidates.embeddings is not None:
        d = tl.arange(0, 16)[None, :]
        sums = tl.zeros([TN, 16], tl.float32)
        for begin in range(0, terms.width, 16):
            there = inside[:, None] & (begin + d < terms.width)
            x = tl.load(candidates.embeddings + above[:, None] * terms.width + begin + d, mask=there, other=0.0)
            y = tl.load(candidates.embeddings + row[:, None] * terms.width + begin + d, mask=there, other=0.0)
            sums = tl.fma(y, x, sums)
        dot = tl.reshape(tree_sum(sums, TN, 16, 4), [TN])
        if terms.objective != _LOG_DET:
            dot = tl.where(dot > 0.0, dot, 0.0)
    pair = tl.zeros([TN], tl.float32)
    if candidates.categories is not None:
        count = terms.category_count
        own = tl.load(candidates.categories + above, mask=inside, other=-1)
        below = tl.load(candidates.categories + row, mask=inside, other=-1)
        known = (own >= 0) & (below >= 0) & (own < count) & (below < count)
        pair = tl.load(terms.pairs + own.to(tl.int64) * count + below, mask=known, other=0.0)
    return tl.fma(tl.zeros([TN], tl.float32) + terms.cosine, dot, pair)


@triton.jit
def _scores(candidates, terms, rules, memory, prefix, first, index, inside, TN: tl.constexpr):
    """Final scores of a request's candidates index[TN] below a prefix."""
    row = first + index
    state = tl.load(memory.states + prefix + index, mask=inside, other=0.0)
    worth = tl.load(candidates.value + row, mask=inside, other=0.0)
    if terms.objective == _PAGE_VALUE:
        score = tl.fma(tl.load(candidates.root + row, mask=inside, other=0.0), exp(state), worth)
    else:
        weight = tl.zeros([TN], tl.float32) + terms.rest
        worth = worth * terms.trade_off
        if terms.objective == _LOG_DET:
            score = tl.fma(weight, log(tl.where(state > _LEAST_VARIANCE, state, _LEAST_VARIANCE)), worth)
        else:
            score = tl.fma(-weight, state, worth)
    if rules.boost_mul is not None:
        factor = tl.load(rules.boost_mul + row, mask=inside, other=1.0)
        score = tl.where(score < 0.0, tl.div_rn(score, factor), score * factor)
    if rules.boost_add is not None:
        score = score + tl.load(rules.boost_add + row, mask=inside, other=0.0)
    if rules.decay is not None:
        factor = tl.load(memory.decays + prefix + index, mask=inside, other=1.0)
        score = tl.where(score < 0.0, tl.div_rn(score, factor), score * factor)
    return score + 0.0


@triton.jit
def _holds(rules, column, above):
    """Return whether the column's cap holds for an item below so many others."""
    if rules.caps is None:
        return above < 0
    holds = tl.load(rules.caps + column) >= 0
    if rules.cap_slots is not None:
        slots = tl.load(rules.cap_slots + column)
        holds = holds & ((slots < 0) | (above < slots))
    return holds


@triton.jit
def _is_full(open_, rules, placed, column, group, slots, first, count, k, TN: tl.constexpr):
    """True if the first ``slots`` of a page and the later pins that the column's cap counts leave a group no room."""
    i = tl.arange(0, TN)
    members = tl.zeros([TN], tl.int32)
    for begin in range(0, count, TN):
        inside = begin + i < count
        flag = tl.load(open_ + begin + i, mask=inside, other=0)
        own = tl.load(rules.groups + (first + begin + i) * rules.columns + column, mask=inside, other=-1)
        members += ((flag == _TAKEN) & (own == group)).to(tl.int32)
    total = tl.sum(members)
    if rules.cap_slots is not None:
        for slot in range(slots, k):
            pin = tl.load(placed + slot)
            own = tl.load(rules.groups + (first + pin) * rules.columns + column, mask=pin >= 0, other=-1)
            counts = _holds(rules, column, slot)
            total -= ((own == group) & (pin >= 0) & (counts == 0)).to(tl.int32)
    return total >= tl.load(rules.caps + column)


@triton.jit
def _close(open_, rules, placed, slots, above, first, count, k, item, TN: tl.constexpr):
    """Closes the candidates of every group that an item on the page, or pinned to it, fills."""
    i = tl.arange(0, TN)
    if rules.caps is not None:
        for a in range(0, rules.columns):
            group = tl.load(rules.groups + (first + item) * rules.columns + a)
            full = _holds(rules, a, above) & (group >= 0)
            if full:
                full = _is_full(open_, rules, placed, a, group, slots, first, count, k, TN)
            if full:
                tl.debug_barrier()
                for begin in range(0, count, TN):
                    inside = begin + i < count
                    flag = tl.load(open_ + begin + i, mask=inside, other=0)
                    own = tl.load(rules.groups + (first + begin + i) * rules.columns + a, mask=inside, other=-1)
                    tl.store(open_ + begin + i, 0, mask=inside & (flag == _OPEN) & (own == group))
            tl.debug_barrier()


@triton.jit
def _reopen(open_, rules, placed, slots, above, first, count, k, TN: tl.constexpr):
    """Finds all candidates that may follow the first ``slots`` of a page; what is taken is known."""
    i = tl.arange(0, TN)
    for begin in range(0, count, TN):
        inside = begin + i < count
        row = first + begin + i
        eligible = inside
        if rules.mask is not None:
            eligible = eligible & (tl.load(rules.mask + row, mask=inside, other=0) != 0)
        if rules.caps is not None:
            for a in range(0, rules.columns):
                group = tl.load(rules.groups + row * rules.columns + a, mask=inside, other=-1)
                none = _holds(rules, a, above) & (tl.load(rules.caps + a) == 0)
                eligible = eligible & ((none == 0) | (group < 0))
        flag = tl.load(open_ + begin + i, mask=inside, other=0)
        tl.store(open_ + begin + i, tl.where(flag == _TAKEN, _TAKEN, eligible.to(tl.int8)), mask=inside)
    tl.debug_barrier()
    for item in range(0, count):
        if tl.load(open_ + item) == _TAKEN:
            _close(open_, rules, placed, slots, above, first, count, k, item, TN)


@triton.jit
def _start(candidates, terms, rules, memory, prefix, pins, placed, first, count, k, TN: tl.constexpr):
    """The empty prefix: eligible candidates without pins, which count for the caps."""
    i = tl.arange(0, TN)
    open_ = memory.open + prefix
    for begin in range(0, count, TN):
        inside = begin + i < count
        row = first + begin + i
        eligible = inside
        if rules.mask is not None:
            eligible = eligible & (tl.load(rules.mask + row, mask=inside, other=0) != 0)
        tl.store(open_ + begin + i, eligible.to(tl.int8), mask=inside)
        state = tl.zeros([TN], tl.float32)
        if terms.objective == _LOG_DET:
            state = _similarity(candidates, terms, row, row, inside, TN)
        tl.store(memory.states + prefix + begin + i, state, mask=inside)
        if rules.decay is not None:
            tl.store(memory.decays + prefix + begin + i, 1.0, mask=inside)
    for slot in range(0, k):
        tl.store(placed + slot, -1)
    if rules.pins is not None:
        for slot in range(0, k):
            pin = tl.load(pins + slot)
            tl.debug_barrier()
            free = tl.load(open_ + pin, mask=(pin >= 0) & (pin < count), other=0) == _OPEN
            if free:
                if rules.caps is not None:
                    for a in range(0, rules.columns):
                        group = tl.load(rules.groups + (first + pin) * rules.columns + a)
                        if _holds(rules, a, slot) & (group >= 0):
                            full = _is_full(open_, rules, placed, a, group, 0, first, count, k, TN)
                            free = free & (full == 0)
                tl.debug_barrier()
                if free:
                    tl.store(open_ + pin, _TAKEN)
                    tl.store(placed + slot, pin)
            tl.debug_barrier()
    tl.debug_barrier()
    _reopen(open_, rules, placed, 0, 0, first, count, k, TN)
    tl.debug_barrier()


@triton.jit
def _extend(
    candidates, terms, rules, memory, base, keys, totals, pin, examined, first, count, live, stride, TN: tl.constexpr
):  # fmt: skip
    """The keys of all extensions, [beam, stride + 1]: of a prefix's candidates, and of an empty slot in the end."""
    i = tl.arange(0, TN)
    for w in range(0, live):
        prefix = base + w * stride
        total = tl.load(totals + w)
        place = w * (stride + 1)
        any_ = tl.zeros([TN], tl.int32)
        for begin in range(0, count, TN):
            index = begin + i
            inside = index < count
            score = _scores(candidates, terms, rules, memory, prefix, first, index, inside, TN)
            if terms.beam > 1:
                zeros = tl.zeros([TN], tl.float32)
                score = tl.fma(zeros + examined, score, zeros + total)
            may = tl.load(memory.open + prefix + index, mask=inside, other=0) == _OPEN
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
def _take(rules, memory, prefix, placed, slots, above, first, count, k, item, TN: tl.constexpr):
    """The rules after an item in the last of the first ``slots``, of which ``above`` are filled."""
    i = tl.arange(0, TN)
    open_ = memory.open + prefix
    tl.store(open_ + item, _TAKEN)
    tl.debug_barrier()
    if rules.groups is not None:
        ends = above < 0  # a cap ends with this item
        if rules.cap_slots is not None:
            for a in range(0, rules.columns):
                ends = ends | (tl.load(rules.cap_slots + a) == above)
        if ends:
            _reopen(open_, rules, placed, slots, above, first, count, k, TN)
        else:
            _close(open_, rules, placed, slots, above, first, count, k, item, TN)
        if rules.decay is not None:
            for a in range(0, rules.columns):
                group = tl.load(rules.groups + (first + item) * rules.columns + a)
                decay = tl.where(group >= 0, tl.load(rules.decay + a), 1.0)
                for begin in range(0, count, TN):
                    inside = begin + i < count
                    own = tl.load(rules.groups + (first + begin + i) * rules.columns + a, mask=inside, other=-1)
                    factor = tl.load(memory.decays + prefix + begin + i, mask=inside, other=1.0)
                    tl.store(memory.decays + prefix + begin + i, factor * decay, mask=inside & (own == group))


@triton.jit
def _follow(
    candidates, terms, memory, old, new, factor, attended, item, taken, first, count, stride, TN: tl.constexpr
):  # fmt: skip
    """The prefix with one more item, or with none (-1), but for the rules."""
    i = tl.arange(0, TN)
    rest = tl.load(memory.states + old + item, mask=item >= 0, other=1.0)
    deviation = tl.sqrt_rn(tl.where(rest > _LEAST_VARIANCE, rest, _LEAST_VARIANCE))
    for begin in range(0, count, TN):
        index = begin + i
        inside = index < count
        tl.store(memory.open + new + index, tl.load(memory.open + old + index, mask=inside, other=0), mask=inside)
        if memory.decays is not None:
            decay = tl.load(memory.decays + old + index, mask=inside, other=1.0)
            tl.store(memory.decays + new + index, decay, mask=inside)
        state = tl.load(memory.states + old + index, mask=inside, other=0.0)
        if item >= 0:
            row = first + index
            above = tl.zeros([TN], tl.int64) + first + item
            similarity = _similarity(candidates, terms, above, row, inside, TN)
            if terms.objective == _PAGE_VALUE:
                state = tl.fma(tl.zeros([TN], tl.float32) + attended, similarity, state)
            elif terms.objective == _LOG_DET:
                for t in range(0, taken):
                    own = tl.zeros([TN], tl.float32) + tl.load(factor + t * stride + item)
                    before = tl.load(factor + t * stride + index, mask=inside, other=0.0)
                    similarity = tl.fma(-own, before, similarity)
                similarity = tl.div_rn(similarity, tl.zeros([TN], tl.float32) + deviation)
                tl.store(factor + taken * stride + index, similarity, mask=inside)
                state = tl.fma(-similarity, similarity, state)
            else:
                state = tl.where(similarity > state, similarity, state)
        tl.store(memory.states + new + index, state, mask=inside)
    tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def _search_kernel(
    values,  # → float32 [B, k]
    indices,  # → int32 [B, k]
    candidates,  # Candidates
    terms,  # Terms
    rules,  # Rules
    memory,  # Memory
    rows,  # M
    batch,  # B
    most,  # N; jagged: 0
    k,  # slots
    TN: tl.constexpr,
):
    """Persistent: one request at a time.

    What depends on the candidates is kept by program; jagged, where no program knows the longest request, by request.
    """
    beam = terms.beam
    own = tl.program_id(0).to(tl.int64)
    totals = memory.totals + own * 2 * beam
    filled = memory.filled + own * 2 * beam
    history = memory.history + own * k * beam * 2
    scores = memory.scores + own * k * beam
    placed = memory.placed + own * k
    JAGGED: tl.constexpr = candidates.offsets is not None
    for b in range(tl.program_id(0), batch, tl.num_programs(0)):
        wide = tl.zeros([], tl.int64) + b
        first, count = request(candidates.offsets, wide, most, rows, JAGGED)
        page = wide * k
        stride = tl.maximum(count, 0)
        base = own * most
        keys = memory.keys + (base + own) * beam
        if JAGGED:
            base = first
            keys = memory.keys + (base + b) * beam
        factor = memory.factor
        if terms.objective == _LOG_DET:
            factor = memory.factor + base * k
        base = base * 2 * beam
        if count >= 0:
            pins = rules.pins
            if rules.pins is not None:
                pins = rules.pins + page
            _start(candidates, terms, rules, memory, base, pins, placed, first, count, k, TN)
        tl.store(totals, 0.0)
        tl.store(filled, 0)
        tl.debug_barrier()
        side = 0
        live = 1
        taken = 0
        for slot in range(0, tl.where(count >= 0, k, 0)):
            here = side * beam
            there = (1 - side) * beam
            examined = 1.0
            if terms.examination is not None:
                examined = tl.load(terms.examination + slot)
            attended = 1.0
            if terms.attention is not None:
                attended = tl.load(terms.attention + slot)
            _extend(
                candidates, terms, rules, memory, base + here * stride, keys, totals + here, tl.load(placed + slot),
                examined, first, count, live, stride, TN,
            )  # fmt: skip
            made = 0
            key = tl.full([], 2**63 - 1, tl.int64)
            for w in range(0, beam):
                key = _next_key(keys, key, count, live, stride, TN)
                if key != EMPTY:
                    place = index_of(key)
                    parent = tl.minimum(place // (stride + 1), live - 1)  # overlapping requests share their memory
                    item = tl.where(place % (stride + 1) < count, place % (stride + 1), -1)
                    old = base + (here + parent) * stride
                    new = base + (there + w) * stride
                    at = slot * beam + w
                    exists = tl.zeros([1], tl.int32) + item >= 0
                    index = tl.where(item >= 0, item, 0) + tl.zeros([1], tl.int64)
                    score = _scores(candidates, terms, rules, memory, old, first, index, exists, 1)
                    tl.store(scores + at + tl.zeros([1], tl.int32), tl.where(exists, score, float("-inf")))
                    tl.store(history + 2 * at, parent)
                    tl.store(history + 2 * at + 1, item)
                    total = tl.load(totals + here + parent)
                    above = tl.load(filled + here + parent) + tl.where(item >= 0, 1, 0)
                    tl.store(totals + there + w, tl.where(item >= 0, score_of(key), total))
                    tl.store(filled + there + w, above)
                    _follow(
                        candidates, terms, memory, old, new, factor, attended, item, taken, first, count, stride, TN
                    )  # fmt: skip
                    if item >= 0:
                        _take(rules, memory, new, placed, slot + 1, above, first, count, k, item, TN)
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
    value: Tensor,
    root: Tensor | None,
    categories: Tensor | None,
    embeddings: Tensor | None,
    offsets: Tensor | None,
    terms: Terms,
    rules: Rules,
    values: Tensor,
    indices: Tensor,
) -> None:
    """→ values, indices [B, k]; empty pages of a request with bad offsets, any page of requests that overlap."""
    batch, k = values.shape
    beam = terms.beam
    if values.numel() == 0:
        return
    most = value.shape[1] if offsets is None else 0
    if beam * (value.numel() + batch) >= 2**31:
        raise ValueError(
            f"{value.numel()} candidates and a beam of {beam}; expected fewer than 2^31 extensions on a GPU"
        )
    programs = min(batch, resident_programs(value.device, 4, 192))
    kept = programs * most if offsets is None else value.numel()  # candidates whose states are in memory at a time

    def memory(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=value.device)

    scratch = Memory(
        states=memory(2 * beam * kept),
        decays=None if rules.decay is None else memory(2 * beam * kept),
        open=memory(2 * beam * kept, dtype=torch.int8),
        keys=memory(beam * (kept + max(batch, programs)), dtype=torch.int64),
        factor=memory(k * kept if terms.objective == _LOG_DET.value else 0),
        totals=memory(programs, 2 * beam),
        filled=memory(programs, 2 * beam, dtype=torch.int32),
        history=memory(programs, k, beam, 2, dtype=torch.int32),
        scores=memory(programs, k, beam),
        placed=memory(programs, k, dtype=torch.int32),
    )
    rows = (value, value if root is None else root, categories, embeddings, offsets)
    arguments = (indices, Candidates(*rows), terms, rules, scratch, value.numel(), batch, most, k)
    launch(_search_kernel, (programs,), values, *arguments, TN=128, num_warps=4, maxnreg=192)
