"""The clipped group-relative policy loss of a Dirichlet policy, with its gradient in the same pass."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pygrade import _core, reference
from pygrade.ops import checks, dispatch, eager
from pygrade.ops.checks import Array
from pygrade.ops.dirichlet import check_floor, check_values, concentration_rows

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class GrpoLoss(NamedTuple):
    """Result of `grpo_loss`, [B] but for ``gradient``, numpy where the concentration was. Only ``loss`` carries a
    gradient, and only to the concentration; ``gradient`` is that gradient, for those who need no autograd for it."""

    loss: Tensor
    kl: Tensor  # KL(new ‖ reference), nats
    entropy: Tensor  # nats
    clip_fraction: Tensor  # share of samples whose ratio left [1 - clip, 1 + clip_high]
    ratio_max: Tensor  # the group's largest probability ratio
    gradient: Tensor  # [B, T], d loss_b / d concentration_b


def _implementation(
    concentration: Tensor,
    log_weights: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    reference_concentration: Tensor,
    clip: float,
    clip_high: float,
    kl_coefficient: float,
    entropy_coefficient: float,
    weight_floor: float,
    log_ratio_clamp: float,
    validate: bool,
    num_threads: int,
) -> Outputs:
    backend = dispatch.backend(concentration)
    if backend != "cpu" and validate:
        check_values("concentration", concentration)
        check_values("reference_concentration", reference_concentration)
    inputs = (concentration, log_weights, old_log_prob, advantages, reference_concentration)
    options = (clip, clip_high, kl_coefficient, entropy_coefficient, weight_floor, log_ratio_clamp)
    if backend == "reference":
        alpha, *others = (x.detach().double() for x in inputs)
        with torch.enable_grad():
            alpha.requires_grad_()
            exact = reference.grpo_loss(
                alpha, *others, clip=clip, clip_high=clip_high, kl_coefficient=kl_coefficient,
                entropy_coefficient=entropy_coefficient, weight_floor=weight_floor, log_ratio_clamp=log_ratio_clamp,
            )  # fmt: skip
            (slope,) = torch.autograd.grad(exact.loss.sum(), alpha)
        loss, kl, entropy, fraction, ratio = (x.detach().float() for x in exact)
        return loss, kl, entropy, fraction, ratio, slope.float()
    batch = concentration.shape[0]
    loss, kl, entropy, fraction, ratio = (concentration.new_empty(batch) for _ in range(5))
    outputs = (loss, kl, entropy, fraction, ratio, torch.empty_like(concentration))
    if backend == "triton":
        from pygrade.kernels import grpo as kernel

        kernel.grpo_loss(*inputs, *options, *outputs)
    else:
        _core.grpo_loss(*inputs, *options, *outputs, validate, dispatch.threads(num_threads))
    return outputs


_op = torch.library.custom_op("pygrade::grpo_loss", _implementation, mutates_args=())


@_op.register_fake
def _(
    concentration: Tensor,
    log_weights: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    reference_concentration: Tensor,
    clip: float,
    clip_high: float,
    kl_coefficient: float,
    entropy_coefficient: float,
    weight_floor: float,
    log_ratio_clamp: float,
    validate: bool,
    num_threads: int,
) -> Outputs:
    loss, kl, entropy, fraction, ratio = (concentration.new_empty(concentration.shape[:1]) for _ in range(5))
    return loss, kl, entropy, fraction, ratio, torch.empty_like(concentration)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[5])


def _differentiate(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    (slope,) = ctx.saved_tensors
    return gradient[:, None] * slope, *([None] * 12)


_op.register_autograd(_differentiate, setup_context=_save)


def _at_once(
    inputs: tuple[Any, ...], options: tuple[float, ...], validate: bool | None, num_threads: int | None
) -> Any:
    """The result for plain CPU tensors, checked by the core alone; None where the call needs more, or an error."""
    if any(type(x) is not Tensor for x in inputs) or not dispatch.plain():
        return None
    concentration = inputs[0]
    try:
        batch, tasks = concentration.shape
        loss, kl, entropy = torch.empty(batch), torch.empty(batch), torch.empty(batch)
        fraction, ratio, slope = torch.empty(batch), torch.empty(batch), torch.empty(batch, tasks)
        threads = dispatch.threads(checks.thread_count(num_threads))
        check = validate is None or validate
        arguments: Any = (*inputs, *options, loss, kl, entropy, fraction, ratio, slope, check, threads)
        _core.grpo_loss(*arguments)
    except (TypeError, ValueError):
        return None
    if concentration.requires_grad and torch.is_grad_enabled():
        loss = eager.with_slope(concentration, loss, slope)
    return GrpoLoss(loss, kl, entropy, fraction, ratio, slope)


def grpo_loss(
    concentration: Array,
    log_weights: Array,
    old_log_prob: Array,
    advantages: Array,
    reference_concentration: Array,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    kl_coefficient: float = 0.01,
    entropy_coefficient: float = 0.0,
    weight_floor: float = 1e-5,
    log_ratio_clamp: float = 10.0,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> GrpoLoss:
    """Clipped group-relative policy loss per request (arXiv 2402.03300), and d loss / d concentration in the same pass.

    ratio_g = exp(clamp(log p(w_g | α) - old_log_prob_g, ±log_ratio_clamp));
    loss = -mean_g min(ratio_g A_g, clamp(ratio_g, 1 - clip, 1 + clip_high) A_g)
           + kl_coefficient · KL(α ‖ α_ref) - entropy_coefficient · H(α).

    Args:
        concentration: [B, T] float32, finite and > 0, T from 1 to 64; the only argument that gets a gradient.
        log_weights: [B, G, T] float32 draws of the sampling policy, G ≥ 1.
        old_log_prob: [B, G] float32 log-probability under the sampling policy, from
            ``dirichlet_log_prob(..., weight_floor=weight_floor)``: with the same floor.
        advantages: [B, G] float32, as `group_advantage` gives them. A 0 adds exactly nothing to loss and gradient.
        reference_concentration: [B, T] float32, finite and > 0.
        clip: lower clip range, ≥ 0.
        clip_high: upper clip range, ≥ 0; None: ``clip``.
        kl_coefficient, entropy_coefficient: of the KL penalty and of the entropy bonus, per nat.
        weight_floor: in [0, 1), see `floor_log_weights`; 0: none.
        log_ratio_clamp: in (0, 80]; a clamped log-ratio passes no gradient.
        validate: raise on bad concentrations; None: on a CPU only. Unchecked, a bad one makes its row NaN.
        num_threads: CPU threads; None: torch's setting.

    Returns:
        `GrpoLoss` of float32 values, computed in double; ``loss`` can be differentiated once. Instead of
        ``result.loss.mean().backward()``, ``concentration.backward(result.gradient / B)`` takes the gradient as it was
        computed: give `grpo_loss` the detached concentration then.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, option or concentration.
    """
    high = clip if clip_high is None else clip_high
    numbers = (clip, high, kl_coefficient, entropy_coefficient, weight_floor, log_ratio_clamp)
    given = (concentration, log_weights, old_log_prob, advantages, reference_concentration)
    found = _at_once(given, numbers, validate, num_threads)
    if found is not None:
        return found  # type: ignore[no-any-return]
    alpha = concentration_rows("concentration", concentration)
    batch, tasks = alpha.shape
    f32 = (torch.float32,)
    logs = checks.tensor("log_weights", log_weights, f32, (batch, None, tasks)).detach()
    samples = logs.shape[1]
    if samples < 1:
        raise ValueError("log_weights has no samples; want at least 1")
    old = checks.tensor("old_log_prob", old_log_prob, f32, (batch, samples)).detach()
    gains = checks.tensor("advantages", advantages, f32, (batch, samples)).detach()
    anchor = concentration_rows("reference_concentration", reference_concentration, (batch, tasks)).detach()
    names = ("log_weights", "old_log_prob", "advantages", "reference_concentration")
    for name, value in zip(names, (logs, old, gains, anchor), strict=True):
        checks.same_device(name, value, "concentration", alpha)
    for name, number in (("clip", clip), ("clip_high", high)):
        if not number >= 0.0:
            raise ValueError(f"{name} is {number}; want a number ≥ 0")
    if not 0.0 < log_ratio_clamp <= 80.0:
        raise ValueError(f"log_ratio_clamp is {log_ratio_clamp}; want a number in (0, 80]")
    options = (float(clip), float(high), float(kl_coefficient), float(entropy_coefficient), check_floor(weight_floor))
    check = checks.must_validate(validate, alpha)
    inputs = (alpha, logs, old, gains, anchor)
    arguments = (*inputs, *options, float(log_ratio_clamp), check, checks.thread_count(num_threads))
    outputs = dispatch.call(_op, _implementation, inputs, *arguments)
    return GrpoLoss(*(checks.like(part, concentration) for part in outputs))  # type: ignore[arg-type]
