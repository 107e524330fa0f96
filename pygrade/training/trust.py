"""Trust: how far a log proves a policy better than the strongest simple baseline, by K-fold cross-fitting.

Users are split into K folds. Policies and baselines learn from all folds but one and rank the pages of that one, so
that nothing is judged by requests that it learned from. A ranking is worth the debiased value of the logged page in its
order, Σ_r D(r) · v / max(q(slot), floor), as in the posterior of the composite reward.

*The baseline* is the strongest one: that with the highest lower bound of the lift over expected value, which is the
baseline itself if no other is shown to be better. What is served is a mixture (`pygrade.policy.mixture`) of it
with the policy after stage 1 or stage 2, at the trust λ that has the highest lower bound of the lift over the baseline:
paired by request, clustered by user, one-sided at 95 %, widened for the number of mixtures tried
(`intervals.simultaneous`), and the lowest over the interval of the slot propensities. If no bound is above 0 the
baseline itself is served: a policy that is no better is served in at most one log of twenty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade import ops
from pygrade._typing import Array
from pygrade._util.html_table import rows_table
from pygrade._util.serialization import plain
from pygrade._util.workers import HERE, LocalWorkers, Workers
from pygrade.evaluation.arms import EXPECTED_VALUE, LOGGED_ORDER
from pygrade.evaluation.verdict import sentence, strongest, verdict_of
from pygrade.logs import Logs, numbered
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.training.propensity import SlotPropensity

MIN_USERS = 30  # with feedback of value; with fewer, nothing is said
_POOL_REQUESTS = 5_000  # from which on folds are worth processes of their own


@dataclass(frozen=True)
class TrustConfig:
    """Cross-fitting: whether the policy is better than the strongest simple baseline, and how far to trust it."""

    folds: int = 4  # parts of the users; 0: off, the policy is served and nothing says that it beats a baseline
    shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)  # λ tried; 1: the policy alone
    processes: int = 2  # that train folds at the same time, without --cluster

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds is {self.folds}; want 0, or 2 or more")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares is {self.shares}; want numbers above 0, up to 1")
        if self.processes < 1:
            raise ValueError(f"processes is {self.processes}; want 1 or more")


class RewardOptions(Protocol):
    """The options of `RewardConfig` that decide what a page is worth."""

    @property
    def propensity_floor(self) -> float: ...
    @property
    def page_size(self) -> int: ...
    @property
    def discount(self) -> str: ...


class Rankings(NamedTuple):
    """Standardized scores of a fold's shown rows, float32 [S] each, by name."""

    baselines: dict[str, NDArray[np.float32]]
    policies: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Trust:
    """What cross-fitting found. Lifts are relative; their intervals cover all at once (mixtures, baselines)."""

    verdict: str  # see `pygrade.policy.mixture.Verdict`
    sentence: str
    baseline: str  # the strongest one
    served_baseline: str  # what is mixed with: the strongest one that a ranker can serve
    policy: str  # that the served mixture has: stage 1 or GRADE
    trust: float  # λ that is served
    lift: Interval | None  # of what is served, over the baseline
    mixtures: dict[str, Interval]  # over the baseline
    baselines: dict[str, Interval]  # over the baseline
    folds: int
    users: int
    propensity: str  # where the slot propensities come from

    def mixture(self, baselines: Sequence[Baseline]) -> Mixture:
        """For the served policy; baselines: as fitted to the whole log."""
        anchor = next(entry for entry in baselines if entry.name == self.served_baseline)
        return Mixture(self.trust, anchor, self.verdict, self.sentence, tuple(baselines))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts for JSON."""
        record: dict[str, Any] = plain(self)
        return record

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        rows = [[name, lift.text(percent=True)] for name, lift in (self.mixtures | self.baselines).items()]
        return rows_table(self.sentence, ["ranking", f"lift over {self.baseline}"], rows)


def fold_of_requests(logs: Logs, folds: int, seed: int) -> NDArray[np.int64]:
    """[R]: the fold of each request's user; folds have equally many users."""
    users = numbered(logs.user_id)
    place = np.random.default_rng([seed, 3]).permutation(int(users.max(initial=-1)) + 1)
    return np.asarray(place[users] % folds)


def too_little(logs: Logs, fold: NDArray[np.int64]) -> str:
    """Why the log is too small to cross-fit; empty if it is not."""
    valued = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1]) != 0
    users = len(np.unique(numbered(logs.user_id)[valued]))
    if users < MIN_USERS:
        return f"{users} users gave feedback of value; want {MIN_USERS}"
    for number in np.unique(fold):
        if not valued[fold != number].any():
            return f"all feedback of value is of the users of fold {number}"
    return ""


def fold_workers(config: TrustConfig, logs: Logs, workers: Workers) -> Workers:
    """Where the folds are trained: if nothing else is said, in as many processes of this machine as are worth it."""
    if workers is not HERE:
        return workers
    return LocalWorkers(min(config.processes, config.folds) if logs.num_requests >= _POOL_REQUESTS else 1)


def standardized(scores: NDArray[np.float32], logs: Logs) -> NDArray[np.float32]:
    """z of scores [M] within each request, of the shown rows alone."""
    ones = torch.ones(logs.num_requests, 1)
    pair = torch.from_numpy(np.ascontiguousarray(scores, np.float32))[:, None]
    z = ops.fuse_scores(pair, ones, offsets=torch.from_numpy(logs.offsets), transform="zscore", epsilon=1e-6)
    return np.asarray(z.numpy()[logs.shown])


class Pages:
    """The logged pages: what an order of their items is worth."""

    def __init__(self, logs: Logs, reward: RewardOptions) -> None:
        self.count = logs.num_requests
        self._request, self._slot = logs.row_request[logs.shown], logs.position[logs.shown]
        self._value, self._reward = logs.value_of(logs.feedback)[logs.shown], reward
        sizes = np.bincount(self._request, minlength=self.count)
        self._start = np.cumsum(sizes) - sizes

    def ranks(self, scores: Array) -> NDArray[np.int64]:
        """[S] of scores [S]: score descending, then the order of the log."""
        order = np.lexsort((-scores, self._request))
        result = np.empty(len(order), np.int64)
        result[order] = np.arange(len(order)) - self._start[self._request[order]]
        return result

    def logged(self) -> NDArray[np.int64]:
        """[S]: ranks by slot."""
        return self.ranks(-self._slot.astype(np.float64))

    def values(self, rank: NDArray[np.int64], propensity: SlotPropensity) -> NDArray[np.float64]:
        """[R]: the debiased value of each page in the order of ranks [S]."""
        size = self._reward.page_size
        curve = propensity.curve(max(int(self._slot.max(initial=0)) + 1, size))
        attention = self._reward.discount == "attention" and propensity.exponent > 0
        discount = curve[:size] if attention else 1.0 / np.log2(np.arange(size) + 2.0)
        gain = self._value / np.maximum(curve, self._reward.propensity_floor)[self._slot]
        earned = np.where(rank < size, discount[np.minimum(rank, size - 1)] * gain, 0.0)
        return np.asarray(np.bincount(self._request, earned, self.count), np.float64)


def judge(
    logs: Logs,
    fold: NDArray[np.int64],
    rankings: Sequence[Rankings],
    config: TrustConfig,
    reward: RewardOptions,
    propensity: SlotPropensity,
) -> Trust:
    """Choose the baseline, the policy and its trust by the rankings of the folds.

    logs: with the values of events that count.
    """
    baselines = _joined(logs, fold, [part.baselines for part in rankings])
    policies = _joined(logs, fold, [part.policies for part in rankings])
    pages, users = Pages(logs, reward), numbered(logs.user_id)
    curves = [propensity, *propensity.bounds()]
    ranks = {name: pages.ranks(scores) for name, scores in baselines.items()}
    worth = {name: pages.values(rank, propensity) for name, rank in ranks.items()}
    if (ordered := _logged_order(logs, pages, propensity)) is not None:
        worth[LOGGED_ORDER] = ordered
    lows = strongest(worth, EXPECTED_VALUE, users)
    baseline = max(lows, key=lambda name: lows[name])
    anchor = max(ranks, key=lambda name: lows[name])

    names = [(policy, share) for policy in policies for share in config.shares]
    mixed = [
        pages.ranks((1 - share) * baselines[anchor] + share * policies[policy].astype(np.float64))
        for policy, share in names
    ]
    found: list[list[Interval]] = []
    for curve in curves:
        base = _logged_order(logs, pages, curve) if baseline == LOGGED_ORDER else pages.values(ranks[baseline], curve)
        assert base is not None
        lifts = [intervals.mean_lift(pages.values(rank, curve), base) for rank in mixed]
        found.append(intervals.simultaneous(lifts, users, one_sided=True))
    bounded = [
        Interval(entry[0].value, entry[0].standard_error, min(e.low for e in entry), max(e.high for e in entry))
        for entry in zip(*found, strict=True)
    ]
    best = max(range(len(names)), key=lambda place: _or_lowest(bounded[place].low))
    last = max(place for place, entry in enumerate(names) if entry[1] == max(config.shares))
    (policy, share), shown, worst = names[best], bounded[best], bounded[last]
    others = {name: value for name, value in worth.items() if name != baseline}
    against = [intervals.mean_lift(value, worth[baseline]) for value in others.values()]
    verdict = verdict_of(shown)
    if verdict != "better" and worst.high < 0:
        verdict, (policy, share), shown = "worse", names[last], worst
    better = verdict == "better"
    return Trust(
        verdict=verdict,
        sentence=sentence(label(policy, share, anchor), baseline, shown, logs, f"{anchor} is served"),
        baseline=baseline,
        served_baseline=anchor,
        policy=policy,
        trust=share if better else 0.0,
        lift=shown if better else None,
        mixtures={label(*entry, anchor): lift for entry, lift in zip(names, bounded, strict=True)},
        baselines=dict(zip(others, intervals.simultaneous(against, users, one_sided=True), strict=True)),
        folds=len(rankings),
        users=int(users.max(initial=-1)) + 1,
        propensity=propensity.note,
    )


def undecidable(reason: str, policy: str, folds: int, logs: Logs, propensity: SlotPropensity) -> Trust:
    """Nothing can be said, for this reason: expected value is served."""
    return Trust(
        verdict="undecidable",
        sentence=f"not decidable on this log: {EXPECTED_VALUE} is served. {reason[0].upper()}{reason[1:]}",
        baseline=EXPECTED_VALUE,
        served_baseline=EXPECTED_VALUE,
        policy=policy,
        trust=0.0,
        lift=None,
        mixtures={},
        baselines={},
        folds=folds,
        users=int(numbered(logs.user_id).max(initial=-1)) + 1,
        propensity=propensity.note,
    )


def label(policy: str, share: float, baseline: str) -> str:
    """A mixture's name: the policy's own if it is served alone."""
    return policy if share == 1 else f"{share:g} {policy} + {1 - share:g} {baseline}"


def _joined(
    logs: Logs, fold: NDArray[np.int64], parts: Sequence[Mapping[str, NDArray[np.float32]]]
) -> dict[str, NDArray[np.float32]]:
    """Scores of all shown rows, put together from those of the folds."""
    of_row = fold[logs.row_request[logs.shown]]
    result = {name: np.empty(len(of_row), np.float32) for name in parts[0]}
    for number, part in enumerate(parts):
        for name, scores in part.items():
            result[name][of_row == number] = scores
    return result


def _or_lowest(bound: float) -> float:
    return bound if math.isfinite(bound) else -math.inf


def _logged_order(logs: Logs, pages: Pages, propensity: SlotPropensity) -> NDArray[np.float64] | None:
    """[R]: the pages in production's own order, NaN where it explored; None if it always did."""
    values = pages.values(pages.logged(), propensity)
    if logs.exploration is not None:
        values[logs.exploration != "none"] = np.nan
    return None if bool(np.isnan(values).all()) else values
