"""Recall of retrieved lists, and popularity as the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pygrade.features.values import KeySums
from pygrade.prerank.batches import Batch, Batches, Ids, positive_weight


def held_out_positives(batch: Batch, task_weights: NDArray[np.float32]) -> tuple[Ids, list[Ids]]:
    """The requests of a batch that have a positive, and the distinct item ids of each one's positives."""
    rows = np.flatnonzero(positive_weight(batch, task_weights) > 0)
    requests, first = np.unique(batch.row_request[rows], return_index=True)
    return requests, [np.unique(items) for items in np.split(batch.item_id[rows], first[1:])] if len(first) else []


def recall(retrieved: Ids, relevant: Sequence[Ids]) -> NDArray[np.float64]:
    """Per request |retrieved ∩ relevant| / min(|relevant|, N), [R].

    retrieved[R, N] is padded with -1; relevant: ascending ids of each request.
    """
    if len(retrieved) != len(relevant):
        raise ValueError(
            f"retrieved has {len(retrieved)} rows; expected one for each of {len(relevant)} lists of relevant items"
        )
    length = retrieved.shape[1]
    return np.array(
        [np.isin(row, items).sum() / min(len(items), length) for row, items in zip(retrieved, relevant, strict=True)]
    )


@dataclass(frozen=True)
class Popularity:
    """Items by the weight of their positives in the training batches: the baseline of a retrieval model."""

    item_id: Ids  # [m], most popular first, ties by id
    weight: NDArray[np.float64]  # [m]

    @classmethod
    def fit(cls, batches: Batches, task_weights: Sequence[float]) -> "Popularity":
        weights = np.asarray(task_weights, np.float32)
        counts = KeySums()
        for batch in batches():
            value = positive_weight(batch, weights)
            rows = np.flatnonzero(value > 0)
            counts.add(batch.item_id[rows], value[rows])
        items, sums = counts.result()
        order = np.lexsort((items, -sums))
        return cls(items[order], sums[order])
