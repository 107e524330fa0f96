"""Inputs of a correction from a log: conditional log odds, context and item columns, each standardized.

A task that (almost) never happens without another (cart without click) is corrected *given* it, its parent. The
formulas are those of `pygrade.reference.correction`; a `InputScaling` holds what stays the same for all requests.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pygrade import _core
from pygrade._typing import Array, Floats, Floats32, Ints
from pygrade.logs import Logs
from pygrade.logs.task_parents import MIN_EVENTS as MIN_EVENTS
from pygrade.logs.task_parents import SMALLEST as SMALLEST
from pygrade.logs.task_parents import parents_of as parents_of
from pygrade.policy.correction import Correction

LEAST_PARENT, UNSURE = 1e-9, 1e-9  # of a parent's prediction that divides; of a conditional probability and 1 less it
MOST_MAPPED_LOG = -1e-3  # largest log of a mapped probability
RATIO = (1e-4, 0.95)  # of a prediction to its parent's: separate models break p(child) ≤ p(parent) in some rows
EPSILON = 1e-7  # added to the parent's prediction
REACH = 4.0  # standardized inputs are cut to ± this
_BLOCK = 8192  # rows that are computed at a time


def amounts_of(logs: Logs) -> tuple[bool, ...]:
    """Tasks whose feedback or prediction is an amount: above 1, or a feedback between 0 and 1."""
    shown = logs.feedback[logs.shown]
    events = ((shown == 0) | (shown == 1)).all(0)
    return tuple((~events | (logs.predictions.max(0, initial=0.0) > 1)).tolist())


def clip(p: Array, amount: bool) -> Array:
    """Probabilities within (0, 1), amounts above 0."""
    return np.maximum(p, SMALLEST) if amount else np.clip(p, SMALLEST, 1 - SMALLEST)


def logit(p: Array, amount: bool = False) -> Array:
    """Log odds of probabilities, logarithms of amounts."""
    p = clip(p, amount)
    return np.log(p) if amount else np.log(p) - np.log1p(-p)


def sigmoid(a: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-a))


def ratio(child: Array, parent: Array) -> Array:
    """The probability of a child given its parent, cut where predictions contradict each other."""
    return np.clip(child / (parent + EPSILON), *RATIO)


def depth(parents: tuple[int, ...], t: int) -> int:
    """The number of ancestors of a task."""
    return 0 if parents[t] < 0 else 1 + depth(parents, parents[t])


def downward(parents: tuple[int, ...]) -> list[int]:
    """The tasks, each after its parent."""
    return sorted(range(len(parents)), key=lambda t: depth(parents, t))


@dataclass(frozen=True, eq=False)
class DesignInputs:
    """The shown rows of a log, as a fit sees them; the coefficients of a row are z (of its request) ⊗ u."""

    z: Floats  # [R, Z]: 1, context, the request's means
    u: Floats  # [S, U]: 1, the candidate's deviations from these means
    base: Floats  # [S, T] conditional log odds; of a root log p


@dataclass(frozen=True, eq=False)
class InputScaling:
    """The chain of tasks and the standardization of a log's inputs."""

    tasks: tuple[str, ...]
    features: tuple[str, ...]
    items: tuple[str, ...]
    parents: tuple[int, ...]
    amounts: tuple[bool, ...]
    median: Floats32  # [F]
    indicators: tuple[int, ...]
    x_mean: Floats32  # [X]
    x_std: Floats32
    l_mean: Floats32  # [V]
    l_std: Floats32

    @classmethod
    def of(cls, logs: Logs, predictions: Floats32, parents: tuple[int, ...] | None = None) -> "InputScaling":
        """Fit the scaling on a log and its (mapped) predictions [M, T]; parents: the chain, if it is known."""
        amounts = amounts_of(logs)
        chain = parents_of(logs.feedback[logs.shown], amounts) if parents is None else parents
        columns = [log_odds(predictions, t, chain, amounts) for t in range(len(chain))]
        columns += [logs.item_features[:, i] for i in range(len(logs.items))] if logs.item_features is not None else []
        finite = [column[np.isfinite(column)].astype(np.float64) for column in columns]
        missing = np.isnan(logs.context)
        with np.errstate(all="ignore"):
            seen = ~missing.all(0)
            median = np.zeros(len(logs.features), np.float32)
            median[seen] = np.nanmedian(logs.context[:, seen], 0)
        indicators = tuple(int(f) for f in np.flatnonzero(missing.any(0) & seen))
        has_context = ~missing.all(1)  # a request without any context is taken as an average one
        rows = has_context if has_context.any() else slice(None)
        x = _context(logs.context, median, indicators)[rows].astype(np.float64)
        return cls(
            logs.tasks,
            logs.features,
            logs.items,
            chain,
            amounts,
            median,
            indicators,
            x.mean(0).astype(np.float32),
            (x.std(0) + 1e-6).astype(np.float32),
            np.array([v.mean() if len(v) else 0.0 for v in finite], np.float32),
            np.array([v.std() + 1e-6 if len(v) else 1.0 for v in finite], np.float32),
        )

    @property
    def groups(self) -> tuple[dict[str, slice], dict[str, slice]]:
        """Places in z and in u by kind of input; a block of coefficients is one of each."""
        tasks, items, x = len(self.tasks), len(self.items), len(self.x_mean)
        first = {"1": slice(0, 1), "x": slice(1, 1 + x), "m": slice(1 + x, 1 + x + tasks)}
        first["i"] = slice(1 + x + tasks, 1 + x + tasks + items)
        second = {"1": slice(0, 1), "c": slice(1, 1 + tasks), "i": slice(1 + tasks, 1 + tasks + items)}
        first, second = ({name: at for name, at in side.items() if at.stop > at.start} for side in (first, second))
        return first, second

    def inputs(self, logs: Logs, predictions: Floats32) -> DesignInputs:
        """Inputs of the log's shown rows under (mapped) predictions [M, T] of all candidates."""
        count, shown, offsets = logs.num_requests, logs.shown, logs.offsets
        request, sizes = logs.row_request[shown], np.diff(offsets)[:, None]
        columns, base = [], np.empty((int(shown.sum()), len(self.tasks)))
        for t in range(len(self.tasks)):
            odds = log_odds(predictions, t, self.parents, self.amounts)
            columns.append(np.clip((odds - self.l_mean[t]) / self.l_std[t], -REACH, REACH))
            root = self.parents[t] < 0
            base[:, t] = np.log(clip(predictions[shown, t], self.amounts[t])) if root else odds[shown]
        for j in range(len(self.items)):
            v = len(self.tasks) + j
            value = (logs.item_features[:, j] - self.l_mean[v]) / self.l_std[v]  # type: ignore[index]
            columns.append(np.nan_to_num(np.clip(value, -REACH, REACH), nan=0.0))
        mean = np.stack([np.add.reduceat(column, offsets[:-1], dtype=np.float64) for column in columns], 1) / sizes
        u = np.ones((len(request), 1 + len(columns)))
        for v, column in enumerate(columns):
            u[:, 1 + v] = column[shown] - mean[request, v]
        x = (_context(logs.context, self.median, self.indicators) - self.x_mean) / self.x_std
        x[np.isnan(logs.context).all(1)] = 0.0  # as the core does
        z = np.concatenate([np.ones((count, 1)), np.clip(x, -REACH, REACH), mean], 1)
        return DesignInputs(z, u, base)

    def correction(self, weights: Floats, maps: dict[str, Any] | None = None) -> Correction:
        """The correction with coefficients [T, Z, U] and the fields of its maps."""
        count = len(self.tasks)
        map_fields = maps or {
            "form": "",
            "map_mean": np.zeros(count, np.float32),
            "map_std": np.ones(count, np.float32),
            "map_knots": np.zeros((count, 5), np.float32),
            "map_weights": np.zeros((count, 7), np.float32),
        }
        scaling = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Correction(**scaling, weights=weights.astype(np.float32), **map_fields)


def log_odds(predictions: Floats32, t: int, parents: tuple[int, ...], amounts: tuple[bool, ...]) -> Floats32:
    """Return predictions [M] of task t given its parent."""
    if parents[t] < 0:
        return np.asarray(logit(predictions[:, t], amounts[t]), np.float32)
    return np.asarray(logit(ratio(predictions[:, t], predictions[:, parents[t]])), np.float32)


def _context(context: Floats32, median: Floats32, indicators: tuple[int, ...]) -> Array:
    """Return the features with the median where one is missing, then what is missing, of shape [R, X]."""
    missing = np.isnan(context)
    return np.concatenate([np.where(missing, median, context), missing[:, list(indicators)]], 1, dtype=np.float32)


def unit_weight(y: Floats, mean: Floats) -> float:
    """Weight of a unit of an amount: one over the dispersion of amounts y [n] around their mean [n] at its level.

    A quasi-likelihood, whose variance is a multiple of the mean; so seconds and hours count alike.
    """
    mean = np.maximum(mean * (y.sum() / max(float(mean.sum()), 1e-300)), 1e-300)
    return 1.0 / max(float((np.square(y - mean) / mean).mean()), 1e-30)


class TaskRows:
    """The rows that tell of one task: all shown ones of a root, those with the parent's event of a child.

    Coefficients are those of z ⊗ u [Z, U], or with further columns [S, E] a vector of Z · U + E numbers.
    """

    def __init__(
        self,
        t: int,
        scaling: InputScaling,
        inputs: DesignInputs,
        logs: Logs,
        theta: Floats,
        keep: Array | None = None,
        case: float | None = None,
        extra: Floats | None = None,
    ) -> None:
        """theta [S]: examination of the shown rows; keep [R]: requests that count; case: what a row counts, by
        default 1 or, of amounts, one over their dispersion; extra [S, E]: further columns.
        """
        feedback, request = logs.feedback[logs.shown], logs.row_request[logs.shown]
        parent = scaling.parents[t]
        chosen = np.ones(len(request), bool) if parent < 0 else feedback[:, parent] > 0
        if keep is not None:
            chosen &= keep[request]
        self.rows = np.flatnonzero(chosen)
        self.kind = "amount" if scaling.amounts[t] else "root" if parent < 0 else "child"
        own = request[self.rows]  # rising
        first = np.diff(own, prepend=-1) != 0
        self.request, self._compact = own[first], np.cumsum(first) - 1
        self.offsets = np.append(np.flatnonzero(first), len(own)).astype(np.int64)
        self.z, self.u, self.base = inputs.z[self.request], inputs.u[self.rows], inputs.base[self.rows, t]
        self.y, self.theta = feedback[self.rows, t].astype(np.float64), theta[self.rows]
        self.extra = None if extra is None else extra[self.rows]
        self.case = 1.0 if case is None else case
        if case is None and self.kind == "amount" and len(self.rows):
            self.case = unit_weight(self.y, self.mean(np.zeros((self.z.shape[1], self.u.shape[1]))))

    @cached_property
    def events(self) -> int:
        return int((self.y > 0).sum())

    def _moves(self, weights: Floats, some: slice) -> tuple[Floats, Floats | float]:
        """The parts of z ⊗ u and of the further columns in the predictor of some rows."""
        size = self.z.shape[1] * self.u.shape[1]
        own = weights.reshape(-1)[:size].reshape(self.z.shape[1], -1)
        moved = np.einsum("su,su->s", (self.z @ own)[self._compact[some]], self.u[some])
        return moved, 0.0 if self.extra is None else self.extra[some] @ weights[size:]

    def eta(self, weights: Floats) -> Floats:
        """The predictor [S'] of coefficients."""
        own, more = self._moves(weights, slice(None))
        return np.asarray(self.base + own + more)

    def mean(self, weights: Floats) -> Floats:
        """Expected feedback [S']."""
        eta = self.eta(weights)
        if self.kind == "child":
            return np.asarray(sigmoid(eta))
        return np.asarray(self.theta * np.exp(eta if self.kind == "amount" else np.minimum(eta, 0.0)))

    def gradient(self, mean: Floats, on: Array | float = 1.0) -> Floats:
        """Gradient of the log likelihood by the coefficients; on [S']: rows that count."""
        error = (self.case * on) * (self.y - mean)
        sums = np.add.reduceat(error[:, None] * self.u, self.offsets[:-1], 0)
        own = np.asarray(self.z.T @ sums)
        return own if self.extra is None else np.concatenate([own.reshape(-1), error @ self.extra])

    def information(self, mean: Floats, parts: Array | None = None, count: int = 1) -> Floats:
        """Return the information [count, C, C] of C coefficients of the requests of each part [R'] (None: one part)."""
        weight = self.case * (mean * (1.0 - mean) if self.kind == "child" else mean)
        if parts is None:
            return self._information(weight, slice(None), slice(None))[None]
        part_of_row = parts[self._compact]
        split = [(np.flatnonzero(parts == number), np.flatnonzero(part_of_row == number)) for number in range(count)]
        return np.stack([self._information(weight, *selected) for selected in split])

    def _information(self, weight: Floats, some: Ints | slice, rows: Ints | slice) -> Floats:
        """Information of some requests and their rows."""
        z, u, weight = self.z[some], self.u[rows], weight[rows]
        starts = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[some])])
        own = gram(z, u, weight, starts)
        if self.extra is None:
            return own
        extra = self.extra[rows]
        weighted, request = weight[:, None] * extra, np.repeat(np.arange(len(z)), np.diff(starts))
        side = np.zeros((len(own), extra.shape[1]))
        for at in range(0, len(u), _BLOCK):
            block = slice(at, at + _BLOCK)
            columns = z[request[block], :, None] * u[block, None, :]
            side += columns.reshape(-1, len(own)).T @ weighted[block]
        return np.block([[own, side], [side.T, extra.T @ weighted]])

    def on_rows(self, values: Array) -> Array:
        """Return values [R'] by request as those of rows [S']."""
        return np.asarray(values[self._compact])

    def reach(self, step: Floats) -> float:
        """The largest move of a predictor by a step, of some rows."""
        moves = self._moves(step, slice(None, None, max(len(self.rows) // 2000, 1)))
        return sum(float(np.abs(move).max(initial=0.0)) for move in moves)


def gram(z: Floats, u: Floats, weight: Floats, offsets: Ints) -> Floats:
    """Return [Z·U, Z·U], Σ over rows of weight · (z ⊗ u)(z ⊗ u)ᵀ, by request: (z zᵀ) ⊗ (Σ weight · u uᵀ)."""
    size = z.shape[1] * u.shape[1]
    result = np.empty((size, size))
    _core.correction_gram(z, u, np.ascontiguousarray(weight), offsets.astype(np.int64), result)
    return result
