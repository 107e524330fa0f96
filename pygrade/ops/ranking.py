"""Top-k blended ranking: predictions and weights to a page."""

from collections.abc import Sequence
from typing import Any, NamedTuple

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
Columns = TensorOrArray | Sequence[float]


class RuleTensors(NamedTuple):
    """The rules of a page as the ops' schemas have them, see `rank`."""

    mask: Tensor | None
    boost_mul: Tensor | None
    boost_add: Tensor | None
    groups: Tensor | None
    caps: Tensor | None
    cap_slots: Tensor | None
    decay: Tensor | None

    @classmethod
    def of(
        cls, arguments: checks.Arguments, given: tuple[Any, ...], rows: tuple[str, ...], single: bool
    ) -> "RuleTensors":
        """The rules as a call has them, of candidates [*rows].

        ``single``: one request, whose tensors get a first dimension of 1.
        """
        rules = dict(zip(cls._fields, given, strict=True))

        def per_candidate(name: str, dtype: torch.dtype, *last: str) -> Tensor | None:
            result = arguments.optional(name, rules[name], dtype, (*rows, *last))
            return result[None] if single and result is not None else result

        groups = per_candidate("groups", torch.int32, "A")

        def of_columns(name: str, dtype: torch.dtype) -> Tensor | None:
            values = rules[name]
            if isinstance(values, (list, tuple)):
                for column, value in enumerate(values):
                    if dtype == torch.int32:
                        checks.integer(f"{name}[{column}]", value, -1, MAX_LENGTH)
                    else:
                        checks.number(f"{name}[{column}]", value)
                values = torch.tensor(values, dtype=dtype, device=arguments.tensor.device)
            return arguments.optional(name, values, dtype, ("A",))

        return cls(
            per_candidate("mask", torch.bool),
            per_candidate("boost_mul", torch.float32),
            per_candidate("boost_add", torch.float32),
            groups,
            of_columns("caps", torch.int32),
            of_columns("cap_slots", torch.int32),
            of_columns("decay", torch.float32),
        )

    def check(self, rows: int) -> None:
        """The checks of the C++ core, for the other backends; rows: number of all candidates."""
        _core.check_page_rules(rows, *(None if rule is None else rule.cpu() for rule in self))

    def of_reference(self) -> dict[str, Any]:
        """The arguments as keywords of the reference."""
        floats = ("boost_mul", "boost_add", "decay")
        rules = self._asdict()
        return rules | {name: rules[name].double() for name in floats if rules[name] is not None}


def _rank(scores: Tensor, weights: Tensor, k: int, transform: int, *arguments: Any) -> Page:
    *given, beta, epsilon, slope, offsets, threads = arguments
    rules = RuleTensors(*given)
    options = FusionOptions(transform, beta, epsilon, slope, offsets, True, threads)
    if not scores.is_cpu:
        raise ValueError(f"scores is on {scores.device}; expected it in CPU memory, where pages are ranked")
    options.check(scores)
    rules.check(scores.shape[:-1].numel())
    constants = options.of_reference()
    exact, indices = reference.rank(scores.double(), weights.double(), k, **rules.of_reference(), **constants)
    return exact.float(), indices


def _fake_rank(_scores: Tensor, weights: Tensor, k: int, *_: object) -> Page:
    shape = (weights.shape[0], k)
    return weights.new_empty(shape), weights.new_empty(shape, dtype=torch.int32)


_op = dispatch.Op("rank", _rank, _fake_rank, triton=False)


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
    caps: Columns | None = None,
    cap_slots: Columns | None = None,
    decay: Columns | None = None,
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
    before the sum): whatever the sign, a factor above 1 never demotes and one below 1 never promotes. Each slot takes
    the candidate of the highest final score (equal ones by index, NaN last) that the caps admit, decayed by those above
    it; where there is none, the page ends.

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
        cap_slots: int32 [A] or a list: the cap holds for so many slots from the first on, ≥ 1; -1: for the whole page.
        decay: float32 [A] or a list, in (0, 1]: a final score s ≥ 0 is multiplied by it, s < 0 divided, for each
            candidate of the same value above, per column; 1: not at all.
        offsets: int64 [B + 1], ascending from 0 to M: request b has rows offsets[b] … offsets[b + 1] - 1.
        out: (values, indices) to fill and return instead of new ones, contiguous, disjoint from the inputs.
        validate: ignored, since a CPU always checks values; the other ops take it too.
        num_threads: CPU threads; None: torch's setting. They share the requests; a single request is one thread's. The
            result does not depend on it.

    Returns:
        TopK of final scores float32 and indices int32 within the request, [B, k], or [k] for one request; of the kind
        of ``scores``. With fewer than k candidates to take, the rest is -inf and -1. Not differentiable.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, option, cap, factor or offset, groups without caps or decay
            (or these without groups), or a negative score under a logarithm; before anything is written.

    Examples:
        >>> p, seller = torch.tensor([[0.9], [0.8], [0.7]]), torch.tensor([[4], [4], [5]], dtype=torch.int32)
        >>> rank(p, torch.ones(1), 2, groups=seller, caps=[1])  # one item a seller
        TopK(values=tensor([0.9000, 0.7000]), indices=tensor([0, 2], dtype=torch.int32))
    """
    if dispatch.can_use_fast_path():
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
            cap_slots,
            decay,
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
    arguments = checks.Arguments("rank", k=checked_k(k))
    s, o = checked_scores(arguments, scores[None] if single else scores, offsets, layout)
    if not s.is_cpu:
        raise ValueError(f"scores is on {s.device}; expected it in CPU memory, where pages are ranked")
    lead: tuple[str, ...] = () if single else ("B",)
    own = () if getattr(weights, "ndim", 2) == 1 else lead  # [T] are those of every request
    w = arguments.other("weights", weights, torch.float32, (*own, "T"))
    w = w if own else w.expand(arguments.sizes["B"], -1).contiguous()
    code, *constants = checked_transform(arguments, transform, beta, epsilon, slope)
    given = (mask, boost_mul, boost_add, groups, caps, cap_slots, decay)
    rules = RuleTensors.of(arguments, given, (*lead, "N") if o is None else ("M",), single)
    threads = checks.thread_count(num_threads)
    memory = None if out is None else arguments.outputs(out, (*lead, "k"))
    s = arguments.detached("scores", s, ", or fuse_topk, whose values have one")
    values, indices = _op(s, w, arguments.sizes["k"], code, *rules, *constants, o, threads)
    return write_to_out(out, memory, scores, *((values[0], indices[0]) if single else (values, indices)))
