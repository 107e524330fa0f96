"""A marketplace in time: items die and new ones take their places, appeal drifts, what a user was shown loses.

The appeal of an item or category is a stationary AR(1) walk of log factors z by days, with factors exp(z - sd² / 2) of
mean 1. Who saw the walk until yesterday expects of today, with ρ = 2^(-1 / half_life),

    E[exp(z_d - sd² / 2) | z_(d-1)] = exp(ρ z_(d-1) - ρ² sd² / 2)

and 1 of an item that was launched today. Fatigue is a function of earlier exposures alone, so a log tells it exactly.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Floats, Ints
from pygrade.config.marketplace import PARENT, Dynamics

Float32 = NDArray[np.float32]
_DAY = 24  # hours


class ItemLaunches:
    """Launches of a world's items and their appeal by days; false if the world has no clock."""

    def __init__(self, config: Dynamics, places: int, categories: int, seed: int) -> None:
        """places: items alive at any time. Those of hour 0 come first, then the others by launch."""
        self.config, self.span = config, _DAY * config.days
        rng = np.random.default_rng([seed, 21])
        count = rng.poisson(config.days / config.lifetime, places) if config.lifetime else np.zeros(places, int)
        launch = rng.uniform(0, self.span, count.sum())
        order = np.argsort(launch)
        self.launch = np.concatenate([np.zeros(places), launch[order]])  # [items] hours
        place = np.concatenate([np.arange(places), np.repeat(np.arange(places), count)[order]])
        self._by_place = np.lexsort((self.launch, place))
        self._start = (place * self.span + self.launch)[self._by_place]
        self._keep = 0.5 ** (1 / config.half_life)
        sizes = ((len(place), config.item_drift), (categories, config.trend))
        self._walks = [(sd, self._walk(np.random.default_rng([seed, 22, i]), n, sd)) for i, (n, sd) in enumerate(sizes)]

    def __bool__(self) -> bool:
        return self.config.on

    def _walk(self, rng: np.random.Generator, count: int, sd: float) -> Floats:
        """Return z [days, count] of a walk with this deviation; no days of 0."""
        z = sd * rng.standard_normal((self.config.days if sd else 0, count))
        for day in range(1, len(z)):
            z[day] = self._keep * z[day - 1] + np.sqrt(1 - self._keep**2) * z[day]
        return z

    def check(self, hours: Array | None, n: int) -> Floats | None:
        """The times of n requests, in hours since the start; None without a clock. ``ValueError`` for others."""
        if not self:
            if hours is not None:
                raise ValueError("hours are given; expected None in a world without a clock (world.dynamics)")
            return None
        times: Floats | None = None if hours is None else np.asarray(hours, np.float64)
        good = times is not None and times.shape == (n,) and ((times >= 0) & (times < self.span)).all()
        if times is None or not good or (np.diff(times) < 0).any():
            shown = "None" if times is None else f"{times.shape} from {times.min()} to {times.max()}"
            raise ValueError(f"hours are {shown}; expected {n} that do not fall, from 0 to below {self.span}")
        return times

    def items(self, places: Array, hours: Floats) -> NDArray[np.int32]:
        """Return the items at these places [n, C] at these hours [n], of shape [n, C]."""
        moment = places * float(self.span) + hours[:, None]
        return self._by_place[np.searchsorted(self._start, moment, side="right") - 1].astype(np.int32)

    def event_factors(self, item: Array, category: Array, hours: Floats) -> tuple[Float32, Float32]:
        """Factors [n, C] of the events of these items and categories [n, C]: true, and as expected by yesterday."""
        true, expected = np.zeros(item.shape), np.zeros(item.shape)
        day = np.broadcast_to((hours // _DAY).astype(int)[:, None], item.shape)
        starts = self.launch[item] // _DAY, 0
        for (sd, z), index, start in zip(self._walks, (item, category), starts, strict=True):
            if sd:
                before = self._keep * z[np.maximum(day - 1, 0), index]
                true += z[day, index] - sd**2 / 2
                expected += np.where(day > start, before - self._keep**2 * sd**2 / 2, 0.0)
        return np.exp(true).astype(np.float32), np.exp(expected).astype(np.float32)

    def fatigue(self, dose: Floats) -> Float32:
        """Return the factors of the events of items that have these doses [n, C] of earlier exposures, [n, C, T]."""
        lost = list(self.config.fatigue)
        for t, parent in enumerate(PARENT):
            lost[t] += lost[parent] if parent >= 0 else 0.0
        return np.asarray(np.exp(-dose[..., None] * np.array(lost)), np.float32)


class Exposures:
    """Doses of what users were shown: Σ 2^(-hours since an exposure / recovery), by user and item."""

    def __init__(self, recovery: float) -> None:
        self._recovery = recovery
        self._doses: dict[tuple[int, int], tuple[float, float]] = {}  # at the hour of the last exposure

    def dose(self, user: Array, item: Array, hours: Floats) -> Floats:
        """Return appeal [n, C] of users [n] and items [n, C] at these hours [n]."""
        return np.array(
            [
                [self._dose((one, key), now) for key in keys]
                for one, keys, now in zip(user.tolist(), item.tolist(), hours.tolist(), strict=True)
            ]
        )

    def add(self, user: Array, item: Array, hours: Floats) -> None:
        """Users [n] were shown items [n, K] at these hours [n], none before an earlier exposure."""
        for one, keys, now in zip(user.tolist(), item.tolist(), hours.tolist(), strict=True):
            for key in keys:
                self._doses[one, key] = self._dose((one, key), now) + 1, now

    def _dose(self, key: tuple[int, int], now: float) -> float:
        dose, last = self._doses.get(key, (0.0, now))
        return dose * float(0.5 ** ((now - last) / self._recovery))


def visits(user: Array) -> Iterator[Ints]:
    """Rows of each user's first request, then of each one's second, and so on."""
    _, number, count = np.unique(user, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    visit = np.empty(len(user), int)
    visit[order] = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
    by_visit = np.argsort(visit, kind="stable")
    yield from np.split(by_visit, np.cumsum(np.bincount(visit))[:-1])
