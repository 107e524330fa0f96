"""The formula in use: weights that are given, or found in a score or in the logged order, and boosts beyond them.

A score is regressed on the predictions within its requests, as it is, as its logarithm or as one, under each transform.
Boosts are looked for in what is left: segments where something is added to the score, or the score or one head is
multiplied. Each has to explain a tenth of what is left, so that a score with noise gets none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pygrade import ops
from pygrade._typing import Array, Bools, Floats
from pygrade._util.serialization import Record
from pygrade.config.policy import PolicyConfig
from pygrade.doctor.segments import Segment
from pygrade.logs import Logs, evenly_spaced
from pygrade.metrics.intervals import UNKNOWN, Interval
from pygrade.policy.spec import fusion_formula
from pygrade.training.baselines import logged_baseline
from pygrade.training.production import TRANSFORMS, agreement, baseline_of, own_pages, search_weights

LOGGED, PRICED = "logged", "times price"  # the order that the log shows; a transform of tasks that the price multiplies
_ROWS, _PAGES = 60_000, 1_000  # by which a score is regressed, and pages by which an order is
_BOOSTS, _EXPLAINS, _EXACT = 5, 0.1, 1e-6  # most boosts; share of the rest that each explains; rest that is rounding
_ROUNDS, _STEEPEST = 8, 50.0  # of a fit with boosts; range of scores that may be logarithms
_ADDS, _WHOLE = -2, -1  # kinds of a boost, beside the number of the head that it multiplies


@dataclass(frozen=True)
class Boost(Record):
    """A segment where the score is more, or less, than its heads."""

    where: str
    head: str  # that is multiplied; "": the score as a whole
    multiplier: float
    supported: Interval = UNKNOWN  # feedback over prediction there, relative to elsewhere
    verdict: str = ""  # the log's word on it


class ProductionFormula(NamedTuple):
    """score = Σ_t parts_t, and what is left of it."""

    origin: str
    transform: str  # of the predictions, see `ops.transform_scores`
    weights: Floats  # [T]
    score: Floats  # [M]
    parts: Floats  # [M, T] of the score: weight · transformed prediction, times boosts
    fit: float | None  # share of the score within requests, or of the logged choices, that is explained
    boosts: tuple[tuple[Boost, Bools], ...]  # and the rows [M] where they apply


def parse_production(text: str) -> tuple[dict[str, float] | str, dict[str, float]]:
    """Weights, or the word, and boosts of ``click=0.3,order=0.7,fresh=x1.5``, of a column's name, or of `LOGGED`.

    >>> parse_production("click=0.3,order=7,category=news=x1.5"), parse_production("rank_score")
    (({'click': 0.3, 'order': 7.0}, {'category=news': 1.5}), ('rank_score', {}))
    """
    weights, boosts = dict[str, float](), dict[str, float]()
    for word in text.split(",") if "=" in text else ():
        name, _, number = word.strip().rpartition("=")
        try:
            (boosts if number.startswith("x") else weights)[name] = float(number.removeprefix("x"))
        except ValueError:
            wanted = f"TASK=WEIGHT, COLUMN=xMULTIPLIER, the column of a score, or {LOGGED}"
            raise ValueError(f"production has {word!r}; expected {wanted}") from None
    return weights or text, boosts


def production_formula(
    logs: Logs, production: Mapping[str, float] | str | Array, boosts: Mapping[str, float], segments: Sequence[Segment]
) -> ProductionFormula:
    """The formula of weights by task, of scores [M], or of `LOGGED`; boosts: 0/1 column → multiplier of the score.

    ValueError names a task, column or shape that the log lacks.
    """
    origin, form, wanted = "weights as given", "identity", "expected weights such as click=0.3,order=0.7, or a score"
    if boosts and not isinstance(production, Mapping):
        raise ValueError(f"boosts are {', '.join(boosts)}; expected them with weights: in a score they are looked for")
    if isinstance(production, Mapping):
        weights = np.array(baseline_of(production, logs.tasks).weights)
    elif not isinstance(production, str):
        score = np.asarray(production, np.float64)
        if score.shape != (logs.num_rows,) or not np.isfinite(score).all():
            raise ValueError(
                f"production has shape {score.shape}; expected {(logs.num_rows,)}, a finite score of each row"
            )
        return _of_score(logs, score, segments)
    else:
        own = np.flatnonzero(own_pages(logs))
        if production != LOGGED or not logs.slots_known or not len(own):
            lacks = ", and the log has no slots, or no page of production's" if production == LOGGED else ""
            raise ValueError(f"production is {production!r}{lacks}; {wanted} of each row, or {LOGGED}")
        some = logs.select(own[evenly_spaced(len(own), _PAGES)])
        found = logged_baseline(logs, PolicyConfig().transform) or search_weights(some, 0.0, PolicyConfig())
        if found is None:
            raise ValueError(f"no weights explain the logged order better than chance; {wanted} of each row")
        origin, form, weights = "weights that make the logged order", found.transform, np.array(found.weights)
    parts, multiplied = _transform(logs, form) * weights, list[tuple[Boost, Bools]]()
    for column, multiplier in boosts.items():
        names = f"{column} is 1", column.replace("=", " is ")
        part = next((segment for segment in segments if segment.name in names), None)
        if part is None or not 0 < multiplier < np.inf:
            listed = ", ".join(segment.name.removesuffix(" is 1").replace(" is ", "=") for segment in segments)
            raise ValueError(f"boosts has {column}={multiplier:g}; expected a number above 0, and one of {listed}")
        parts[part.rows] *= multiplier
        multiplied.append((Boost(part.name, "", multiplier), part.rows))
    score = parts.sum(1)
    fit = agreement(logs, score) if production == LOGGED else None
    return ProductionFormula(origin, form, weights, score, parts, fit, tuple(multiplied))


def _of_score(logs: Logs, score: Floats, segments: Sequence[Segment]) -> ProductionFormula:
    """The formula nearest to scores [M]."""
    chosen = evenly_spaced(logs.num_requests, max(int(_ROWS * logs.num_requests / logs.num_rows), 30))
    some, rows = logs.select(chosen), np.isin(logs.row_request, chosen)
    targets = {"": score} | ({"the logarithm of ": np.log(score)} if (score > 0).all() else {})
    targets |= {"the exponential of ": np.exp(score - score.max())} if np.ptp(score) < _STEEPEST else {}
    forms = [(what, form) for what in targets for form in (*TRANSFORMS, *([PRICED] if logs.value_tasks else []))]
    rests = [_regress(some.offsets, targets[what][rows], _transform(some, form), [])[2] for what, form in forms]
    what, form = forms[int(np.argmin(np.round(rests, 6)))]
    fitted = some.offsets, targets[what][rows], _transform(some, form), [segment.rows[rows] for segment in segments]
    coefficients, found, rest = _regress(*fitted)
    x, boosts = _transform(logs, form), list[tuple[Boost, Bools]]()
    weights, steps = np.split(coefficients, [x.shape[1]])
    logarithm = "logarithm" in what
    parts = x * weights
    for (g, kind), step in zip(found, steps.tolist(), strict=True):
        high = segments[g].rows
        if kind >= 0:
            parts[high, kind] += step * x[high, kind]
            step /= weights[kind] or 1e-300
        elif kind == _WHOLE:
            parts[high] += step * x[high] * weights
        elif not logarithm:
            step /= float((x[high] @ weights).mean())
        multiplier = float(np.exp(step)) if logarithm and kind == _ADDS else 1 + step
        boosts.append((Boost(segments[g].name, logs.tasks[kind] if kind >= 0 else "", multiplier), high))
    origin = f"weights fitted to {what}the score"
    return ProductionFormula(origin, form, weights, targets[what], parts, 1 - rest, tuple(boosts))


def _regress(
    offsets: Array, score: Floats, x: Floats, segments: Sequence[Bools]
) -> tuple[Floats, list[tuple[int, int]], float]:
    """Least squares of scores [n] on x [n, T] and boosts, within requests; segments [n] of boosts.

    Returns: coefficients of x and of the boosts; segment and kind of each boost; share of the score that is left.
    """
    own, target = within(x, offsets), within(score[:, None], offsets)[:, 0]
    coefficients, boosts, heads = np.zeros(x.shape[1]), list[tuple[int, int]](), x.shape[1]

    def terms(rows: Bools) -> Floats:
        """Return [n, T + 2]: heads, 1, and the score of the heads in a segment, at their number, _ADDS and _WHOLE."""
        factors = np.column_stack([x, np.ones(len(x)), x @ coefficients[:heads]])
        return within(np.where(rows[:, None], factors, 0.0), offsets)

    while True:
        for _ in range(_ROUNDS if boosts else 1):  # a boost of the score multiplies what is fitted beside it
            design = np.hstack([own, *(terms(segments[g])[:, [kind]] for g, kind in boosts)])
            length = np.linalg.norm(design, axis=0)
            length[length == 0] = np.inf
            solution = np.linalg.lstsq(design / length, target, rcond=1e-9)[0]
            coefficients = solution / length
        left, basis = target - design @ coefficients, np.linalg.qr(design / length)[0]
        rest, best = float(left @ left), None
        most = _EXPLAINS * rest
        for g, rows in enumerate(segments if rest > _EXACT * float(target @ target) else []):
            columns = terms(rows)
            size = np.square(columns).sum(0)
            alone = size - np.square(basis.T @ columns).sum(0)  # of what the design lacks
            gain = np.where(alone > 1e-6 * size, np.square(left @ columns) / np.maximum(alone, 1e-300), 0.0)
            if gain.max() > most:
                kind, most = int(np.argmax(gain)), float(gain.max())
                best = g, kind if kind < heads else kind - len(gain)
        if best is None or best in boosts or len(boosts) == _BOOSTS:
            return coefficients, boosts, rest / max(float(target @ target), 1e-300)
        boosts.append(best)


def within(values: Floats, offsets: Array) -> Floats:
    """Values [M, n] less their mean in the request."""
    sizes = np.diff(offsets)
    return np.asarray(values - np.repeat(np.add.reduceat(values, offsets[:-1], 0) / sizes[:, None], sizes, 0))


def _transform(logs: Logs, form: str) -> Floats:
    """Return the predictions as the formula sums them, of shape [M, T]."""
    if form == PRICED:
        price = np.ones(1, np.float32) if logs.value is None else logs.value
        return np.asarray(logs.predictions * np.where(np.isin(logs.tasks, logs.value_tasks), price[:, None], 1.0))
    formula = fusion_formula(PolicyConfig()) | {"transform": form, "offsets": torch.from_numpy(logs.offsets)}
    return np.asarray(ops.transform_scores(torch.from_numpy(logs.predictions), **formula).double().numpy())
