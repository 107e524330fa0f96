"""Recall of later positives by a prerank and by popularity."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.metrics import intervals
from pygrade.prerank.batches import Batches, Ids
from pygrade.prerank.recall import Popularity, held_out_positives, recall
from pygrade.prerank.service import Prerank


@dataclass(frozen=True)
class Retrieval:
    """Recall@n of held-out requests with a positive; intervals are clustered by user."""

    n: int
    requests: int
    positives: int
    unknown: float  # share of the positives that are not in the index
    recall: intervals.Interval  # mean of |candidates ∩ positives| / min(|positives|, n)
    popularity_recall: intervals.Interval  # of the most popular items
    difference: intervals.Interval  # recall - popularity_recall

    def to_dict(self) -> dict[str, Any]:
        """The record for JSON."""
        return asdict(self)


def evaluate(
    prerank: Prerank, batches: Batches, popularity: Popularity, n: int = 100, max_requests: int = 20_000
) -> Retrieval:
    """Evaluates on the first ``max_requests`` requests with a positive of batches later than the training."""
    top = popularity.item_id[:n]
    popular = np.pad(top, (0, n - len(top)), constant_values=-1)
    weights = np.asarray(prerank.task_weights, np.float32)
    by_towers: list[NDArray[np.float64]] = []
    by_popularity: list[NDArray[np.float64]] = []
    users: list[Ids] = []
    positives = unknown = count = 0
    for batch in batches():
        requests, relevant = held_out_positives(batch, weights)
        requests = requests[: max_requests - count]
        relevant = relevant[: len(requests)]
        if not len(requests):
            continue
        retrieved = prerank.index.search(prerank.user_vectors(batch)[requests], n)[0]
        by_towers.append(recall(retrieved, relevant))
        by_popularity.append(recall(np.tile(popular, (len(requests), 1)), relevant))
        users.append(batch.user_id[requests])
        every = np.concatenate(relevant)
        positives, unknown = positives + len(every), unknown + int((~prerank.index.has(every)).sum())
        count += len(requests)
        if count >= max_requests:
            break
    if not count:
        raise ValueError("batches hold no positive; expected later requests with some")
    towers, baseline, user = np.concatenate(by_towers), np.concatenate(by_popularity), np.concatenate(users)
    return Retrieval(
        n,
        count,
        positives,
        unknown / positives,
        intervals.mean(towers, user),
        intervals.mean(baseline, user),
        intervals.mean(towers - baseline, user),
    )
