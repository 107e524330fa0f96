"""Dirichlet distributions over weight vectors: draws, log-probabilities, entropy and KL divergence."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import T, TensorOrArray

MAX_TASKS = 64
MAX_SAMPLES = 1 << 24


class DirichletSample(NamedTuple):
    """Draws of `dirichlet_sample`; numpy arrays if the concentration is one."""

    weights: Tensor  # [B, G, T]
    log_weights: Tensor  # [B, G, T]
    log_prob: Tensor  # [B, G]


def check_values(name: str, values: Tensor) -> None:
    """ValueError that names the first element of values[B, T] that is not a finite positive number."""
    bad = ~((values > 0.0) & torch.isfinite(values))
    if bool(bad.any()):  # inside an op, so that compiled graphs check too
        row, task = bad.nonzero()[0].tolist()
        raise ValueError(f"{name}[{row}, {task}] is {values[row, task].item():g}; expected a finite number > 0")


def check_positive(**places: int) -> Callable[..., None]:
    """The check of an op's arguments with these names and places by `check_values`."""

    def check(*arguments: Any) -> None:
        for name, place in places.items():
            check_values(name, arguments[place])

    return check


def concentration_rows(
    given: checks.Arguments, concentration: TensorOrArray, dtypes: Sequence[torch.dtype] = checks.FLOATS
) -> Tensor:
    """``concentration`` [B, T], 1 ≤ T ≤ 64, the first argument."""
    result = given.first("concentration", concentration, dtypes, ("B", "T"))
    if not 1 <= result.shape[1] <= MAX_TASKS:
        raise ValueError(f"concentration has {result.shape[1]} tasks; expected 1 to {MAX_TASKS}")
    return result


def check_floor(weight_floor: float) -> float:
    """``weight_floor``, a number in [0, 1)."""
    floor = checks.number("weight_floor", weight_floor)
    if not 0.0 <= floor < 1.0:
        raise ValueError(f"weight_floor is {weight_floor}; expected a number in [0, 1)")
    return floor


def checked_draw(num_samples: int, seed: int, offset: int) -> tuple[int, int, int]:
    """num_samples, the seed as a signed integer of 64 bits, and the offset."""
    signed = checks.integer("seed", seed, -(1 << 63), (1 << 64) - 1)
    return (
        checks.integer("num_samples", num_samples, 0, MAX_SAMPLES),
        signed - (1 << 64) if signed >= 1 << 63 else signed,
        checks.integer("offset", offset, 0, (1 << 63) - 1),
    )


# --- draws -----------------------------------------------------------------------------------------------------------


def draw(
    concentration: Tensor, num_samples: int, seed: int, offset: int, validate: bool, _threads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The op in Python."""
    batch, tasks = concentration.shape
    if validate:
        check_values("concentration", concentration)
    if dispatch.is_reference(concentration):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + offset) % (1 << 63))
        exact = reference.dirichlet_sample(concentration.double().cpu(), num_samples, generator)
        log_prob = reference.dirichlet_log_prob(concentration.double().cpu(), exact)
        device = concentration.device
        return exact.exp().float().to(device), exact.float().to(device), log_prob.float().to(device)
    from pygrade.kernels import dirichlet as kernel

    weights, log_weights = (dispatch.empty(concentration, batch, num_samples, tasks) for _ in range(2))
    log_prob = dispatch.empty(concentration, batch, num_samples)
    kernel.dirichlet_sample(concentration, seed, offset, weights, log_weights, log_prob)
    return weights, log_weights, log_prob


def _draw_into(
    concentration: Tensor,
    seed: int,
    offset: int,
    weights: Tensor,
    log_weights: Tensor,
    log_prob: Tensor,
    validate: bool,
    threads: int,
) -> None:
    drawn = draw(concentration, weights.shape[1], seed, offset, validate, threads)
    for memory, part in zip((weights, log_weights, log_prob), drawn, strict=True):
        memory.copy_(part)


def _checked_out(given: checks.Arguments, out: Any) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(out, (tuple, list)) or len(out) != 3:
        raise TypeError("out is not a DirichletSample; expected (weights, log_weights, log_prob)")
    shapes = ("B", "G", "T"), ("B", "G", "T"), ("B", "G")
    weights, log_weights, log_prob = (
        given.output(f"out[{i}]", part, torch.float32, shape)
        for i, (part, shape) in enumerate(zip(out, shapes, strict=True))
    )
    return weights, log_weights, log_prob


def _fake_draw(concentration: Tensor, num_samples: int, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    batch, tasks = concentration.shape
    weights = concentration.new_empty((batch, num_samples, tasks))
    return weights, torch.empty_like(weights), concentration.new_empty((batch, num_samples))


def _fake_draw_into(*_: object) -> None:
    return None


_sample_op = dispatch.Op("dirichlet_sample", draw, _fake_draw)
_sample_into_op = dispatch.Op("dirichlet_sample_into", _draw_into, _fake_draw_into)


def dirichlet_sample(
    concentration: TensorOrArray,
    num_samples: int,
    seed: int,
    offset: int = 0,
    *,
    out: tuple[TensorOrArray, TensorOrArray, TensorOrArray] | None = None,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> DirichletSample:
    """Draw weight vectors from Dirichlet(α): log-gamma variates by Marsaglia-Tsang, normalized in log space.

    A draw depends on nothing but the seed, its row ``offset + b``, its sample, its task and the row's concentrations
    (Philox4x32-10 with those as counter), so a batch drawn in parts, with their offsets, equals the whole. Weights and
    log-weights have the same bits on every CPU, for any number of threads, and in Triton.

    Args:
        concentration: [B, T] float32, torch or numpy; finite and > 0, T from 1 to 64. Tested from 1e-30 to 1e6.
        num_samples: G, draws per row, up to 2^24.
        seed: any integer of 64 bits, signed or unsigned.
        offset: number of the first row, 0 ≤ offset < 2^63.
        out: (weights, log_weights, log_prob) to fill and return instead of new ones, contiguous and disjoint: memory
            that was written before spares a tenth of the time, which a system takes to map new pages.
        validate: raise on bad concentrations; None: on a CPU only. Unchecked, a bad one makes its row NaN.
        num_threads: CPU threads; None: torch's setting. The result does not depend on it.

    Returns:
        weights [B, G, T], which sum to 1, log_weights [B, G, T], finite even where weights underflow to 0, and log_prob
        [B, G], computed in double; all float32 and of the kind of ``concentration``. Nothing is differentiable: take
        `dirichlet_log_prob` or `grpo_loss` at the log-weights (score-function gradients).

    Raises:
        TypeError, ValueError: a wrong dtype, shape, ``num_samples``, ``seed``, ``offset`` or concentration.

    Examples:
        >>> draws = dirichlet_sample(torch.tensor([[2.0, 1.0, 1.0]]), 1000, seed=7)
        >>> draws.weights.shape, bool(torch.allclose(draws.weights.sum(-1), torch.ones(1)))
        (torch.Size([1, 1000, 3]), True)
        >>> draws.weights.mean(1)  # near α / Σ α
        tensor([[0.4833, 0.2537, 0.2631]])
    """
    given = checks.Arguments("dirichlet_sample")
    alpha = concentration_rows(given, concentration, checks.FLOAT32).detach()
    samples, signed, first = checked_draw(num_samples, seed, offset)
    given.sizes["G"] = samples
    check, threads = checks.should_validate(validate, alpha), checks.thread_count(num_threads)
    if out is None:
        drawn = _sample_op(alpha, samples, signed, first, check, threads)
        return DirichletSample(*(checks.match_type(part, concentration) for part in drawn))  # type: ignore[arg-type]
    _sample_into_op(alpha, signed, first, *_checked_out(given, out), check, threads)
    return DirichletSample(*out)  # type: ignore[arg-type]


# --- log-probability -------------------------------------------------------------------------------------------------


def exact_log_prob(concentration: Tensor, log_weights: Tensor, weight_floor: float, *_: object) -> Tensor:
    """The op for float64."""
    return reference.dirichlet_log_prob(concentration, log_weights, weight_floor)


def log_prob_of(concentration: Tensor, log_weights: Tensor, weight_floor: float, *_: object) -> Tensor:
    """The op in Triton."""
    from pygrade.kernels import dirichlet as kernel

    batch, samples, _tasks = log_weights.shape
    log_prob = dispatch.empty(concentration, batch, samples)
    kernel.dirichlet_log_prob(concentration, log_weights, weight_floor, log_prob)
    return log_prob


def exact_log_prob_backward(
    concentration: Tensor, log_weights: Tensor, gradient: Tensor, weight_floor: float, *_: object
) -> Tensor:
    """The op for float64."""
    result: Tensor = torch.func.grad(
        lambda alpha: (gradient * reference.dirichlet_log_prob(alpha, log_weights, weight_floor)).sum()
    )(concentration)
    return result


def log_prob_backward_of(
    concentration: Tensor, log_weights: Tensor, gradient: Tensor, weight_floor: float, *_: object
) -> Tensor:
    """The op in Triton."""
    from pygrade.kernels import dirichlet as kernel

    result = torch.empty_like(concentration)
    kernel.dirichlet_log_prob_backward(concentration, log_weights, gradient.contiguous(), weight_floor, result)
    return result


def _fake_log_prob(concentration: Tensor, log_weights: Tensor, *_: object) -> Tensor:
    return concentration.new_empty(log_weights.shape[:2])


def _fake_log_prob_backward(concentration: Tensor, *_: object) -> Tensor:
    return torch.empty_like(concentration)


def _save_log_prob(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    concentration, log_weights, weight_floor, _, num_threads = inputs
    ctx.save_for_backward(concentration, log_weights)
    ctx.weight_floor, ctx.num_threads = weight_floor, num_threads


def _differentiate_log_prob(ctx: Any, gradient: Tensor) -> tuple[Tensor]:
    arguments = *ctx.saved_tensors, gradient.contiguous(), ctx.weight_floor
    result = _log_prob_backward_op.run_fast(*arguments, ctx.num_threads or None)
    return (_log_prob_backward_op(*arguments, ctx.num_threads or 0) if result is None else result,)


_log_prob_backward_op = dispatch.Op(
    "dirichlet_log_prob_backward",
    log_prob_backward_of,
    _fake_log_prob_backward,
    exact=exact_log_prob_backward,
    rows="concentration log_weights gradient",
)
log_prob_op = dispatch.Op(
    "dirichlet_log_prob",
    log_prob_of,
    _fake_log_prob,
    _save_log_prob,
    dispatch.first_order_only("dirichlet_log_prob", _differentiate_log_prob),
    exact=exact_log_prob,
    check=check_positive(concentration=0),
    rows="concentration log_weights",
    fast=True,
)


def dirichlet_log_prob(
    concentration: T,
    log_weights: TensorOrArray,
    weight_floor: float = 0.0,
    *,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> T:
    """log p(w_g | α) = Σ_t (α_t - 1) log w_gt - log B(α), computed in double.

    Args:
        concentration: [B, T] float32 or float64, torch or numpy; finite and > 0, T from 1 to 64. Carries the gradient.
        log_weights: [B, G, T] of its dtype, as `dirichlet_sample` gives them. Gets no gradient.
        weight_floor: in [0, 1); above 0, weights are raised to it and renormalized first (`floor_log_weights`).
        validate: raise on bad concentrations; None: on a CPU only. Unchecked, a bad one makes its row NaN.
        num_threads: CPU threads; None: torch's setting.

    Returns:
        [B, G]: density with respect to Lebesgue measure on the first T - 1 coordinates. Can be differentiated once,
        in float64 as often as wanted.

    Examples:
        >>> flat = torch.ones(1, 3)  # its density is 2! everywhere
        >>> dirichlet_log_prob(flat, torch.tensor([[[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]]).log()).exp()
        tensor([[2., 2.]])
    """
    log_prob: T | None = log_prob_op.run_fast(concentration, log_weights, weight_floor, validate, num_threads)
    if log_prob is not None:
        return log_prob
    given = checks.Arguments("dirichlet_log_prob")
    arguments = checked_density(given, concentration, log_weights, weight_floor, validate, num_threads)
    return checks.match_type(log_prob_op(*arguments), concentration)


def checked_density(
    given: checks.Arguments,
    concentration: TensorOrArray,
    log_weights: TensorOrArray,
    weight_floor: float,
    validate: bool | None,
    num_threads: int | None,
) -> tuple[Tensor, Tensor, float, bool, int]:
    """The arguments of a density, as the ops take them."""
    alpha = concentration_rows(given, concentration)
    logs = given.other("log_weights", log_weights, torch.float32, ("B", "G", "T"))
    check, threads = checks.should_validate(validate, alpha), checks.thread_count(num_threads)
    return alpha, logs, check_floor(weight_floor), check, threads


# --- entropy and KL divergence: the gradient comes with the value ----------------------------------------------------


def _entropy(concentration: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    from pygrade.kernels import dirichlet as kernel

    entropy, gradient = dispatch.empty(concentration, len(concentration)), torch.empty_like(concentration)
    kernel.dirichlet_entropy(concentration, entropy, gradient)
    return entropy, gradient


def _kl(concentration: Tensor, other: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    from pygrade.kernels import dirichlet as kernel

    kl = dispatch.empty(concentration, len(concentration))
    gradient, other_gradient = torch.empty_like(concentration), torch.empty_like(other)
    kernel.dirichlet_kl(concentration, other, kl, gradient, other_gradient)
    return kl, gradient, other_gradient


def _fake_entropy(concentration: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return concentration.new_empty(concentration.shape[:1]), torch.empty_like(concentration)


def _fake_kl(concentration: Tensor, other: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return concentration.new_empty(concentration.shape[:1]), torch.empty_like(concentration), torch.empty_like(other)


_entropy_op = dispatch.Op(
    "dirichlet_entropy",
    _entropy,
    _fake_entropy,
    *dispatch.gradients_in_results("dirichlet_entropy"),
    exact=lambda alpha, *_: dispatch.with_gradients(lambda a: (reference.dirichlet_entropy(a),), alpha),
    check=check_positive(concentration=0),
    rows="concentration",
)
_kl_op = dispatch.Op(
    "dirichlet_kl",
    _kl,
    _fake_kl,
    *dispatch.gradients_in_results("dirichlet_kl", 2),
    differentiable=2,
    exact=lambda *given: dispatch.with_gradients(lambda *both: (reference.dirichlet_kl(*both),), *given[:2]),
    check=check_positive(concentration=0, other=1),
    rows="concentration other",
)


def dirichlet_entropy(concentration: T, *, validate: bool | None = None, num_threads: int | None = None) -> T:
    """H(α) = log B(α) + (α₀ - T) ψ(α₀) - Σ_t (α_t - 1) ψ(α_t), α₀ = Σ α, computed in double.

    concentration [B, T] float32 or float64, finite and > 0, T from 1 to 64 → [B], in nats; differentiable once, in
    float64 as often as wanted. ``validate`` and ``num_threads`` as in `dirichlet_log_prob`.

    Examples:
        >>> dirichlet_entropy(torch.tensor([[4.0, 4.0], [2.0, 1.0]]))
        tensor([-0.3845, -0.1931])
    """
    alpha = concentration_rows(checks.Arguments("dirichlet_entropy"), concentration)
    check, threads = checks.should_validate(validate, alpha), checks.thread_count(num_threads)
    return checks.match_type(_entropy_op(alpha, check, threads)[0], concentration)


def dirichlet_kl(
    concentration: T, other: TensorOrArray, *, validate: bool | None = None, num_threads: int | None = None
) -> T:
    """KL(Dir(α) ‖ Dir(β)) = log B(β) - log B(α) + Σ_t (α_t - β_t)(ψ(α_t) - ψ(α₀)), computed in double.

    concentration (α) and other (β) [B, T] float32 or float64, finite and > 0, T from 1 to 64 → [B], in nats;
    differentiable in both, once, in float64 as often as wanted. ``validate`` and ``num_threads`` as in
    `dirichlet_log_prob`.

    Examples:
        >>> a, b = torch.tensor([[2.0, 1.0]]), torch.ones(1, 2)
        >>> dirichlet_kl(a, a), dirichlet_kl(a, b)  # log 2 - 1/2
        (tensor([0.]), tensor([0.1931]))
    """
    given = checks.Arguments("dirichlet_kl")
    alpha = concentration_rows(given, concentration)
    beta = given.other("other", other, torch.float32, ("B", "T"), grad=True)
    check, threads = checks.should_validate(validate, alpha), checks.thread_count(num_threads)
    return checks.match_type(_kl_op(alpha, beta, check, threads)[0], concentration)


# --- floor -----------------------------------------------------------------------------------------------------------


def _floor(log_weights: Tensor, weight_floor: float, *_: object) -> Tensor:
    return reference.floor_log_weights(log_weights, weight_floor)


def _fake_floor(log_weights: Tensor, *_: object) -> Tensor:
    return log_weights.new_empty(log_weights.shape)


def _save_floor(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    log_weights, weight_floor, *_ = inputs
    ctx.least = math.log(weight_floor)
    ctx.save_for_backward(log_weights, output)


def _differentiate_floor(ctx: Any, gradient: Tensor) -> tuple[Tensor]:
    log_weights, floored = ctx.saved_tensors
    change = gradient - floored.exp() * gradient.sum(-1, keepdim=True)
    return (torch.where(log_weights >= ctx.least, change, 0.0),)


_floor_op = dispatch.Op(
    "floor_log_weights", _floor, _fake_floor, _save_floor, _differentiate_floor, exact=_floor, rows="log_weights"
)


def floor_log_weights(log_weights: T, weight_floor: float, *, num_threads: int | None = None) -> T:
    """log(max(w, weight_floor) / Σ max(w, weight_floor)): weights clamped from below and renormalized, in log space.

    log_weights [..., T] float32 or float64, ``weight_floor`` in [0, 1); 0 changes nothing. Returns the same shape and
    kind, differentiable. A Dirichlet with small concentrations puts samples within 1e-30 of a face, where one
    log-weight dominates every log-probability ratio; the floor bounds it.

    Examples:
        >>> floor_log_weights(torch.tensor([0.5, 0.5, 1e-30]).log(), 0.01).exp()
        tensor([0.4950, 0.4950, 0.0099])
    """
    shape = checks.any_rows(log_weights, "T")
    logs = checks.Arguments("floor_log_weights").first("log_weights", log_weights, checks.FLOATS, shape)
    floor, threads = check_floor(weight_floor), checks.thread_count(num_threads)
    if floor == 0.0 or logs.numel() == 0:
        return checks.match_type(logs.clone(), log_weights)
    return checks.match_type(_floor_op(logs.view(-1, logs.shape[-1]), floor, threads).view(logs.shape), log_weights)
