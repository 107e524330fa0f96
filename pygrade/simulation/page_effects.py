"""Effects between the items of a page: alike items satiate, complements help.

Every item above that the user looked at multiplies the click probability of an item by exp(E), see `PageEffects`. The
user looks at slot j, once it is reached, with its attention a_j, independently of the other slots. So an item's
expected multiplier is a product over the items above,

    M = Π_j (1 - a_j (1 - exp(E_j)))

unless a probability would exceed 1: such an item's expectation is summed over all sets of items looked at.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Floats
from pygrade.config.marketplace import PageEffects

Float32 = NDArray[np.float32]


class WithinPageEffects:
    """The effects of a world's items on each other; false if there are none."""

    def __init__(self, config: PageEffects, taste: Float32, need: Float32) -> None:
        """taste, need: [items, d] vectors. An item's category is the main direction of its taste, and each category has
        one that goes with it."""
        self.config, self.vectors = config, np.concatenate([taste, need], 1)
        self.count = taste.shape[1]
        self.category = taste.argmax(1)  # [items]

    def __bool__(self) -> bool:
        return self.config.strength != 0

    @property
    def categories(self) -> tuple[str, ...]:
        """Names; the category after each, and after the last the first, goes with it."""
        return tuple(f"category {k}" for k in range(self.count))

    @cached_property
    def unit(self) -> Float32:
        """Return vectors of length 1, of shape [items, 2 d]."""
        return np.asarray(self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True), np.float32)

    def columns(self, item: Array) -> dict[str, Any]:
        """The fields of a log with these candidates [M]."""
        names = np.array(self.categories, object)[self.category[item]]
        return {"category": names, "embedding": item.astype(np.int32), "embeddings": self.vectors}

    def session_taste(self, rng: np.random.Generator, item: Array) -> Float32:
        """Return the factors of the events of candidates [n, C] by each session's taste for categories, [n, C]."""
        liked = rng.standard_normal((len(item), self.count), dtype=np.float32)
        taste = np.take_along_axis(liked, self.category[item], 1)
        return np.asarray(np.exp(np.float32(self.config.session_taste) * taste), np.float32)

    def between(self, item: Array) -> Float32:
        """E [n, C, C] of items [n, C] on each other: (above, below)."""
        c, category, unit = self.config, self.category[item], self.unit[item]
        above, below = category[:, :, None], category[:, None]
        cosine = np.maximum(unit @ unit.transpose(0, 2, 1), 0)
        total = c.same_category * (above == below) + c.similarity * cosine
        total = total + c.complement * ((above + 1) % self.count == below)
        return np.asarray(c.strength * total, np.float32)

    def effects(self, item: Array) -> Float32:
        """E [n, K, K] of the pages' items [n, K]: (above, below); 0 where the first is not above."""
        return np.triu(self.between(item), 1)

    def sampled(self, item: Array, attended: Array) -> Float32:
        """Return the multipliers of click probabilities where the items attended [n, K] were looked at, [n, K]."""
        return np.asarray(np.exp((self.effects(item) * attended[:, :, None]).sum(1)), np.float32)

    def expected(self, item: Array, click: Array, attention: Float32) -> Floats:
        """Return expected multipliers [n, K]; click: click probabilities [n, K] without effects, given attention."""
        effects = self.effects(item).astype(np.float64)
        a, click = attention.astype(np.float64), click.astype(np.float64)
        result: Floats = np.prod(1 - a[:, None] * (1 - np.exp(effects)), 1)
        request, slot = np.nonzero(click * np.exp(np.maximum(effects, 0).sum(1)) > 1)
        for k in np.unique(slot):  # the probability would exceed 1 for some items looked at
            own = request[slot == k]
            seen = (np.arange(1 << k)[:, None] >> np.arange(k)) & 1  # [sets, items above]
            chance = np.where(seen, a[:k], 1 - a[:k]).prod(1)
            factor = np.exp(effects[own, :k, k] @ seen.T)  # [own, sets]
            result[own, k] = np.minimum(factor, 1 / click[own, k, None]) @ chance
        return result
