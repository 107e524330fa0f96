"""Shops whose predictions are the truth but for one effect of the context: independent roots, and a chain in units."""

from dataclasses import dataclass, replace

import numpy as np

from pygrade._typing import Bools, Floats
from .pages import Browsing, Requests, World, assemble, fading, moment, sigmoid

EFFECTS = {  # the task, and the columns that tell
    "segment": ("order", ("returning",)),
    "price": ("order", ("sensitivity", "price_level")),
    "hour": ("cart", ("hour", "phone")),
}
UNITS = ("seconds", "hours", "cents", "orphans")
_USERS, _ITEMS, _CANDIDATES, _SLOTS = 1_500, 2_000, 30, 8
_LEVELS = {"click": -2.4, "cart": -3.9, "order": -4.9}
_VALUES = {"click": 0.15, "cart": 0.7, "order": 0.1, "dwell": 0.15 / 120}  # dwell: of a second
_WEIGHTS = {"click": 0.15, "cart": 0.3, "order": 1.5, "dwell": 0.0015}  # of production, tuned by hand
_ORPHANS, _HOUR = 1_000, 3_600.0  # of so many orders one is without its click


@dataclass(frozen=True)
class Shop(World):
    """Clicks, carts and orders that need no other event."""

    effect: str = "segment"
    tasks: tuple[str, ...] = ("click", "cart", "order")

    @property
    def cause(self) -> tuple[str, tuple[str, ...]]:
        return EFFECTS[self.effect]

    def requests(self, count: int, number: int) -> Requests:
        catalog = np.random.default_rng([self.seed, 11])
        appeal, use, level = catalog.standard_normal((3, _ITEMS))
        returning, feeling = catalog.random(_USERS) < 0.45, catalog.standard_normal(_USERS)
        rng = np.random.default_rng([self.seed, 12, number])
        time, user = moment(rng, count, number), rng.integers(0, _USERS, count)
        hour, phone = np.floor(time * 28 * 24 % 24), rng.random(count) < 0.5
        start, step = rng.integers(0, _ITEMS, (2, count, 1))
        item = (start + np.arange(_CANDIDATES) * (10 * step + 1)) % _ITEMS  # distinct: a step prime to their number
        match, mood = rng.standard_normal((3, count, _CANDIDATES)), 0.5 * rng.standard_normal((count, 1))
        rates = self._rates(appeal[item], use[item], match, mood)
        factor = self._factor(returning[user], feeling[user], hour, phone, level[item])
        task = self.cause[0]
        true = rates | {task: np.minimum(rates[task] * factor / factor.mean(), 0.9)}
        chain = "dwell" in self.tasks
        if chain:
            true["order"] = np.minimum(true["order"], 0.95 * true["click"])
        predictions, truth = (np.stack([part[name] for name in self.tasks], -1) for part in (rates, true))
        weights = np.array([_WEIGHTS[name] for name in self.tasks])
        production = np.log(predictions @ weights) + 0.2 * rng.standard_normal((count, _CANDIDATES))
        parents, amounts = ((-1, 0, 0), (2,)) if chain else ((-1, -1, -1), ())
        return assemble(
            rng,
            Browsing(fading(_SLOTS, 0.6), parents, amounts=amounts),
            truth,
            predictions,
            production,
            0.03,
            tasks=self.tasks,
            task_values=tuple(_VALUES[name] for name in self.tasks),
            value_tasks=("order",),
            features=("returning", "sensitivity", "hour", "phone", "weather"),
            context=np.stack([returning[user], feeling[user], hour, phone, rng.standard_normal(count)], 1),
            items=("price_level",),
            item_features=level[item],
            item_id=np.char.add("sku", item.astype(str)),
            user_id=user,
            value=np.round(25 * np.exp(0.3 * level), 2)[item],
            timestamp=time,
        )

    def _rates(self, appeal: Floats, use: Floats, match: Floats, mood: Floats) -> dict[str, Floats]:
        """Predictions [R, N]. Items that win clicks lose the effect's task, whose level decides which ones to show."""
        lean, (first, second) = 0.75 * appeal + 0.25 * match[0], 0.3 * use + 0.2 * match[1:]
        own = {"click": np.zeros_like(lean), "cart": first, "order": second}
        sides = {name: -lean if name == self.cause[0] else lean for name in own}
        rates = {name: sigmoid(level + sides[name] + own[name] + mood) for name, level in _LEVELS.items()}
        if "dwell" in self.tasks:
            rates["order"] = rates["click"] * sigmoid(-1.8 - 1.7 * lean + second)
        return rates | {"dwell": rates["click"] * 40 * np.exp(0.3 * match[1])}

    def _factor(self, returning: Bools, feeling: Floats, hour: Floats, phone: Bools, level: Floats) -> Floats:
        """[R, N]: of the task's rate; the sides differ by a ratio of 2, 3 or 4."""
        if self.effect == "price":
            side = -0.4 * feeling[:, None] * level
        elif self.effect == "hour":
            side = (0.4 * np.where(phone, 1, -1) + 0.4 * np.tanh((hour - 14) / 5))[:, None]
        else:
            side = np.where(returning, 0.5, -0.5)[:, None]
        return np.broadcast_to((2.0 + self.seed % 3) ** side, level.shape)


@dataclass(frozen=True)
class Units(Shop):
    """A chain click → order, dwell, in units of its own; the events of all units are the same."""

    tasks: tuple[str, ...] = ("click", "order", "dwell")
    unit: str = "seconds"

    def requests(self, count: int, number: int) -> Requests:
        found = super().requests(count, number)
        logs, (click, order, dwell) = found.logs, found.logs.task_values
        if self.unit == "hours":
            scale = np.array([1.0, 1.0, 1 / _HOUR], np.float32)
            logs = replace(logs, predictions=logs.predictions * scale, feedback=logs.feedback * scale)
            logs = replace(logs, task_values=(click, order, dwell * _HOUR))
            return replace(found, logs=logs, truth=found.truth * scale)
        if self.unit == "cents" and logs.value is not None:
            logs = replace(logs, value=logs.value * np.float32(100), task_values=(click, order / 100, dwell))
        elif self.unit == "orphans":
            feedback = logs.feedback.copy()
            ordered = np.flatnonzero(feedback[:, 1])
            feedback[ordered[: -(-len(ordered) // _ORPHANS)], 0] = 0
            logs = replace(logs, feedback=feedback)
        return replace(found, logs=logs)
