"""Group-relative advantages."""

import torch
from torch import Tensor

from pygrade import _core, reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import Array

NORMALIZE = ("none", "group", "batch", "component")  # in the order of the C++ enum


def _implementation(
    rewards: Tensor,
    component_weights: Tensor,
    normalize: str,
    leave_one_out: bool,
    clip: float,
    validate: bool,
    num_threads: int,
) -> Tensor:
    if validate and bool(torch.isnan(rewards).any()):  # here and not in the caller, so that compiled graphs check too
        raise ValueError("rewards holds NaN; want numbers (validate=False leaves such samples out)")
    backend = dispatch.backend(rewards)
    if backend == "triton":
        from pygrade.kernels import advantage as kernel

        result: Tensor = kernel.group_advantage(rewards, component_weights, normalize, leave_one_out, clip)
        return result
    if backend == "reference":
        exact = reference.group_advantage(rewards.double(), component_weights.double(), normalize, leave_one_out, clip)
        return exact.float()
    advantage = torch.empty(rewards.shape[:2], dtype=torch.float32)
    code, threads = NORMALIZE.index(normalize), dispatch.threads(num_threads)
    _core.group_advantage(rewards, component_weights, code, leave_one_out, clip, advantage, threads)
    return advantage


_op = torch.library.custom_op("pygrade::group_advantage", _implementation, mutates_args=())


@_op.register_fake
def _(
    rewards: Tensor,
    component_weights: Tensor,
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
    """Group-relative advantages: weigh the reward components, centre each group, scale, clip.

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
    values = checks.tensor("rewards", rewards, (torch.float32,), (None, None, None))
    if component_weights is None:
        weights = values.new_ones(values.shape[2])
    else:
        weights = checks.tensor("component_weights", component_weights, (torch.float32,), (values.shape[2],))
        checks.same_device("component_weights", weights, "rewards", values)
    checks.choice("normalize", normalize, NORMALIZE)
    bound = float("inf") if clip is None else float(clip)
    if not bound >= 0.0:
        raise ValueError(f"clip is {clip}; want a number ≥ 0 or None")
    values, weights = values.detach(), weights.detach()
    check = checks.must_validate(validate, values)
    arguments = (values, weights, normalize, leave_one_out, bound, check, checks.thread_count(num_threads))
    return checks.like(dispatch.call(_op, _implementation, (values, weights), *arguments), rewards)
