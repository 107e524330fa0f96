"""The gate: whether corrected predictions are better than what is served without them, by held-out feedback.

*Joint likelihood.* The events of all root tasks on a page are one multinomial draw over task × candidate, given their
number: what makes some users buy more than predicted orders their pages, since it moves orders against clicks. Each
task stands at its own overall level, since a level alone calls noise better. A child is judged on the rows with its
parent's event. An amount counts one over its dispersion, so that its unit does not matter.

*By value.* With shares q of a page's n events where others are p, row i and task t gain

    c_t w_i (y_it log(q_it / p_it) - n (q_it - p_it))

which is a proper score at any weights that do not look at feedback (log x ≤ x - 1): c_t is what a relative error of
the task's rate costs in value, w_i how much more row i is examined in the new order than in the log.

*Value given the page.* Better probabilities need not change an order. The same score with one task, the value of the
feedback, and q_i ∝ θ_i · EV_i^τ with the τ of highest likelihood, tells the orders apart.

The gate opens if, in standard errors clustered by user:

- the likelihood is at least `NEEDED`, the threshold raised for the number of candidates tried (max-t);
- one of the scores of value agrees: by value at least `BY_VALUE`, or value given the page at least `NEEDED`;
- value given the page, which sees few dear events, supports the others by `SUPPORTS` where it is below `NEEDED`; by
  `NEEDED` where each task is moved by itself, which changes few orders;
- later requests, which teach nothing, do not contradict: `LATER`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.correction.inputs import UNSURE, downward
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs

NEEDED = 3.0  # standard errors
BY_VALUE, SUPPORTS = 2.0, 1.0
LATER = -1.0  # standard errors of the gain on later requests, which teach nothing, from which on they contradict
LATER_ITEMS = 0.0  # of the likelihood there, of what knows items: else an item's own hour proves it
_DRAWS = 200_000  # of the largest z
_LEAST = 1e-3  # of a page's mean expected value: the smallest whose logarithm is taken
_STEPS = 20  # of τ
_MOST_WEIGHT = 4.0  # of a row


@dataclass(frozen=True)
class Gain:
    """A candidate's gain on held-out feedback, in standard errors (z) where nothing else is said."""

    value: float  # nats per request of the joint likelihood
    z: float  # of the joint likelihood
    z_value: float  # of the same by value
    z_page: float = math.nan  # of the value given the page
    later: float = math.nan  # z of the joint likelihood on later requests, by a fit of the earlier ones
    later_page: float = math.nan  # of the value given the page, on these
    needed: float = NEEDED  # of z
    support: float = SUPPORTS  # of z_page
    items: bool = False  # it uses items, by their effects or columns

    @property
    def failure(self) -> str:
        """The first rule that it breaks, in words; "": it passes."""
        if not self.z >= self.needed:
            return f"its likelihood is z {self.z:.1f}, expected {self.needed:.1f}"
        if not max(self.z_value, -math.inf if math.isnan(self.z_page) else self.z_page) >= BY_VALUE:
            order = "" if math.isnan(self.z_page) else f", and of its order {self.z_page:.1f}"
            return f"its likelihood by value is z {self.z_value:.1f}, expected {BY_VALUE:g}{order}"
        if self.z_page < self.support:
            return f"its order is worth z {self.z_page:.1f}, expected {self.support:g}"
        if self.later_page < LATER:
            return f"on later requests its order is worth z {self.later_page:.1f}, expected {LATER:g}"
        if self.items and self.later < LATER_ITEMS:
            return f"of items it learned what does not last: z {self.later:.1f} later, expected {LATER_ITEMS:g}"
        return ""

    @property
    def passes(self) -> bool:
        return not self.failure

    @property
    def better_predictions(self) -> bool:
        """The likelihood proves that they are better, whatever that is worth, and later requests do not contradict."""
        return self.z >= self.needed and not self.later < LATER

    @property
    def text(self) -> str:
        """The gain as evidence, in a line."""
        return f"likelihood z {self.z:.1f}, by value {self.z_value:.1f}"


class JointLikelihood:
    """Likelihood of the feedback on a log's pages under conditional probabilities."""

    def __init__(self, logs: Logs, parents: tuple[int, ...], theta: Floats, cases: Sequence[float]) -> None:
        """theta [S]: examination of the shown rows; cases [T]: weight of a unit, see `inputs.unit_weight`."""
        shown = logs.shown
        self.request, self.count, self.theta = logs.row_request[shown], logs.num_requests, theta
        self.parents, self._feedback = parents, logs.feedback[shown].astype(np.float64)
        counted = [t for t, parent in enumerate(self.parents) if parent < 0 and self._feedback[:, t].any()]
        self.events = {t: cases[t] * self._feedback[:, t] for t in counted}
        self.page = self._sums(sum(self.events.values(), np.zeros(len(theta))))[self.request]
        self.costs = self._costs(logs)

    def shares(self, conditional: Floats) -> Floats:
        """Return shares [S, T] of conditional [S, T]: of the page's events for root tasks, probabilities for others."""
        result, total = np.clip(conditional, UNSURE, 1 - UNSURE), np.zeros(self.count)
        for t, y in self.events.items():
            mean = self.theta * np.maximum(conditional[:, t], 1e-30)
            result[:, t] = mean * (y.sum() / mean.sum())
            total += self._sums(result[:, t])
        for t in self.events:
            result[:, t] = np.maximum(result[:, t] / total[self.request], 1e-30)
        return result

    def gain(self, new: Floats, old: Floats, costs: Floats | None = None, weight: Floats | float = 1.0) -> Floats:
        """Return the log likelihood [R] of shares over others; costs [T], weight [S]: what tasks and rows count."""
        total = np.zeros(len(self.theta))
        for t, parent in enumerate(self.parents):
            q, p = new[:, t], old[:, t]
            if t in self.events:
                terms = self.events[t] * np.log(q / p) - self.page * (q - p)
            elif parent >= 0:
                y = self._feedback[:, t]
                terms = self._feedback[:, parent] * (y * np.log(q / p) + (1 - y) * np.log((1 - q) / (1 - p)))
                terms = np.where(self._feedback[:, parent] > 0, terms, 0.0)
            else:
                continue
            total += terms * (1.0 if costs is None else costs[t])
        return self._sums(weight * total)

    def _costs(self, logs: Logs) -> Floats:
        """Return the squared value [T] of a task and of what follows it, over its information.

        Relative errors of a task's rate move the value of a page by this much per nat.
        """
        values, parents = logs.event_values.astype(np.float64), self.parents
        worth = self._feedback * (values[logs.shown] if len(values) > 1 else values)
        rate, below = self._feedback.mean(0), worth.mean(0)
        total = below.sum()
        for t in reversed(downward(parents)):
            if parents[t] >= 0:
                below[parents[t]] += below[t]
        result = np.empty(len(rate))
        for t, parent in enumerate(parents):
            information = (
                self.events[t].mean() if t in self.events else rate[t] * (1 - rate[t] / max(rate[parent], 1e-9))
            )
            result[t] = below[t] ** 2 / max(information, 1e-30)
        return np.asarray(result / max(total**2, 1e-30))

    def _sums(self, values: Array) -> Floats:
        return np.asarray(np.bincount(self.request, values, self.count), np.float64)


@dataclass(frozen=True, eq=False)
class PageShares:
    """A ranking's shares of the value of each page's feedback, by shown row."""

    share: Floats  # [S] of the page
    gain: Floats  # [R] log likelihood of the value
    weight: Floats  # [S] examination in this ranking over that in the log, cut to within `_MOST_WEIGHT`


class PageValues:
    """The value of the logged pages' feedback, by which rankings are compared."""

    def __init__(self, logs: Logs, theta: Floats) -> None:
        """theta [S]: examination of the shown rows."""
        shown = logs.shown
        self.shown, self.offsets, self.count = shown, logs.offsets, logs.num_requests
        self.request, slot = logs.row_request[shown], logs.position[shown]
        self.looked = np.log(np.maximum(theta, 1e-12))
        views = np.bincount(slot)
        curve = np.bincount(slot, theta) / np.maximum(views, 1)
        self._curve, self._logged = np.append(curve, 0.0), np.maximum(curve[slot], 1e-12)
        self.value = logs.value_of(logs.feedback)[shown]
        self.page = self._sums(self.value)

    def rank(self, scores: Floats, logarithm: bool = False) -> PageShares:
        """Shares ∝ θ exp(τ · score) at the τ ≥ 0 of highest likelihood, of all candidates' scores [M].

        logarithm: of the scores, which are expected values; at least a thousandth of the page's mean each.
        """
        rank = np.minimum(ranks(scores, self.offsets)[self.shown], len(self._curve) - 1)
        weight = np.clip(self._curve[rank] / self._logged, 1 / _MOST_WEIGHT, _MOST_WEIGHT)
        score, size = scores[self.shown].astype(np.float64), np.maximum(self._sums(np.ones(len(self.request))), 1)
        if logarithm:
            least = (_LEAST * self._sums(np.abs(score)) / size)[self.request]
            score = np.log(np.maximum(score, np.maximum(least, 1e-30)))
        score = score - (self._sums(score) / size)[self.request]
        tau, deviation = 0.0, max(float(score.std()), 1e-12)
        for _ in range(_STEPS):
            share = self._softmax(tau * score)
            mean = self._sums(share * score)
            spread = self._sums(share * np.square(score)) - np.square(mean)
            slope, bend = float(self.value @ score - self.page @ mean), float(np.maximum(self.page, 0) @ spread)
            move = np.clip(slope / max(bend, 1e-12), -1 / deviation, 1 / deviation)
            tau = max(tau + float(move), 0.0)
            if abs(move) * deviation < 1e-4:
                break
        share = self._softmax(tau * score)
        return PageShares(share, self._sums(self.value * np.log(share)), weight)

    def gain(self, new: PageShares, old: PageShares) -> Floats:
        """Return what the new ranking's shares gain over the old one's, of shape [R]."""
        terms = self.value * np.log(new.share / old.share) - self.page[self.request] * (new.share - old.share)
        return self._sums(new.weight * terms)

    def _sums(self, values: Array) -> Floats:
        return np.asarray(np.bincount(self.request, values, self.count), np.float64)

    def _softmax(self, score: Floats) -> Floats:
        score = score + self.looked
        highest = np.full(self.count, -np.inf)
        np.maximum.at(highest, self.request, score)
        power = np.exp(score - highest[self.request])
        return np.asarray(np.maximum(power / self._sums(power)[self.request], 1e-30))


def zscore(values: Array, cluster: Array) -> float:
    """The mean of values [R] over its standard error, clustered."""
    sums = np.bincount(cluster, values)
    error = np.sqrt(np.square(sums - sums.mean()).sum()) / len(values)
    return float(values.mean() / error) if error > 0 else 0.0


def needed_of(gains: Sequence[Floats], cluster: Array) -> float:
    """z that the best of several gains [R] needs to be as sure as one of `NEEDED`, by their correlation."""
    sums = np.stack([np.bincount(cluster, gain) for gain in gains])
    sums -= sums.mean(1, keepdims=True)
    sums = sums[np.square(sums).sum(1) > 0]
    if len(sums) < 2:
        return NEEDED
    scaled = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(scaled @ scaled.T)
    draws = np.random.default_rng(0).standard_normal((_DRAWS, len(values)))
    largest = (draws * np.sqrt(np.maximum(values, 0.0)) @ vectors.T).max(1)
    return max(float(np.quantile(largest, NormalDist().cdf(NEEDED))), NEEDED)
