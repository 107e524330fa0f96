"""The discounted gain of the top k under sampled weight vectors."""

from typing import Any

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import T, TensorOrArray
from pygrade.ops.fusion import FusionOptions, checked_k, checked_scores, checked_transform


def check_lists(component_list: Tensor | None, masks: Tensor | None) -> None:
    """A check of the C++ core, for the other backends: every component's list exists."""
    lists = 0 if masks is None else masks.shape[-2]
    if component_list is not None and bool(((component_list < -1) | (component_list >= lists)).any()):
        raise ValueError(f"component_list is {component_list.tolist()}; expected -1 or a list below {lists}")


def _exact(scores: Tensor, weights: Tensor, gains: Tensor, discount: Tensor, *arguments: Any) -> Tensor:
    options = FusionOptions(*arguments[2:]).of_reference()
    return reference.topk_gain(scores, weights, gains, len(discount), discount, *arguments[:2], **options)


def _check_values(scores: Tensor, *arguments: Any) -> None:
    *_, masks, component_list = arguments[:5]
    FusionOptions(*arguments[5:]).check(scores)
    check_lists(component_list, masks)


def _topk_gain(scores: Tensor, weights: Tensor, gains: Tensor, *arguments: Any) -> Tensor:
    from pygrade.kernels import gain as kernel

    gain = dispatch.empty(weights, *weights.shape[:2], gains.shape[-1])
    options = FusionOptions(*arguments[3:]).of_kernel()
    kernel.topk_gain(scores, weights, gains, *arguments[:3], *options, gain)
    return gain


def _fake_gain(_scores: Tensor, weights: Tensor, gains: Tensor, *_: object) -> Tensor:
    return weights.new_empty((*weights.shape[:2], gains.shape[-1]))


gain_op = dispatch.Op(
    "topk_gain", _topk_gain, _fake_gain, exact=_exact, check=_check_values, rows="scores weights gains masks"
)


def topk_gain(
    scores: T,
    weights: TensorOrArray,
    gains: TensorOrArray,
    k: int,
    discount: TensorOrArray,
    masks: TensorOrArray | None = None,
    component_list: TensorOrArray | None = None,
    transform: str = "identity",
    *,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | TensorOrArray = 1.0,
    offsets: TensorOrArray | None = None,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> T:
    """Discounted gain of the top k under each sampled weight vector: Σ_{r<k} discount_r · gains[item at rank r, c].

    Each component ranks its candidate list in the order of `fuse_topk`; ranks without a candidate add nothing.

    Args:
        scores, transform, beta, epsilon, slope, offsets, validate, num_threads: as in `fuse_scores`.
        weights: float32 [B, G, T], G sampled weight vectors a request.
        gains: float32 [B, N, C] (jagged: [M, C]): what a candidate is worth to each of C reward components.
        k: length of the ranked list, ≥ 1 (≤ 1024 on a GPU).
        discount: float32 [k], the attention of each rank.
        masks: bool [B, L, N] (jagged: [L, M]): L candidate lists, True where a candidate belongs.
        component_list: int32 [C]: the list that each component ranks, -1 for all candidates; None: all -1.

    Returns:
        float32 [B, G, C] (float64 of float64), of the kind of ``scores``. Not differentiable.

    Raises:
        TypeError, ValueError: as `fuse_scores`, and on a list that does not exist.

    Examples:
        >>> p = torch.tensor([[[0.9, 0.0], [0.5, 0.5], [0.0, 0.8]]])
        >>> weights = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # two samples: by either task alone
        >>> topk_gain(p, weights, torch.tensor([[[1.0], [0.0], [4.0]]]), 2, torch.tensor([1.0, 0.5]))
        tensor([[[1.],
                 [4.]]])
    """
    given = checks.Arguments("topk_gain", k=checked_k(k))
    s, o = checked_scores(given, scores, offsets, dtypes=checks.SCORE_DTYPES)
    rows: tuple[str, ...] = ("B", "N") if o is None else ("M",)
    w = given.other("weights", weights, torch.float32, ("B", "G", "T"))
    options = checked_transform(given, transform, beta, epsilon, slope)
    v = given.other("gains", gains, torch.float32, (*rows, "C"))
    d = given.other("discount", discount, torch.float32, ("k",))
    m = given.optional("masks", masks, torch.bool, (*rows[:-1], "L", rows[-1]))
    c = given.optional("component_list", component_list, torch.int32, ("C",))
    s = given.detached("scores", s)
    check, threads = checks.should_validate(validate, s), checks.thread_count(num_threads)
    return checks.match_type(gain_op(s, w, v, d, m, c, *options, o, check, threads), scores)
