"""Dirichlet distributions over weight vectors: draws, log-probabilities, entropy and KL divergence."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pygrade import _core, reference
from pygrade.ops import checks, dispatch, eager
from pygrade.ops.checks import Array, T

MAX_TASKS = 64
MAX_SAMPLES = 1 << 24


class DirichletSample(NamedTuple):
    """Draws of `dirichlet_sample`; numpy arrays where the concentration was one."""

    weights: Tensor  # [B, G, T]
    log_weights: Tensor  # [B, G, T]
    log_prob: Tensor  # [B, G]


def check_values(name: str, values: Tensor) -> None:
    """ValueError that names the first element of values[B, T] that is no finite positive number."""
    bad = ~((values > 0.0) & torch.isfinite(values))
    if bool(bad.any()):  # inside an op, so that compiled graphs check too
        row, task = bad.nonzero()[0].tolist()
        raise ValueError(f"{name}[{row}, {task}] is {values[row, task].item():g}; want a finite number > 0")


def concentration_rows(name: str, value: Array, shape: Sequence[int | None] = (None, None)) -> Tensor:
    """``value`` as float32 [B, T], 1 ≤ T ≤ 64."""
    found = checks.tensor(name, value, (torch.float32,), shape)
    if not 1 <= found.shape[1] <= MAX_TASKS:
        raise ValueError(f"{name} has {found.shape[1]} tasks; want 1 to {MAX_TASKS}")
    return found


def check_floor(weight_floor: float) -> float:
    """``weight_floor`` where it lies in [0, 1)."""
    if not 0.0 <= weight_floor < 1.0:
        raise ValueError(f"weight_floor is {weight_floor}; want a number in [0, 1)")
    return float(weight_floor)


def checked_draw(num_samples: int, seed: int, offset: int) -> int:
    """``seed`` as a signed integer of 64 bits, where all three lie in their ranges."""
    if not 0 <= num_samples <= MAX_SAMPLES:
        raise ValueError(f"num_samples is {num_samples}; want 0 to {MAX_SAMPLES}")
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"seed is {seed}; want an integer of 64 bits")
    if not 0 <= offset < 1 << 63:
        raise ValueError(f"offset is {offset}; want 0 to 2^63 - 1")
    return seed - (1 << 64) if seed >= 1 << 63 else seed


# --- draws -----------------------------------------------------------------------------------------------------------


def draw(
    concentration: Tensor, num_samples: int, seed: int, offset: int, validate: bool, num_threads: int
) -> tuple[Tensor, Tensor, Tensor]:
    batch, tasks = concentration.shape
    backend = dispatch.backend(concentration)
    if backend != "cpu" and validate:
        check_values("concentration", concentration)
    if backend == "reference":
        generator = torch.Generator().manual_seed((seed * 1_000_003 + offset) % (1 << 63))
        exact = reference.dirichlet_sample(concentration.double().cpu(), num_samples, generator)
        log_prob = reference.dirichlet_log_prob(concentration.double().cpu(), exact)
        device = concentration.device
        return exact.exp().float().to(device), exact.float().to(device), log_prob.float().to(device)
    weights = concentration.new_empty((batch, num_samples, tasks))
    log_weights = torch.empty_like(weights)
    log_prob = concentration.new_empty((batch, num_samples))
    if backend == "triton":
        from pygrade.kernels import dirichlet as kernel

        kernel.dirichlet_sample(concentration, seed, offset, weights, log_weights, log_prob)
    else:
        _draw_into((weights, log_weights, log_prob), concentration, seed, offset, validate, num_threads)
    return weights, log_weights, log_prob


def draw_weights(
    concentration: Tensor, num_samples: int, seed: int, offset: int, validate: bool, num_threads: int
) -> tuple[Tensor, Tensor]:
    """What `draw` gives on a CPU, without the log-probabilities."""
    weights = concentration.new_empty((concentration.shape[0], num_samples, concentration.shape[1]))
    log_weights = torch.empty_like(weights)
    _draw_into((weights, log_weights, None), concentration, seed, offset, validate, num_threads)
    return weights, log_weights


def _draw_into(
    out: tuple[Tensor, Tensor, Tensor | None],
    concentration: Tensor,
    seed: int,
    offset: int,
    validate: bool,
    num_threads: int,
) -> None:
    key, threads = seed % (1 << 64), dispatch.threads(num_threads)
    _core.dirichlet_sample(concentration, key, offset, *out, validate, threads)


def _checked_out(out: Any, concentration: Tensor, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(out, (tuple, list)) or len(out) != 3:
        raise TypeError("out is no DirichletSample; want (weights, log_weights, log_prob)")
    batch, tasks = concentration.shape
    shapes = (batch, num_samples, tasks), (batch, num_samples, tasks), (batch, num_samples)
    weights, log_weights, log_prob = (
        checks.output(f"out[{i}]", part, torch.float32, shape, "concentration", concentration)
        for i, (part, shape) in enumerate(zip(out, shapes, strict=True))
    )
    return weights, log_weights, log_prob


_sample_op = torch.library.custom_op("pygrade::dirichlet_sample", draw, mutates_args=())


@_sample_op.register_fake
def _(
    concentration: Tensor, num_samples: int, seed: int, offset: int, validate: bool, num_threads: int
) -> tuple[Tensor, Tensor, Tensor]:
    batch, tasks = concentration.shape
    weights = concentration.new_empty((batch, num_samples, tasks))
    return weights, torch.empty_like(weights), concentration.new_empty((batch, num_samples))


def dirichlet_sample(
    concentration: Array,
    num_samples: int,
    seed: int,
    offset: int = 0,
    *,
    out: tuple[Array, Array, Array] | None = None,
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
    """
    alpha = concentration_rows("concentration", concentration).detach()
    signed = checked_draw(num_samples, seed, offset)
    check, threads = checks.must_validate(validate, alpha), checks.thread_count(num_threads)
    arguments = (alpha, num_samples, signed, offset, check, threads)
    if out is not None:
        given = _checked_out(out, alpha, num_samples)
        if dispatch.plain(alpha, *given):
            _draw_into(given, alpha, signed, offset, check, threads)
        else:
            for own, part in zip(given, _sample_op(*arguments), strict=True):
                own.copy_(part)
        return DirichletSample(*out)  # type: ignore[arg-type]
    drawn = dispatch.call(_sample_op, draw, (alpha,), *arguments)
    return DirichletSample(*(checks.like(part, concentration) for part in drawn))  # type: ignore[arg-type]


# --- log-probability -------------------------------------------------------------------------------------------------


def log_prob_of(
    concentration: Tensor, log_weights: Tensor, weight_floor: float, validate: bool, num_threads: int
) -> Tensor:
    backend = dispatch.backend(concentration)
    if backend != "cpu" and validate:
        check_values("concentration", concentration)
    if backend == "reference":
        return reference.dirichlet_log_prob(concentration.double(), log_weights.double(), weight_floor).float()
    log_prob = concentration.new_empty(log_weights.shape[:2])
    if backend == "triton":
        from pygrade.kernels import dirichlet as kernel

        kernel.dirichlet_log_prob(concentration, log_weights, weight_floor, log_prob)
    else:
        threads = dispatch.threads(num_threads)
        _core.dirichlet_log_prob(concentration, log_weights, weight_floor, log_prob, validate, threads, None)
    return log_prob


def log_prob_backward_of(
    concentration: Tensor, log_weights: Tensor, gradient: Tensor, weight_floor: float, num_threads: int
) -> Tensor:
    backend = dispatch.backend(concentration)
    gradient = gradient.contiguous()
    if backend == "reference":
        alpha = concentration.double().requires_grad_()
        with torch.enable_grad():
            value = reference.dirichlet_log_prob(alpha, log_weights.double(), weight_floor)
            return torch.autograd.grad(value, alpha, gradient.double())[0].float()
    result = torch.empty_like(concentration)
    if backend == "triton":
        from pygrade.kernels import dirichlet as kernel

        kernel.dirichlet_log_prob_backward(concentration, log_weights, gradient, weight_floor, result)
    else:
        threads = dispatch.threads(num_threads)
        _core.dirichlet_log_prob_backward(concentration, log_weights, gradient, weight_floor, result, threads, None)
    return result


_log_prob_op = torch.library.custom_op("pygrade::dirichlet_log_prob", log_prob_of, mutates_args=())
_log_prob_backward_op = torch.library.custom_op(
    "pygrade::dirichlet_log_prob_backward", log_prob_backward_of, mutates_args=()
)
log_prob_ops = (_log_prob_op, _log_prob_backward_op)


@_log_prob_op.register_fake
def _(concentration: Tensor, log_weights: Tensor, weight_floor: float, validate: bool, num_threads: int) -> Tensor:
    return concentration.new_empty(log_weights.shape[:2])


@_log_prob_backward_op.register_fake
def _(concentration: Tensor, log_weights: Tensor, gradient: Tensor, weight_floor: float, num_threads: int) -> Tensor:
    return torch.empty_like(concentration)


def _save_log_prob(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    concentration, log_weights, weight_floor, _, num_threads = inputs
    ctx.save_for_backward(concentration, log_weights)
    ctx.weight_floor, ctx.num_threads = weight_floor, num_threads


def _differentiate_log_prob(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
    result = _log_prob_backward_op(*ctx.saved_tensors, gradient, ctx.weight_floor, ctx.num_threads)
    return result, None, None, None, None


_log_prob_op.register_autograd(_differentiate_log_prob, setup_context=_save_log_prob)


def _log_prob_at_once(
    concentration: Any, log_weights: Any, weight_floor: float, validate: bool | None, num_threads: int | None
) -> Tensor | None:
    """The result for plain CPU tensors, checked by the core alone; None where the call needs more, or an error."""
    if type(concentration) is not Tensor or type(log_weights) is not Tensor or not dispatch.plain():
        return None
    check = validate is None or validate
    try:
        threads = dispatch.threads(checks.thread_count(num_threads))
        batch, samples, tasks = log_weights.shape
        value = torch.empty(batch, samples)
        differentiable = concentration.requires_grad and torch.is_grad_enabled()
        shift = torch.empty(batch, tasks, dtype=torch.float64) if differentiable else None
        _core.dirichlet_log_prob(concentration, log_weights, weight_floor, value, check, threads, shift)
    except (TypeError, ValueError):
        return None
    if shift is None:
        return value

    def backward(gradient: Tensor, alpha: Tensor, logs: Tensor, saved: Tensor) -> Tensor:
        result = torch.empty(batch, tasks)
        _core.dirichlet_log_prob_backward(alpha, logs, gradient.contiguous(), weight_floor, result, threads, saved)
        return result

    return eager.with_gradient(concentration, value, backward, concentration.detach(), log_weights.detach(), shift)


def dirichlet_log_prob(
    concentration: T,
    log_weights: Array,
    weight_floor: float = 0.0,
    *,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> T:
    """log p(w_g | α) = Σ_t (α_t - 1) log w_gt - log B(α), computed in double.

    Args:
        concentration: [B, T] float32, torch or numpy; finite and > 0, T from 1 to 64. Carries the gradient.
        log_weights: [B, G, T] float32, as `dirichlet_sample` gives them. Gets no gradient.
        weight_floor: in [0, 1); above 0, weights are raised to it and renormalized first (`floor_log_weights`).
        validate: raise on bad concentrations; None: on a CPU only. Unchecked, a bad one makes its row NaN.
        num_threads: CPU threads; None: torch's setting.

    Returns:
        [B, G] float32: density with respect to Lebesgue measure on the first T - 1 coordinates. Can be differentiated
        once.
    """
    at_once = _log_prob_at_once(concentration, log_weights, weight_floor, validate, num_threads)
    if at_once is not None:
        return at_once  # type: ignore[return-value]
    alpha = concentration_rows("concentration", concentration)
    logs = checks.tensor("log_weights", log_weights, (torch.float32,), (alpha.shape[0], None, alpha.shape[1])).detach()
    checks.same_device("log_weights", logs, "concentration", alpha)
    arguments = (
        alpha, logs, check_floor(weight_floor), checks.must_validate(validate, alpha), checks.thread_count(num_threads)
    )  # fmt: skip
    return checks.like(dispatch.call(_log_prob_op, log_prob_of, (alpha, logs), *arguments), concentration)


# --- entropy and KL divergence: the gradient comes with the value ----------------------------------------------------


def _entropy(concentration: Tensor, validate: bool, num_threads: int) -> tuple[Tensor, Tensor]:
    backend = dispatch.backend(concentration)
    if backend != "cpu" and validate:
        check_values("concentration", concentration)
    if backend == "reference":
        alpha = concentration.detach().double().requires_grad_()
        with torch.enable_grad():
            value = reference.dirichlet_entropy(alpha)
            return value.detach().float(), torch.autograd.grad(value.sum(), alpha)[0].float()
    entropy, gradient = concentration.new_empty(concentration.shape[:1]), torch.empty_like(concentration)
    if backend == "triton":
        from pygrade.kernels import dirichlet as kernel

        kernel.dirichlet_entropy(concentration, entropy, gradient)
    else:
        _core.dirichlet_entropy(concentration, entropy, gradient, validate, dispatch.threads(num_threads))
    return entropy, gradient


def _kl(concentration: Tensor, other: Tensor, validate: bool, num_threads: int) -> tuple[Tensor, Tensor, Tensor]:
    backend = dispatch.backend(concentration)
    if backend != "cpu" and validate:
        check_values("concentration", concentration)
        check_values("other", other)
    if backend == "reference":
        alpha, beta = (x.detach().double().requires_grad_() for x in (concentration, other))
        with torch.enable_grad():
            value = reference.dirichlet_kl(alpha, beta)
            gradients = torch.autograd.grad(value.sum(), (alpha, beta))
            return value.detach().float(), gradients[0].float(), gradients[1].float()
    kl = concentration.new_empty(concentration.shape[:1])
    gradient, other_gradient = torch.empty_like(concentration), torch.empty_like(other)
    if backend == "triton":
        from pygrade.kernels import dirichlet as kernel

        kernel.dirichlet_kl(concentration, other, kl, gradient, other_gradient)
    else:
        threads = dispatch.threads(num_threads)
        _core.dirichlet_kl(concentration, other, kl, gradient, other_gradient, validate, threads)
    return kl, gradient, other_gradient


_entropy_op = torch.library.custom_op("pygrade::dirichlet_entropy", _entropy, mutates_args=())
_kl_op = torch.library.custom_op("pygrade::dirichlet_kl", _kl, mutates_args=())


@_entropy_op.register_fake
def _(concentration: Tensor, validate: bool, num_threads: int) -> tuple[Tensor, Tensor]:
    return concentration.new_empty(concentration.shape[:1]), torch.empty_like(concentration)


@_kl_op.register_fake
def _(concentration: Tensor, other: Tensor, validate: bool, num_threads: int) -> tuple[Tensor, Tensor, Tensor]:
    return concentration.new_empty(concentration.shape[:1]), torch.empty_like(concentration), torch.empty_like(other)


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _differentiate_entropy(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None, None]:
    (saved,) = ctx.saved_tensors
    return gradient[:, None] * saved, None, None


def _differentiate_kl(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, None]:
    first, second = ctx.saved_tensors
    return gradient[:, None] * first, gradient[:, None] * second, None, None


_entropy_op.register_autograd(_differentiate_entropy, setup_context=_save_gradients)
_kl_op.register_autograd(_differentiate_kl, setup_context=_save_gradients)


def _differentiable(*tensors: Tensor) -> bool:
    """Whether a plain eager call of plain CPU tensors is to carry a gradient to the first of them alone."""
    plain = all(type(t) is Tensor and t.device.type == "cpu" for t in tensors) and dispatch.plain()
    first, *others = (t.requires_grad for t in tensors)
    return plain and torch.is_grad_enabled() and first and not any(others)


def dirichlet_entropy(concentration: T, *, validate: bool | None = None, num_threads: int | None = None) -> T:
    """H(α) = log B(α) + (α₀ - T) ψ(α₀) - Σ_t (α_t - 1) ψ(α_t), α₀ = Σ α, computed in double.

    concentration [B, T] float32, finite and > 0, T from 1 to 64 → [B] float32, in nats; differentiable once.
    ``validate`` and ``num_threads`` as in `dirichlet_log_prob`.
    """
    alpha = concentration_rows("concentration", concentration)
    arguments = (alpha, checks.must_validate(validate, alpha), checks.thread_count(num_threads))
    if _differentiable(alpha):
        return eager.with_slope(alpha, *_entropy(*arguments))  # type: ignore[return-value]
    return checks.like(dispatch.call(_entropy_op, _entropy, (alpha,), *arguments)[0], concentration)


def dirichlet_kl(concentration: T, other: Array, *, validate: bool | None = None, num_threads: int | None = None) -> T:
    """KL(Dir(α) ‖ Dir(β)) = log B(β) - log B(α) + Σ_t (α_t - β_t)(ψ(α_t) - ψ(α₀)), computed in double.

    concentration (α) and other (β) [B, T] float32, finite and > 0, T from 1 to 64 → [B] float32, in nats;
    differentiable once, in both. ``validate`` and ``num_threads`` as in `dirichlet_log_prob`.
    """
    alpha = concentration_rows("concentration", concentration)
    beta = concentration_rows("other", other, tuple(alpha.shape))
    checks.same_device("other", beta, "concentration", alpha)
    arguments = (alpha, beta, checks.must_validate(validate, alpha), checks.thread_count(num_threads))
    if _differentiable(alpha, beta):
        return eager.with_slope(alpha, *_kl(*arguments)[:2])  # type: ignore[return-value]
    return checks.like(dispatch.call(_kl_op, _kl, (alpha, beta), *arguments)[0], concentration)


# --- floor -----------------------------------------------------------------------------------------------------------


def floor_log_weights(log_weights: T, weight_floor: float, *, num_threads: int | None = None) -> T:
    """log(max(w, weight_floor) / Σ max(w, weight_floor)): weights clamped from below and renormalized, in log space.

    log_weights [..., T] float32, ``weight_floor`` in [0, 1); 0 changes nothing. Returns the same shape and kind. Not
    differentiable. A Dirichlet with small concentrations puts samples within 1e-30 of a face, where one log-weight
    dominates every log-probability ratio; the floor bounds it.
    """
    shape = log_weights.shape
    logs = checks.tensor("log_weights", log_weights, (torch.float32,), (None,) * len(shape)).detach()
    if logs.ndim == 0:
        raise ValueError("log_weights has no dimension; want [..., T]")
    floor = check_floor(weight_floor)
    if floor == 0.0 or logs.numel() == 0:
        return checks.like(logs.clone(), log_weights)
    if dispatch.backend(logs) != "cpu" or type(logs) is not Tensor or torch.compiler.is_compiling():
        raised = logs.clamp_min(math.log(floor))
        return checks.like(raised - torch.logsumexp(raised, -1, keepdim=True), log_weights)
    floored = torch.empty_like(logs)
    threads = dispatch.threads(checks.thread_count(num_threads))
    _core.floor_log_weights(logs.view(-1, shape[-1]), floor, floored.view(-1, shape[-1]), threads)
    return checks.like(floored, log_weights)
