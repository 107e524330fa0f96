"""Trees on top of an accepted correction: they move all predictions of a candidate by one factor, so that its expected
value, too, is multiplied by it.

LambdaMART (LightGBM) on grades of debiased value starts at the logarithm of the cross-fitted corrected expected value.
What sets a candidate apart and is no sum of its columns is left for it. `pygrade.reference.correction` has the formula
of the core, which evaluates the trees where they serve.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pygrade._typing import Array, Bools, Floats, Floats32, Ints
from pygrade._util.optional_imports import require
from pygrade.config.training import RewardConfig
from pygrade.correction.fit import CorrectionCandidate, correct, later_requests
from pygrade.evaluation.policy_estimates import columns_of
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.policy.correction import NODES, Correction
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity

logger = logging.getLogger("pygrade")

NAME = "trees"
MOST, _STEP = 360, 10  # trees, and by how many they are counted
_GRADES = 20  # of value
_BLOCK = 4096  # requests whose inputs are made at a time
_PARAMETERS: dict[str, Any] = {"objective": "lambdarank", "lambdarank_norm": False, "num_leaves": 7}
_PARAMETERS |= {"learning_rate": 0.05, "min_data_in_leaf": 200, "lambda_l2": 10.0, "feature_fraction": 0.8}
_PARAMETERS |= {"bagging_fraction": 0.8, "bagging_freq": 1, "use_missing": False, "num_threads": 1}
_PARAMETERS |= {"deterministic": True, "force_col_wise": True, "seed": 0, "verbosity": -1}
TREE_ARRAYS = ("tree_inputs", "tree_thresholds", "tree_masks", "tree_leaves")  # fields of `Correction`


@dataclass(frozen=True, eq=False)
class TreeFit:
    """A candidate with trees on top."""

    candidate: CorrectionCandidate
    scores: Floats  # [S] of the shown rows: logarithms of cross-fitted expected value
    plain: Floats  # the same without trees

    def lift(self, pages: PageReplay, propensity: SlotPropensity, cluster: Ints) -> Interval:
        """The lift of whole pages over the candidate without trees."""
        return lift_of(self.scores, self.plain, pages, propensity, cluster)


def lift_of(scores: Floats, plain: Floats, pages: PageReplay, propensity: SlotPropensity, cluster: Ints) -> Interval:
    """Lift of pages ranked by scores [S] over pages ranked by others [S]."""
    estimate = intervals.mean_lift(*(pages.values(pages.ranks(order), propensity) for order in (scores, plain)))
    return intervals.interval(estimate.value, estimate.influence, cluster)


def fit_trees(
    logs: Logs,
    candidate: CorrectionCandidate,
    fold: Ints,
    pages: PageReplay,
    propensity: SlotPropensity,
    reward: RewardConfig,
) -> TreeFit | None:
    """Fit trees on the candidate, their number chosen by cross-fitted page value; None if no trees help.

    fold [R]: of requests, as the candidate's corrections have it. ImportError without LightGBM.
    """
    shown = _ShownRows(logs, candidate, fold, propensity, reward)
    folds = [shown.fold == k for k in range(len(candidate.folds))]
    models = [shown.train(~out, MOST) for out in folds]
    moves = np.zeros(len(shown.fold))

    def worth() -> float:
        return float(pages.values(pages.ranks(shown.start + moves), propensity).sum())

    best = worth(), 0, moves.copy()
    for count in range(0, MOST, _STEP):
        for model, out in zip(models, folds, strict=True):
            some = {"start_iteration": count, "num_iteration": _STEP}
            moves[out] += model.predict(shown.inputs[out], raw_score=True, num_threads=1, **some)
        best = max(best, (worth(), count + _STEP, moves.copy()), key=lambda tried: tried[0])
    _, count, moves = best
    logger.info("trees: %d of %d are worth most on held-out pages", count, MOST)
    if not count:
        return None
    whole = packed(shown.train(np.ones(len(moves), bool), count), count)
    with_trees = replace(
        candidate,
        name=f"{candidate.name}, {NAME}",
        correction=replace(candidate.correction, **whole),
        folds=tuple(
            replace(correction, **packed(model, count))
            for correction, model in zip(candidate.folds, models, strict=True)
        ),
    )
    return TreeFit(with_trees, shown.start + moves, shown.start)


def accept_trees(
    logs: Logs,
    candidate: CorrectionCandidate,
    fold: Ints,
    cluster: Ints,
    propensity: SlotPropensity,
    reward: RewardConfig,
    refit: Callable[[Logs, Ints, Ints], CorrectionCandidate | None],
) -> tuple[CorrectionCandidate, Interval] | None:
    """The candidate with trees, and their lift over it, if whole pages are better by them held out and on later
    requests, by what the earlier ones teach: both lower bounds above 0. None: they are not.

    refit: the accepted candidate of a log with folds and clusters, None if it accepts none.
    """
    pages = PageReplay(logs, reward)
    with_trees = fit_trees(logs, candidate, fold, pages, propensity, reward)
    if with_trees is None or (lift := with_trees.lift(pages, propensity, cluster)).low <= 0:
        return None
    is_later = later_requests(logs)
    early, later = logs.select(~is_later), logs.select(is_later)
    early_fold, early_cluster = fold[~is_later], intervals.numbers_of(cluster[~is_later])
    base = refit(early, early_fold, early_cluster)
    taught = None if base is None else fit_trees(early, base, early_fold, PageReplay(early, reward), propensity, reward)
    if base is None or taught is None:
        return None
    scores, plain = (
        later.value_of(correct(each, later))[later.shown].astype(np.float64)
        for each in (taught.candidate.correction, base.correction)
    )
    lasting = lift_of(scores, plain, PageReplay(later, reward), propensity, intervals.numbers_of(cluster[is_later]))
    logger.info("trees: lift over the correction %s held out, %s on later requests", lift, lasting)
    if lasting.low <= 0:
        return None
    return replace(with_trees.candidate, later=taught.candidate.correction), lift


class _ShownRows:
    """The rows that a log shows, as trees see them."""

    def __init__(
        self, logs: Logs, candidate: CorrectionCandidate, fold: Ints, propensity: SlotPropensity, reward: RewardConfig
    ) -> None:
        shown = logs.shown
        self.request = logs.row_request[shown]
        self.fold = fold[self.request]
        parts: list[Array] = [np.zeros(0)] * len(candidate.folds)
        self.start = np.empty(len(self.request))
        for k, correction in enumerate(candidate.folds):
            some = logs.select(np.flatnonzero(fold == k))
            worth = some.value_of(correct(correction, some))[some.shown].astype(np.float64)
            self.start[self.fold == k] = np.log(np.maximum(worth, 1e-6))
            parts[k] = inputs_of(correction, some)
        self.inputs = np.empty((len(self.request), parts[0].shape[1]), np.float32)
        for k, part in enumerate(parts):
            self.inputs[self.fold == k] = part
        value = (logs.value_of(logs.feedback) / propensity.divisors(logs, reward.propensity_floor))[shown]
        steps = np.unique(np.quantile(value[value > 0], np.linspace(0, 1, _GRADES)))
        self.grade = np.where(value > 0, np.searchsorted(steps, value, side="right"), 0)
        self.gain = np.bincount(self.grade, value) / np.maximum(np.bincount(self.grade), 1)
        self.page_size = reward.page_size

    def train(self, rows: Bools, rounds: int) -> Any:
        """LambdaMART of some rows."""
        lightgbm = require("lightgbm", "trees")
        sizes = np.bincount(self.request[rows])
        parameters = _PARAMETERS | {"label_gain": self.gain.tolist(), "lambdarank_truncation_level": self.page_size}
        known = lightgbm.Dataset(
            self.inputs[rows], label=self.grade[rows], init_score=self.start[rows], group=sizes[sizes > 0]
        )
        return lightgbm.train(parameters, known, rounds)


def inputs_of(correction: Correction, logs: Logs) -> Floats32:
    """Return the inputs of trees for the shown rows of a log, of shape [S, D]."""
    parts = []
    for begin in range(0, logs.num_requests, _BLOCK):
        some = logs.select(np.arange(begin, min(begin + _BLOCK, logs.num_requests)))
        context = some.context[:, [some.features.index(name) for name in correction.features]]
        columns = correction.tree_columns(context, some.predictions, some.offsets, columns_of(correction, some))
        parts.append(columns[some.shown])
    return np.concatenate(parts)


def packed(model: Any, count: int) -> dict[str, Any]:
    """The first trees of a LightGBM model as fields of `Correction`."""
    trees = model.dump_model(num_iteration=count)["tree_info"]
    inputs, thresholds = np.zeros((2, len(trees), NODES), np.float32)
    masks, values = np.full((len(trees), NODES), 255, np.float32), np.zeros((len(trees), NODES + 1), np.float32)
    for g, tree in enumerate(trees):
        nodes: list[tuple[int, float, int]] = []
        leaves: list[float] = []
        _collect(tree["tree_structure"], nodes, leaves)
        for k, (place, threshold, mask) in enumerate(nodes):
            inputs[g, k], masks[g, k], thresholds[g, k] = place, mask, _rounded_down(threshold)
        values[g, : len(leaves)] = leaves
    return dict(zip(TREE_ARRAYS, (inputs, thresholds, masks, values), strict=True))


def _collect(node: dict[str, Any], nodes: list[tuple[int, float, int]], leaves: list[float]) -> None:
    """Nodes (input, threshold, mask) and leaves from the left of a tree of LightGBM."""
    if "leaf_value" in node:
        leaves.append(node["leaf_value"])
        return
    first = len(leaves)
    _collect(node["left_child"], nodes, leaves)
    nodes.append((node["split_feature"], node["threshold"], 255 & ~((1 << len(leaves)) - (1 << first))))
    _collect(node["right_child"], nodes, leaves)


def _rounded_down(threshold: float) -> np.float32:
    """The largest float32 that is not above a threshold: all float32 inputs fall on the same side of it."""
    near = np.float32(threshold)
    return near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf))
