"""The clipped group-relative policy loss of a Dirichlet policy, with its gradient in the same pass."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import TensorOrArray
from pygrade.ops.dirichlet import check_floor, check_positive, concentration_rows

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class GrpoLoss(NamedTuple):
    """Result of `grpo_loss`, [B] except ``gradient``; numpy if the concentration was. Only ``loss`` carries a gradient,
    and only to the concentration; ``gradient`` is that gradient, for callers that need no autograd for it."""

    loss: Tensor  # [B]
    kl: Tensor  # KL(new ‖ reference), nats
    entropy: Tensor  # nats
    clip_fraction: Tensor  # share of samples whose ratio left [1 - clip, 1 + clip_high]
    ratio_max: Tensor  # the group's largest probability ratio
    gradient: Tensor  # [B, T], d loss_b / d concentration_b


def _exact(concentration: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return dispatch.with_gradients(lambda alpha: reference.grpo_loss(alpha, *arguments[:-2]), concentration)


def _grpo_loss(concentration: Tensor, *arguments: Any) -> Outputs:
    from pygrade.kernels import grpo as kernel

    batch = concentration.shape[0]
    loss, kl, entropy, fraction, ratio = (dispatch.empty(concentration, batch) for _ in range(5))
    outputs = (loss, kl, entropy, fraction, ratio, torch.empty_like(concentration))
    kernel.grpo_loss(concentration, *arguments[:-2], *outputs)
    return outputs


def _fake_loss(concentration: Tensor, *_: object) -> Outputs:
    loss, kl, entropy, fraction, ratio = (concentration.new_empty(concentration.shape[:1]) for _ in range(5))
    return loss, kl, entropy, fraction, ratio, torch.empty_like(concentration)


_ROWS = "concentration log_weights old_log_prob advantages reference_concentration"
_op = dispatch.Op(
    "grpo_loss",
    _grpo_loss,
    _fake_loss,
    *dispatch.gradients_in_results("grpo_loss"),
    exact=_exact,
    check=check_positive(concentration=0, reference_concentration=4),
    rows=_ROWS,
    fast=True,
)


def grpo_loss(
    concentration: TensorOrArray,
    log_weights: TensorOrArray,
    old_log_prob: TensorOrArray,
    advantages: TensorOrArray,
    reference_concentration: TensorOrArray,
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
        concentration: [B, T] float32 or float64, as the others, finite and > 0, T from 1 to 64; the only
            argument that gets a gradient.
        log_weights: [B, G, T] draws of the sampling policy, G ≥ 1.
        old_log_prob: [B, G] log-probability under the sampling policy, from
            ``dirichlet_log_prob(..., weight_floor=weight_floor)``: with the same floor.
        advantages: [B, G], as `group_advantage` gives them. A 0 adds exactly nothing to loss and gradient.
        reference_concentration: [B, T], finite and > 0.
        clip: lower clip range, ≥ 0.
        clip_high: upper clip range, ≥ 0; None: ``clip``.
        kl_coefficient, entropy_coefficient: of the KL penalty and of the entropy bonus, per nat.
        weight_floor: in [0, 1), see `floor_log_weights`; 0: none.
        log_ratio_clamp: in (0, 80]; a clamped log-ratio passes no gradient.
        validate: raise on bad concentrations; None: on a CPU only. Unchecked, a bad one makes its row NaN.
        num_threads: CPU threads; None: torch's setting.

    Returns:
        `GrpoLoss` of that dtype, computed in double; ``loss`` can be differentiated once, in float64 as often as
        wanted. Instead of
        ``result.loss.mean().backward()``, ``concentration.backward(result.gradient / B)`` takes the gradient as it was
        computed: give `grpo_loss` the detached concentration then.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, option or concentration.

    Examples:
        >>> alpha, logs = torch.tensor([[2.0, 2.0]]), torch.tensor([[[0.7, 0.3], [0.4, 0.6]]]).log()
        >>> old = dirichlet_log_prob(alpha, logs)
        >>> result = grpo_loss(alpha, logs, old, torch.tensor([[1.0, -1.0]]), alpha)  # the first draw was better
        >>> result.gradient  # a step against it raises the weight of the first task
        tensor([[-0.2798,  0.3466]])
    """
    parts = _op.run_fast(
        concentration,
        log_weights,
        old_log_prob,
        advantages,
        reference_concentration,
        clip,
        clip_high,
        kl_coefficient,
        entropy_coefficient,
        weight_floor,
        log_ratio_clamp,
        validate,
        num_threads,
    )
    if parts is not None:
        return GrpoLoss._make(parts)
    given = checks.Arguments("grpo_loss")
    alpha = concentration_rows(given, concentration)
    logs = given.other("log_weights", log_weights, torch.float32, ("B", "G", "T"))
    if logs.shape[1] < 1:
        raise ValueError("log_weights has no samples; expected at least 1")
    old = given.other("old_log_prob", old_log_prob, torch.float32, ("B", "G"))
    gains = given.other("advantages", advantages, torch.float32, ("B", "G"))
    anchor = given.other("reference_concentration", reference_concentration, torch.float32, ("B", "T"))
    clamp = checks.number("log_ratio_clamp", log_ratio_clamp)
    if not 0.0 < clamp <= 80.0:
        raise ValueError(f"log_ratio_clamp is {log_ratio_clamp}; expected a number in (0, 80]")
    options = (
        checks.nonnegative("clip", clip),
        checks.nonnegative("clip_high", clip if clip_high is None else clip_high),
        checks.number("kl_coefficient", kl_coefficient),
        checks.number("entropy_coefficient", entropy_coefficient),
        check_floor(weight_floor),
        clamp,
        checks.should_validate(validate, alpha),
        checks.thread_count(num_threads),
    )
    outputs = _op(alpha, logs, old, gains, anchor, *options)
    return GrpoLoss(*(checks.match_type(part, concentration) for part in outputs))  # type: ignore[arg-type]
