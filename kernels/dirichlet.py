"""The Dirichlet family: draws with the bits of csrc/src/simd/sampler.hpp; densities in float64, one program per row."""

import math

import triton
import triton.language as tl
from torch import Tensor

from . import numerics
from .launch import aligned, launch, whole_vectors
from .special import digamma, load_row, log_beta_of, row_sum, trigamma

_LOWEST = tl.constexpr(-1e38)  # log-gammas are raised to it, so that their differences stay finite
_PHILOX_CALLS = tl.constexpr(16)  # of two attempts each


@triton.jit
def _attempt(d, c, x, word):
    """One Marsaglia-Tsang attempt: whether it is accepted, and the log of the variate over d."""
    v = tl.fma(c, x, 1.0)
    positive = v > 0.0
    safe = tl.where(positive, v, 1.0)
    u = safe - 1.0
    log_ratio = numerics.log_positive(safe) * 3.0
    excess = log_ratio - u * tl.fma(u, u + 3.0, 3.0)
    bound = tl.fma(d, excess, (x * 0.5) * x)
    return positive & (numerics.log_positive(numerics.uniform(word)) < bound), log_ratio


@triton.jit
def _two_attempts(seed, c0, c1, call, c3, d, c):
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, call, c3)
    first, second = numerics.box_muller(w0, w1)
    one, ratio_one = _attempt(d, c, first, w2)
    two, ratio_two = _attempt(d, c, second, w3)
    bits = ((w0 & 511) << 14) | ((w1 & 511) << 5) | (w2 & 31)
    return one | two, tl.where(one, ratio_one, ratio_two), bits


@triton.jit
def draw(alpha, tasks, seed, number, g, live, ROWS: tl.constexpr, TP: tl.constexpr, LEVELS: tl.constexpr):
    """Weights and log-weights [ROWS, TP] of the samples g[ROWS, 1] of row ``number`` (int64, offset included).

    alpha[TP] is float32, 1 beyond the tasks. A row with a bad concentration becomes NaN.
    """
    t = tl.arange(0, TP)
    bad = tl.max(((alpha > 0.0) & (alpha < float("inf"))).to(tl.int32) ^ 1, axis=0) > 0
    alpha = tl.where(bad, 1.0, alpha)
    inside = (t < tasks)[None, :]
    shape = tl.where(alpha < 1.0, alpha + 1.0, alpha) - 0.33333334
    scale = tl.div_rn(alpha * 0.0 + 0.33333334, tl.sqrt_rn(shape))
    most = tl.max(tl.where(t < tasks, shape, 0.0), axis=0)
    log_shape = numerics.log(tl.div_rn(shape, alpha * 0.0 + most))
    zero = tl.zeros([ROWS, TP], tl.float32)
    d = zero + shape[None, :]
    c = zero + scale[None, :]
    c1 = ((g << 8) + t[None, :]).to(tl.uint32)
    c0 = c1 * 0 + (number & 0xFFFFFFFF).to(tl.uint32)
    c3 = c1 * 0 + ((number >> 32) & 0xFFFFFFFF).to(tl.uint32)
    none = c1 * 0
    accepted, ratio, bits = _two_attempts(seed, c0, c1, none, c3, d, c)
    divisor = zero + tl.where(alpha > 1e-37, alpha, 1e-37)[None, :]  # keeps the quotient from overflowing
    boost = tl.div_rn(numerics.log_positive(numerics.unit_interval(bits)), divisor)
    boost = tl.where(alpha[None, :] < 1.0, tl.where(boost > _LOWEST, boost, _LOWEST), 0.0)
    ratio = tl.where(accepted, ratio, 0.0)
    done = (accepted | (live == 0)).to(tl.int32)
    call = 1
    while (tl.min(tl.min(done, axis=1), axis=0) == 0) & (call < _PHILOX_CALLS):
        accepted, again, bits = _two_attempts(seed, c0, c1, none + call, c3, d, c)
        ratio = tl.where((done == 0) & accepted, again, ratio)
        done = done | accepted.to(tl.int32)
        call += 1
    variate = (log_shape[None, :] + ratio) + boost
    largest = tl.max(tl.where(inside, variate, float("-inf")), axis=1)[:, None]
    z = tl.where(inside, variate - largest, 0.0)
    e = numerics.exp(z)
    top = inside & (z == 0.0)
    rest = tl.where(inside & (z != 0.0), e, 0.0)
    ties = tl.sum(top.to(tl.float32), axis=1)[:, None] - 1.0
    y = numerics.tree_sum(rest, ROWS, TP, LEVELS) + ties
    log_weights = z - numerics.log_one_plus(y)
    weights = tl.div_rn(e, zero + (1.0 + y))
    return tl.where(bad, float("nan"), weights), tl.where(bad, float("nan"), log_weights)


@triton.jit(do_not_specialize=["seed", "offset", "samples"])
def _sample_kernel(
    concentration, weights, log_weights, log_prob, seed: tl.int64, offset: tl.int64, samples, tasks,
    ROWS: tl.constexpr, TP: tl.constexpr, LEVELS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """ROWS samples of one row."""
    samples = whole_vectors(samples, ALIGNED)
    tiles = tl.cdiv(samples, ROWS)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    g = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    t = tl.arange(0, TP)
    alpha = tl.load(concentration + row * tasks + t, mask=t < tasks, other=1.0)
    live = (g < samples)[:, None] & (t < tasks)[None, :]
    number = tl.cast(offset, tl.int64) + row
    w, logs = draw(alpha, tasks, tl.cast(seed, tl.int64), number, g[:, None], live.to(tl.int32), ROWS, TP, LEVELS)
    place = (row * samples + g)[:, None] * tasks + t[None, :]
    tl.store(weights + place, w, mask=live)
    tl.store(log_weights + place, logs, mask=live)
    exact, total = load_row(concentration, row, t, tasks)
    log_beta = log_beta_of(exact, total, t < tasks)
    terms = tl.where((t < tasks)[None, :], (exact - 1.0)[None, :] * logs.to(tl.float64), 0.0)
    value = tl.sum(terms, axis=1) - log_beta
    tl.store(log_prob + row * samples + g, value.to(tl.float32), mask=g < samples)


@triton.jit
def load_floored(log_weights, start, g, samples, t, tasks, LOG_FLOOR: tl.constexpr):
    """Log-weights [GP, TP] of samples g in float64, raised to the floor, and the log of their total [GP] (0 unfloored).

    ``start`` (int64) is the first element of the row's first sample. Zeros beyond samples and tasks.
    """
    inside = (g < samples)[:, None] & (t < tasks)[None, :]
    logs = tl.load(log_weights + start + g[:, None] * tasks + t[None, :], mask=inside, other=0.0).to(tl.float64)
    log_total = (g * 0).to(tl.float64)
    if LOG_FLOOR > -1e300:
        floor = log_total[:, None] + LOG_FLOOR
        logs = tl.where(inside, tl.where(logs < floor, floor, logs), 0.0)
        total = tl.sum(tl.where(inside, tl.exp(logs), 0.0), axis=1)
        log_total = tl.log(tl.where(g < samples, total, 1.0))
    return logs, log_total


@triton.jit
def log_probabilities(exponent, log_beta, logs, log_total):
    """log p [GP]; exponent[TP] is α - 1, 0 beyond the tasks. A task with α = 1 adds 0, even if its weight is 0."""
    terms = exponent[None, :] * tl.where(exponent[None, :] == 0.0, 0.0, logs)
    return tl.sum(terms, axis=1) - tl.sum(exponent, axis=0) * log_total - log_beta


@triton.jit(do_not_specialize=["samples"])
def _log_prob_kernel(
    concentration, log_weights, log_prob, samples, tasks,
    LOG_FLOOR: tl.constexpr, GP: tl.constexpr, TP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    samples = whole_vectors(samples, ALIGNED)
    t = tl.arange(0, TP)
    alpha, total = load_row(concentration, row, t, tasks)
    log_beta = log_beta_of(alpha, total, t < tasks)
    exponent = tl.where(t < tasks, alpha - 1.0, 0.0)
    for first in range(0, samples, GP):
        g = first + tl.arange(0, GP)
        logs, log_total = load_floored(log_weights, row * samples * tasks, g, samples, t, tasks, LOG_FLOOR)
        value = log_probabilities(exponent, log_beta, logs, log_total)
        tl.store(log_prob + row * samples + g, value.to(tl.float32), mask=g < samples)


@triton.jit(do_not_specialize=["samples"])
def _log_prob_backward_kernel(
    concentration, log_weights, gradient, result, samples, tasks,
    LOG_FLOOR: tl.constexpr, GP: tl.constexpr, TP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    samples = whole_vectors(samples, ALIGNED)
    t = tl.arange(0, TP)
    alpha, total = load_row(concentration, row, t, tasks)
    slope = tl.zeros([TP], tl.float64)
    weight = total * 0.0
    for first in range(0, samples, GP):
        g = first + tl.arange(0, GP)
        logs, log_total = load_floored(log_weights, row * samples * tasks, g, samples, t, tasks, LOG_FLOOR)
        coefficient = tl.load(gradient + row * samples + g, mask=g < samples, other=0.0).to(tl.float64)
        slope += tl.sum(coefficient[:, None] * (logs - log_total[:, None]), axis=0)
        weight += tl.sum(coefficient, axis=0)
    value = slope + weight * (digamma(total) - digamma(alpha))
    tl.store(result + row * tasks + t, value.to(tl.float32), mask=t < tasks)


@triton.jit
def entropy_of(alpha, total, psi, psi_total, log_beta, inside, tasks):
    """Entropy of a row and its gradient [TP]."""
    if alpha.shape[0] == 1:  # 0: the terms cancel, but for their rounding
        return total - total, alpha - alpha
    excess = total - tl.cast(tasks, tl.float64)
    value = log_beta + excess * psi_total - row_sum((alpha - 1.0) * psi, inside)
    return value, excess * trigamma(total) - (alpha - 1.0) * trigamma(alpha)


@triton.jit
def kl_of(alpha, total, psi, psi_total, log_beta, other, other_total, other_log_beta, inside):
    """KL of a row to another and its gradient [TP] to the first."""
    value = other_log_beta - log_beta + row_sum((alpha - other) * (psi - psi_total), inside)
    return value, (alpha - other) * trigamma(alpha) - (total - other_total) * trigamma(total)


@triton.jit
def _entropy_kernel(concentration, entropy, gradient, tasks, TP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    t = tl.arange(0, TP)
    alpha, total = load_row(concentration, row, t, tasks)
    log_beta = log_beta_of(alpha, total, t < tasks)
    value, slope = entropy_of(alpha, total, digamma(alpha), digamma(total), log_beta, t < tasks, tasks)
    tl.store(entropy + row, value.to(tl.float32))
    tl.store(gradient + row * tasks + t, slope.to(tl.float32), mask=t < tasks)


@triton.jit
def _kl_kernel(concentration, other, kl, gradient, other_gradient, tasks, TP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    t = tl.arange(0, TP)
    alpha, total = load_row(concentration, row, t, tasks)
    beta, beta_total = load_row(other, row, t, tasks)
    log_beta = log_beta_of(alpha, total, t < tasks)
    other_log_beta = log_beta_of(beta, beta_total, t < tasks)
    psi = digamma(alpha)
    psi_total = digamma(total)
    value, slope = kl_of(alpha, total, psi, psi_total, log_beta, beta, beta_total, other_log_beta, t < tasks)
    other_slope = (digamma(beta) - digamma(beta_total)) - (psi - psi_total)
    tl.store(kl + row, value.to(tl.float32))
    tl.store(gradient + row * tasks + t, slope.to(tl.float32), mask=t < tasks)
    tl.store(other_gradient + row * tasks + t, other_slope.to(tl.float32), mask=t < tasks)


def padded_tasks(tasks: int) -> int:
    """The next power of two."""
    return int(triton.next_power_of_2(tasks))


def sample_configuration(samples: int, tasks: int) -> dict[str, int]:
    """Tile of a sampling program: 512 variates, four warps."""
    width = padded_tasks(tasks)
    rows = max(1, min(int(triton.next_power_of_2(max(samples, 1))), 512 // width))
    warps = max(1, min(4, rows * width // 128))
    shape = {"ROWS": rows, "TP": width, "LEVELS": width.bit_length() - 1, "num_warps": warps}
    return shape | {"ALIGNED": aligned(samples, rows, warps)}


def density_configuration(samples: int, tasks: int, tile: int = 256) -> dict[str, int]:
    """Tile of a density program: up to ``tile`` float64 log-weights in one warp."""
    width = padded_tasks(tasks)
    rows = max(1, min(int(triton.next_power_of_2(max(samples, 1))), tile // width))
    return {"GP": rows, "TP": width, "ALIGNED": aligned(samples, rows, 1), "num_warps": 1}


def log_floor(weight_floor: float) -> float:
    """LOG_FLOOR: the log of the floor, below -1e300 for none."""
    return math.log(weight_floor) if weight_floor > 0.0 else -1.7e308


def dirichlet_sample(
    concentration: Tensor, seed: int, offset: int, weights: Tensor, log_weights: Tensor, log_prob: Tensor
) -> None:
    """concentration[B, T] → weights, log_weights [B, G, T], log_prob [B, G]; seed and offset as signed 64-bit."""
    batch, samples, tasks = weights.shape
    if weights.numel() == 0:
        return
    tile = sample_configuration(samples, tasks)
    grid = (batch * triton.cdiv(samples, tile["ROWS"]),)
    arrays = (concentration, weights, log_weights, log_prob)
    launch(_sample_kernel, grid, *arrays, seed, offset, samples, tasks, **tile)


def dirichlet_log_prob(concentration: Tensor, log_weights: Tensor, weight_floor: float, log_prob: Tensor) -> None:
    """concentration[B, T], log_weights[B, G, T] → log_prob[B, G]."""
    batch, samples, tasks = log_weights.shape
    if log_prob.numel() == 0:
        return
    options = {"LOG_FLOOR": log_floor(weight_floor), **density_configuration(samples, tasks)}
    launch(_log_prob_kernel, (batch,), concentration, log_weights, log_prob, samples, tasks, **options)


def dirichlet_log_prob_backward(
    concentration: Tensor, log_weights: Tensor, gradient: Tensor, weight_floor: float, result: Tensor
) -> None:
    """gradient[B, G] of the log-probabilities → result[B, T]."""
    batch, samples, tasks = log_weights.shape
    if result.numel() == 0:
        return
    arrays = (concentration, log_weights, gradient, result)
    options = {"LOG_FLOOR": log_floor(weight_floor), **density_configuration(samples, tasks)}
    launch(_log_prob_backward_kernel, (batch,), *arrays, samples, tasks, **options)


def dirichlet_entropy(concentration: Tensor, entropy: Tensor, gradient: Tensor) -> None:
    """concentration[B, T] → entropy[B], gradient[B, T]."""
    batch, tasks = concentration.shape
    if batch == 0:
        return
    launch(_entropy_kernel, (batch,), concentration, entropy, gradient, tasks, TP=padded_tasks(tasks), num_warps=1)


def dirichlet_kl(concentration: Tensor, other: Tensor, kl: Tensor, gradient: Tensor, other_gradient: Tensor) -> None:
    """concentration, other [B, T] → kl[B], gradient, other_gradient [B, T]."""
    batch, tasks = concentration.shape
    if batch == 0:
        return
    arrays = (concentration, other, kl, gradient, other_gradient)
    launch(_kl_kernel, (batch,), *arrays, tasks, TP=padded_tasks(tasks), num_warps=1)
