"""A world with planted taste: users and items have factors, and what a user likes follows from their product."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from pygrade.config.prerank import PrerankConfig
from pygrade.prerank import ItemIndex, Prerank

CONFIG = PrerankConfig(width=16, hidden=20, batch_size=128, epochs=1, refit=False)
FACTORS, LENGTH = 6, 8


@dataclass(frozen=True)
class ArrayBatch:
    """The arrays of a `FeatureBatch` that prerank reads."""

    user_id: np.ndarray
    offsets: np.ndarray
    item_id: np.ndarray
    position: np.ndarray
    feedback: np.ndarray
    request_dense: np.ndarray
    request_ids: np.ndarray
    sequences: np.ndarray
    item_dense: np.ndarray
    item_ids: np.ndarray

    @property
    def row_request(self):
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def fitted(self):
        """A schema in which no feature of an item ages."""
        plain = SimpleNamespace(kind="dense", window_hours=0, transform="", columns=("one",))
        return SimpleNamespace(schema=SimpleNamespace(group=lambda _: [plain] * self.item_dense.shape[1]))


class World:
    """``items`` items with ids 1000, 1007, …; item i is drawn by user u with softmax(3 ⟨f_u, f_i⟩ + popularity_i)."""

    def __init__(self, users: int = 300, items: int = 400, popularity: float = 0.5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.item_id = 1000 + 7 * np.arange(items)
        self.user = rng.normal(size=(users, FACTORS)).astype(np.float32)
        self.item = rng.normal(size=(items, FACTORS)).astype(np.float32)
        self.popularity = (popularity * rng.normal(size=items)).astype(np.float32)
        self.taste = 3.0 * self.user @ self.item.T / FACTORS**0.5 + self.popularity

    def batches(self, requests: int, seed: int, rows: int = 4, size: int = 64):
        """A factory of batches: of each request's rows the first is liked, the others are shown by chance and not."""

        def factory():
            rng = np.random.default_rng(seed)
            recent = np.full((len(self.user), LENGTH), -1)
            for start in range(0, requests, size):
                count = min(size, requests - start)
                users = rng.integers(0, len(self.user), count)
                chance = np.exp(self.taste[users] - self.taste[users].max(1, keepdims=True))
                drawn = (chance.cumsum(1) < chance.sum(1, keepdims=True) * rng.random((count, 1))).sum(1)
                shown = rng.integers(0, len(self.item), (count, rows))
                shown[:, 0] = drawn
                feedback = np.zeros((count * rows, 2), np.float32)
                feedback[::rows, 0] = 1.0
                flat = shown.reshape(-1)
                noise = rng.normal(size=(count, FACTORS)).astype(np.float32)
                yield ArrayBatch(
                    user_id=users,
                    offsets=np.arange(count + 1) * rows,
                    item_id=self.item_id[flat],
                    position=np.tile(np.arange(rows, dtype=np.int32), count),
                    feedback=feedback,
                    request_dense=(self.user[users] + 0.5 * noise).astype(np.float32),
                    request_ids=(users + 1).reshape(-1, 1),
                    sequences=recent[users].copy(),
                    item_dense=self.item[flat],
                    item_ids=(flat % 5 + 1).reshape(-1, 1),
                )
                for user, item in zip(users, drawn, strict=True):
                    recent[user] = np.roll(recent[user], 1)
                    recent[user, 0] = self.item_id[item]

        return factory


def vectors_of(towers, requests):
    """Vectors of requests [R, width], of towers beside which there are no items."""
    return Prerank(towers, ItemIndex.build([], np.empty((0, towers.config.width))), (1.0, 0.0)).user_vectors(requests)
