"""A synthetic marketplace with known true feedback probabilities, for the demo and the A/B tests.

Users come in segments with traits (intent, price sensitivity, …), a content taste and a purchase need. Each request is
a session: a specific query raises the user's intent and lowers browsing for that request. The policy observes the
session with noise; the multi-task model knows only long-term traits, shrunk to the population, and is miscalibrated.
Personal weights can earn that gap. Everything is a function of the world's seed and of each call's seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Floats
from pygrade.config import marketplace as world
from pygrade.config.marketplace import (
    PARENT,
    PRODUCTION_WEIGHTS,
    SCENARIOS,
    SEGMENTS,
    TASK_VALUES,
    TASKS,
    TRAITS,
    Effects,
    MarketplaceConfig,
    PerTask,
)
from pygrade.simulation.dynamics import ItemLaunches
from pygrade.simulation.page_effects import WithinPageEffects

Float32 = NDArray[np.float32]

__all__ = [
    "FEATURES",
    "ITEM_ATTRIBUTES",
    "PRODUCTION_WEIGHTS",
    "SCENARIOS",
    "SEGMENTS",
    "TASKS",
    "TASK_VALUES",
    "TRAITS",
    "Marketplace",
    "MarketplaceConfig",
    "Outcome",
    "Requests",
]

_MIXED_FEATURES = 8
FEATURES = (
    *(f"trait_{name}" for name in TRAITS),
    *(f"mixed_{i}" for i in range(_MIXED_FEATURES)),
    *(f"segment_{name}" for name in SEGMENTS),
    *("specificity", "log_history", "hour_sin", "hour_cos"),
)
ITEM_ATTRIBUTES = ("quality", "hype", "price", "entertainment", "social_appeal")  # in standard deviations
MOST_LIKELY = np.float32(0.95)  # probability of an event with a hidden taste
_BLOCK = 1024  # requests generated at a time: keeps the arrays in cache


@dataclass(frozen=True)
class Requests:
    """n requests with C candidates each, T tasks, F context features."""

    user_id: NDArray[np.int64]  # [n]; log and test users share no id
    segment: Array  # [n] str, true segment
    scenario: Array  # [n] str
    hour: Float32  # [n], 0 to 24
    context: Float32  # [n, F], columns FEATURES
    item_id: NDArray[np.int32]  # [n, C]
    p: Float32  # [n, C, T] true probability of each event, given attention
    p_hat: Float32  # [n, C, T] the multi-task model's prediction of p
    leave: Float32  # [n, C] probability of leaving after viewing the item
    latent: Float32  # [n, 7] the session's true traits and 1 / √(1 + history), for oracle policies
    hidden: Float32  # [n, C] factor of p that production knows and p_hat misses; 1 without `PageEffects.session_taste`
    told: Float32  # [n, C, T] factor of p that earlier requests tell and p_hat misses; [n, 1, 1] of 1 without a clock

    def __len__(self) -> int:
        return len(self.user_id)

    def select(self, index: Array | slice) -> "Requests":
        """The requests of an index array, a mask or a slice."""
        return Requests(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @property
    def known_to_production(self) -> Float32:
        """Return the predictions that production ranks by, of shape [n, C, T]."""
        factor = self.hidden[..., None]
        return self.p_hat if (factor == 1).all() else np.minimum(self.p_hat * factor, MOST_LIKELY)


@dataclass(frozen=True)
class Outcome:
    """Expected result of n pages, per request."""

    impressions: NDArray[np.float64]  # [n] items viewed
    events: NDArray[np.float64]  # [n, T]
    value: NDArray[np.float64]  # [n] Σ_t TASK_VALUES_t · events_t


class Marketplace:
    """The world of a config and a seed."""

    def __init__(self, config: MarketplaceConfig | None = None, seed: int = 0) -> None:
        self.config = c = config or MarketplaceConfig()
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        users = c.log_users + c.test_users  # the log's users come first
        self.segment = rng.choice(len(SEGMENTS), users, p=c.segment_shares)
        center = np.array(world.SEGMENT_TRAITS, np.float32)[self.segment]
        spread = np.float32(world.TRAIT_SPREAD) * _normal(rng, users, len(TRAITS))
        self.traits = np.float32(c.heterogeneity) * (center + spread)  # [U, 6]
        self.user_taste = _normal(rng, users, world.MATCH_DIMENSIONS)
        self.user_need = _normal(rng, users, world.MATCH_DIMENSIONS)
        self.history = np.exp(c.log_history_mean + world.LOG_HISTORY_SD * _normal(rng, users))
        self.cold = 1 / np.sqrt(1 + self.history)
        self.trait_error = (
            _normal(rng, users, len(TRAITS)) * (world.TRAIT_NOISE + world.TRAIT_NOISE_COLD * self.cold)[:, None]
        )
        wrong = rng.random(users) < world.SEGMENT_WRONG + world.SEGMENT_WRONG_COLD * self.cold
        self.segment_guess = np.where(wrong, rng.integers(0, len(SEGMENTS), users), self.segment)
        self.mixing = _normal(rng, len(TRAITS) + 2, _MIXED_FEATURES) / np.float32(np.sqrt(len(TRAITS) + 2))

        self.timeline = ItemLaunches(c.dynamics, c.items, world.MATCH_DIMENSIONS, seed)
        launched = len(self.timeline.launch) - c.items
        catalogs = [_draw_items(np.random.default_rng([seed, 1]), c.items)]
        if launched:  # what is there from the start is as in a world without launches
            catalogs.append(_draw_items(np.random.default_rng([seed, 23]), launched))
        columns = [np.concatenate(parts) for parts in zip(*catalogs, strict=True)]
        self.item_taste, self.item_need, self.quality, self.hype, self.price = columns[:5]
        self.entertainment, self.social_appeal, self.item_error = columns[5:]
        self.page_effects = WithinPageEffects(c.pages, self.item_taste, self.item_need)

        frequency = self.history.astype(np.float64) ** world.FREQUENCY_EXPONENT
        self.users = {"log": np.arange(c.log_users), "test": np.arange(c.log_users, users)}
        self.frequency = {name: frequency[ids] / frequency[ids].sum() for name, ids in self.users.items()}
        log = self._sensitivities(self.traits[: c.log_users])
        self.population = {name: np.average(v, weights=self.frequency["log"]) for name, v in log.items()}

    def observe_items(self, noise: float) -> Float32:
        """Return ITEM_ATTRIBUTES [items, 5] with normal errors of sd ``noise``, permanent per item, as in logs."""
        if not 0 <= noise < np.inf:
            raise ValueError(f"noise is {noise}; expected a standard deviation ≥ 0")
        true = np.stack([getattr(self, name) for name in ITEM_ATTRIBUTES], 1)
        return np.asarray(true + np.float32(noise) * _normal(np.random.default_rng([self.seed, 11]), *true.shape))

    # ---- requests ----------------------------------------------------------------------------------------------------
    def requests(
        self, n: int, seed: int, users: Literal["log", "test"] = "log", time: float = 0.0, hours: Array | None = None
    ) -> Requests:
        """n requests of log or test users; the same arguments give the same requests.

        ``time`` (0 to 1) is the progress of a drifting world; nothing else depends on it. ``hours`` [n], rising: of the
        requests since the start, in a world with a clock; fatigue is up to those who know the pages (`simulate`).
        """
        if users not in self.users:
            raise ValueError(f"users is {users!r}; expected 'log' or 'test'")
        if n < 1:
            raise ValueError(f"n is {n}; expected at least 1")
        if not 0 <= time <= 1:
            raise ValueError(f"time is {time}; expected 0 to 1")
        effects, moments = self.config.effects_at(time), self.timeline.check(hours, n)
        stream = 2 if users == "log" else 3
        starts = range(0, n, _BLOCK)
        blocks = [
            self._block(
                (stream, seed, start),
                min(_BLOCK, n - start),
                users,
                effects,
                None if moments is None else moments[start : start + _BLOCK],
            )
            for start in starts
        ]
        return Requests(**{name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})

    def _block(
        self, stream: tuple[int, int, int], n: int, users: str, effects: Effects, hours: Floats | None
    ) -> dict[str, Array]:
        c, rng = self.config, np.random.default_rng([self.seed, *stream])
        user = rng.choice(self.users[users], n, p=self.frequency[users])
        specificity = rng.random(n, dtype=np.float32)
        long_term = self.traits[user]
        shift = np.zeros((n, len(TRAITS)), np.float32)
        shift[:, 0] = world.SPECIFICITY_INTENT * (2 * specificity - 1)
        shift[:, 2] = world.SPECIFICITY_BROWSE * (2 * specificity - 1)
        shift += np.array(world.SESSION_SPREAD, np.float32) * _normal(rng, n, len(TRAITS))
        traits = long_term + np.float32(c.session) * shift

        item, taste, need = self._prerank(rng, user, hours)
        p = _chain(self._logits(traits, item, taste, need, effects))
        leave = _sigmoid(
            np.float32(world.LEAVE_INTERCEPT)
            + world.LEAVE_PATIENCE * traits[:, 5:6]
            + world.LEAVE_HYPE * self.hype[item]
            + world.LEAVE_MATCH * (taste + need) / 2
            + world.LEAVE_QUALITY * self.quality[item]
        )
        e = c.errors
        guess = self._logits(long_term, item, taste, need, c.effects, e.shrink)
        for t in range(len(TASKS)):
            noise = (e.pair[t] + e.cold[t] * self.cold[user])[:, None] * _normal(rng, *item.shape)
            hyped = guess[t] + np.float32(e.hype[t]) * self.hype[item]
            guess[t] = e.bias[t] + e.slope[t] * hyped + e.item[t] * self.item_error[item, t] + noise
        hour = 24 * rng.random(n, dtype=np.float32)
        p_hat, told = _chain(guess), np.ones((n, 1, 1), np.float32)
        if hours is not None:
            hour = (hours % 24).astype(np.float32)
            true, expected = self.timeline.event_factors(item, self.page_effects.category[item], hours)
            share = np.float32(c.dynamics.known)
            p = np.minimum(p * true[..., None], MOST_LIKELY)
            p_hat = np.minimum(p_hat * (expected**share)[..., None], MOST_LIKELY)
            told = np.repeat((expected ** (1 - share))[..., None], len(TASKS), 2)
        hidden = np.ones(item.shape, np.float32)
        if c.pages.session_taste:
            hidden = self.page_effects.session_taste(np.random.default_rng([self.seed, 20, *stream]), item)
            p = np.minimum(p * hidden[..., None], MOST_LIKELY)
        return {
            "user_id": user,
            "segment": np.array(SEGMENTS)[self.segment[user]],
            "scenario": np.array(SCENARIOS)[np.searchsorted(world.SCENARIO_BOUNDS, specificity, side="right")],
            "hour": hour,
            "context": self._context(rng, user, traits, specificity, hour),
            "item_id": item,
            "p": p,
            "p_hat": p_hat,
            "leave": leave,
            "latent": np.concatenate([traits, self.cold[user][:, None]], 1),
            "hidden": hidden,
            "told": told,
        }

    def _prerank(
        self, rng: np.random.Generator, user: Array, hours: Floats | None
    ) -> tuple[NDArray[np.int32], Float32, Float32]:
        """Candidates of each request, best prerank score first, and their taste and need matches: [n, C] each."""
        c = self.config
        pool = np.sort(rng.integers(0, c.items, (len(user), c.pool), dtype=np.int32), axis=1)
        if hours is not None:
            pool = self.timeline.items(pool, hours)
        scale = np.float32(1 / np.sqrt(world.MATCH_DIMENSIONS))
        taste = np.matmul(self.item_taste[pool], self.user_taste[user][:, :, None])[..., 0] * scale
        need = np.matmul(self.item_need[pool], self.user_need[user][:, :, None])[..., 0] * scale
        score = world.PRERANK_MATCH * (taste + need) + world.PRERANK_QUALITY * self.quality[pool]
        score += world.PRERANK_HYPE * self.hype[pool] + world.PRERANK_NOISE * _normal(rng, *pool.shape)
        score[:, 1:][pool[:, 1:] == pool[:, :-1]] = -np.inf  # keep one copy of an item drawn twice
        best = np.argsort(-score, axis=1, kind="stable")[:, : c.candidates]
        return np.take_along_axis(pool, best, 1), np.take_along_axis(taste, best, 1), np.take_along_axis(need, best, 1)

    def _context(
        self, rng: np.random.Generator, user: Array, traits: Float32, specificity: Float32, hour: Float32
    ) -> Float32:
        c = self.config
        n = len(user)
        seen = traits + self.trait_error[user] + world.TRAIT_NOISE_SESSION * _normal(rng, n, len(TRAITS))
        query = (specificity - np.float32(0.5) + world.SPECIFICITY_NOISE * _normal(rng, n))[:, None]
        history = (np.log(self.history[user]) - np.float32(c.log_history_mean))[:, None]
        mixed = np.tanh(np.concatenate([seen, query, history], 1) @ self.mixing)
        segment = np.eye(len(SEGMENTS), dtype=np.float32)[self.segment_guess[user]]
        angle = hour[:, None] * np.float32(2 * np.pi / 24)
        return np.concatenate([seen, mixed, segment, query, history, np.sin(angle), np.cos(angle)], 1)

    # ---- feedback model ----------------------------------------------------------------------------------------------
    def _sensitivities(self, traits: Float32) -> dict[str, Float32]:
        """User factors that effects multiply, from traits[n, 6]: each [n]."""
        intent, price, browse, social, quality, _ = traits.T
        soft = {
            "price": (world.PRICE_SENSITIVITY, price),
            "entertainment": (world.ENTERTAINMENT_SENSITIVITY, browse),
            "social": (world.SOCIAL_SENSITIVITY, social),
        }
        result = {name: _affine(line, np.logaddexp(0, trait)) for name, (line, trait) in soft.items()}
        result["quality"] = _affine(world.QUALITY_SENSITIVITY, np.tanh(quality))
        return result | {"trait_intent": intent, "trait_browse": browse, "trait_social": social}

    def _logits(
        self, traits: Float32, item: Array, taste: Float32, need: Float32, e: Effects, shrink: PerTask | None = None
    ) -> list[Float32]:
        """Logit of each event given its parent, [n, C] per task; `shrink` moves traits toward the population mean."""
        factors = self._sensitivities(traits)
        quality, hype = self.quality[item], self.hype[item]
        entertainment, price, appeal = self.entertainment[item], self.price[item], self.social_appeal[item]
        logits = []
        for t in range(len(TASKS)):
            keep = np.float32(1 if shrink is None else 1 - shrink[t])
            mean = self.population
            user = {name: (keep * v + (1 - keep) * np.float32(mean[name]))[:, None] for name, v in factors.items()}
            shopping = _sigmoid(
                np.float32(world.SHOPPING_SLOPE)
                * (user["trait_intent"] - world.SHOPPING_BROWSE_TRADE * user["trait_browse"])
            )
            base = e.intercept[t] + e.intent[t] * user["trait_intent"] + e.browse[t] * user["trait_browse"]
            logit = base + e.social[t] * user["trait_social"] + np.zeros_like(taste)
            for factor, attribute in (
                (e.taste[t] + e.taste_shopping[t] * shopping, taste),
                (e.need[t] + e.need_shopping[t] * shopping, need),
                (np.float32(e.hype[t]), hype),
                (e.quality[t] + e.quality_by_user[t] * user["quality"], quality),
                (e.price_by_user[t] * user["price"], price),
                (
                    e.entertainment[t]
                    + (e.entertainment_by_user[t] + e.entertainment_by_user_shopping[t] * shopping)
                    * user["entertainment"],
                    entertainment,
                ),
                (e.social_by_user[t] * user["social"], appeal),
            ):
                if np.any(factor):
                    logit += factor * attribute
            logits.append(logit)
        return logits

    # ---- outcomes ----------------------------------------------------------------------------------------------------
    def attention(self, slots: int) -> Float32:
        """Return probability that the user looks at an item in this slot, given that the user reached it, [slots]."""
        return (np.arange(1, slots + 1) ** -world.ATTENTION_EXPONENT).astype(np.float32)

    def expected(self, requests: Requests, pages: Array) -> Outcome:
        """Expected outcome of pages[n, K] (candidate indices, first slot first), in closed form."""
        _check_pages(requests, pages)
        stay = 1 - np.take_along_axis(requests.leave, pages, 1).astype(np.float64)
        reached = np.cumprod(np.concatenate([np.ones((len(pages), 1)), stay[:, :-1]], 1), 1)  # [n, K]
        seen: Floats = reached * self.attention(pages.shape[1])
        if self.page_effects:
            seen = seen * self._multipliers(requests, pages)
        events = np.einsum("nk,nkt->nt", seen, np.take_along_axis(requests.p, pages[:, :, None], 1))
        return Outcome(reached.sum(1), events, events @ np.array(TASK_VALUES))

    def _multipliers(self, requests: Requests, pages: Array) -> NDArray[np.float64]:
        """Return multipliers [n, K] of the click probability of the pages' items, given that a slot is reached."""
        item = np.take_along_axis(requests.item_id, pages, 1)
        click = np.take_along_axis(requests.p[..., 0], pages, 1)
        attention = self.attention(pages.shape[1])
        parts = [self.page_effects.expected(item[rows], click[rows], attention) for rows in _blocks(len(pages))]
        return np.concatenate(parts)

    def sample(self, requests: Requests, pages: Array, seed: int) -> tuple[NDArray[np.bool_], Float32]:
        """One draw of the users' behavior on pages[n, K]: viewed[n, K] and feedback[n, K, T] (0 or 1).

        Common random numbers: draws belong to request and candidate, not to the slot, so two arms that show the same
        item get the same response and their difference has little noise.
        """
        _check_pages(requests, pages)
        viewed = np.empty(pages.shape, bool)
        feedback = np.empty((*pages.shape, len(TASKS)), np.float32)
        attention = self.attention(pages.shape[1])
        for rows in _blocks(len(pages)):
            page = pages[rows]
            rng = np.random.default_rng([self.seed, 4, seed, rows.start])
            draws = rng.random((len(page), requests.p.shape[1], 2 + len(TASKS)), dtype=np.float32)
            draws = np.take_along_axis(draws, page[:, :, None], 1)  # [n, K, leave, attention, tasks]
            left = draws[..., 0] < np.take_along_axis(requests.leave[rows], page, 1)
            viewed[rows] = np.cumsum(left, 1) - left == 0  # did not leave before this item
            p = np.take_along_axis(requests.p[rows], page[:, :, None], 1)
            attended, alone = viewed[rows] & (draws[..., 1] < attention), p
            if self.page_effects:
                shown = np.take_along_axis(requests.item_id[rows], page, 1)
                p = p.copy()
                p[..., 0] *= self.page_effects.sampled(shown, attended)
            for t, parent in enumerate(PARENT):
                conditional = p[..., t] if parent < 0 else p[..., t] / alone[..., parent]
                happened = attended if parent < 0 else feedback[rows, :, parent] > 0
                feedback[rows, :, t] = happened & (draws[..., 2 + t] < conditional)
        return viewed, feedback


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))


def _check_pages(requests: Requests, pages: Array) -> None:
    n, candidates = requests.leave.shape
    if pages.ndim != 2 or len(pages) != n or not 1 <= pages.shape[1] <= candidates:
        raise ValueError(f"pages has shape {pages.shape}; expected ({n}, K) with 1 ≤ K ≤ {candidates}")
    if pages.dtype.kind not in "iu":
        raise TypeError(f"pages has dtype {pages.dtype}; expected candidate indices (integers)")
    ordered = np.sort(pages, axis=1)
    bad = (ordered[:, 0] < 0) | (ordered[:, -1] >= candidates) | (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if bool(bad.any()):
        row = int(np.argmax(bad))
        raise ValueError(
            f"pages row {row} is {pages[row].tolist()}; expected distinct indices from 0 to {candidates - 1}"
        )


def _normal(rng: np.random.Generator, *shape: int) -> Float32:
    return rng.standard_normal(shape, dtype=np.float32)


def _draw_items(rng: np.random.Generator, count: int) -> tuple[Float32, ...]:
    """Taste, need, quality, hype, price, entertainment, social appeal and the model's errors of so many items."""
    taste, need = _normal(rng, count, world.MATCH_DIMENSIONS), _normal(rng, count, world.MATCH_DIMENSIONS)
    quality = _normal(rng, count)
    hype = _correlated(rng, quality, world.HYPE_QUALITY_CORRELATION)
    price = _correlated(rng, quality, world.PRICE_QUALITY_CORRELATION)
    entertainment, social_appeal, error = _normal(rng, count), _normal(rng, count), _normal(rng, count, len(TASKS))
    return taste, need, quality, hype, price, entertainment, social_appeal, error


def _correlated(rng: np.random.Generator, base: Float32, correlation: float) -> Float32:
    return np.float32(correlation) * base + np.float32(np.sqrt(1 - correlation**2)) * _normal(rng, len(base))


def _affine(coefficients: tuple[float, float], values: Array) -> Float32:
    return np.asarray(coefficients[0] + coefficients[1] * values, np.float32)


def _sigmoid(x: Array) -> Float32:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)


def _chain(logits: list[Float32]) -> Float32:
    """Probabilities [n, C, T] of the events from their logits given the parent event."""
    p = np.empty((*logits[0].shape, len(TASKS)), np.float32)
    for t, parent in enumerate(PARENT):
        p[..., t] = _sigmoid(logits[t]) if parent < 0 else _sigmoid(logits[t]) * p[..., parent]
    return p
