"""Top-k blended ranking: predictions and weights to a page."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pygrade import _core, reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import TensorOrArray
from pygrade.ops.fusion import (
    MAX_LENGTH,
    FusionOptions,
    TopK,
    checked_k,
    checked_scores,
    checked_transform,
    write_to_out,
)

Page = tuple[Tensor, Tensor]


def _rank(
    scores: Tensor,
    weights: Tensor,
    k: int,
    transform: int,
    mask: Tensor | None,
    boost_mul: Tensor | None,
    boost_add: Tensor | None,
    groups: Tensor | None,
    caps: Tensor | None,
    *arguments: Any,
) -> Page:
    beta, epsilon, slope, offsets, threads = arguments
    options = FusionOptions(transform, beta, epsilon, slope, offsets, True, threads)
    if not scores.is_cpu:
        raise ValueError(f"scores is on {scores.device}; want it in CPU memory, where pages are ranked")
    options.check(scores)
    if caps is not None and bool((caps < -1).any()):
        column = int((caps < -1).nonzero()[0])
        raise ValueError(f"caps[{column}] is {int(caps[column])}; want -1 (no cap) or more")
    if boost_mul is not None and not bool((boost_mul.isfinite() & (boost_mul >= 0)).all()):
        flat = boost_mul.reshape(-1)
        candidate = int((~(flat.isfinite() & (flat >= 0))).nonzero()[0])
        raise ValueError(f"boost_mul is {flat[candidate]:f} at candidate {candidate}; want a finite factor >= 0")
    factor, addend = (None if boost is None else boost.double() for boost in (boost_mul, boost_add))
    rules: dict[str, Any] = {"mask": mask, "boost_mul": factor, "boost_add": addend, "groups": groups, "caps": caps}
    exact, indices = reference.rank(scores.double(), weights.double(), k, **rules, **options.of_reference())
    return exact.float(), indices


def _fake_rank(_scores: Tensor, weights: Tensor, k: int, *_: object) -> Page:
    shape = (weights.shape[0], k)
    return weights.new_empty(shape), weights.new_empty(shape, dtype=torch.int32)


_op = dispatch.Op("rank", _rank, _fake_rank, triton=False)


def checked_caps(caps: TensorOrArray | Sequence[int], columns: int) -> Tensor:
    """Caps of group columns as int32 [A]."""
    if isinstance(caps, (list, tuple)):
        numbers = [checks.integer(f"caps[{column}]", cap, -1, MAX_LENGTH) for column, cap in enumerate(caps)]
        caps = torch.tensor(numbers, dtype=torch.int32, device="cpu")
    return checks.tensor("caps", caps, (torch.int32,), (columns,))  # type: ignore[arg-type]


def rank(
    scores: TensorOrArray,
    weights: TensorOrArray,
    k: int,
    transform: str = "identity",
    *,
    mask: TensorOrArray | None = None,
    boost_mul: TensorOrArray | None = None,
    boost_add: TensorOrArray | None = None,
    groups: TensorOrArray | None = None,
    caps: TensorOrArray | Sequence[int] | None = None,
    offsets: TensorOrArray | None = None,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | TensorOrArray = 1.0,
    layout: str = "item-major",
    out: tuple[TensorOrArray, TensorOrArray] | None = None,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> TopK:
    """Rank candidates to pages: fuse, leave out the ineligible, boost, take the best under caps. CPU only.

    The final score is s · boost_mul + boost_add of a fused score s ≥ 0, and s / boost_mul + boost_add of s < 0 (rounded
    before the sum): whatever the sign, a factor above 1 never demotes and one below 1 never promotes. Candidates are
    taken by it, descending, then by index (NaN last), skipping those with a group value that already fills its cap.

    Args:
        scores: [B, N, T] float32, float16 or bfloat16 (torch only), torch (CPU) or numpy, T ≤ 64; [M, T] with
            ``offsets``; [N, T] for one request. Task-major: [B, T, N], [T, M] or [T, N].
        weights: [B, T], or [T] for all requests or for one; float32, or what becomes it, see `fuse_scores`.
        k: length of a page, ≥ 1.
        transform, beta, epsilon, slope, layout: as in `fuse_scores`; transforms see the ineligible candidates too.
        mask: bool, True where a candidate is eligible. This and the boosts are [B, N]; [M] with ``offsets``; [N] for
            one request.
        boost_mul: float32 factors of the fused scores, finite and ≥ 0; 0 makes 0 of s ≥ 0 and -inf of s < 0.
        boost_add: float32 summands, in the units of the score.
        groups: int32 [B, N, A] ([M, A]; [N, A]): the candidate's value of each of A group columns, such as its seller
            and its category; negative: it belongs to no group of that column.
        caps: int32 [A] or a list: the most candidates of one value on a page, per column; -1: no cap; 0: none at all.
        offsets: int64 [B + 1], ascending from 0 to M: request b has rows offsets[b] … offsets[b + 1] - 1.
        out: (values, indices) to fill and return instead of new ones, contiguous, disjoint from the inputs.
        validate: ignored, since a CPU always checks values; the other ops take it too.
        num_threads: CPU threads; None: torch's setting. They share the requests; a single request is one thread's. The
            result does not depend on it.

    Returns:
        TopK of final scores float32 and indices int32 within the request, [B, k], or [k] for one request; of the kind
        of ``scores``. With fewer than k candidates to take, the rest is -inf and -1. Not differentiable.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, option, cap, factor or offset, or a negative score under a
            logarithm; before anything is written.

    Examples:
        >>> p, seller = torch.tensor([[0.9], [0.8], [0.7]]), torch.tensor([[4], [4], [5]], dtype=torch.int32)
        >>> rank(p, torch.ones(1), 2, groups=seller, caps=[1])  # one item a seller
        TopK(values=tensor([0.9000, 0.7000]), indices=tensor([0, 2], dtype=torch.int32))
    """
    if not dispatch.tracing():
        best: TopK | None = _core.rank_fast_path(
            TopK,
            scores,
            weights,
            k,
            transform,
            mask,
            boost_mul,
            boost_add,
            groups,
            caps,
            beta,
            epsilon,
            slope,
            offsets,
            layout,
            out,
            num_threads,
        )
        if best is not None:
            return best
    single = offsets is None and getattr(scores, "ndim", 3) == 2
    s, o = checked_scores(scores[None] if single else scores, offsets, layout)
    if not s.is_cpu:
        raise ValueError(f"scores is on {s.device}; want it in CPU memory, where pages are ranked")
    lead = () if single else (s.shape[0] if o is None else o.shape[0] - 1,)
    rows = s.shape[1:-1] if single else s.shape[:-1]

    def optional(name: str, value: TensorOrArray | None, dtype: torch.dtype, shape: tuple[int | None, ...]) -> Any:
        result = checks.optional(name, value, dtype, shape, "scores", s)
        return result[None] if single and result is not None else result

    own = () if getattr(weights, "ndim", 2) == 1 else lead  # [T] are those of every request
    w = checks.as_companion("weights", weights, torch.float32, (*own, s.shape[-1]), "scores", s)
    w = w if own else w.expand(s.shape[0] if o is None else o.shape[0] - 1, -1).contiguous()
    code, *constants = checked_transform(transform, s, beta, epsilon, slope)
    length = checked_k(k)
    if (groups is None) != (caps is None):
        raise ValueError("groups and caps go together; got " + ("caps alone" if groups is None else "groups alone"))
    g = optional("groups", groups, torch.int32, (*rows, None))
    rules = (
        optional("mask", mask, torch.bool, rows),
        optional("boost_mul", boost_mul, torch.float32, rows),
        optional("boost_add", boost_add, torch.float32, rows),
        g,
        None if caps is None else checked_caps(caps, g.shape[-1]),
    )
    threads = checks.thread_count(num_threads)
    memory = None if out is None else checks.outputs(out, (*lead, length), s)
    values, indices = _op(checks.detached(s), w, length, code, *rules, *constants, o, threads)
    return write_to_out(out, memory, scores, *((values[0], indices[0]) if single else (values, indices)))
