"""Estimated frequency of each item in the stream: the Q of the log-Q correction."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_RESCALE = 1e100


class ItemFrequency:
    """Decayed counts of ``items`` rows: the share of an item among the draws so far.

        q_i = Σ_b 2^(-a_b / half_life) k_ib / Σ_b 2^(-a_b / half_life) k_b

    over batches b with k_ib draws of item i, k_b in all, and a_b draws since. ``half_life`` 0: nothing decays, and q is
    the exact share. Instead of shrinking every count at each batch, later draws weigh more.
    """

    def __init__(self, items: int, half_life: float = 0.0) -> None:
        self.counts = np.zeros(items)
        self.total, self.weight, self.half_life = 0.0, 1.0, half_life

    def add(self, rows: NDArray[np.int64]) -> None:
        """Count one batch of draws, rows[k] in [0, items)."""
        if self.half_life:
            self.weight *= 2.0 ** (len(rows) / self.half_life)
        np.add.at(self.counts, rows, self.weight)
        self.total += self.weight * len(rows)
        if self.weight > _RESCALE:
            self.counts /= self.weight
            self.total /= self.weight
            self.weight = 1.0

    def log(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """log q of rows[k] that were counted at least once, [k] float32."""
        return np.log(self.counts[rows] / self.total).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """The counts so far, for a checkpoint."""
        return {"counts": torch.from_numpy(self.counts), "total": self.total, "weight": self.weight}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on counting from what `state` gave."""
        self.counts, self.total, self.weight = state["counts"].numpy(), state["total"], state["weight"]
