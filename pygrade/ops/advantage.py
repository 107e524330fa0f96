"""Group-relative advantages."""

import math
from typing import Any

import torch
from torch import Tensor

from pygrade import _core, reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import Array

NORMALIZE = ("none", "group", "batch", "component")  # in the order of the C++ enum


def _implementation(
    rewards: Tensor,
    component_weights: Tensor | None,
    normalize: str,
    leave_one_out: bool,
    clip: float,
    validate: bool,
    num_threads: int,
) -> Tensor:
    backend = dispatch.backend(rewards)
    if backend == "cpu":
        advantage = torch.empty(rewards.shape[:2], dtype=torch.float32)
        code, threads = NORMALIZE.index(normalize), dispatch.threads(num_threads)
        _core.group_advantage(rewards, component_weights, code, leave_one_out, clip, advantage, validate, threads)
        return advantage
    if validate and bool(torch.isnan(rewards).any()):  # here and not in the caller, so that compiled graphs check too
        raise ValueError("rewards holds NaN; want numbers (validate=False leaves such samples out)")
    weights = rewards.new_ones(rewards.shape[2]) if component_weights is None else component_weights
    if backend == "triton":
        from pygrade.kernels import advantage as kernel

        result = rewards.new_empty(rewards.shape[:2])
        kernel.group_advantage(rewards, weights, normalize, leave_one_out, clip, result)
        return result
    return reference.group_advantage(rewards.double(), weights.double(), normalize, leave_one_out, clip).float()


def _at_once(
    rewards: Any, component_weights: Any, normalize: str, leave_one_out: bool, clip: float | None,
    validate: bool | None, num_threads: int | None,
) -> Tensor | None:  # fmt: skip
    """The result for plain CPU tensors, checked by the core alone; None where the call needs more, or an error."""
    if type(rewards) is not Tensor or rewards.ndim != 3 or not dispatch.plain():
        return None
    if component_weights is not None and type(component_weights) is not Tensor:
        return None
    try:
        advantage = torch.empty(rewards.shape[0], rewards.shape[1], dtype=torch.float32)
        code, bound = NORMALIZE.index(normalize), math.inf if clip is None else clip
        threads = dispatch.threads(checks.thread_count(num_threads))
        check = validate is None or validate
        _core.group_advantage(rewards, component_weights, code, leave_one_out, bound, advantage, check, threads)
    except (TypeError, ValueError):
        return None
    return advantage


_op = torch.library.custom_op("pygrade::group_advantage", _implementation, mutates_args=())


@_op.register_fake
def _(
    rewards: Tensor,
    component_weights: Tensor | None,
    normalize: str,
    leave_one_out: bool,
    clip: float,
    validate: bool,
    num_threads: int,
) -> Tensor:
    return rewards.new_empty(rewards.shape[:2])


def group_advantage(
    rewards: Array,
    component_weights: Array | None = None,
    normalize: str = "batch",
    leave_one_out: bool = False,
    clip: float | None = 5.0,
    *,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> Array:
    """Group-relative advantages: weigh the reward components, center each group, scale, clip.

    Args:
        rewards: [B, G, C] float32, torch (CPU or GPU) or numpy: C reward components of G samples for B requests.
        component_weights: [C] float32 weights of the components, in any unit; None: all 1.
        normalize: what a group's deviations are divided by: ``"batch"``, the root mean square of all deviations of the
            batch (default: groups without a signal stay quiet); ``"group"``, the group's own std (GRPO, arXiv
            2402.03300); ``"component"``, each component by its own std in the group, before weighting; ``"none"``.
        leave_one_out: subtract the mean of the other samples instead of all (RLOO): a factor n / (n - 1).
        clip: advantages are clamped to ±clip (≥ 0); None: not at all.
        validate: raise on NaN rewards; None: on a CPU only. Unchecked NaN samples get advantage 0 and count nowhere.
        num_threads: CPU threads; None: torch's setting. The result does not depend on it.

    Returns:
        [B, G] float32, of the kind of ``rewards``. A group of equal rewards, or of one sample, gets exactly 0. Not
        differentiable: advantages are constants of the policy gradient.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, ``normalize`` or ``clip``, or a NaN reward.
    """
    at_once = _at_once(rewards, component_weights, normalize, leave_one_out, clip, validate, num_threads)
    if at_once is not None:
        return at_once
    values = checks.tensor("rewards", rewards, (torch.float32,), (None, None, None))
    weights = None
    if component_weights is not None:
        weights = checks.tensor("component_weights", component_weights, (torch.float32,), (values.shape[2],)).detach()
        checks.same_device("component_weights", weights, "rewards", values)
    checks.choice("normalize", normalize, NORMALIZE)
    bound = float("inf") if clip is None else float(clip)
    if not bound >= 0.0:
        raise ValueError(f"clip is {clip}; want a number ≥ 0 or None")
    values = values.detach()
    check = checks.must_validate(validate, values)
    arguments = (values, weights, normalize, leave_one_out, bound, check, checks.thread_count(num_threads))
    return checks.like(dispatch.call(_op, _implementation, (values, weights), *arguments), rewards)
