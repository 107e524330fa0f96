"""The page whose items depend on what stands above them: greedy, by a beam, or by a diversity set by hand."""

from typing import Any

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import TensorOrArray
from pygrade.ops.fusion import TopK, checked_k
from pygrade.ops.ranking import Columns, RuleTensors

OBJECTIVES = ("page_value", "mmr", "log_det")
MAX_BEAM = 64
MAX_WIDTH = 256


def _refuse(name: str, bad: Tensor, value: Tensor, wanted: str) -> None:
    """ValueError for the first entry of ``value`` that is bad."""
    if bool(bad.any()):
        at = int(bad.reshape(-1).nonzero()[0])
        number = value.reshape(-1)[at] if value.numel() == bad.numel() else torch.nan
        raise ValueError(f"{name} is {number:g} at {at}; expected {wanted}")


def _check_values(
    rows: dict[str, Any], terms: dict[str, Any], rules: RuleTensors, pins: Tensor | None, offsets: Tensor | None
) -> None:
    """Check values as the C++ core does, for the other backends."""
    size = rows["value"].shape[0]
    if offsets is not None:
        bounds = offsets.tolist()
        if bounds[0] != 0 or bounds[-1] != size or bounds != sorted(bounds):
            raise ValueError(f"offsets is {bounds}; expected it to ascend from 0 to {size}")
    for name in ("attention", "examination"):
        if (found := terms[name]) is not None:
            _refuse(name, ~(found.isfinite() & (found >= 0)), found, "a finite number >= 0")
    if (categories := rows["categories"]) is not None:
        count = terms["pairs"].shape[0]
        bad = (categories < -1) | (categories >= count)
        _refuse("categories", bad, categories, f"-1 or more, and below {count}")
        _refuse("pairs", ~terms["pairs"].isfinite(), terms["pairs"], "a finite number")
    rules.check(rows["value"].numel())
    if (embeddings := rows["embeddings"]) is not None:
        square = embeddings.square().sum(-1)
        bad = ~((square == 0) | ((square - 1).abs() <= 0.01))
        if bool(bad.any()):
            at = int(bad.reshape(-1).nonzero()[0])
            message = (
                f"embeddings is not of length 1 at candidate {at}; expected unit vectors, or 0 where there is none"
            )
            raise ValueError(message)
    if pins is not None:
        count = rows["value"].shape[1] if offsets is None else offsets.diff()[:, None]
        _refuse("pins", (pins < -1) | (pins >= count), pins, "-1 or more, and a candidate of the request")


def _search_page(value: Tensor, root: Tensor | None, k: int, *arguments: Any) -> tuple[Tensor, Tensor]:
    attention, examination, categories, pairs, embeddings, cosine, objective, beam, trade_off, *rest = arguments
    *given, pins, offsets, validate, _ = rest
    rules = RuleTensors(*given)
    rows = {"value": value, "root": root, "categories": categories, "embeddings": embeddings}
    terms = {"attention": attention, "examination": examination, "pairs": pairs}
    if validate:
        _check_values(rows, terms, rules, pins, offsets)
    if not dispatch.is_reference(value):
        from pygrade.kernels import page_search as kernel

        batch = value.shape[0] if offsets is None else offsets.shape[0] - 1
        values = value.new_empty((batch, k))
        indices = value.new_empty((batch, k), dtype=torch.int32)
        share = torch.tensor(trade_off, dtype=torch.float32, device="cpu")  # 1 - λ in float32, as in the core
        count = 0 if pairs is None else pairs.shape[0]
        width = 0 if embeddings is None else embeddings.shape[-1]
        factors = (cosine, objective, float(share), float(1.0 - share))
        similarity = kernel.Terms(pairs, attention, examination, count, width, *factors, beam)
        columns = 0 if rules.groups is None else rules.groups.shape[-1]
        eligible = None if rules.mask is None else rules.mask.view(torch.uint8)
        limits = kernel.Rules(eligible, *rules[1:], pins, columns)
        kernel.search_page(value, root, categories, embeddings, offsets, similarity, limits, values, indices)
        return values, indices

    numbers = {name: None if found is None else found.double() for name, found in terms.items()}
    exact_values, indices = reference.search_page(
        value.double(),
        None if root is None else root.double(),
        k,
        **numbers,
        **rules.of_reference(),
        categories=categories,
        embeddings=None if embeddings is None else embeddings.double(),
        cosine=cosine,
        objective=OBJECTIVES[objective],
        beam=beam,
        trade_off=trade_off,
        pins=pins,
        offsets=offsets,
    )
    return exact_values.float(), indices


def _fake(value: Tensor, _root: Tensor | None, k: int, *arguments: Any) -> tuple[Tensor, Tensor]:
    *_, offsets, _, _ = arguments
    shape = (value.shape[0] if offsets is None else offsets.shape[0] - 1, k)
    return value.new_empty(shape), value.new_empty(shape, dtype=torch.int32)


_op = dispatch.Op("search_page", _search_page, _fake)


def _checked_objective(objective: str, beam: int, trade_off: float | None, own: dict[str, Any]) -> tuple[int, float]:
    """The objective's number and λ; own: what page_value alone reads, refused elsewhere, and root is needed."""
    checks.choice("objective", objective, OBJECTIVES)
    if objective == "page_value":
        if trade_off is not None:
            raise ValueError(f"trade_off is {trade_off}; expected it for mmr and log_det alone")
        if own["root"] is None:
            raise TypeError("root is NoneType; expected a torch tensor or a numpy array")
        return 0, 0.5
    for name, found in own.items():
        if found is not None:
            raise ValueError(f"{name} is given; expected it for page_value alone")
    if beam != 1:
        raise ValueError(f"beam is {beam}; expected 1 for {objective}")
    number = checks.number("trade_off", 0.5 if trade_off is None else trade_off)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"trade_off is {trade_off}; expected 0 to 1")
    return OBJECTIVES.index(objective), number


def _checked_similarity(
    given: checks.Arguments, categories: Any, pairs: Any, embeddings: Any, cosine: float | None, rows: tuple[str, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, float]:
    """categories, pairs, embeddings and κ, which go together in pairs."""
    if (categories is None) != (pairs is None):
        raise ValueError(
            f"categories and pairs go together; got {'pairs' if categories is None else 'categories'} alone"
        )
    if (embeddings is None) != (cosine is None):
        found = "cosine" if embeddings is None else "embeddings"
        raise ValueError(f"embeddings and cosine go together; got {found} alone")
    c = given.optional("categories", categories, torch.int32, rows)
    p = given.optional("pairs", pairs, torch.float32, ("C", "C"))
    e = given.optional("embeddings", embeddings, torch.float32, (*rows, "d"))
    if e is not None and not 1 <= e.shape[-1] <= MAX_WIDTH:
        raise ValueError(f"embeddings has {e.shape[-1]} components; expected 1 to {MAX_WIDTH}")
    factor = checks.number("cosine", 0.0 if cosine is None else cosine)
    if not abs(factor) < float("inf"):
        raise ValueError(f"cosine is {cosine}; expected a finite number")
    return c, p, e, factor


def search_page(
    value: TensorOrArray,
    root: TensorOrArray | None,
    k: int,
    attention: TensorOrArray | None = None,
    examination: TensorOrArray | None = None,
    *,
    categories: TensorOrArray | None = None,
    pairs: TensorOrArray | None = None,
    embeddings: TensorOrArray | None = None,
    cosine: float | None = None,
    objective: str = "page_value",
    beam: int = 1,
    trade_off: float | None = None,
    mask: TensorOrArray | None = None,
    boost_mul: TensorOrArray | None = None,
    boost_add: TensorOrArray | None = None,
    groups: TensorOrArray | None = None,
    caps: Columns | None = None,
    cap_slots: Columns | None = None,
    decay: Columns | None = None,
    pins: TensorOrArray | None = None,
    offsets: TensorOrArray | None = None,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> TopK:
    """The page of highest value where an item's worth depends on the items above it: greedy, or by a beam.

    Similarity of an item j above to i: l(j, i) = pairs[c_j, c_i] + cosine · max(0, ⟨e_j, e_i⟩). Scores, before boosts:

    - ``"page_value"``: value_i + root_i · exp(Σ_j attention[slot of j] · l(j, i));
    - ``"mmr"``: λ · value_i - (1 - λ) · max(0, max_j l(j, i)), maximal marginal relevance (Carbonell & Goldstein 1998);
    - ``"log_det"``: λ · value_i + (1 - λ) · log of the variance of i given the items above, at least 1e-6, where l is
      their covariance (⟨e_j, e_i⟩ not cut at 0): the greedy MAP page of a determinantal point process (Chen, Zhang &
      Zhou 2018).

    Greedy takes for each slot the candidate of the highest score: equal scores by index, NaN last. A beam keeps the
    ``beam`` beginnings of a page with the highest Σ examination · score; it pays where some items help others.

    Args:
        value: float32 [B, N], what does not depend on the page, or the relevance; [M] with ``offsets``; [N] for one
            request. The arguments of a candidate below have the same leading sizes.
        root: float32: what the items above multiply; None for ``mmr`` and ``log_det``.
        k: slots, ≥ 1.
        attention: float32 [k], ≥ 0: of each slot, relative to the first; None: 1.
        examination: float32 [k], ≥ 0: of each slot, read by a beam; None: 1.
        categories: int32 below C, -1 where unknown: no term of pairs.
        pairs: float32 [C, C], finite, by category above × category below; with ``categories``.
        embeddings: float32 [B, N, d], of length 1, or 0 where there is none; d ≤ 256.
        cosine: the coefficient κ of similarity by embedding; with ``embeddings``.
        objective: ``"page_value"``, ``"mmr"`` or ``"log_det"``.
        beam: 1 (greedy) to 64; 1 for ``mmr`` and ``log_det``.
        trade_off: λ of ``mmr`` and ``log_det``, 0 to 1; None: 0.5.
        mask, boost_mul, boost_add, groups, caps, cap_slots, decay: as in `rank`, of the scores above. Empty slots
            do not count for cap_slots.
        pins: int32 [B, k] ([k]): the candidate of a slot, -1 for none. Pins count as taken from the start, for the
            caps of their slot too; one that the mask, a cap or an earlier pin excludes leaves its slot free.
        offsets: int64 [B + 1], ascending from 0 to M: request b has rows offsets[b] … offsets[b + 1] - 1.
        validate: check values on a GPU too, which waits for it. A CPU always checks.
        num_threads: CPU threads; None: torch's setting. They share the requests; the result does not depend on it.

    Returns:
        TopK of final scores float32, each in its slot, and indices int32 within the request, [B, k], or [k] for one
        request; of the kind of ``value``. Slots without a candidate have -inf and -1. Not differentiable.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, option, category, pin, cap, offset, or length of an
            embedding; before anything is written.

    Examples:
        >>> worth, kind = torch.tensor([0.9, 0.8, 0.5]), torch.tensor([0, 0, 1], dtype=torch.int32)
        >>> satiation = torch.tensor([[-1.0, 0.0], [0.0, -1.0]])  # of the same category above
        >>> search_page(0 * worth, worth, 3, categories=kind, pairs=satiation)
        TopK(values=tensor([0.9000, 0.5000, 0.2943]), indices=tensor([0, 2, 1], dtype=torch.int32))
    """
    single = offsets is None and getattr(value, "ndim", 2) == 1
    arguments = checks.Arguments("search_page", k=checked_k(k))
    lead: tuple[str, ...] = () if single else ("B",)
    rows = (*lead, "N") if offsets is None else ("M",)
    v = arguments.detached("value", arguments.first("value", value, checks.FLOAT32, rows))
    o = arguments.optional("offsets", offsets, torch.int64, ("B + 1",))
    if o is not None and o.numel() == 0:
        raise ValueError("offsets is of shape [0]; expected at least one number")
    if o is not None:
        arguments.sizes["B"] = o.shape[0] - 1
    width = checks.integer("beam", beam, 1, MAX_BEAM)
    own = {"root": root, "attention": attention, "examination": examination}
    code, weight = _checked_objective(objective, width, trade_off, own)
    c, p, e, factor = _checked_similarity(arguments, categories, pairs, embeddings, cosine, rows)
    given = (mask, boost_mul, boost_add, groups, caps, cap_slots, decay)
    rules = RuleTensors.of(arguments, given, rows, single)

    def in_batch(found: Tensor | None) -> Tensor | None:
        return found[None] if single and found is not None else found

    values, indices = _op(
        v[None] if single else v,
        in_batch(arguments.optional("root", root, torch.float32, rows)),
        arguments.sizes["k"],
        arguments.optional("attention", attention, torch.float32, ("k",)),
        arguments.optional("examination", examination, torch.float32, ("k",)),
        in_batch(c),
        p,
        in_batch(e),
        factor,
        code,
        width,
        weight,
        *rules,
        in_batch(arguments.optional("pins", pins, torch.int32, (*lead, "k"))),
        o,
        checks.should_validate(validate, v),
        checks.thread_count(num_threads),
    )
    if single:
        values, indices = values[0], indices[0]
    return TopK(checks.match_type(values, value), checks.match_type(indices, value))
