"""Transforms, fused scores and their top k. csrc/include/pygrade/fusion.hpp fixes the bits.

A program fuses a tile of candidates with several weight vectors of one request, so that scores are read and transformed
once for all of them; kernels/select.py keeps the best candidates of each weight vector.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import SIZES, launch, resident_programs
from .numerics import log, log1p
from .select import EMPTY, NOTHING, append, best, best_of, index_of, key_of, leave_best, merge, order_of, score_of

MAX_K = 1024
Z_SCORES = ("zscore", "zlog")


@triton.jit
def request(offsets, b, candidates, rows, JAGGED: tl.constexpr):
    """First row (int64) and number of candidates of request b; -1 candidates if the offsets are bad."""
    if JAGGED:
        first = tl.load(offsets + b)
        stop = tl.load(offsets + b + 1)
        good = (first >= 0) & (first <= stop) & (stop <= rows)
        return tl.where(good, first, 0), tl.where(good, stop - first, -1).to(tl.int32)
    else:
        return b * candidates, candidates + (b * 0).to(tl.int32)


@triton.jit
def _changed(p, t, here, moments, slope, beta, T: tl.constexpr, TRANSFORM: tl.constexpr):
    """f_t(p) in float32; moments[2, T] are those of p's request."""
    p = p.to(tl.float32)
    if TRANSFORM == "log" or TRANSFORM == "zlog":
        p = log(p + beta)
    if TRANSFORM == "zscore" or TRANSFORM == "zlog":
        p = (p - tl.load(moments + t, mask=here, other=0.0)) * tl.load(moments + T + t, mask=here, other=1.0)
    if TRANSFORM == "log1p":
        p = log1p(p * tl.load(slope + t, mask=here, other=0.0))
    return p


@triton.jit
def _columns(scores, moments, slope, beta, row, inside, T: tl.constexpr, TRANSFORM: tl.constexpr, VECTOR: tl.constexpr):
    """f_t(p) of rows[TN], a float32 [TN] per task. A lane reads VECTOR tasks of a row in one load."""
    v = tl.arange(0, VECTOR)[None, :]
    columns = ()
    for begin in tl.static_range(0, T, VECTOR):
        t = begin + v
        p = tl.load(scores + row[:, None] * T + t, mask=inside[:, None] & (t < T), other=1.0)
        bits = _changed(p, t, t < T, moments, slope, beta, T, TRANSFORM).to(tl.int32, bitcast=True)
        for i in tl.static_range(VECTOR):
            if begin + i < T:
                columns += (tl.sum(tl.where(v == i, bits, 0), axis=1).to(tl.float32, bitcast=True),)
    return columns


@triton.jit
def fused(
    scores, weights, moments, slope, beta, row, inside, live,
    TRANSFORM: tl.constexpr, LISTS: tl.constexpr, TN: tl.constexpr, T: tl.constexpr, HALF: tl.constexpr,
    VECTOR: tl.constexpr,
):  # fmt: skip
    """The fused scores of rows[TN] under each of the weight vectors weights[LISTS, T], float32 [LISTS, TN].

    HALF is half the padded number of tasks: the first step of the tree sum.
    """
    p = _columns(scores, moments, slope, beta, row, inside, T, TRANSFORM, VECTOR)
    return weighted(p, weights, live, LISTS, TN, T, HALF)


@triton.jit
def weighted(p, weights, live, LISTS: tl.constexpr, TN: tl.constexpr, T: tl.constexpr, HALF: tl.constexpr):
    """As `fused`, of predictions that are transformed: p has a [TN] per task."""
    w = weights + tl.arange(0, LISTS)[:, None] * T
    x = ()
    for t in tl.static_range(HALF):
        product = p[t][None, :] * tl.load(w + t, mask=live[:, None], other=1.0)
        if t + HALF < T:
            more = tl.load(w + t + HALF, mask=live[:, None], other=1.0)
            product = tl.fma(
                tl.broadcast_to(p[t + HALF][None, :], LISTS, TN), tl.broadcast_to(more, LISTS, TN), product
            )
        x += (product,)
    for _ in tl.static_range(HALF.bit_length() - 1):
        halves = ()
        for t in tl.static_range(len(x) // 2):
            halves += (x[t] + x[t + len(x) // 2],)
        x = halves
    return x[0] + 0.0


@triton.jit
def collect(
    scores, weights, moments, slope, beta, mask, masked, buffer, first, start, stop, live, k,
    MASKED: tl.constexpr, TRANSFORM: tl.constexpr, LISTS: tl.constexpr, TN: tl.constexpr, T: tl.constexpr,
    HALF: tl.constexpr, VECTOR: tl.constexpr, KP: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Ranks candidates start … stop - 1 of one request under LISTS weight vectors; returns the number of keys in each
    buffer, [LISTS].

    mask points to the request's first candidate and is read if ``masked``; live[LISTS] tells which vectors exist.
    """
    i = tl.arange(0, TN)
    filled = tl.zeros([LISTS], tl.int32)
    bound = tl.zeros([LISTS], tl.int32) + NOTHING
    for begin in range(start, stop, TN):
        index = begin + i
        inside = index < stop
        if MASKED:
            inside = inside & (tl.load(mask + index, mask=inside & masked, other=1) != 0)
        score = fused(
            scores, weights, moments, slope, beta, first + index, inside, live,
            TRANSFORM, LISTS, TN, T, HALF, VECTOR,
        )  # fmt: skip
        filled, bound = append(
            buffer, order_of(score), index, inside[None, :] & live[:, None], filled, bound, k, LISTS, TN, KP, CAPACITY
        )
    return filled


@triton.jit(do_not_specialize=SIZES)
def _topk_kernel(
    scores,  # [B, N, T], jagged [M, T]
    weights,  # [B, G, T]
    moments,  # float32 [B, 2, T], read by z-scores alone
    slope,  # [T], read by log1p alone
    beta,  # added below the logarithm
    mask,  # uint8 [B, N] or [M], read if MASKED
    offsets,  # int64 [B + 1], read if JAGGED
    buffer,  # int64 [programs, LISTS, CAPACITY], scratch
    values,  # → float32 [B, G, k]
    indices,  # → int32 [B, G, k]
    candidates,  # N; jagged: not read
    rows,  # B · N or M
    batch,  # B
    samples,  # G
    k,
    JAGGED: tl.constexpr, MASKED: tl.constexpr, TRANSFORM: tl.constexpr, LISTS: tl.constexpr, TN: tl.constexpr,
    T: tl.constexpr, HALF: tl.constexpr, VECTOR: tl.constexpr, KP: tl.constexpr, K_LEVELS: tl.constexpr,
    CAPACITY: tl.constexpr,
):  # fmt: skip
    """Persistent: LISTS weight vectors of one request at a time."""
    own = buffer + tl.program_id(0).to(tl.int64) * LISTS * CAPACITY
    groups = tl.cdiv(samples, LISTS)
    lists = tl.arange(0, LISTS)
    place = tl.arange(0, KP)
    for item in range(tl.program_id(0), batch * groups, tl.num_programs(0)):
        g = (item % groups) * LISTS
        b = (item // groups).to(tl.int64)
        vector = b * samples + g
        first, count = request(offsets, b, candidates, rows, JAGGED)
        filled = collect(
            scores, weights + vector * T, moments + b * 2 * T, slope, beta, mask + first, True, own, first, 0, count,
            g + lists < samples, k, MASKED, TRANSFORM, LISTS, TN, T, HALF, VECTOR, KP, CAPACITY,
        )  # fmt: skip
        for i in range(0, tl.minimum(samples - g, LISTS)):
            mine = tl.sum(tl.where(lists == i, filled, 0), axis=0)
            keys = best(own + i * CAPACITY, mine, k, KP, K_LEVELS, CAPACITY)
            at = (vector + i) * k + place
            tl.store(values + at, score_of(keys), mask=place < k)
            tl.store(indices + at, index_of(keys), mask=place < k)


@triton.jit(do_not_specialize=SIZES)
def _part_kernel(
    scores,  # [B, N, T], jagged [M, T]
    weights,  # [B, G, T]
    moments,  # float32 [B, 2, T], read by z-scores alone
    slope,  # [T], read by log1p alone
    beta,  # added below the logarithm
    mask,  # uint8 [B, N] or [M], read if MASKED
    offsets,  # int64 [B + 1], read if JAGGED
    buffer,  # → int64 [B · G, parts, CAPACITY]
    candidates,  # N; jagged: not read
    rows,  # B · N or M
    samples,  # G
    k,
    JAGGED: tl.constexpr, MASKED: tl.constexpr, TRANSFORM: tl.constexpr, LISTS: tl.constexpr, TN: tl.constexpr,
    T: tl.constexpr, HALF: tl.constexpr, VECTOR: tl.constexpr, KP: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """The best of one of num_programs(1) parts of a request's candidates under one weight vector (LISTS is 1)."""
    vector = tl.program_id(0).to(tl.int64)
    b = vector // samples
    own = buffer + (vector * tl.num_programs(1) + tl.program_id(1)) * CAPACITY
    first, count = request(offsets, b, candidates, rows, JAGGED)
    size = tl.cdiv(count, tl.num_programs(1))
    start = tl.program_id(1) * size
    filled = collect(
        scores, weights + vector * T, moments + b * 2 * T, slope, beta, mask + first, True, own, first,
        start, start + tl.minimum(count - start, size), tl.arange(0, LISTS) == 0, k,
        MASKED, TRANSFORM, LISTS, TN, T, HALF, VECTOR, KP, CAPACITY,
    )  # fmt: skip
    leave_best(own, tl.sum(filled, axis=0), k, KP, CAPACITY)


@triton.jit(do_not_specialize=SIZES)
def _merge_kernel(
    buffer, values, indices, k,
    PARTS: tl.constexpr, KP: tl.constexpr, K_LEVELS: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """The best of the PARTS parts of one list."""
    vector = tl.program_id(0).to(tl.int64)
    keys = merge(buffer + vector * PARTS * CAPACITY, k, PARTS, KP, K_LEVELS, CAPACITY)
    place = tl.arange(0, KP)
    tl.store(values + vector * k + place, score_of(keys), mask=place < k)
    tl.store(indices + vector * k + place, index_of(keys), mask=place < k)


@triton.jit(do_not_specialize=SIZES)
def _fuse_kernel(
    scores,  # [B, N, T], jagged [M, T]
    weights,  # [B, G, T]
    moments,  # float32 [B, 2, T], read by z-scores alone
    slope,  # [T], read by log1p alone
    beta,  # added below the logarithm
    offsets,  # int64 [B + 1], read if JAGGED
    out,  # → float32 [B, G, N] or [G, M]
    candidates,  # N; jagged: not read
    rows,  # B · N or M
    samples,  # G
    JAGGED: tl.constexpr, TRANSFORM: tl.constexpr, LISTS: tl.constexpr, TN: tl.constexpr, T: tl.constexpr,
    HALF: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """LISTS weight vectors over every num_programs(1)-th tile of one request."""
    groups = tl.cdiv(samples, LISTS)
    b = (tl.program_id(0) // groups).to(tl.int64)
    g = (tl.program_id(0) % groups) * LISTS + tl.arange(0, LISTS)
    first, count = request(offsets, b, candidates, rows, JAGGED)
    to = out + (b * samples + g) * candidates
    if JAGGED:
        to = out + g.to(tl.int64) * rows + first
    vector = b * samples + (tl.program_id(0) % groups) * LISTS
    for begin in range(tl.program_id(1) * TN, count, tl.num_programs(1) * TN):
        index = begin + tl.arange(0, TN)
        score = fused(
            scores, weights + vector * T, moments + b * 2 * T, slope, beta, first + index, index < count, g < samples,
            TRANSFORM, LISTS, TN, T, HALF, VECTOR,
        )  # fmt: skip
        tl.store(to[:, None] + index[None, :], score, mask=(g < samples)[:, None] & (index < count)[None, :])


@triton.jit
def _value(scores, row, t, inside, beta, T: tl.constexpr, TRANSFORM: tl.constexpr):
    """The scores of tasks t[1, TP] of row[LANES, 1] in float32, of zlog their logs."""
    x = tl.load(scores + row * T + t, mask=inside, other=1.0).to(tl.float32)
    if TRANSFORM == "zlog":
        x = log(x + beta)
    return x


@triton.jit
def _added(total, x, mean, inside, SQUARES: tl.constexpr):
    """total plus x, or plus the squares of x - mean."""
    if SQUARES:
        d = tl.where(inside, x - mean, 0.0)
        return tl.fma(d, d, total)
    return total + tl.where(inside, x, 0.0)


@triton.jit
def _stored(
    total, moments, t, count, epsilon, SQUARES: tl.constexpr, LANES: tl.constexpr, T: tl.constexpr, TP: tl.constexpr
):  # fmt: skip
    """Mean [1, TP] of tasks t, or 1 / (std + epsilon), by the sums total[LANES, TP]; also written to moments[2, T]."""
    for level in tl.static_range(7):
        total = tl.sum(tl.reshape(total, [2, LANES >> (level + 1), TP]), axis=0)
    moment = tl.div_rn(total, tl.zeros([1, TP], tl.float32) + tl.maximum(count, 1).to(tl.float32))
    if SQUARES:
        moment = tl.div_rn(tl.zeros([1, TP], tl.float32) + 1.0, tl.sqrt_rn(moment) + epsilon)
    tl.store(moments + SQUARES * T + t, moment, mask=t < T)
    return moment


@triton.jit
def _joined(parts):
    """The parts [LANES], of which there are a power of two, as [LANES, parts]."""
    for _ in tl.static_range(len(parts).bit_length() - 1):
        pairs = ()
        for i in tl.static_range(len(parts) // 2):
            pairs += (tl.join(parts[i], parts[i + len(parts) // 2]),)
        parts = pairs
    return parts[0]


@triton.jit(do_not_specialize=SIZES)
def _held_topk_kernel(
    scores,  # [B, N, T], N ≤ KEEP · LANES
    weights,  # [B, G, T]
    moments,  # → float32 [B, 2, T]
    beta,  # added below the logarithm
    epsilon,  # added to the deviation
    mask,  # uint8 [B, N], read if MASKED
    buffer,  # int64 [programs, KP], scratch
    values,  # → float32 [B, G, k]
    indices,  # → int32 [B, G, k]
    candidates,  # N
    batch,  # B
    samples,  # G
    k,
    MASKED: tl.constexpr, TRANSFORM: tl.constexpr, KEEP: tl.constexpr, LANES: tl.constexpr, T: tl.constexpr,
    TP: tl.constexpr, HALF: tl.constexpr, VECTOR: tl.constexpr, KP: tl.constexpr, K_LEVELS: tl.constexpr,
):  # fmt: skip
    """Persistent: moments and rankings of one request at a time; reads each score once, and holds all in registers."""
    own = buffer + tl.program_id(0).to(tl.int64) * KP
    lane = tl.arange(0, LANES)
    place = tl.arange(0, KP)
    t = tl.arange(0, TP)[None, :]
    LOGS: tl.constexpr = "log" if TRANSFORM == "zlog" else "identity"
    for item in range(tl.program_id(0), batch, tl.num_programs(0)):
        b = tl.zeros([], tl.int64) + item
        row = b * candidates + lane
        mine = moments + b * 2 * T
        p = ()
        for i in tl.static_range(KEEP):
            inside = i * LANES + lane < candidates
            p += _columns(scores, None, None, beta, row + i * LANES, inside, T, LOGS, VECTOR)
        for second in tl.static_range(2):
            totals = ()
            for task in tl.static_range(TP):
                total = tl.zeros([LANES], tl.float32)
                if task < T:
                    mean = 0.0
                    if second:
                        mean = tl.load(mine + task)
                    for i in tl.static_range(KEEP):
                        total = _added(total, p[i * T + task], mean, i * LANES + lane < candidates, second)
                totals += (total,)
            _stored(tl.reshape(_joined(totals), [LANES, TP]), mine, t, candidates, epsilon, second, LANES, T, TP)
            tl.debug_barrier()
        z = ()
        for i in tl.static_range(KEEP * T):
            z += ((p[i] - tl.load(mine + i % T)) * tl.load(mine + T + i % T),)
        for g in range(0, samples):
            vector = b * samples + g
            keys = ()
            for i in tl.static_range(KEEP):
                index = i * LANES + lane
                admitted = index < candidates
                if MASKED:
                    admitted = admitted & (tl.load(mask + row + i * LANES, mask=admitted, other=0) != 0)
                score = weighted(
                    z[i * T : (i + 1) * T], weights + vector * T, tl.arange(0, 1) == 0, 1, LANES, T, HALF
                )  # fmt: skip
                keys += (tl.where(admitted, key_of(order_of(tl.reshape(score, [LANES])), index), EMPTY),)
            best_keys = best_of(own, tl.trans(tl.reshape(_joined(keys), [LANES, KEEP])), k, KP, K_LEVELS)
            tl.store(values + vector * k + place, score_of(best_keys), mask=place < k)
            tl.store(indices + vector * k + place, index_of(best_keys), mask=place < k)
            tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def _moments_kernel(
    scores,  # [B, N, T], jagged [M, T]
    moments,  # → float32 [B, 2, T]
    offsets,  # int64 [B + 1], read if JAGGED
    beta,  # added below the logarithm
    epsilon,  # added to the deviation
    candidates,  # N; jagged: not read
    rows,  # B · N or M
    JAGGED: tl.constexpr, TRANSFORM: tl.constexpr, T: tl.constexpr, TP: tl.constexpr, LANES: tl.constexpr,
    KEEP: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / (std + epsilon) of TP tasks of one request; LANES (128) accumulators, which the bits depend on.

    What the first KEEP tiles of LANES candidates hold stays in registers for the second pass.
    Squares are summed in float32: deviations of 1e19 and more give a scale of 0.
    """
    b = tl.program_id(0).to(tl.int64)
    first, count = request(offsets, b, candidates, rows, JAGGED)
    t = tl.program_id(1) * TP + tl.arange(0, TP)[None, :]
    lane = tl.arange(0, LANES)[:, None]
    mean = tl.zeros([1, TP], tl.float32)
    kept = ()
    for second in tl.static_range(2):
        total = tl.zeros([LANES, TP], tl.float32)
        for i in tl.static_range(KEEP):
            inside = (i * LANES + lane < count) & (t < T)
            if not second:
                kept += (_value(scores, first + i * LANES + lane, t, inside, beta, T, TRANSFORM),)
            total = _added(total, kept[i], mean, inside, second)
        for begin in range(KEEP * LANES, count, LANES):
            inside = (begin + lane < count) & (t < T)
            x = _value(scores, first + begin + lane, t, inside, beta, T, TRANSFORM)
            total = _added(total, x, mean, inside, second)
        mean = _stored(total, moments + b * 2 * T, t, count, epsilon, second, LANES, T, TP)


@triton.jit(do_not_specialize=SIZES)
def _transform_kernel(
    scores,  # [B, N, T], jagged [M, T]
    moments,  # float32 [B, 2, T], read by z-scores alone
    slope,  # [T], read by log1p alone
    beta,  # added below the logarithm
    offsets,  # int64 [B + 1], read if JAGGED
    out,  # → float32 [B, N, T] or [M, T]
    candidates,  # N; jagged: not read
    rows,  # B · N or M
    JAGGED: tl.constexpr, TRANSFORM: tl.constexpr, TN: tl.constexpr, T: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """Every num_programs(1)-th tile of one request."""
    b = tl.program_id(0).to(tl.int64)
    first, count = request(offsets, b, candidates, rows, JAGGED)
    t = tl.arange(0, TP)[None, :]
    for begin in range(tl.program_id(1) * TN, count, tl.num_programs(1) * TN):
        index = begin + tl.arange(0, TN)[:, None]
        inside = (index < count) & (t < T)
        at = (first + index) * T + t
        p = tl.load(scores + at, mask=inside, other=1.0)
        tl.store(out + at, _changed(p, t, t < T, moments + b * 2 * T, slope, beta, T, TRANSFORM), mask=inside)


def parts_of(lists: int, candidates: int, k: int) -> int:
    """Number of programs that rank a list together: 1, or 4 and more, a power of two.

    Up to 512 programs of 4 warps, about as many as a GPU keeps, and up to 4096 keys for the merge. A part has 400
    candidates or more, and not fewer than keys; two parts would save less than the launch of the merge costs.
    """
    padded = max(32, int(triton.next_power_of_2(k)))
    parts = min(512 // lists, 4096 // padded, candidates // max(400, padded))
    return 1 << (parts.bit_length() - 1) if parts >= 4 else 1


def launch_configuration(
    candidates: int, tasks: int, size: int, samples: int, k: int = 0, parts: int = 1
) -> dict[str, int]:
    """Weight vectors and candidates that a program takes at a time, the tree of the tasks, and the warps.

    size: bytes of a score; a lane loads up to 16 bytes. It holds about 16 scores and 32 weights, more with many tasks.
    With k > 0 also the padded list and the buffer of each weight vector. One warp ranks short lists of few candidates,
    so that no reduction leaves it; long ones have up to 8. A part of a list has 4, and its lanes take two candidates
    at a time: there are few programs, so that the time of one counts.
    """
    if k > MAX_K:
        raise ValueError(f"k is {k}; expected at most {MAX_K} on a GPU")
    width = int(triton.next_power_of_2(tasks))
    padded = max(32, int(triton.next_power_of_2(max(k, 1))))
    wanted = max(1, min(8, max(padded // 128, candidates // 4096)))
    warps = 1 << (wanted.bit_length() - 1)
    lists = min(4, max(1, 32 // width), int(triton.next_power_of_2(max(samples, 1)))) if warps == 1 else 1
    tile = warps * 32 if warps > 1 else max(32, min(64, 512 // width))
    if parts > 1:
        warps, lists, tile = 4, 1, 256 if width <= 16 else 128
    half = max(1, width // 2)
    vector = min(tasks & -tasks, 16 // size)
    shape = {"LISTS": lists, "TN": tile, "T": tasks, "HALF": half, "VECTOR": vector, "num_warps": warps}
    if k > 0:
        capacity = int(triton.next_power_of_2(padded + max(padded // 2, tile) + tile))
        shape |= {"KP": padded, "K_LEVELS": padded.bit_length() - 1, "CAPACITY": capacity}
        shape["maxnreg"] = 255 if warps > 1 else (168 if tasks > 16 else 128)
    return shape


def shape_of(scores: Tensor, offsets: Tensor | None) -> tuple[int, int, int, int]:
    """Requests, candidates per request (jagged: the mean, for the launch configuration), rows and tasks."""
    if offsets is None:
        batch, candidates, tasks = scores.shape
        return batch, candidates, batch * candidates, tasks
    batch, (rows, tasks) = offsets.shape[0] - 1, scores.shape
    return batch, -(-rows // max(batch, 1)), rows, tasks


def tiles_to_keep(candidates: int, width: int) -> int:
    """Number of tiles of 128 candidates and `width` tasks whose logs the moments of zlog keep: 0 or a power of two.

    A thread keeps up to 64 logs in its registers: with 128 (1000 candidates, 16 tasks) it would spill.
    """
    tiles = min(8, 64 // width, -(-candidates // 128))
    return 1 << (tiles.bit_length() - 1) if tiles else 0


def tiles_to_hold(candidates: int, tasks: int, samples: int, transform: str) -> int:
    """Number of tiles of 128 candidates that `_held_topk_kernel` holds: 4 or 8; 0 if two kernels shall do its work.

    It holds up to 64 scores a thread. Where fewer candidates leave it lanes without work, it executes more instructions
    than the two; that of many weight vectors would use few programs.
    """
    least = {"zlog": 256, "zscore": 896}.get(transform, 1024)
    tiles = int(triton.next_power_of_2(-(-candidates // 128)))
    return tiles if least < candidates <= 1024 and tiles * tasks <= 64 and samples <= 4 else 0


def held_configuration(tiles: int, tasks: int, size: int, k: int) -> dict[str, int]:
    """Options of a program that holds ``tiles`` of candidates: 4 warps, a candidate of each tile a lane."""
    shape = launch_configuration(tiles * 128, tasks, size, 1, k)
    options = {name: shape[name] for name in ("T", "HALF", "VECTOR", "KP", "K_LEVELS")}
    width = int(triton.next_power_of_2(tasks))
    return options | {"KEEP": tiles, "LANES": 128, "TP": width, "num_warps": 4, "maxnreg": 168}


def transform_moments(scores: Tensor, transform: str, beta: float, epsilon: float, offsets: Tensor | None) -> Tensor:
    """Mean and 1 / (std + epsilon) of each request's tasks, float32 [B, 2, T]; the scores if nothing needs them."""
    if transform not in Z_SCORES:
        return scores  # never read
    batch, candidates, rows, tasks = shape_of(scores, offsets)
    moments = scores.new_empty((batch, 2, tasks), dtype=torch.float32)
    width = min(16, int(triton.next_power_of_2(tasks)))
    if moments.numel() > 0:
        arguments = (scores, moments, offsets, beta, epsilon, candidates, rows)
        options = {"JAGGED": offsets is not None, "TRANSFORM": transform, "T": tasks, "TP": width, "LANES": 128}
        options["KEEP"] = tiles_to_keep(candidates, width) if transform == "zlog" and offsets is None else 0
        launch(_moments_kernel, (batch, -(-tasks // width)), *arguments, **options, num_warps=4)
    return moments


def transform_scores(
    scores: Tensor,
    transform: str,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
    out: Tensor,
) -> None:
    """[B, N, T] or [M, T] → out float32 of the same shape; slope[T] for log1p. Skips a request with bad offsets."""
    batch, candidates, rows, tasks = shape_of(scores, offsets)
    if out.numel() == 0:
        return
    width = int(triton.next_power_of_2(tasks))
    tile = max(16, 1024 // width)
    moments = transform_moments(scores, transform, beta, epsilon, offsets)
    grid = (batch, min(64, -(-candidates // tile)))
    arguments = (scores, moments, slope, beta, offsets, out, candidates, rows)
    options = {"JAGGED": offsets is not None, "TRANSFORM": transform, "TN": tile, "T": tasks, "TP": width}
    launch(_transform_kernel, grid, *arguments, **options, num_warps=4)


def fuse_scores(
    scores: Tensor,
    weights: Tensor,
    transform: str,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
    out: Tensor,
) -> None:
    """weights [B, (G,) T] → out [B, (G,) N] or [(G,) M]. Skips a request with bad offsets."""
    batch, candidates, rows, tasks = shape_of(scores, offsets)
    samples = weights.shape[1] if weights.ndim == 3 else 1
    if out.numel() == 0:
        return
    options = launch_configuration(candidates, tasks, scores.element_size(), samples)
    moments = transform_moments(scores, transform, beta, epsilon, offsets)
    grid = (batch * -(-samples // options["LISTS"]), min(64, -(-candidates // options["TN"])))
    arguments = (scores, weights, moments, slope, beta, offsets, out, candidates, rows, samples)
    launch(_fuse_kernel, grid, *arguments, JAGGED=offsets is not None, TRANSFORM=transform, **options)


def buffer_for(options: dict[str, int], items: int, scores: Tensor) -> tuple[int, Tensor]:
    """The number of programs of a persistent ranking kernel, at most one per item, and their buffers."""
    if items >= 2**31:
        raise ValueError(f"{items} groups of weight vectors; expected fewer than 2^31 a call on a GPU")
    programs = min(items, resident_programs(scores.device, options["num_warps"], options["maxnreg"]))
    capacity = options.get("CAPACITY", options["KP"])
    return programs, scores.new_empty((programs, options.get("LISTS", 1), capacity), dtype=torch.int64)


def fuse_topk(
    scores: Tensor,
    weights: Tensor,
    k: int,
    transform: str,
    mask: Tensor | None,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
    values: Tensor,
    indices: Tensor,
) -> None:
    """weights [B, (G,) T] → values and int32 indices of the k best, [B, (G,) k]; none of a request with bad offsets."""
    batch, candidates, rows, tasks = shape_of(scores, offsets)
    samples = weights.shape[1] if weights.ndim == 3 else 1
    if values.numel() == 0:
        return
    admitted = scores if mask is None else mask.view(torch.uint8)  # never read without MASKED
    if offsets is None and (tiles := tiles_to_hold(candidates, tasks, samples, transform)):
        options = held_configuration(tiles, tasks, scores.element_size(), k)
        programs, buffer = buffer_for(options, batch, scores)
        moments = scores.new_empty((batch, 2, tasks), dtype=torch.float32)
        arrays = (scores, weights, moments, beta, epsilon, admitted, buffer, values, indices)
        flags = {"MASKED": mask is not None, "TRANSFORM": transform}
        launch(_held_topk_kernel, (programs,), *arrays, candidates, batch, samples, k, **flags, **options)
        return
    moments = transform_moments(scores, transform, beta, epsilon, offsets)
    arrays = (scores, weights, moments, slope, beta, admitted, offsets)
    flags = {"JAGGED": offsets is not None, "MASKED": mask is not None, "TRANSFORM": transform}
    parts = parts_of(batch * samples, candidates, k)
    options = launch_configuration(candidates, tasks, scores.element_size(), samples, k, parts)
    if parts > 1:
        levels, capacity = options.pop("K_LEVELS"), options["CAPACITY"]
        buffer = scores.new_empty((batch * samples, parts, capacity), dtype=torch.int64)
        grid = (batch * samples, parts)
        launch(_part_kernel, grid, *arrays, buffer, candidates, rows, samples, k, **flags, **options)
        merging = {"PARTS": parts, "KP": options["KP"], "K_LEVELS": levels, "CAPACITY": capacity}
        launch(_merge_kernel, grid[:1], buffer, values, indices, k, **merging, num_warps=8, maxnreg=255)
    else:
        programs, buffer = buffer_for(options, batch * -(-samples // options["LISTS"]), scores)
        sizes = (candidates, rows, batch, samples, k)
        launch(_topk_kernel, (programs,), *arrays, buffer, values, indices, *sizes, **flags, **options)
