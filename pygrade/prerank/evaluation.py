"""Recall of later positives by a prerank and by popularity, and of brute-force results by its index."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.metrics import intervals
from pygrade.prerank.batches import Batches, Ids
from pygrade.prerank.index import Floats, ItemIndex, scores_of
from pygrade.prerank.recall import Popularity, held_out_positives, recall
from pygrade.prerank.service import Prerank

_BRUTE_FORCE_REQUESTS = 100


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
    index_recall: float  # |candidates ∩ those of brute force| / n

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def evaluate(
    prerank: Prerank,
    batches: Batches,
    popularity: Popularity,
    n: int = 100,
    max_requests: int = 20_000,
) -> Retrieval:
    """Evaluates on the first ``max_requests`` requests with a positive of batches later than the training.

    The index is compared with brute force on the first 100 of them.
    """
    top = popularity.item_id[:n]
    popular = np.pad(top, (0, n - len(top)), constant_values=-1)
    weights = np.asarray(prerank.task_weights, np.float32)
    served = prerank.towers, prerank.index
    by_towers: list[NDArray[np.float64]] = []
    by_popularity: list[NDArray[np.float64]] = []
    users: list[Ids] = []
    agreement: list[float] = []
    positives = unknown = count = 0
    for batch in batches():
        requests, relevant = held_out_positives(batch, weights)
        requests = requests[: max_requests - count]
        relevant = relevant[: len(requests)]
        if not len(requests):
            continue
        vectors = served[0].user_vectors(batch)[requests]
        retrieved = served[1].search(vectors, n)[0]
        by_towers.append(recall(retrieved, relevant))
        by_popularity.append(recall(np.tile(popular, (len(requests), 1)), relevant))
        users.append(batch.user_id[requests])
        every = np.concatenate(relevant)
        positives, unknown = positives + len(every), unknown + int((~served[1].has(every)).sum())
        for r in range(min(len(requests), _BRUTE_FORCE_REQUESTS - len(agreement))):
            best = brute_force(served[1], vectors[r], n)
            agreement.append(float(np.isin(retrieved[r], best).sum() / max(1, len(best))))
        count += len(requests)
        if count >= max_requests:
            break
    if not count:
        raise ValueError("batches hold no positive; want later requests with some")
    towers, baseline, user = np.concatenate(by_towers), np.concatenate(by_popularity), np.concatenate(users)
    return Retrieval(
        n,
        count,
        positives,
        unknown / positives,
        intervals.mean(towers, user),
        intervals.mean(baseline, user),
        intervals.mean(towers - baseline, user),
        float(np.mean(agreement)) if agreement else float("nan"),
    )


def brute_force(index: ItemIndex, query: Floats, n: int) -> Ids:
    """The (up to) n best items of one query[D], best first, by scoring all."""
    scores = scores_of(query, index.vectors)
    return index.item_id[np.lexsort((index.item_id, -scores))[:n]]
