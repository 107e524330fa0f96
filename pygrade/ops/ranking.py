"""Top-k blended ranking: predictions and weights to a page."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pygrade import _core, reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import Array
from pygrade.ops.fusion import (
    TRANSFORMS,
    TopK,
    check_values,
    checked_k,
    checked_scores,
    checked_transform,
    stored,
    transform_constants,
)

Page = tuple[Tensor, Tensor]


def _implementation(
    scores: Tensor,
    weights: Tensor,
    k: int,
    transform: str,
    mask: Tensor | None,
    boost_mul: Tensor | None,
    boost_add: Tensor | None,
    groups: Tensor | None,
    caps: Tensor | None,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
    threads: int,
) -> Page:
    if dispatch.backend(scores) == "reference":
        check_values(scores, transform, slope, offsets)
        if caps is not None and bool((caps < -1).any()):
            column = int((caps < -1).nonzero()[0])
            raise ValueError(f"caps[{column}] is {int(caps[column])}; want -1 (no cap) or more")
        boosts = [None if boost is None else boost.double() for boost in (boost_mul, boost_add)]
        values, indices = reference.rank(
            scores.double(), weights.double(), k, transform, mask=mask, boost_mul=boosts[0], boost_add=boosts[1],
            groups=groups, caps=caps, offsets=offsets, **transform_constants(beta, epsilon, slope),
        )  # fmt: skip
        return values.float(), indices
    values = torch.empty((weights.shape[0], k), dtype=torch.float32)
    indices = torch.empty((weights.shape[0], k), dtype=torch.int32)
    memory, task_major = stored(scores)
    _core.rank(
        memory, weights, k, TRANSFORMS.index(transform), mask, boost_mul, boost_add, groups, caps, beta, epsilon,
        slope, offsets, task_major, values, indices, dispatch.threads(threads),
    )  # fmt: skip
    return values, indices


_op = torch.library.custom_op("pygrade::rank", _implementation, mutates_args=())


@_op.register_fake
def _(
    scores: Tensor,
    weights: Tensor,
    k: int,
    transform: str,
    mask: Tensor | None,
    boost_mul: Tensor | None,
    boost_add: Tensor | None,
    groups: Tensor | None,
    caps: Tensor | None,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
    threads: int,
) -> Page:
    shape = (weights.shape[0], k)
    return weights.new_empty(shape), weights.new_empty(shape, dtype=torch.int32)


def _caps(caps: Array | Sequence[int], columns: int) -> Tensor:
    if isinstance(caps, (list, tuple)):
        caps = torch.tensor(caps, dtype=torch.int32)
    return checks.tensor("caps", caps, (torch.int32,), (columns,))  # type: ignore[arg-type]


def rank(
    scores: Array,
    weights: Array,
    k: int,
    transform: str = "identity",
    *,
    mask: Array | None = None,
    boost_mul: Array | None = None,
    boost_add: Array | None = None,
    groups: Array | None = None,
    caps: Array | Sequence[int] | None = None,
    offsets: Array | None = None,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | Array = 1.0,
    layout: str = "item-major",
    out: tuple[Array, Array] | None = None,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> TopK:
    """Rank candidates to pages: fuse, leave out the ineligible, boost, take the best under caps. CPU only.

    The final score is fuse_scores · boost_mul + boost_add (product rounded, then the sum). Candidates are taken by it,
    descending, then by index (NaN last), skipping those with a group value that already fills its cap.

    Args:
        scores: [B, N, T] float32, float16 or bfloat16 (torch only), torch (CPU) or numpy, T ≤ 64; [M, T] with
            ``offsets``; [N, T] for one request. Task-major: [B, T, N], [T, M] or [T, N].
        weights: [B, T] float32; [T] for one request.
        k: length of a page, ≥ 1.
        transform, beta, epsilon, slope, layout: as in `fuse_scores`; transforms see the ineligible candidates too.
        mask: bool, True where a candidate is eligible. This and the boosts are [B, N]; [M] with ``offsets``; [N] for
            one request.
        boost_mul, boost_add: float32 factors and summands of the fused scores.
        groups: int32 [B, N, A] ([M, A]; [N, A]): the candidate's value of each of A group columns, such as its seller
            and its category; negative: it belongs to no group of that column.
        caps: int32 [A] or a list: the most candidates of one value on a page, per column; -1: no cap; 0: none at all.
        offsets: int64 [B + 1], ascending from 0 to M: request b has rows offsets[b] … offsets[b + 1] - 1.
        out: (values, indices) to fill and return instead of new ones, contiguous, disjoint from the inputs.
        validate: as in the other ops, where it decides for a GPU; a CPU always checks values.
        num_threads: CPU threads; None: torch's setting. They share the requests; a single request is one thread's. The
            result does not depend on it.

    Returns:
        TopK of final scores float32 and indices int32 within the request, [B, k], or [k] for one request; of the kind
        of ``scores``. With fewer than k candidates to take, the rest is -inf and -1. Not differentiable.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, option, cap or offset, or a negative score under a
            logarithm; before anything is written.
    """
    if not dispatch.tracing():
        found: TopK | None = _core.rank_at_once(
            TopK, scores, weights, k, transform, mask, boost_mul, boost_add, groups, caps, beta, epsilon, slope,
            offsets, layout, out, num_threads,
        )  # fmt: skip
        if found is not None:
            return found
    single = offsets is None and getattr(scores, "ndim", 3) == 2
    s, o = checked_scores(scores[None] if single else scores, offsets, layout)
    if s.device.type != "cpu":
        raise ValueError(f"scores is on {s.device}; want it in CPU memory, where pages are ranked")
    batch = s.shape[0] if o is None else o.shape[0] - 1
    lead = () if single else (batch,)
    rows = tuple(s.shape[1:-1] if single else s.shape[:-1])

    def checked(name: str, value: Array, dtype: torch.dtype, shape: tuple[int | None, ...]) -> Tensor:
        found = checks.tensor(name, value, (dtype,), shape)
        checks.same_device(name, found, "scores", s)
        return found.detach()[None] if single else found.detach()

    w = checked("weights", weights, torch.float32, (*lead, s.shape[-1]))
    a = checked_transform(transform, s, beta, epsilon, slope)
    page = checked_k(k)
    if (groups is None) != (caps is None):
        raise ValueError("groups and caps go together; got " + ("caps alone" if groups is None else "groups alone"))
    g = None if groups is None else checked("groups", groups, torch.int32, (*rows, None))
    arguments = (
        s.detach(), w, page, transform,
        None if mask is None else checked("mask", mask, torch.bool, rows),
        None if boost_mul is None else checked("boost_mul", boost_mul, torch.float32, rows),
        None if boost_add is None else checked("boost_add", boost_add, torch.float32, rows),
        g, None if g is None or caps is None else _caps(caps, g.shape[-1]),
        beta, epsilon, a, o, checks.thread_count(num_threads),
    )  # fmt: skip
    filled = None if out is None else checks.outputs(out, (*lead, page), s)
    values, indices = dispatch.call(_op, _implementation, (arguments[0], w), *arguments)
    if single:
        values, indices = values[0], indices[0]
    if filled is not None and out is not None:
        filled[0].copy_(values)
        filled[1].copy_(indices)
        return TopK(*out)
    return TopK(checks.like(values, scores), checks.like(indices, scores))
