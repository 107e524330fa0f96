"""Logs on which nothing can be won: noise, accurate predictions, and what fools a test of them."""

from dataclasses import dataclass, replace

import numpy as np

from pygrade._typing import Floats
from pygrade.logs import Logs
from .pages import Browsing, Requests, Rng, World, assemble, fading, moment

COPIES = ("copies", "near-predictions", "near-context", "near-candidates")
ACCURATE = ("session", "accurate", "accurate-cascade")
KINDS = ("plain", *COPIES, "item-rate", "after", "bots", "whale", *ACCURATE)
TASKS, VALUES = ("click", "cart", "order"), (1.0, 2.0, 5.0)
_CANDIDATES, _SLOTS, _SHUFFLED, _TIMES = 12, 8, 0.3, 4
_RATES, _POOL = np.array([0.25, 0.12, 0.05]), 100  # of events; items for each place of the list
_TOLD, _OTHERS = 0.2, 0.13  # how far predictions after the fact move; other orders of a session
_BOTS, _WHALE = 0.3, 0.6  # shares of the requests


@dataclass(frozen=True)
class Null(World):
    """One kind of log."""

    kind: str = "plain"

    def draw(self, requests: int, later: int) -> tuple[Requests, Requests]:
        log, new = (self.requests(count, number) for number, count in enumerate((requests, later)))
        rng = np.random.default_rng([self.seed, 31])
        logs, shown = log.logs, log.logs.shown
        clicks, orders = logs.feedback[:, 0], log.grid(logs.feedback[:, 2]).sum(1)
        if self.kind in COPIES:
            logs = _copied(rng, logs, self.kind)
        elif self.kind == "item-rate":
            seen, hits = (np.bincount(logs.item_id, w, _CANDIDATES * _POOL) for w in (shown, clicks))
            rate = (hits + 0.25) / (seen + 1)
            logs, new = _with_column(logs, rate), replace(new, logs=_with_column(new.logs, rate))
        elif self.kind == "after":
            told = np.exp(_TOLD * (2 * logs.feedback - 0.3) * rng.random(logs.feedback.shape))
            logs = replace(logs, predictions=np.clip(logs.predictions * told, 0, 1).astype(np.float32))
        elif self.kind == "bots":
            logs = _with_bots(rng, logs)
        elif self.kind == "whale":
            logs = replace(logs, user_id=np.where(rng.random(requests) < _WHALE, 0, logs.user_id))
        elif self.kind == "session":
            logs = _counted(rng, logs, orders)
            new = replace(new, logs=_counted(rng, new.logs, 0.0))
        return replace(log, logs=logs), new

    def requests(self, count: int, number: int) -> Requests:
        rng = np.random.default_rng([self.seed, 32, KINDS.index(self.kind), number])
        predictions = rng.beta(2, 8, (count, _CANDIDATES, len(TASKS)))
        browsing = Browsing(fading(_SLOTS, 0.7), (-1,) * len(TASKS))
        weights, truth = np.array([0.5, 0.3, 0.2]), np.broadcast_to(_RATES, predictions.shape)
        if self.kind in ACCURATE:
            predictions = predictions * np.array([1.0, 0.5, 0.2])
            weights, truth = np.array(VALUES), predictions
        if self.kind == "accurate-cascade":
            browsing = Browsing(np.ones(_SLOTS), browsing.parents, 0.97, stop=0)
        return assemble(
            rng,
            browsing,
            truth,
            predictions,
            predictions @ weights,
            _SHUFFLED,
            tasks=TASKS,
            task_values=VALUES,
            features=("a", "b", "c"),
            context=rng.standard_normal((count, 3)),
            item_id=rng.integers(0, _POOL, (count, _CANDIDATES)) + _POOL * np.arange(_CANDIDATES),
            user_id=rng.integers(0, max(count // 6, 100), count),
            timestamp=moment(rng, count, number),
        )


def _with_column(logs: Logs, rate: Floats) -> Logs:
    return replace(logs, items=("click_rate",), item_features=rate[logs.item_id, None].astype(np.float32))


def _counted(rng: Rng, logs: Logs, orders: Floats | float) -> Logs:
    context = logs.context.copy()
    context[:, 0] = orders + rng.poisson(_OTHERS, len(context))
    return replace(logs, context=context)


def _with_bots(rng: Rng, logs: Logs) -> Logs:
    """With crawlers under ever new users, which click and put into the cart most of what they see, one of which orders
    a thousand pieces."""
    bot = rng.random(logs.num_requests) < _BOTS
    rows = bot[logs.row_request] & logs.shown & (rng.random(logs.num_rows) < 0.85)
    feedback = logs.feedback.copy()
    feedback[rows, :2] = 1.0
    feedback[np.flatnonzero(rows)[0], 2] = 1_000.0
    return replace(logs, feedback=feedback, user_id=np.where(bot, 10**6 + np.arange(len(bot)), logs.user_id))


def _copied(rng: Rng, logs: Logs, kind: str) -> Logs:
    """A quarter of the requests, each four times under other users."""
    distinct = logs.num_requests // _TIMES
    copy = np.repeat(np.arange(_TIMES), distinct)
    logs = logs.select(np.tile(np.arange(distinct), _TIMES))
    predictions, context = logs.predictions.copy(), logs.context.copy()
    if kind == "near-predictions":
        predictions *= (1 + 1e-6 * rng.standard_normal(predictions.shape)).astype(np.float32)
    elif kind == "near-context":
        context[:, 2] += 0.01 * copy
    elif kind == "near-candidates":
        hidden = np.argmax((logs.position < 0).reshape(-1, _CANDIDATES), 1) + logs.offsets[:-1]
        predictions[hidden] = rng.beta(2, 8, (len(hidden), len(TASKS)))
    number = np.arange(len(copy))
    assert logs.timestamp is not None
    return replace(
        logs,
        predictions=predictions,
        context=context,
        request_id=number,
        user_id=logs.user_id + 100_000 * copy,
        timestamp=np.sort(logs.timestamp),
    )
