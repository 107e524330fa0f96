"""A market of users and items with tastes that no model sees whole, and predictions fitted to an earlier log of it.

The truth is complementary log-log and capped exponential in scores of latent factors, or of a random network. The
predictions are logistic, of counts and attributes that stand still since the earlier log; they lack what the session is
about. Both differ in form from what a correction by log odds assumes.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pygrade._typing import Array, Floats, Ints
from .pages import Browsing, Requests, Rng, World, assemble, moment, sigmoid

TASKS, VALUES = ("click", "long", "order", "hide"), (1.0, 1.5, 8.0, -4.0)
_PARENTS = (-1, 0, 0, -1)
_USERS, _ITEMS, _CATEGORIES, _DIM, _SESSION = 1_200, 600, 8, 5, 3
_CANDIDATES, _SLOTS, _EARLIER = 30, 8, 12_000
_SHUFFLED = 0.025
_SHARES = (0.15, 0.25, 0.4, 0.6)  # of the truth, that a production which knows more mixes in


@dataclass(frozen=True)
class Market(World):
    """A market; the options make the families."""

    network: bool = False  # truth of a random network; else of latent factors
    cascade: bool = False  # users stop when satisfied; else at a random depth
    drift: float = 0.0  # angle by which tastes turn during the log
    newcomers: float = 0.0  # share of the items that appear during log and test
    price_spread: float = 0.4  # standard deviation of log prices
    zipf: float = 0.0  # exponent of the users' frequency
    once: bool = False  # at most one order a visit
    delay: float = 0.0  # mean time until an order is known, as a share of the log's time
    knowing: bool = False  # production knows a part of the truth

    @property
    def browsing(self) -> Browsing:
        look, patience = (np.ones(_SLOTS), 0.93) if self.cascade else (np.linspace(1, 0.8, _SLOTS), 0.9)
        stop, once = (1 if self.cascade else None), (2 if self.once else None)
        return Browsing(look, _PARENTS, patience, stop, once)

    @cached_property
    def latent(self) -> "_Latent":
        return _Latent(np.random.default_rng([self.seed, 21]), self)

    @cached_property
    def models(self) -> "_Models":
        """The predictors, of an earlier log that production made by popularity."""
        rng = np.random.default_rng([self.seed, 22])
        visits = self._visits(rng, _EARLIER, -1)
        popularity = 0.5 * self.latent.quality[visits.item] + rng.standard_normal(visits.item.shape)
        page = np.argsort(-popularity, 1, kind="stable")[:, :_SLOTS]
        visits = visits._replace(item=np.take_along_axis(visits.item, page, 1))
        return _Models(visits, self.browsing.events(rng, self._truth(visits)), self.latent)

    def requests(self, count: int, number: int) -> Requests:
        rng = np.random.default_rng([self.seed, 23, number])
        visits = self._visits(rng, count, number)
        truth, price = self._truth(visits), self.latent.price[visits.item]
        predictions = self.models.predict(visits)
        worth = np.where(np.array(TASKS) == "order", price[..., None], 1.0) * np.array(VALUES)
        predicted, true = ((part * worth).sum(-1) for part in (predictions, truth))
        if self.knowing:
            share = _SHARES[self.seed % len(_SHARES)]
            production = (1 - share) * predicted / predicted.std() + share * true / true.std()
        else:
            production = predicted / predicted.std() + 0.15 * rng.standard_normal(price.shape)
        segment, history = self.latent.segment[visits.user], self.models.history[visits.user]
        found = assemble(
            rng,
            self.browsing,
            truth,
            predictions,
            production,
            _SHUFFLED,
            tasks=TASKS,
            task_values=VALUES,
            value_tasks=("order",),
            features=("segment_a", "segment_b", *(f"session_{i}" for i in range(_SESSION)), "hour", "history"),
            context=np.concatenate([segment, visits.session, visits.hour[:, None], history], 1),
            items=("log_price",),
            item_features=np.log(price),
            item_id=visits.item,
            user_id=visits.user,
            category=np.char.add("c", self.latent.category[visits.item].astype(str)),
            value=price,
            timestamp=visits.time,
        )
        if not self.delay or number:
            return found
        known = visits.time[found.logs.row_request] + rng.exponential(self.delay, found.logs.num_rows) < 1.0
        feedback = np.where((np.array(TASKS) == "order") & ~known[:, None], 0, found.logs.feedback)
        return replace(found, logs=replace(found.logs, feedback=feedback))

    def _visits(self, rng: Rng, requests: int, number: int) -> "_Visits":
        time = moment(rng, requests, number)
        frequency = np.arange(1.0, _USERS + 1) ** -self.zipf
        user = rng.choice(_USERS, requests, p=frequency / frequency.sum())
        order = rng.random((requests, _ITEMS), dtype=np.float32)
        order[self.latent.birth > time[:, None]] = 2.0  # not there yet
        item = np.argpartition(order, _CANDIDATES, 1)[:, :_CANDIDATES]
        return _Visits(user, item, rng.standard_normal((requests, _SESSION)), time * 28 * 24 % 24 // 1, time)

    def _truth(self, visits: "_Visits") -> Floats:
        score = self.latent.scores(visits, self)
        click, long, order, hide = np.moveaxis(score, -1, 0)
        p = 1 - np.exp(-np.exp(-2.2 + 0.8 * click))
        given_long = np.minimum(np.exp(-1.3 + 0.6 * long), 0.9)
        given_order = np.minimum(np.exp(-2.6 + 0.8 * order), 0.8)
        return np.stack([p, p * given_long, p * given_order, 1 - np.exp(-np.exp(-4.6 + 0.8 * hide))], -1)


class _Visits(NamedTuple):
    user: Ints  # [R]
    item: Ints  # [R, N]
    session: Floats  # [R, 3] what the visit is about
    hour: Floats  # [R]
    time: Floats  # [R] of `moment`

    def half(self, which: int) -> "_Visits":
        part = slice(which * len(self.user) // 2, (which + 1) * len(self.user) // 2)
        return _Visits(self.user[part], self.item[part], self.session[part], self.hour[part], self.time[part])


class _Latent:
    """Tastes, and how they make scores."""

    def __init__(self, rng: Rng, world: Market) -> None:
        tasks, inputs, width = len(TASKS), 3 * _DIM + _SESSION, 24
        self.taste, self.factor = rng.standard_normal((_USERS, _DIM)), rng.standard_normal((_ITEMS, _DIM))
        self.category = np.argmax(self.factor @ rng.standard_normal((_DIM, _CATEGORIES)), 1)
        self.birth = np.where(rng.random(_ITEMS) < world.newcomers, rng.uniform(0, 1.2, _ITEMS), -9.0)
        self.turned = rng.standard_normal((_USERS, _DIM))  # what tastes turn to
        self.segment = self.taste[:, :2] + 0.5 * rng.standard_normal((_USERS, 2))  # as the log has it
        self.quality = rng.standard_normal(_ITEMS)
        self.price = np.exp(world.price_spread * rng.standard_normal(_ITEMS))
        self.mix = rng.standard_normal((tasks, _DIM, _DIM)) / _DIM  # of taste and factor
        self.about = rng.standard_normal((tasks, _SESSION, 1 + _DIM)) / np.sqrt(_SESSION)  # alone, and with the factor
        self.inner = 1.6 * (rng.standard_normal((inputs, width)) / np.sqrt(inputs))  # of the network
        self.outer = rng.standard_normal((width, tasks)) / np.sqrt(width)

    def scores(self, visits: _Visits, world: Market) -> Floats:
        """[R, N, T]."""
        angle = (world.drift * np.clip(visits.time, 0, None))[:, None]
        user = np.cos(angle) * self.taste[visits.user] + np.sin(angle) * self.turned[visits.user]  # [R, D]
        item, quality = self.factor[visits.item], self.quality[visits.item][..., None]
        if world.network:
            users = np.broadcast_to(user[:, None], item.shape)
            session = np.broadcast_to(0.15 * visits.session[:, None], (*item.shape[:2], _SESSION))
            hidden = np.tanh(np.concatenate([users, item, users * item, session], -1) @ self.inner)
            return np.asarray(0.6 * hidden @ self.outer + 0.6 * quality)
        match = np.einsum("rd,tde,rne->rnt", user, self.mix, item)
        session = np.einsum("rs,tse->rte", visits.session, self.about)
        about = 0.2 * session[:, None, :, 0] + 0.08 * np.einsum("rte,rne->rnt", session[..., 1:], item)
        return np.asarray(0.35 * match + about + 0.6 * quality * np.array([1.0, 0.3, -0.5, -0.7]))


class _Models:
    """Logistic models, one a task, and the counts that they read."""

    def __init__(self, visits: _Visits, events: Floats, latent: _Latent) -> None:
        """Fitted to pages [R, S] and their events: counts of the first half, coefficients of the second."""
        self.latent, early, late = latent, visits.half(0), visits.half(1)
        first, second = (events[part] > 0 for part in (slice(len(early.user)), slice(len(early.user), None)))
        base, item = first.mean((0, 1)), early.item.ravel()
        seen = np.bincount(item, minlength=_ITEMS)[:, None]
        hits = np.stack([np.bincount(item, first[..., t].ravel(), _ITEMS) for t in range(len(TASKS))], 1)
        self.counts = np.log((hits + 5 * base) / (seen + 5) / base)  # [I, T]
        cell = early.user[:, None] * _CATEGORIES + latent.category[early.item]
        weights = None, first[..., 0].ravel()
        shown, clicks = (np.bincount(cell.ravel(), w, _USERS * _CATEGORIES).reshape(_USERS, -1) for w in weights)
        self.liking = np.log((clicks + 3 * base[0]) / (shown + 3) / base[0])  # [U, C]
        self.history = np.log1p(clicks.sum(1, keepdims=True))  # [U, 1]
        x = self.inputs(late, np.arange(_SLOTS) / 4)
        rows = [second[..., parent] if parent >= 0 else np.ones(late.item.shape, bool) for parent in _PARENTS]
        self.coefficients = [_logistic(x[row], second[row][:, t]) for t, row in enumerate(rows)]

    def inputs(self, visits: _Visits, depth: Floats) -> Floats:
        """[R, N, inputs]; depth [N] of the slots."""
        user, item, latent = visits.user[:, None], visits.item, self.latent
        of_user = np.concatenate([self.history, latent.segment], 1)[user]
        parts = [
            np.ones((*item.shape, 1)),
            self.counts[item],
            self.liking[user, latent.category[item]][..., None],
            np.broadcast_to(of_user, (*item.shape, of_user.shape[-1])),
            np.log(latent.price[item])[..., None],
            np.eye(_CATEGORIES)[latent.category[item]],
            np.broadcast_to(depth[:, None], (*item.shape, 1)),
        ]
        return np.concatenate(parts, -1)

    def predict(self, visits: _Visits) -> Floats:
        """[R, N, T], as if each candidate were first on the page."""
        x = self.inputs(visits, np.zeros(visits.item.shape[1]))
        click, long, order, hide = (sigmoid(x @ w) for w in self.coefficients)
        return np.stack([click, click * long, click * order, hide], -1)


def _logistic(x: Floats, y: Array, ridge: float = 4.0, rounds: int = 12) -> Floats:
    """Coefficients of a logistic regression by Newton steps."""
    w = np.zeros(x.shape[1])
    for _ in range(rounds):
        p = sigmoid(x @ w)
        information = (x * (p * (1 - p) + 1e-6)[:, None]).T @ x + ridge * np.eye(len(w))
        w = w + np.linalg.solve(information, x.T @ (y - p) - ridge * w)
    return w
