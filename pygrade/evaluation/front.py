"""The front of a policy with trade-offs: how many events of each task it earns as the multipliers u of their values
turn, and the u that keeps some tasks' events and earns most of another.

Rankings re-order the logged page, debiased by slot as in training: Σ_r D(r) · y_jt / max(q(slot_j), floor) over the
first k ranks. Predicted events rank all candidates and count the model's own predictions instead. Both are lifts over
production, paired by request.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pygrade import ops
from pygrade._typing import Array
from pygrade._util.serialization import plain
from pygrade.evaluation.arms import EXPECTED_VALUE
from pygrade.logs import Logs, numbered, pad
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.policy import FusionPolicy

VALUE = "value"  # of the events of all tasks, beside the tasks
AS_TRAINED = "u = 1"
REACH = 8.0  # multipliers go from 1 / REACH to REACH; training draws few beyond
_STEPS = 7  # points of a path between two tasks
_POPULATION, _ELITE, _ITERATIONS = 20, 5, 8


@dataclass(frozen=True)
class Point:
    """A ranking in lifts over production, by task and for `VALUE`."""

    values: dict[str, float] | None  # multipliers u; None: not the policy's
    events: dict[str, Interval]  # debiased
    predicted: dict[str, float]


@dataclass(frozen=True)
class Front:
    """The trade-offs that a policy offers on a log."""

    num_requests: int
    num_users: int
    tasks: tuple[str, ...]  # whose multipliers turn
    marks: dict[str, Point]  # `EXPECTED_VALUE` and `AS_TRAINED`; production is 0
    knobs: dict[str, Point]  # one task's multiplier turned by 4
    paths: list[tuple[str, str, list[Point]]]  # a, b, and points from the most of a to the most of b, others at u = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts for JSON."""
        record: dict[str, Any] = plain(self)
        return record


@dataclass(frozen=True)
class Solution:
    """Multipliers that keep some tasks' events at a level of production's and earn most of another."""

    values: dict[str, float]
    searched: dict[str, float]  # lifts on the requests of the search
    lacking: dict[str, float]  # task → what the search lacks to the level, of tasks whose level is out of reach
    judged: Point  # on other requests

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts for JSON."""
        record: dict[str, Any] = plain(self)
        return record


class Judge:
    """Counts events of rankings of a log, as lifts over production.

    propensity [S] of the slots; None: nothing is known, every slot counts alike and ranks by DCG. Events are worth what
    the log says. production [M]: scores.
    """

    def __init__(
        self,
        policy: FusionPolicy,
        logs: Logs,
        production: Array,
        propensity: Array | None,
        k: int = 10,
        floor: float = 0.15,
    ) -> None:
        if not policy.config.trade_offs:
            raise ValueError("policy has no trade_offs; want one trained with them (--policy.trade-offs)")
        self.policy, self.logs = policy, logs
        self.users = numbered(logs.user_id)
        self._inputs = policy.request_inputs(logs.context, logs.predictions, logs.offsets)
        looks, discount = np.ones(logs.num_rows), 1.0 / np.log2(np.arange(k) + 2.0)
        if propensity is not None:
            looks = np.maximum(propensity, floor)[np.clip(logs.position, 0, len(propensity) - 1)]
            discount = propensity[np.minimum(np.arange(k), len(propensity) - 1)]
        debiased, predicted = (
            np.concatenate([amounts, logs.value_of(amounts)[:, None]], 1)
            for amounts in (logs.feedback, logs.predictions)
        )
        gains, exists = pad(np.concatenate([debiased / looks[:, None], predicted], 1), logs.offsets)
        self._gains = torch.from_numpy(gains.astype(np.float32))
        self._masks = torch.from_numpy(np.stack([pad(logs.shown, logs.offsets)[0], exists], 1))
        self._lists = torch.arange(2, dtype=torch.int32).repeat_interleave(len(self.names))
        self._discount = torch.from_numpy(discount.astype(np.float32))
        self._base = self._counted(production)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns: tasks, then `VALUE`."""
        return (*self.logs.tasks, VALUE)

    def _counted(self, scores: Array) -> tuple[Array, Array]:
        """Debiased and predicted events per request [R, T + 1] of ranking by scores [M]."""
        padded = torch.from_numpy(pad(np.asarray(scores, np.float32), self.logs.offsets)[0])[..., None]
        one = torch.ones(len(padded), 1, 1)
        lists = (self._discount, self._masks, self._lists)
        gain = ops.topk_gain(padded, one, self._gains, len(self._discount), *lists)[:, 0].numpy().astype(np.float64)
        return gain[:, : len(self.names)], gain[:, len(self.names) :]

    def scores(self, values: Sequence[float]) -> Array:
        """[M]: `FusionPolicy.scores` at multipliers [T], with the inputs computed once."""
        logs, policy = self.logs, self.policy
        u = torch.tensor(values, dtype=torch.float32).repeat(logs.num_requests, 1)
        inputs = torch.cat([self._inputs[:, : -len(logs.tasks)], policy.spec.value_inputs(u)], 1)
        weights = policy.serve(inputs, logs.scenario)
        return policy.scores_of(weights, logs.predictions, logs.offsets, u, logs.value).numpy()

    def point(self, scores: Array, values: Sequence[float] | None = None) -> Point:
        """Ranking by scores [M]; values [T]: the multipliers that they are the policy's at."""
        (new, predicted), (old, expected), ones = self._counted(scores), self._base, np.ones(self.logs.num_requests)
        events = {
            name: intervals.ratio_lift((new[:, t], ones), (old[:, t], ones), self.users)
            for t, name in enumerate(self.names)
        }
        named = None if values is None else dict(zip(self.logs.tasks, map(float, values), strict=True))
        return Point(named, events, dict(zip(self.names, _lift(predicted, expected).tolist(), strict=True)))

    def at(self, values: Sequence[float]) -> Point:
        """The policy at multipliers [T]."""
        return self.point(self.scores(values), values)

    def lifts(self, values: Sequence[float]) -> Array:
        """[T + 1]: the debiased lifts of `at`."""
        return _lift(self._counted(self.scores(values))[0], self._base[0])


def _lift(new: Array, old: Array) -> Array:
    """Of the means of columns [R, n]; NaN where there is no event."""
    base = old.mean(0)
    return np.asarray(np.divide(new.mean(0), base, out=np.full(len(base), np.nan), where=base != 0) - 1.0)


def front(judge: Judge, tasks: Sequence[str], expected_value: Array) -> Front:
    """What the policy offers between these tasks; expected_value [M]: scores."""
    every = judge.logs.tasks
    _check_known("tasks", tasks, every)
    if len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks is {', '.join(tasks)}; want each task once")

    def at(**factors: float) -> Point:
        return judge.at([factors.get(task, 1.0) for task in every])

    path = [REACH**step for step in np.linspace(1.0, -1.0, _STEPS)]
    return Front(
        num_requests=judge.logs.num_requests,
        num_users=int(judge.users.max(initial=-1)) + 1,
        tasks=tuple(tasks),
        marks={EXPECTED_VALUE: judge.point(expected_value), AS_TRAINED: at()},
        knobs={f"{task} {sign}": at(**{task: u}) for task in tasks for sign, u in (("× 4", 4.0), ("/ 4", 0.25))},
        paths=[(a, b, [at(**{a: u, b: 1 / u}) for u in path]) for i, a in enumerate(tasks) for b in tasks[i + 1 :]],
    )


def solve(search: Judge, judge: Judge, keep: Mapping[str, float], most: str = VALUE, seed: int = 0) -> Solution:
    """The multipliers that keep each task's events at ``keep[task]`` × production's or above and earn most events of
    the task ``most`` (or most `VALUE`), found on the requests of ``search``, judged on those of ``judge``.

    Cross-entropy search over log u. A vector that lacks less of the levels is better than one that lacks more. The
    policy may have been trained on the requests of the search: what its lifts at u = 1 are too high there, compared
    with the judging requests, is taken off.
    """
    names = search.names
    _check_known("keep", keep, names)
    _check_known("most", [most], names)
    if not keep or not all(level > 0 and math.isfinite(level) for level in keep.values()):
        raise ValueError(f"keep is {dict(keep)}; want a positive share of production's events for at least one task")
    kept, target = [names.index(task) for task in keep], names.index(most)
    wanted = np.array(list(keep.values())) - 1.0
    silent = [names[t] for t in (*kept, target) if not search._base[0][:, t].any()]
    if silent:
        raise ValueError(f"keep and most name {silent[0]!r}, of which the log has no event")
    rng, reach = np.random.default_rng(seed), math.log(REACH)
    plain = np.ones(len(names) - 1).tolist()
    optimism = np.zeros(len(names)) if search is judge else search.lifts(plain) - judge.lifts(plain)
    mean, spread = np.zeros(len(names) - 1), np.full(len(names) - 1, 0.8)
    tried: list[tuple[float, float, Array, Array]] = []  # lacking, minus what is earned, log u, lifts
    for _ in range(_ITERATIONS):
        draws = np.clip(mean + spread * rng.standard_normal((_POPULATION, len(mean))), -reach, reach)
        draws[0] = mean  # at first u = 1
        for draw in draws:
            lifts = search.lifts(np.exp(draw).tolist()) - optimism
            lacking = float(np.maximum(wanted - lifts[kept], 0.0).max())
            tried.append((lacking, -float(lifts[target]), draw, lifts))
        tried.sort(key=lambda entry: entry[:2])
        elite = np.stack([draw for _, _, draw, _ in tried[:_ELITE]])
        mean, spread = elite.mean(0), 0.9 * elite.std(0) + 0.03
    _, _, best, lifts = tried[0]
    values = np.exp(best)
    missing = {task: float(gap) for task, gap in zip(keep, wanted - lifts[kept], strict=True) if gap > 0}
    searched = dict(zip(names, lifts.tolist(), strict=True))
    return Solution(dict(zip(names, values.tolist(), strict=False)), searched, missing, judge.at(values.tolist()))


def _check_known(option: str, named: Sequence[str] | Mapping[str, float], known: Sequence[str]) -> None:
    for name in named:
        if name not in known:
            raise ValueError(f"{option} names {name!r}; want one of {', '.join(known)}")
