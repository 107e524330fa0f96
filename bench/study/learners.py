"""Learners on a log of any pages: the licensed correction, trees on value, and trees on top of the correction.

The forms of `ranking`: *value*, Tweedie regression that starts at the expected value; *lambdamart*, LambdaMART that
starts there; and the candidates to serve, of which docs/STUDY.md has the rule: *tasks*, trees per task on the raw
residual log odds given the parent's event; *mean* of these log odds and the correction's; *stacked*, LambdaMART that
starts at the cross-fitted corrected expected value.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.correction.fit import (
    CorrectionCandidate,
    FittedCorrections,
    correct,
    correct_by_fold,
    fit_correction,
    later_requests,
)
from pygrade.correction.gate import JointLikelihood
from pygrade.correction.inputs import MIN_EVENTS, clip, downward, log_odds, sigmoid
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.logs.history import History
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.training.correction_proof import accept_correction
from pygrade.training.cross_fit import fold_of_requests
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity, slot_propensity

Array = NDArray[Any]
Options = Mapping[str, Any]
_TREES: dict[str, Any] = {"lambda_l2": 10.0, "feature_fraction": 0.8, "bagging_fraction": 0.8, "bagging_freq": 1}
_TREES |= {"num_threads": 1, "deterministic": True, "force_col_wise": True, "seed": 0, "verbosity": -1}
TOPS = ("tasks", "mean", "stacked")
_GRADES = 20  # of value, for LambdaMART
_ON_TOP = {"num_leaves": 7, "min_data_in_leaf": 200}
_TASK_TREES, _RANK_TREES, _STEP = 60, 360, 10  # at most, and by how many they are counted


def learn(
    logs: Logs, propensity: SlotPropensity | None = None, history: History | None = None
) -> tuple[FittedCorrections, CorrectionCandidate | None]:
    """The corrections of a log with the values of events that count, as `train` fits them, and the one that gate and
    replay license, if any. history: whose columns the log has."""
    config = TrainConfig()
    propensity = slot_propensity(logs, config.reward) if propensity is None else propensity
    cluster = clusters_of(logs)
    fold = fold_of_requests(cluster, config.cross_fit.folds, 0)
    theta = propensity.examine(logs)[logs.shown]
    fitted = fit_correction(logs, theta, fold, cluster, history=history)
    found, _ = accept_correction(logs, fitted, fold, cluster, PageReplay(logs, config.reward), propensity)
    return fitted, None if found is None else found[0]


def fit_trees(options: Options, requests: int, features: Array, label: Array, start: Array) -> Any:
    """LightGBM that learns a factor of exp(start), brought to the labels' sum. ``small_rounds``: trees for up to 5,000
    requests.
    """
    parameters = _TREES | {"objective": options["objective"], **options["trees"]}
    return _train(parameters, rounds_of(options, requests), features, label, _leveled(start, label))


def rounds_of(options: Options, requests: int) -> int:
    """Trees for a log of so many requests."""
    return int(options["small_rounds" if requests <= 5000 else "rounds"])


def ranking(form: str, learned: Logs, judged: Logs, options: Options, propensity: SlotPropensity) -> Array:
    """Scores [M] of the judged rows by a form that starts at the expected value."""
    pages = _Pages(learned, propensity)
    start = _log_value(learned, learned.predictions)[learned.shown]
    if form == "value":
        model = fit_trees(options, learned.num_requests, pages.features, pages.value, start)
    else:
        model = pages.lambdamart(start, options["trees"], rounds_of(options, learned.num_requests))
    return _log_value(judged, judged.predictions) + _moves(model, table(judged))


class Top(NamedTuple):
    """A candidate that was learned on top of a correction."""

    cross_fitted: Array  # [S] scores of the log's shown rows
    scores: Callable[[Logs], Array]  # [M] of other requests
    trees: int


class OnTop:
    """A log with its licensed correction, or its predictions as they are where none is, and trees on top of it."""

    def __init__(self, logs: Logs, propensity: SlotPropensity, history: History | None = None) -> None:
        """history: whose columns the log has."""
        self.logs, self.propensity, self.history = logs, propensity, history
        self.fitted, self.accepted = learn(logs, propensity, history)
        fold = fold_of_requests(clusters_of(logs), TrainConfig().cross_fit.folds, 0)
        self._fold, self._pages = fold[logs.row_request[logs.shown]], _Pages(logs, propensity)
        self.corrected = logs.predictions  # [M, T], cross-fitted
        if self.accepted is not None:
            self.corrected = correct_by_fold(self.accepted.folds, logs, fold)

    def correct(self, logs: Logs) -> Array:
        """Corrected predictions [M, T] of other requests."""
        return logs.predictions if self.accepted is None else correct(self.accepted.correction, logs)

    def chosen(self, form: str) -> tuple[Interval, Interval]:
        """Lifts of a form over the correction by whose lower bounds it would be served: cross-fitted, and on the later
        requests by what the earlier ones teach."""
        logs, early = self.logs, self._early
        later = logs.select(later_requests(logs))
        scores, plain = early.top(form).scores(later), later.value_of(early.correct(later))
        pairs = (logs, self.top(form).cross_fitted, logs.value_of(self.corrected)[logs.shown])
        return _lift(*pairs, self.propensity), _lift(later, scores[later.shown], plain[later.shown], self.propensity)

    @cached_property
    def _early(self) -> "OnTop":
        return OnTop(self.logs.select(~later_requests(self.logs)), self.propensity, self.history)

    def top(self, form: str) -> Top:
        """The candidate of a form, one of `TOPS`."""
        if form == "stacked":
            return self._stacked
        odds, moved, count = self._tasks
        own = odds if form == "tasks" else (odds + self._odds(self.corrected)[self.logs.shown]) / 2

        def scores(logs: Logs) -> Array:
            found = moved(logs)
            return logs.value_of(
                self._joint(found if form == "tasks" else (found + self._odds(self.correct(logs))) / 2)
            )

        return Top(self.logs.value_of(self._joint(own)), scores, count)

    @cached_property
    def _stacked(self) -> Top:
        pages, start = self._pages, _log_value(self.logs, self.corrected)[self.logs.shown]
        replay = PageReplay(self.logs, RewardConfig())

        def train(rows: Array, rounds: int) -> Any:
            return pages.lambdamart(start, {**_ON_TOP, "learning_rate": 0.05}, rounds, rows)

        def worth(moves: Array) -> float:
            return float(replay.values(replay.ranks(start + moves), self.propensity).sum())

        count, moves = _cross_fitted(train, pages.features, self._fold, _RANK_TREES, worth)
        model = train(np.ones(len(start), bool), count) if count else None
        return Top(start + moves, lambda logs: _log_value(logs, self.correct(logs)) + _moves(model, table(logs)), count)

    @cached_property
    def _tasks(self) -> tuple[Array, Callable[[Logs], Array], int]:
        """Cross-fitted log odds [S, T], those [M, T] of other requests, and the number of trees."""
        scaling, pages = self.fitted.scaling, self._pages
        feedback, base = self.logs.feedback[self.logs.shown], self._odds(self.logs.predictions)[self.logs.shown]
        likelihood = JointLikelihood(self.logs, scaling.parents, pages.theta, self.fitted.cases)
        plain, odds = likelihood.shares(self._conditional(base)), base.copy()
        models: list[Any] = [None] * len(scaling.parents)
        total = 0
        for t, parent in enumerate(scaling.parents):
            rows = np.ones(len(base), bool) if parent < 0 else feedback[:, parent] > 0
            y, start = feedback[:, t], base[:, t]
            if (y[rows] > 0).sum() < MIN_EVENTS:
                continue
            if parent < 0:
                start = _leveled(start + np.log(np.maximum(pages.theta, 1e-9)), y)
            parameters = _TREES | _ON_TOP | {"objective": "poisson" if parent < 0 else "binary", "learning_rate": 0.1}

            def train(
                keep: Array, rounds: int, parameters: Any = parameters, y: Array = y, start: Array = start
            ) -> Any:
                return _train(parameters, rounds, pages.features[keep], y[keep], start[keep])

            def worth(moves: Array, t: int = t) -> float:
                moved = base.copy()
                moved[:, t] += moves
                return float(likelihood.gain(likelihood.shares(self._conditional(moved)), plain).sum())

            count, moves = _cross_fitted(train, pages.features, self._fold, _TASK_TREES, worth, rows)
            odds[:, t] += moves
            models[t] = train(rows, count) if count else None
            total += count

        def moved(logs: Logs) -> Array:
            features = table(logs)
            return np.asarray(self._odds(logs.predictions) + np.stack([_moves(model, features) for model in models], 1))

        return odds, moved, total

    def _odds(self, predictions: Array) -> Array:
        """Return log of roots, log odds of the others given the parent, of shape [M, T]."""
        parents, amounts = self.fitted.scaling.parents, self.fitted.scaling.amounts
        columns = [
            np.log(clip(predictions[:, t], amounts[t])) if parent < 0 else log_odds(predictions, t, parents, amounts)
            for t, parent in enumerate(parents)
        ]
        return np.stack(columns, 1).astype(np.float64)

    def _conditional(self, odds: Array) -> Array:
        scaling = self.fitted.scaling
        root, amount = np.array(scaling.parents) < 0, np.array(scaling.amounts)
        return np.where(root, np.exp(np.where(amount, odds, np.minimum(odds, 0.0))), sigmoid(odds))

    def _joint(self, odds: Array) -> Array:
        result, parents = self._conditional(odds), self.fitted.scaling.parents
        for t in downward(parents):
            if parents[t] >= 0:
                result[:, t] *= result[:, parents[t]]
        return result


class _Pages:
    """The shown rows of a log."""

    def __init__(self, logs: Logs, propensity: SlotPropensity) -> None:
        self.features, self._request = table(logs)[logs.shown], logs.row_request[logs.shown]
        self.theta = propensity.examine(logs)[logs.shown]
        self.value = logs.value_of(logs.feedback)[logs.shown]
        if propensity.exponent:  # else feedback counts as it is
            self.value = self.value / propensity.divisors(logs, RewardConfig().propensity_floor)[logs.shown]
        steps = np.unique(np.quantile(self.value[self.value > 0], np.linspace(0, 1, _GRADES)))
        self._grade = np.where(self.value > 0, np.searchsorted(steps, self.value, side="right"), 0)

    def lambdamart(self, start: Array, options: Options, rounds: int, rows: Array | slice = slice(None)) -> Any:
        """LambdaMART on grades of value, 20 at most, of some rows."""
        grade, sizes = self._grade[rows], np.bincount(self._request[rows])
        mean = np.bincount(self._grade, self.value) / np.maximum(np.bincount(self._grade), 1)
        parameters = _TREES | dict(options) | {"objective": "lambdarank", "lambdarank_norm": False}
        parameters |= {"label_gain": mean.tolist(), "lambdarank_truncation_level": RewardConfig().page_size}
        return _train(parameters, rounds, self.features[rows], grade, start[rows], group=sizes[sizes > 0])


def table(logs: Logs) -> Array:
    """[M, features]: log predictions and item columns, their deviations from the list's mean, the mean predictions, and
    the context."""
    logs_of, items = np.log(np.maximum(logs.predictions, 1e-6)), np.nan_to_num(logs.item_columns)
    row, size = logs.row_request, np.diff(logs.offsets)[:, None]
    mean, mean_items = (np.add.reduceat(values, logs.offsets[:-1]) / size for values in (logs_of, items))
    own = [logs_of, logs_of - mean[row], mean[row]]
    return np.concatenate([*own, logs.context[row], items, items - mean_items[row]], 1)


def _log_value(logs: Logs, predictions: Array) -> Array:
    return np.log(np.maximum(logs.value_of(predictions), 1e-6))


def _leveled(start: Array, label: Array) -> Array:
    return np.asarray(start + np.log(label.sum() / np.exp(start).sum()))


def _train(parameters: Options, rounds: int, features: Array, label: Array, start: Array, **more: Any) -> Any:
    trees = require("lightgbm", "study")
    return trees.train(dict(parameters), trees.Dataset(features, label=label, init_score=start, **more), rounds)


def _moves(model: Any, features: Array, **some: int) -> Array:
    """[M]: what the trees add; None: there are none."""
    if model is None:
        return np.zeros(len(features))
    return np.asarray(model.predict(features, raw_score=True, num_threads=1, **some))


def _cross_fitted(
    train: Callable[[Array, int], Any],
    features: Array,
    fold: Array,
    most: int,
    worth: Callable[[Array], float],
    rows: Array | bool = True,
) -> tuple[int, Array]:
    """The number of trees whose moves [S], each by the trees of the other folds, are worth most, and these moves.
    rows [S]: that teach."""
    folds = [fold == k for k in range(int(fold.max()) + 1)]
    models = [train(rows & ~out, most) for out in folds]
    moves = np.zeros(len(fold))
    best = worth(moves), 0, moves.copy()
    for count in range(0, most, _STEP):
        for model, out in zip(models, folds, strict=True):
            moves[out] += _moves(model, features[out], start_iteration=count, num_iteration=_STEP)
        best = max(best, (worth(moves), count + _STEP, moves.copy()), key=lambda tried: tried[0])
    return best[1], best[2]


def _lift(logs: Logs, scores: Array, plain: Array, propensity: SlotPropensity) -> Interval:
    """Lift of whole pages in the order of scores [S] over those in another one, clustered by user."""
    pages = PageReplay(logs, RewardConfig())
    estimate = intervals.mean_lift(*(pages.values(pages.ranks(values), propensity) for values in (scores, plain)))
    return intervals.interval(estimate.value, estimate.influence, clusters_of(logs))
