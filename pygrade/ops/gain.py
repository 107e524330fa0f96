"""The discounted gain of the top k under sampled weight vectors."""

import torch
from torch import Tensor

from pygrade import _core, reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import Array, T
from pygrade.ops.fusion import (
    TRANSFORMS,
    check_values,
    checked_k,
    checked_scores,
    checked_transform,
    transform_constants,
)


def check_lists(component_list: Tensor | None, masks: Tensor | None) -> None:
    """What the C++ core checks by itself: that every component's list exists."""
    lists = 0 if masks is None else masks.shape[-2]
    if component_list is not None and bool(((component_list < -1) | (component_list >= lists)).any()):
        raise ValueError(f"component_list is {component_list.tolist()}; want -1 or a list below {lists}")


def gain_of(
    scores: Tensor,
    weights: Tensor,
    gains: Tensor,
    discount: Tensor,
    masks: Tensor | None,
    component_list: Tensor | None,
    transform: str,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
    validate: bool,
    threads: int,
) -> Tensor:
    backend = dispatch.backend(scores)
    if backend == "cpu":
        gain = torch.empty((*weights.shape[:2], gains.shape[-1]), dtype=torch.float32)
        code, count = TRANSFORMS.index(transform), dispatch.threads(threads)
        _core.topk_gain(
            scores, weights, gains, discount, masks, component_list, code, beta, epsilon, slope, offsets, gain, count
        )
        return gain
    if validate:
        check_values(scores, transform, slope, offsets)
        check_lists(component_list, masks)
    if backend == "reference":
        exact = reference.topk_gain(
            scores.double(), weights.double(), gains.double(), discount.shape[0], discount.double(), masks,
            component_list, transform, offsets=offsets, **transform_constants(beta, epsilon, slope),
        )  # fmt: skip
        return exact.float()
    from pygrade.kernels import gain as kernel

    gain = weights.new_empty((*weights.shape[:2], gains.shape[-1]))
    kernel.topk_gain(
        scores, weights, gains, discount, masks, component_list, transform, beta, epsilon, slope, offsets, gain
    )
    return gain


_op = torch.library.custom_op("pygrade::topk_gain", gain_of, mutates_args=())


@_op.register_fake
def _(
    scores: Tensor,
    weights: Tensor,
    gains: Tensor,
    discount: Tensor,
    masks: Tensor | None,
    component_list: Tensor | None,
    transform: str,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
    validate: bool,
    threads: int,
) -> Tensor:
    return weights.new_empty((*weights.shape[:2], gains.shape[-1]))


def topk_gain(
    scores: T,
    weights: Array,
    gains: Array,
    k: int,
    discount: Array,
    masks: Array | None = None,
    component_list: Array | None = None,
    transform: str = "identity",
    *,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | Array = 1.0,
    offsets: Array | None = None,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> T:
    """Discounted gain of the top k under each sampled weight vector: Σ_{r<k} discount_r · gains[item at rank r, c].

    Each component ranks its own candidate list with `fuse_topk`'s order; ranks without a candidate add nothing.

    Args:
        scores, transform, beta, epsilon, slope, offsets, validate, num_threads: as in `fuse_scores`.
        weights: float32 [B, G, T], G sampled weight vectors a request.
        gains: float32 [B, N, C] (jagged: [M, C]): what a candidate is worth to each of C reward components.
        k: length of the ranked list, ≥ 1 (≤ 1024 on a GPU).
        discount: float32 [k], the attention of each rank.
        masks: bool [B, L, N] (jagged: [L, M]): L candidate lists, True where a candidate belongs.
        component_list: int32 [C]: the list that each component ranks, -1 for all candidates; None: all -1.

    Returns:
        float32 [B, G, C], of the kind of ``scores``. Not differentiable.

    Raises:
        TypeError, ValueError: as `fuse_scores`, and on a list that does not exist.
    """
    s, o = checked_scores(scores, offsets)
    batch = s.shape[0] if o is None else o.shape[0] - 1
    w = checks.tensor("weights", weights, (torch.float32,), (batch, None, s.shape[-1]))
    a = checked_transform(transform, s, beta, epsilon, slope)
    v = checks.tensor("gains", gains, (torch.float32,), (*s.shape[:-1], None))
    d = checks.tensor("discount", discount, (torch.float32,), (checked_k(k),))
    m = c = None
    if masks is not None:
        m = checks.tensor("masks", masks, (torch.bool,), (*s.shape[:-2], None, s.shape[-2]))
    if component_list is not None:
        c = checks.tensor("component_list", component_list, (torch.int32,), (v.shape[-1],))
    for name, value in (("weights", w), ("gains", v), ("discount", d), ("masks", m), ("component_list", c)):
        if value is not None:
            checks.same_device(name, value, "scores", s)
    s, w, v, d = s.detach(), w.detach(), v.detach(), d.detach()
    check, threads = checks.must_validate(validate, s), checks.thread_count(num_threads)
    arguments = (s, w, v, d, m, c, transform, beta, epsilon, a, o, check, threads)
    return checks.like(dispatch.call(_op, gain_of, (s, w, v, d), *arguments), scores)
