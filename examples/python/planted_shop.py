"""python planted_shop.py [FILE] [REQUESTS] [EFFECT]: a shop's table with a known effect that the shop's models lack.

Predictions are right on average over all requests, and wrong for each one in a way that the context explains. The truth
is kept apart (FILE.truth.npz), so a ranking can be judged without noise. Effects:

- factor: returning customers buy six times as often as new ones at the same prediction;
- interaction: customers with a high price affinity buy expensive items, others cheap ones;
- addition: carts from an app are more frequent, those from a television rarer, by the device's name;
- all: the three together.

Text columns, missing values, prices, slots from 1 and seconds are as in a data warehouse; `pygrade doctor` or
`Logs.from_table` says which column is what.
"""

import sys
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

EFFECTS = ("factor", "interaction", "addition", "all")
DEVICES = {"iPhone app": 1.0, "Android app": 0.7, "Chrome on Windows": -1.0, "Safari on Mac": -1.3, "Smart TV": -3.5}
SHARES = (0.25, 0.2, 0.3, 0.15, 0.1)  # of the devices
VALUES = {"click": 0.4, "cart": 0.4, "order": 0.15}  # an order: times the price
COLUMNS = {
    "click": "clicked",
    "cart": "carted",
    "order": "bought",
    "p_click": "ctr_model",
    "p_cart": "cart_model",
    "p_order": "buy_model",
    "exploration": "page_kind",
    "value": "price",
}
SLOTS, EXPONENT, SHUFFLED = 10, 0.6, 0.03
MISSING = {"returning": 0.03, "device": 0.03, "price_affinity": 0.03, "tenure_days": 0.25}  # shares of the requests
_START = 1_767_225_600  # 2026-01-01 in seconds
_ITEMS, _LEAST, _MOST = 1_500, 18, 40  # in the catalog; candidates of a request


@dataclass(frozen=True)
class Truth:
    """What no table has: true probabilities [M, 3] of click, cart, order, and prices [M], by offsets [R + 1]."""

    offsets: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    predictions: NDArray[np.float64]  # the models', [M, 3]
    price: NDArray[np.float64]

    def value(self, probabilities: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """[M]: the expected value of a look at each candidate, by default in truth."""
        p = self.probabilities if probabilities is None else probabilities
        worth = np.array(list(VALUES.values())) * np.stack([np.ones_like(self.price)] * 2 + [self.price], 1)
        return np.asarray((p * worth).sum(1))

    def earned(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """[R]: the expected value of each request's page if candidates are sorted by scores [M]."""
        request = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        order = np.lexsort((-scores, request))
        rank = np.arange(len(order)) - self.offsets[request]  # of the sorted rows
        look = np.where(rank < SLOTS, (rank + 1.0) ** -EXPONENT, 0.0)
        return np.asarray(np.bincount(request, look * self.value()[order], len(self.offsets) - 1))

    def lift(self, scores: NDArray[np.floating]) -> float:
        """Value over that of expected value by the shop's predictions, in per cent."""
        return float(100 * (self.earned(scores).sum() / self.earned(self.value(self.predictions)).sum() - 1))


class Shop:
    """The world of a seed and an effect."""

    def __init__(self, seed: int = 0, effect: str = "factor") -> None:
        if effect not in EFFECTS:
            raise ValueError(f"effect is {effect!r}; expected one of {', '.join(EFFECTS)}")
        self.seed, self.effect = seed, effect
        rng = np.random.default_rng([seed, 0])
        self.appeal, self.use, self.urge = rng.standard_normal((3, _ITEMS))
        self.level = rng.integers(1, 11, _ITEMS)  # decile of the price
        self.price = np.round(np.exp(2.3 + 0.28 * self.level + 0.1 * rng.standard_normal(_ITEMS)), 2)

    def table(self, requests: int, number: int = 0) -> tuple[pa.Table, Truth]:
        """Requests of one draw, a row per candidate, in time; the same arguments give the same ones."""
        rng = np.random.default_rng([self.seed, 1, number])
        sizes = rng.integers(_LEAST, _MOST + 1, requests)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        request = np.repeat(np.arange(requests), sizes)
        user = rng.integers(0, max(requests // 3, 1), requests) + number * 10_000_000
        returning = np.random.default_rng([self.seed, 2, number]).random(user.max() - user.min() + 1)[user - user.min()]
        returning = returning < 0.6
        device = rng.choice(len(DEVICES), requests, p=SHARES)
        affinity = rng.beta(2, 2, requests)
        item = np.concatenate([rng.choice(_ITEMS, size, replace=False) for size in sizes])

        match = rng.standard_normal((3, len(item)))
        click = -1.2 + 1.5 * self.appeal[item] + 0.4 * match[0]
        cart = -0.3 - 1.2 * self.appeal[item] + 0.8 * self.use[item] + 0.4 * match[1]
        order = -2.4 - 0.4 * self.use[item] + 0.7 * self.urge[item] + 0.4 * match[2] - 0.05 * (self.level[item] - 5.5)
        predictions = _chain(click, cart, order)
        if self.effect in ("interaction", "all"):
            order = order + 0.9 * ((affinity - 0.5) / 0.22)[request] * (self.level[item] - 5.5) / 2.9
        if self.effect in ("addition", "all"):
            cart = cart + np.array(list(DEVICES.values()))[device][request]
        truth = _chain(click, cart, order)
        if self.effect in ("factor", "all"):
            truth[:, 2] *= np.where(returning, 1.5, 0.25)[request]  # 6 : 1, and 1 on average
            truth[:, 2] = np.minimum(truth[:, 2], truth[:, 1])
        position, shuffled = self._pages(rng, predictions, item, request, offsets)
        look = (position >= 0) & (rng.random(len(item)) < np.maximum(position + 1.0, 1.0) ** -EXPONENT)
        clicked = look & (rng.random(len(item)) < truth[:, 0])
        carted = clicked & (rng.random(len(item)) < truth[:, 1] / truth[:, 0])
        bought = carted & (rng.random(len(item)) < truth[:, 2] / truth[:, 1])

        shown = position >= 0
        gone = {name: rng.random(requests) < share for name, share in MISSING.items()}
        tenure = np.round(rng.gamma(1.5, 200.0, requests) * np.where(returning, 1.5, 0.3), 1)
        table = {
            "session": np.char.add(f"s{number}-", np.arange(requests).astype(str))[request],
            "customer": np.char.add("c", user.astype(str))[request],
            "sku": np.char.add("i", item.astype(str)),
            "slot": pa.array(position + 1, mask=~shown),
            "at": (_START + np.arange(requests) * (2_000_000 // requests) + number * 2_000_000)[request],
            "page_kind": np.where(shuffled, "shuffle", "none")[request],
            "returning": _column(np.where(returning, "yes", "no"), gone["returning"], request),
            "device": _column(np.array(list(DEVICES))[device], gone["device"], request),
            "price_affinity": _column(np.round(affinity, 3), gone["price_affinity"], request),
            "tenure_days": _column(tenure, gone["tenure_days"], request),
            "price": self.price[item],
            "price_level": self.level[item],
        }
        table |= {f"{name}_model": predictions[:, t] for t, name in enumerate(("ctr", "cart", "buy"))}
        for name, happened in (("clicked", clicked), ("carted", carted), ("bought", bought)):
            table[name] = pa.array(happened, mask=~shown)
        return pa.table(table), Truth(offsets, truth, predictions, self.price[item])

    def _pages(
        self,
        rng: np.random.Generator,
        predictions: NDArray[np.float64],
        item: NDArray[np.int64],
        request: NDArray[np.int64],
        offsets: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The slot of each candidate, -1: not shown, and which pages are shuffled."""
        worth = np.array(list(VALUES.values())) * np.stack([np.ones(len(item))] * 2 + [self.price[item]], 1)
        score = np.log((predictions * worth).sum(1)) + 0.3 * rng.standard_normal(len(item))
        order = np.lexsort((-score, request))
        position = np.empty(len(item), np.int64)
        position[order] = np.arange(len(item)) - offsets[request]
        position[position >= SLOTS] = -1
        shuffled = rng.random(len(offsets) - 1) < SHUFFLED
        for at in np.flatnonzero(shuffled):
            rows = np.flatnonzero(position[offsets[at] : offsets[at + 1]] >= 0) + offsets[at]
            position[rows] = rng.permutation(len(rows))
        return position, shuffled


def _chain(click: NDArray[np.float64], cart: NDArray[np.float64], order: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities [M, 3] of log odds given the event before."""
    return np.cumprod(1 / (1 + np.exp(-np.stack([click, cart, order], 1))), 1)


def _column(values: NDArray[np.generic], gone: NDArray[np.bool_], request: NDArray[np.int64]) -> pa.Array:
    return pa.array(values[request].tolist(), mask=gone[request])


if __name__ == "__main__":
    file, requests, effect = (*sys.argv[1:], *("planted_shop.parquet", "2000", "factor")[len(sys.argv) - 1 :])
    table, truth = Shop(effect=effect).table(int(requests))
    pq.write_table(table, file)
    np.savez(f"{file}.truth.npz", **vars(truth))
    print(f"{file}: {requests} requests; sorting by the truth: {truth.lift(truth.value()):+.2f} % over expected value")
