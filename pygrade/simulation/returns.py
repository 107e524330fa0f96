"""The marketplace over weeks: what users are shown decides how often they come back.

Each user i has a hidden satisfaction S, and comes on a day with probability sigmoid(a_i + S), a_i ~ N(a, spread) by the
`habit`. After a visit whose page pushes by g, and on a day without one,

    S ← keep · S + effect · (g - ḡ)        S ← keep · S

g is the quality less the hype of the page's items, weighted by how likely they are clicked, and ḡ its mean at the
values as they are: users are used to those. At effect 0 a day is a session of the marketplace as it always was.

Settings are shifts of the tasks' values, by which pages are ranked. What a session is worth under each of them, and how
it pushes, is computed once, in closed form, on real requests of the marketplace (`make_sessions`). A user of an
experiment is one of its users with an own willingness to come; each visit draws one of that user's sessions, and events
are Poisson draws around their expectation. So 100,000 users live for 28 days in about a second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Ints
from pygrade.config import user_table as columns
from pygrade.config.simulation import ReturnConfig
from pygrade.simulation.marketplace import TASK_VALUES, TASKS, Marketplace

Float32 = NDArray[np.float32]

_HABITS = {"daily": 0.6, "shop": -1.5}  # log odds of a visit of the average user
_BUYERS = 2  # the first of the marketplace's segments: buy, price
WINDOWS = tuple(sorted({3, *columns.MONEY_DAYS, *columns.VISIT_DAYS}))  # days after which sums are kept
WEEK = 7


@dataclass(frozen=True)
class Sessions:
    """What S sessions of U users are worth under C settings; those of a user are contiguous."""

    settings: Float32  # [C, T] shifts of the tasks' values
    events: Float32  # [C, S, T] expected
    push: Float32  # [C, S] on the user's satisfaction, around the mean at the values as they are
    first: Ints  # [U] a user's first session
    count: Ints  # [U] and how many there are, at least 1
    buyer: NDArray[np.bool_]  # [U]
    segment: Ints  # [U] the shop's guess of it: 0 a buyer, 1 a browser

    @property
    def base(self) -> int:
        """The setting that shifts nothing."""
        return int(np.flatnonzero(~self.settings.any(1))[0])


def make_sessions(
    world: Marketplace, settings: Sequence[Mapping[str, float]], sessions: int = 40_000, seed: int = 1, page: int = 10
) -> Sessions:
    """Sessions of the world's test users, each of whom is as likely as another.

    settings: shifts of the tasks' values by task, one of them without any. Pages have the ``page`` items of highest
    expected value, by the predictions.
    """
    shifts = np.array([[entry.get(task, 0.0) for task in TASKS] for entry in settings], np.float32).reshape(
        -1, len(TASKS)
    )
    unknown = [task for entry in settings for task in entry if task not in TASKS]
    if unknown or not np.isfinite(shifts).all() or not (~shifts.any(1)).any():
        raise ValueError(
            f"settings are {list(settings)}; want finite shifts of {', '.join(TASKS)}, and one without any"
        )
    ids = world.users["test"]
    even = {"test": np.full(len(ids), 1 / len(ids))}
    before, world.frequency = world.frequency, world.frequency | even
    try:
        requests = world.requests(sessions, seed, "test")
    finally:
        world.frequency = before
    order = np.argsort(requests.user_id, kind="stable")
    events, push = [], []
    for shift in shifts:
        value = requests.p_hat @ (np.array(TASK_VALUES, np.float32) + shift)
        pages = np.argsort(-value, axis=1, kind="stable")[:, :page]
        shown = np.take_along_axis(requests.item_id, pages, 1)
        click = np.take_along_axis(requests.p[..., 0], pages, 1)
        good = (click * (world.quality[shown] - world.hype[shown])).sum(1) / click.sum(1)
        events.append(world.expected(requests, pages).events.astype(np.float32)[order])
        push.append(good[order])
    count = np.bincount(requests.user_id - ids[0], minlength=len(ids))
    some = np.flatnonzero(count)
    base = int(np.flatnonzero(~shifts.any(1))[0])
    return Sessions(
        settings=shifts,
        events=np.stack(events),
        push=np.stack(push).astype(np.float32) - np.float32(push[base].mean()),
        first=(np.cumsum(count) - count)[some],
        count=count[some],
        buyer=world.segment[ids[some]] < _BUYERS,
        segment=(world.segment_guess[ids[some]] >= _BUYERS).astype(np.int64),
    )


@dataclass(frozen=True)
class Users:
    """n users, with what they did in the 28 days before an experiment, at the values as they are."""

    who: Ints  # [n] users of the sessions
    odds: Float32  # [n] log odds of a visit, without satisfaction
    satisfaction: Float32  # [n] at the end of these days
    before: Float32  # [2, n]: money and visits

    def __len__(self) -> int:
        return len(self.who)


@dataclass(frozen=True)
class Lives:
    """Sums over the days from the enrollment on."""

    sums: Float32  # [len(WINDOWS), 1 + T, n]: visits, then the events of each task, within WINDOWS days
    satisfaction: Float32  # [n] at the end

    def visits(self, days: int) -> Float32:
        """[n]"""
        return np.asarray(self.sums[WINDOWS.index(days), 0])

    def events(self, days: int) -> Float32:
        """[T, n]"""
        return np.asarray(self.sums[WINDOWS.index(days), 1:])

    def money(self, days: int) -> Float32:
        """[n]: what the events are worth, at the marketplace's values."""
        return np.asarray(np.array(TASK_VALUES, np.float32) @ self.events(days))


class ReturningUsers:
    """Users of some sessions who come back as a config says. Everything is a function of the calls' seeds."""

    def __init__(self, sessions: Sessions, config: ReturnConfig | None = None) -> None:
        self.sessions, self.config = sessions, config or ReturnConfig()
        effects = np.array(self.config.effects or (self.config.effect,) * 2, np.float32)
        self._effect = effects[np.where(sessions.buyer, 0, 1)]  # [U]

    def draw(self, n: int, seed: int) -> Users:
        """n users after 28 days at the values as they are."""
        if n < 1:
            raise ValueError(f"n is {n}; want at least 1")
        rng = np.random.default_rng([seed, 0])
        who = rng.integers(0, len(self.sessions.first), n)
        odds = _HABITS[self.config.habit] + self.config.spread * rng.standard_normal(n)
        users = Users(who, odds.astype(np.float32), np.zeros(n, np.float32), np.zeros((2, n), np.float32))
        days = columns.BEFORE_DAYS
        lives = self._live(users, np.full((n, 1), self.sessions.base), days, rng, enrolled=False, noise=True)
        before = np.stack([lives.money(days), lives.visits(days)])
        return Users(who, users.odds, lives.satisfaction, before)

    def live(self, users: Users, setting: Ints, seed: int, noise: bool = True) -> Lives:
        """28 days of users who are enrolled on a visit, the first day.

        setting [n], or [n, weeks] for settings that change by the week (the last one stays). noise: False gives the
        expected events of the visits that are made, for truths.
        """
        chosen = np.asarray(setting)
        chosen = chosen[:, None] if chosen.ndim == 1 else chosen
        if chosen.ndim != 2 or len(chosen) != len(users) or chosen.dtype.kind not in "iu":
            raise ValueError(f"setting has shape {np.shape(setting)}; want whole numbers [{len(users)}] or [n, weeks]")
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(self.sessions.settings):
            raise ValueError(
                f"setting has {chosen.min()} to {chosen.max()}; want 0 to {len(self.sessions.settings) - 1}"
            )
        rng = np.random.default_rng([seed, 1])
        return self._live(users, chosen, max(WINDOWS), rng, enrolled=True, noise=noise)

    def _live(
        self, users: Users, setting: Ints, days: int, rng: np.random.Generator, enrolled: bool, noise: bool
    ) -> Lives:
        s, n = self.sessions, len(users)
        satisfaction, effect = users.satisfaction.copy(), self._effect[users.who]
        sums = np.zeros((1 + len(TASKS), n), np.float32)
        kept = []
        for day in range(days):
            comes = rng.random(n, dtype=np.float32) < 1 / (1 + np.exp(-(users.odds + satisfaction)))
            visitors = np.flatnonzero(comes | (enrolled and day == 0))
            who = users.who[visitors]
            which = rng.random(n, dtype=np.float32)[visitors]  # drawn for all: a setting moves nobody else's draws
            session = s.first[who] + np.minimum((which * s.count[who]).astype(np.int64), s.count[who] - 1)
            now = setting[visitors, min(day // WEEK, setting.shape[1] - 1)]
            events = s.events[now, session]
            if noise:
                events = rng.poisson(events).astype(np.float32)
            satisfaction *= np.float32(self.config.keep)
            satisfaction[visitors] += effect[visitors] * s.push[now, session]
            sums[0, visitors] += 1
            for task in range(len(TASKS)):
                sums[1 + task, visitors] += events[:, task]
            if day + 1 in WINDOWS:
                kept.append(sums.copy())
        return Lives(np.stack(kept), satisfaction)

    def truth(self, n: int = 60_000, seed: int = 1) -> list[Lives]:
        """The same users under each setting, by the same draws and without noise of the events: lives by setting."""
        users = self.draw(n, seed)
        return [self.live(users, np.full(n, c), seed, noise=False) for c in range(len(self.sessions.settings))]

    def table(
        self,
        users: Users,
        setting: Ints,
        lives: Lives,
        experiment: str = "simulated",
        enrolled: Ints | int = 0,
        first_id: int = 0,
    ) -> dict[str, Array]:
        """The rows of an experiment's users as `pygrade.config.user_table` names them.

        setting [n], as assigned; enrolled: days of the enrollment; first_id: the id of the first user.
        """
        n = len(users)
        rows: dict[str, Array] = {
            columns.USER_ID: np.arange(first_id, first_id + n),
            columns.EXPERIMENT: np.full(n, experiment),
            columns.SETTING: np.asarray(setting),
        }
        rows |= {columns.SHIFT + task: self.sessions.settings[setting, t] for t, task in enumerate(TASKS)}
        rows[columns.ENROLLED] = np.broadcast_to(np.asarray(enrolled, np.int64), n)
        rows |= {columns.money(days): lives.money(days) for days in columns.MONEY_DAYS}
        rows |= {columns.visits(days): lives.visits(days) for days in columns.VISIT_DAYS}
        rows |= {columns.BEFORE_MONEY: users.before[0], columns.BEFORE_VISITS: users.before[1]}
        return rows | {columns.SEGMENT: self.sessions.segment[users.who]}
