"""Requests with their truth, and how users browse a page: exact expected value and drawn events of one process."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from pygrade._typing import Array, Bools, Floats, Ints
from pygrade.logs import Logs

Rng = np.random.Generator
START, DAY = 1_767_225_600_000, 86_400_000  # 2026-01-01, in ms
_SPREAD = 1.0  # standard deviation of the logarithm of an amount


@dataclass(frozen=True)
class Browsing:
    """A visit goes down the page: it looks at slot k with probability `look[k]`, has each task's event with that of its
    parent, and goes on with probability `patience` unless an event of `stop` ended it. Of `once` a visit has one event.
    """

    look: Floats  # [S]
    parents: tuple[int, ...]  # [T], -1: none
    patience: float = 1.0
    stop: int | None = None  # a task
    once: int | None = None  # a task; not together with `stop`
    amounts: tuple[int, ...] = ()  # tasks whose events have a size, with mean 1 of what is expected given the parent

    def value(self, truth: Floats, worth: Floats) -> Floats:
        """[R]: expected value of pages. truth [R, S, T]: expected events of a look; worth [R, S, T]: of an event."""
        on, total = np.ones(len(truth)), np.zeros(len(truth))
        open_ = np.ones(len(truth))
        for k in range(truth.shape[1]):
            gain = truth[:, k] * worth[:, k]
            if self.once is not None:
                gain[:, self.once] *= open_
                open_ = open_ * (1 - self.look[k] * truth[:, k, self.once])
            total += on * self.look[k] * gain.sum(1)
            stop = 0.0 if self.stop is None else self.look[k] * truth[:, k, self.stop]
            on = on * self.patience * (1 - stop)
        return total

    def events(self, rng: Rng, truth: Floats) -> Floats:
        """Return drawn feedback of pages, expected as `value` counts it, of shape [R, S, T]."""
        count, slots, tasks = truth.shape
        on, open_ = np.ones(count, bool), np.ones(count, bool)
        result = np.zeros(truth.shape)
        for k in range(slots):
            seen = on & (rng.random(count) < self.look[k])
            for t in range(tasks):
                parent = self.parents[t]
                before = seen if parent < 0 else result[:, k, parent] > 0
                given = truth[:, k, t] / (1.0 if parent < 0 else np.maximum(truth[:, k, parent], 1e-12))
                if t in self.amounts:
                    noise = rng.standard_normal(count) * _SPREAD - _SPREAD**2 / 2
                    result[:, k, t] = before * given * np.exp(noise)
                else:
                    result[:, k, t] = before & (rng.random(count) < given)
            if self.once is not None:
                result[:, k, self.once] *= open_
                open_ &= result[:, k, self.once] == 0
            if self.stop is not None:
                on = on & (result[:, k, self.stop] == 0)
            on = on & (rng.random(count) < self.patience)
        return result


@dataclass(frozen=True)
class Requests:
    """R requests of N candidates and what no log has. Rankings are places [R, S] of candidates, best first."""

    logs: Logs
    truth: Floats  # [R, N, T] expected events of a look
    production: Floats  # [R, N] scores of production's order
    browsing: Browsing

    @property
    def size(self) -> int:
        """N."""
        return int(self.truth.shape[1])

    def grid(self, rows: Array) -> Array:
        """[R, N, …] of rows [M, …]."""
        return rows.reshape(-1, self.size, *rows.shape[1:])

    def ranking(self, scores: Array, among: Bools | None = None) -> Ints:
        """The page by scores [R, N] or [M], of all candidates or those among [M]."""
        scores = np.asarray(scores, float).reshape(-1, self.size)
        if among is not None:
            scores = np.where(self.grid(among), scores, -np.inf)
        return np.argsort(-scores, 1, kind="stable")[:, : len(self.browsing.look)]

    def earned(self, ranking: Ints) -> Floats:
        """Return the expected value of pages, of shape [R]."""
        logs = self.logs
        worth = self.grid(np.broadcast_to(logs.event_values, (logs.num_rows, len(logs.tasks))).astype(np.float64))
        truth, worth = (np.take_along_axis(part, ranking[..., None], 1) for part in (self.truth, worth))
        return self.browsing.value(truth, worth)

    def predicted(self) -> Ints:
        """The page by expected value of the predictions."""
        return self.ranking(self.logs.value_of(self.logs.predictions))

    def oracle(self) -> Ints:
        """The page by the true value of a look."""
        return self.ranking(self.logs.value_of(self.truth.reshape(-1, self.truth.shape[-1])))


@dataclass(frozen=True)
class World(ABC):
    """A source of requests; see the subclasses."""

    seed: int

    @property
    def cause(self) -> tuple[str, tuple[str, ...]] | None:
        """The task whose predictions are wrong, and the columns that tell; None: nothing single."""
        return None

    def draw(self, requests: int, later: int) -> tuple[Requests, Requests]:
        """The log, and so many later requests."""
        return self.requests(requests, 0), self.requests(later, 1)

    @abstractmethod
    def requests(self, count: int, number: int) -> Requests:
        """Requests of one draw: 0 the log, 1 later ones."""


def assemble(
    rng: Rng, browsing: Browsing, truth: Floats, predictions: Floats, production: Floats, shuffled: float, **fields: Any
) -> Requests:
    """Requests whose pages production made and users browsed.

    shuffled: share of the pages with production's choice in random order. fields: of `Logs`; item_id, category, value
    [R, N], an item column `item_features` [R, N] beside the value, timestamp [R] of `moment`.
    """
    count, size, tasks = truth.shape
    slots = len(browsing.look)
    page = np.argsort(-production, 1, kind="stable")[:, :slots]
    moved = rng.random(count) < shuffled
    page[moved] = rng.permuted(page[moved], axis=1)
    feedback, position = np.zeros(truth.shape), np.full((count, size), -1)
    np.put_along_axis(position, page, np.broadcast_to(np.arange(slots), page.shape), 1)
    events = browsing.events(rng, np.take_along_axis(truth, page[..., None], 1))
    np.put_along_axis(feedback, page[..., None], events, 1)
    grids = [name for name in ("item_id", "category", "value") if name in fields]
    rows: dict[str, Any] = {name: fields.pop(name).reshape(-1) for name in grids}
    if "value" in rows:  # with one item column beside it
        rows |= {"value": rows["value"].astype(np.float32)}
        rows |= {"item_features": fields.pop("item_features").reshape(-1, 1).astype(np.float32)}
    logs = Logs(
        request_id=np.arange(count),
        offsets=np.arange(count + 1) * size,
        context=fields.pop("context").astype(np.float32),
        position=position.reshape(-1).astype(np.int32),
        predictions=predictions.reshape(-1, tasks).astype(np.float32),
        feedback=feedback.reshape(-1, tasks).astype(np.float32),
        exploration=np.where(moved, "shuffle", "none"),
        timestamp=(START + fields.pop("timestamp") * 28 * DAY).astype(np.int64),
        **(rows | fields),
    )
    return Requests(logs, truth, production, browsing)


def moment(rng: Rng, count: int, number: int) -> Floats:
    """[R] rising: when requests are, in units of the log's time, from 0 in the log, 1 later, -1 in an earlier one."""
    return np.asarray(number + np.sort(rng.random(count)) / (7 if number > 0 else 1))


def fading(slots: int, exponent: float) -> Floats:
    """Return a power law of looks, of shape [S]."""
    return np.asarray(np.arange(1.0, slots + 1) ** -exponent)


def sigmoid(x: Array) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))
