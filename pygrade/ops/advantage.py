"""Group-relative advantages."""

from typing import Any

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import TensorOrArray

NORMALIZE = ("none", "group", "batch", "component")  # in the order of the C++ enum


def _check_values(rewards: Tensor, component_weights: Tensor | None, *_: object) -> None:
    """The checks of the C++ core, for the other backends."""
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError("rewards holds NaN or infinity; expected numbers (validate=False leaves such samples out)")
    if component_weights is not None and not bool(torch.isfinite(component_weights).all()):
        raise ValueError("component_weights holds NaN or infinity; expected numbers")


def _exact(rewards: Tensor, component_weights: Tensor | None, normalize: int, *options: Any) -> Tensor:
    weights = rewards.new_ones(rewards.shape[2]) if component_weights is None else component_weights
    return reference.group_advantage(rewards, weights, NORMALIZE[normalize], *options[:2])


def _group_advantage(
    rewards: Tensor, component_weights: Tensor | None, normalize: int, leave_one_out: bool, clip: float, *_: object
) -> Tensor:
    batch, samples, components = rewards.shape
    weights = rewards.new_ones(components) if component_weights is None else component_weights
    from pygrade.kernels import advantage as kernel

    advantage = dispatch.empty(rewards, batch, samples)
    kernel.group_advantage(rewards, weights, NORMALIZE[normalize], leave_one_out, clip, advantage)
    return advantage


def _fake_advantage(rewards: Tensor, *_: object) -> Tensor:
    return rewards.new_empty(rewards.shape[:2])


_op = dispatch.Op("group_advantage", _group_advantage, _fake_advantage, exact=_exact, check=_check_values)


def group_advantage(
    rewards: TensorOrArray,
    component_weights: TensorOrArray | None = None,
    normalize: str = "batch",
    leave_one_out: bool = False,
    clip: float | None = 5.0,
    *,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> TensorOrArray:
    """Group-relative advantages: weigh the reward components, center each group, scale, clip.

    Args:
        rewards: [B, G, C] float32 or float64, torch (CPU or GPU) or numpy: C reward components of G samples for B
            requests.
        component_weights: [C] weights of the components, in any unit; None: all 1.
        normalize: what a group's deviations are divided by: ``"batch"``, the root mean square of all deviations of the
            batch (default: groups without a signal stay quiet); ``"group"``, the std of the group (GRPO, arXiv
            2402.03300); ``"component"``, each component by its std in the group, before weighting; ``"none"``.
        leave_one_out: subtract the mean of the other samples instead of all (RLOO): a factor n / (n - 1).
        clip: advantages are clamped to ±clip (≥ 0); None: not at all.
        validate: raise on NaN or infinite values; None: on a CPU only. Unchecked, a sample with such a reward gets
            advantage 0 and counts nowhere.
        num_threads: CPU threads; None: torch's setting. The result does not depend on it.

    Returns:
        [B, G], of the kind and dtype of ``rewards``. A group of equal rewards, or of one sample, gets exactly 0. Not
        differentiable: advantages are constants of the policy gradient.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, ``normalize`` or ``clip``, or a reward that is not finite.

    Examples:
        >>> rewards = torch.tensor([[[1.0], [3.0]], [[5.0], [5.0]]])  # two groups of two samples
        >>> group_advantage(rewards, normalize="group")
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    result: TensorOrArray | None = _op.run_fast(
        rewards, component_weights, normalize, leave_one_out, clip, validate, num_threads
    )
    if result is not None:
        return result
    given = checks.Arguments("group_advantage")
    values = given.detached("rewards", given.first("rewards", rewards, checks.FLOATS, ("B", "G", "C")))
    weights = given.optional("component_weights", component_weights, torch.float32, ("C",))
    checks.choice("normalize", normalize, NORMALIZE)
    bound = float("inf") if clip is None else checks.nonnegative("clip", clip)
    check, threads = checks.should_validate(validate, values), checks.thread_count(num_threads)
    advantage = _op(values, weights, NORMALIZE.index(normalize), bool(leave_one_out), bound, check, threads)
    return checks.match_type(advantage, rewards)
