"""Stage 1's listwise loss and its gradient, one program per request, in float64; pygrade/reference/lambdaloss.py."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import SIZES, launch
from .select import key_of, order_of


@triton.jit
def _keys(scores, mask, start, i, count, MASKED: tl.constexpr):
    """Load candidates i: a mask of those that count, scores, and keys to rank by; the others rank last, as NaN."""
    here = i < count
    if MASKED:
        here = here & (tl.load(mask + start + i, mask=here, other=0) != 0)
    score = tl.load(scores + start + i, mask=here, other=float("nan"))
    return here, score, key_of(order_of(score + 0.0), i)


@triton.jit
def _weights(discount, ranks, length):
    return tl.load(discount + ranks, mask=ranks < length, other=0.0).to(tl.float64)


@triton.jit(do_not_specialize=SIZES)
def _lambda_kernel(
    scores,  # [B, N]
    gains,  # [B, N]
    mask,  # uint8 [B, N], read if MASKED
    discount,  # [K] by rank
    loss,  # → float32 [B]
    gradient,  # → float32 [B, N]
    ranks,  # int32 [B, N], scratch
    temperature,  # of the margins
    count,  # N
    length,  # K
    MASKED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Counts the rank of every candidate, then visits each pair from both sides; ranks[N] belongs to this row."""
    start = tl.program_id(0).to(tl.int64) * count
    i = tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    for first in range(0, count, ROWS):
        _, _, mine = _keys(scores, mask, start, first + i, count, MASKED)
        rank = tl.zeros([ROWS], tl.int32)
        for other in range(0, count, COLUMNS):
            _, _, theirs = _keys(scores, mask, start, other + j, count, MASKED)
            ahead = (theirs[None, :] > mine[:, None]) & (other + j < count)[None, :]
            rank += tl.sum(ahead.to(tl.int32), axis=1)
        tl.store(ranks + start + first + i, rank, mask=first + i < count)
    tl.debug_barrier()
    scale = 1.0 / tl.cast(temperature, tl.float64)
    total = tl.zeros([ROWS], tl.float64)
    for first in range(0, count, ROWS):
        counts, score, _ = _keys(scores, mask, start, first + i, count, MASKED)
        gain = tl.load(gains + start + first + i, mask=counts, other=0.0).to(tl.float64)
        weight = _weights(discount, tl.load(ranks + start + first + i, mask=counts, other=0), length)
        slope = tl.zeros([ROWS], tl.float64)
        for other in range(0, count, COLUMNS):
            too, their_score, _ = _keys(scores, mask, start, other + j, count, MASKED)
            their_gain = tl.load(gains + start + other + j, mask=too, other=0.0).to(tl.float64)
            their_weight = _weights(discount, tl.load(ranks + start + other + j, mask=too, other=0), length)
            gap = gain[:, None] - their_gain[None, :]
            pair = counts[:, None] & too[None, :] & ((gap > 0.0) | (gap < 0.0))
            delta = tl.abs(weight[:, None] - their_weight[None, :])
            lead = (score.to(tl.float64)[:, None] - their_score.to(tl.float64)[None, :]) * scale
            margin = tl.where(pair, tl.where(gap > 0.0, lead, -lead), 0.0)  # of the candidate with more gain
            tail = tl.exp(-tl.abs(margin))
            cost = tl.where(margin < 0.0, -margin, 0.0) + tl.log(1.0 + tail)
            pull = delta * scale * tl.where(margin < 0.0, 1.0, tail) / (1.0 + tail)
            cost = tl.where(margin == margin, cost, margin)  # NaN scores give NaN
            total += tl.sum(tl.where(pair & (gap > 0.0), gap * delta * cost, 0.0), axis=1)
            slope -= tl.sum(tl.where(pair, gap * pull, 0.0), axis=1)
        tl.store(gradient + start + first + i, slope.to(tl.float32), mask=first + i < count)
    tl.store(loss + tl.program_id(0), tl.sum(total, axis=0).to(tl.float32))


def launch_configuration(candidates: int) -> dict[str, int]:
    """The tile of pairs, at most 4 per lane, and its warps."""
    side = max(16, min(32, int(triton.next_power_of_2(max(candidates, 1)))))
    return {"ROWS": side, "COLUMNS": side, "num_warps": side * side // 128}


def lambda_loss(
    scores: Tensor,
    gains: Tensor,
    mask: Tensor | None,
    discount: Tensor,
    temperature: float,
    loss: Tensor,
    gradient: Tensor,
    ranks: Tensor,
) -> None:
    """scores, gains, mask [B, N], discount[K] → loss[B] and gradient[B, N]; ranks int32 [B, N] is scratch."""
    batch, candidates = scores.shape
    if batch == 0:
        return
    arguments = (scores, gains, mask, discount, loss, gradient, ranks, temperature, candidates, discount.shape[0])
    options = {"MASKED": mask is not None, "maxnreg": 255, **launch_configuration(candidates)}
    launch(_lambda_kernel, (batch,), *arguments, **options)
