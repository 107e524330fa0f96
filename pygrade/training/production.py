"""Production: the ranking that made a log's pages, and what another ranking earns over it on whole pages.

A replay re-orders shown items, and so misses the loss of items that production put on the page because it knows more
than the predictions. `page_lift` reaches them by a model of what a candidate of a request is worth,

    log E[v] = level of the request + b · x + log q(slot); x: log of its expected value, its place by the new ranking,
    log of production's score, and its place by production less its place by that score,

fitted to the shown items of pages that production ordered (`conditional_likelihood` of their value). Places are
normal scores of the rank among all candidates. Production's score is what the log has, else the ranking by weights that
made the pages, given or found: the last x is 0 where that ranking makes the pages. The x are made orthogonal, of
deviation 1, with a prior N(0, 1) of each b. The slot's effect has the prior of what shuffled pages show: on pages of
production alone nothing tells it from what production knows beyond its score. Places alone tell knowledge coarsely:
in 14 shops where production knows more they showed four fifths of the loss, so that their b is known to a quarter at
best.

The page of either ranking is then worth Σ_r q(r) · E[v] of its items, shown or not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pygrade import ops
from pygrade._typing import Array, Bools, Floats, Floats32, Ints
from pygrade.config.policy import PolicyConfig
from pygrade.config.training import TrainConfig
from pygrade.evaluation.arms import EXPECTED_VALUE, LOGGED_ORDER, PRODUCTION, PRODUCTION_SCORE
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs, evenly_spaced
from pygrade.metrics.intervals import Interval, numbers_of
from pygrade.policy.mixture import Baseline, mix_scores
from pygrade.policy.spec import fusion_formula
from pygrade.training.baselines import baseline_scores, logged_baseline
from pygrade.training.conditional_likelihood import ConditionalFit, fit_conditional
from pygrade.training.propensity import ASSUMED, SlotPropensity

MARGIN = 0.01  # loss over production that nobody would notice
_MAKES, _SAME = 0.9, 0.98  # `agreement` from which a ranking makes the log's pages: a given one, a found one
TRANSFORMS = ("identity", "log", "zscore", "zlog")  # that production's weights are looked for in
_MAX_PAGES, _SEARCHED_PAGES, _SEARCHED_ROWS = 20_000, 500, 60_000
_DEPTH = 10  # slots whose choice is looked at
_RIDGE = 1e-2  # prior precision of production's weights
_STEEPEST = 2.0  # prior deviation of log value per normal score of production's place beyond its score
_COARSE = 0.25  # relative error of the effect of production's place beyond its score
_TINY = 1e-3  # share of a covariate's deviation that others leave, below which it adds nothing
_KNOWS = 2.0  # standard errors of what production shows beyond predictions and ranking
_Z, _Z_LOW = 1.960, 1.645  # 95 %, two-sided and one-sided


class Production(NamedTuple):
    """The ranking that made a log's pages."""

    scores: Floats32  # [M]: the higher the better; of the known ranking that is nearest
    control: str = EXPECTED_VALUE  # name of what lifts are over
    baseline: Baseline | None = None  # weights in use, or that make the same pages; None: no simple ranking does
    servable: Floats32 | None = None  # [M] of the baseline
    caution: str = ""  # what a reader must know of the weights that are said to be in use


def find_production(logs: Logs, config: TrainConfig) -> Production:
    """The log's own score of production, weights in use, logged weights, or the weights of a simple ranking that makes
    the logged pages; else the nearest of these, with no baseline.

    ``ValueError`` names a task of ``config.production`` that the log lacks.
    """
    own = np.flatnonzero(own_pages(logs))
    pages = int(np.clip(_SEARCHED_ROWS * logs.num_requests // (_DEPTH * logs.num_rows), 30, _SEARCHED_PAGES))
    chosen = own[evenly_spaced(len(own), pages)]
    chosen_logs, rows = logs.select(chosen), np.isin(logs.row_request, chosen)
    ordered = logs.slots_known and bool(len(own))
    baseline = logged_baseline(logs, config.policy.transform)
    scores: Floats32 = logs.value_of(logs.predictions).astype(np.float32)
    if config.production:
        baseline = baseline_of(config.production, logs.tasks)
    if baseline is not None:
        scores = baseline_scores(baseline, logs, config.policy)
    elif ordered and (fitted := search_weights(chosen_logs, agreement(chosen_logs, scores[rows]), config.policy)):
        scores = baseline_scores(fitted, logs, config.policy)
        baseline = fitted if agreement(chosen_logs, scores[rows]) >= _SAME else None
    servable, caution = None if baseline is None else scores, ""
    rankings = {PRODUCTION_SCORE: logs.production_score, PRODUCTION: servable}
    same = {name: agreement(chosen_logs, values[rows]) for name, values in rankings.items() if values is not None}
    fallback = LOGGED_ORDER if ordered else EXPECTED_VALUE
    control = next((name for name, share in same.items() if share >= _MAKES or not ordered), fallback)
    if config.production and ordered and same[PRODUCTION] < _MAKES:
        share = f"{100 * same[PRODUCTION]:.0f} %"
        caution = f"PRODUCTION: --production explains {share} of the shown items; lifts are over the log's own order."
    scores = scores if logs.production_score is None else logs.production_score
    return Production(scores, control, baseline, servable, caution)


def baseline_of(weights: Mapping[str, float], tasks: tuple[str, ...]) -> Baseline:
    """Σ_t w_t · p_t, the ranking in use; ``ValueError`` names a task that is not one of ``tasks``."""
    if unknown := [task for task in weights if task not in tasks]:
        raise ValueError(f"production names task {unknown[0]!r}; expected one of {', '.join(tasks)}")
    return Baseline(PRODUCTION, "identity", tuple(weights.get(task, 0.0) for task in tasks))


def agreement(logs: Logs, scores: Array) -> float:
    """Share of the items on pages of production's own that are the best of what is left, by scores [M]."""
    order, worst = np.argsort(logs.offsets[:-1][logs.row_request] + _places(logs, scores)), len(scores)
    key = logs.row_request * worst + np.unique(-scores, return_inverse=True)[1]  # equal scores have equal keys
    best = np.minimum.accumulate(key[order][::-1])[::-1]  # of those in the same slot or below
    own = (logs.shown & own_pages(logs)[logs.row_request])[order]
    return float((key[order] == best)[own].mean()) if own.any() else 0.0


def own_pages(logs: Logs) -> Bools:
    """Return the pages [R] in production's own order."""
    return np.ones(logs.num_requests, bool) if logs.exploration is None else logs.exploration == "none"


def _places(logs: Logs, scores: Array) -> Ints:
    """Return ranks [M] of production: shown items by slot, if it is known, then others, by scores [M]."""
    slot = np.where(logs.shown & logs.slots_known, logs.position, 0)
    order = np.lexsort((-scores, slot, ~logs.shown, logs.row_request))
    old_rank = np.empty(len(order), np.int64)
    old_rank[order] = np.arange(len(order)) - logs.offsets[:-1][logs.row_request[order]]
    return old_rank


def search_weights(logs: Logs, least: float, config: PolicyConfig) -> Baseline | None:
    """The weights and form that make production's pages best; None if none has an `agreement` above ``least``.

    A ranking is a choice at each slot of what was not chosen yet (Plackett-Luce), log odds Σ_t w_t f(p_t).
    """
    best, fitted = least, None
    for transform in TRANSFORMS:
        predictions, offsets = torch.from_numpy(logs.predictions), torch.from_numpy(logs.offsets)
        formula = fusion_formula(config) | {"transform": transform, "offsets": offsets}
        x = ops.transform_scores(predictions, **formula).double().numpy()
        deviation = np.where(x.std(0) > 0, x.std(0), np.inf)
        weights = _choices(logs, x / deviation)
        weights = np.where(np.abs(weights) > _TINY * np.abs(weights).max(), weights, 0.0) / deviation
        if not weights.any():
            continue
        baseline = Baseline(PRODUCTION, transform, tuple((weights / np.abs(weights).sum()).tolist()))
        if (same := agreement(logs, baseline_scores(baseline, logs, config))) > best:
            best, fitted = same, baseline
    return fitted


def _choices(logs: Logs, x: Floats) -> Floats:
    """Return the coefficients of x [M, T] in the choice of each of the first slots' items, of shape [T]."""
    old_rank, request = _places(logs, np.zeros(logs.num_rows)), logs.row_request
    shown = np.bincount(request, logs.shown, logs.num_requests)
    rows, events, groups = [], [], []
    for slot in range(min(int(shown.max()), _DEPTH)):
        left = np.flatnonzero((old_rank >= slot) & (shown > slot)[request])
        rows.append(left)
        events.append(old_rank[left] == slot)
        groups.append(request[left] + slot * logs.num_requests)
    group = np.concatenate(groups)
    starts, tasks = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]), x.shape[1]
    chosen = np.concatenate(events).astype(np.float64)
    return fit_conditional(
        x[np.concatenate(rows)], chosen, starts, _RIDGE * np.eye(tasks), np.zeros(tasks)
    ).coefficients


@dataclass(frozen=True)
class PageLift:
    """Lift of a ranking over production on whole pages, as production's own pages show it."""

    lift: Interval  # two-sided 95 %
    shared: float  # share of production's page that is on the ranking's, too
    z: float  # of value that production's order shows beyond predictions and ranking; above 0: it knows more

    @property
    def proven(self) -> bool:
        """The ranking is not below production by more than `MARGIN`, one-sided at 95 %; not at all below if production
        shows that it knows more, since a model of a page sees a part of that alone.
        """
        ratio = 1.0 + self.lift.value
        least = 0.0 if self.z > _KNOWS else -MARGIN
        return ratio * math.exp(-_Z_LOW * self.lift.standard_error / ratio) - 1.0 >= least

    @property
    def text(self) -> str:
        """The text for engineers."""
        low, high = (100 * end for end in (self.lift.low, self.lift.high))
        return (
            f"whole pages over production {100 * self.lift.value:+.1f} % ({low:.1f} to {high:.1f}), "
            f"{100 * self.shared:.0f} % of its items, production's unlogged information z {self.z:.1f}"
        )


def page_lift(
    logs: Logs,
    production: Production,
    served: Array,
    cluster: Ints,
    propensity: SlotPropensity,
    page_size: int,
    share: Floats | None = None,
) -> PageLift | None:
    """The lift over production of ranking by scores served [M]; None: the log has no page of production's own.

    cluster [R] of dependent requests; page_size: slots that count; share [R] of each request's value that counts.
    """
    own = np.flatnonzero(own_pages(logs))
    chosen = own[evenly_spaced(len(own), _MAX_PAGES)]
    if not len(chosen):
        return None
    rows, judged = np.isin(logs.row_request, chosen), logs.select(chosen)
    score, request, shown = production.scores[rows], judged.row_request, judged.shown
    old_rank, rank = _places(judged, score), ranks(served[rows], judged.offsets)
    x, order = _covariates(judged, score, old_rank, rank)
    slots = np.log1p(old_rank) if judged.slots_known else np.zeros(len(old_rank))
    x = np.hstack([x, slots[:, None]])
    value = np.maximum(judged.value_of(judged.feedback), 0.0) * (1.0 if share is None else share[chosen][request])
    value = value * value.sum() / max(float(value @ value), 1e-30)  # in events of like worth, whatever the unit
    some = shown & (np.bincount(request, value, judged.num_requests) > 0)[request]
    starts = np.flatnonzero(np.r_[True, np.diff(request[some]) > 0]) if some.any() else np.zeros(0, np.int64)
    mean, precision = np.zeros(x.shape[1]), np.eye(x.shape[1])
    mean[-1], precision[-1, -1] = _slot_prior(propensity)
    beta, covariance = mean, np.asarray(np.linalg.inv(precision), np.float64)
    if some.any():
        fit = fit_conditional(x[some], value[some], starts, precision, mean)
        beta = fit.coefficients
        covariance = _covariance(fit, x[some], precision, cluster[chosen][request[some]])
    widened = covariance.copy()
    widened[-2, -2] += (_COARSE * beta[-2]) ** 2
    depth = np.minimum(np.bincount(request, shown, judged.num_requests), page_size)[request]
    lift = _lift(x, rank, old_rank, depth, beta, widened, judged.slots_known)
    held = old_rank < depth
    toward = order @ covariance[:-1, :-1] @ order
    z = float(order @ beta[:-1] / np.sqrt(toward)) if toward > 0 else 0.0
    return PageLift(lift, float((rank < depth)[held].mean()), z)


def _slot_prior(propensity: SlotPropensity) -> tuple[float, float]:
    """Mean and precision of the slot's effect: estimates from production's pages assume that it knows nothing more."""
    exponent, error = propensity.shuffled or (propensity.exponent, propensity.standard_error)
    if propensity.source in ("given", "shuffled pages", "all pages"):
        return -exponent, 1.0 / max(error, 1e-3) ** 2
    return -ASSUMED, 1.0


def _covariates(logs: Logs, score: Array, old_rank: Ints, rank: Ints) -> tuple[Floats, Floats]:
    """Covariates [M, 4], and how production's order loads on the last two, [4] with 0 for the others."""
    size = np.diff(logs.offsets)[logs.row_request]

    def level(ranking: Ints) -> Floats:
        return np.asarray(torch.special.ndtri(torch.from_numpy((size - ranking - 0.5) / size)).numpy())

    by_score = level(old_rank) - level(ranks(score, logs.offsets))
    worth = _log_or_z(logs.value_of(logs.predictions), logs)
    x = np.stack([worth, level(rank), _log_or_z(score, logs), by_score], 1)
    center = np.add.reduceat(x, logs.offsets[:-1]) / np.diff(logs.offsets)[:, None]
    within = x - center[logs.row_request]
    for i in range(x.shape[1]):
        before = float(within[:, i].std())
        for matrix in (x, within):
            matrix[:, i] -= matrix[:, :i] @ (within[:, :i].T @ within[:, i] / len(within))
        deviation = float(within[:, i].std())
        scale = 1.0 / deviation if deviation > _TINY * before else 0.0
        scale = min(scale, _STEEPEST) if i == x.shape[1] - 1 else scale  # few places that differ show no more
        x[:, i], within[:, i] = x[:, i] * scale, within[:, i] * scale
    loads = within.T @ level(old_rank) / len(within)
    loads[:2] = 0.0
    return x, np.where(np.abs(loads) > _TINY, loads, 0.0)


def _log_or_z(scores: Array, logs: Logs) -> Floats:
    """Return the logarithms of scores that are all above 0, else standardized within the request, of shape [M]."""
    if bool((scores > 0).all()):
        return np.log(scores.astype(np.float64))
    return mix_scores(scores, scores, 0.0, logs.offsets).astype(np.float64)


def _covariance(fit: ConditionalFit, x: Floats, precision: Floats, cluster: Ints) -> Floats:
    """Return the covariance [d, d] of the coefficients: a sandwich by cluster [n], with the prior."""
    scores, numbers = (x - fit.center) * fit.residual[:, None], numbers_of(cluster)
    sums = np.stack([np.bincount(numbers, column) for column in scores.T], 1)
    inverse = np.linalg.inv(fit.information)
    return np.asarray(inverse @ (sums.T @ sums + precision) @ inverse)


def _lift(x: Floats, rank: Ints, logged: Ints, depth: Ints, beta: Floats, covariance: Floats, slots: bool) -> Interval:
    """Value of the pages of ranks [M] over that of production's places [M], by the delta method for its logarithm."""

    def page(ranking: Ints) -> tuple[float, Floats]:
        rows = ranking < depth
        columns = x[rows].copy()
        columns[:, -1] = np.log1p(ranking[rows]) if slots else 0.0
        worth = np.exp(columns @ beta)
        return float(worth.sum()), worth @ columns / worth.sum()

    (new, slope), (old, old_slope) = page(rank), page(logged)
    ratio, error = new / old, float(np.sqrt((slope - old_slope) @ covariance @ (slope - old_slope)))
    low, high = (ratio * math.exp(sign * _Z * error) - 1.0 for sign in (-1, 1))
    return Interval(ratio - 1.0, ratio * error, low, high)
