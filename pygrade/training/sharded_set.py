"""The training set of a log in logical shards: contiguous ranges of its requests.

The number of shards depends on the log alone, and whatever is added up over them is added in their order. So a policy
has the same bits wherever the shards are: in this process, or in workers (`pygrade.workers`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade.policy import FusionPolicy
from pygrade.training.policy_step import Engine, is_fused, parameters_of
from pygrade.training.shard_learner import Draw, Held, LearnerPart, Shard, ShardLearner
from pygrade.training.training_set import TrainingSet
from pygrade.workers import Actors, LocalWorkers, Workers

MAX_SHARDS = 64


def shard_count(requests: int, shard_requests: int) -> int:
    """One shard for every ``shard_requests`` requests begun, up to `MAX_SHARDS`."""
    return int(min(max(-(-requests // shard_requests), 1), MAX_SHARDS))


def shard_bounds(requests: int, shard_requests: int) -> NDArray[np.int64]:
    """[S + 1]: shard s has the requests bounds[s] … bounds[s + 1] - 1; sizes differ by 1 at most."""
    count = shard_count(requests, shard_requests)
    return np.arange(count + 1, dtype=np.int64) * requests // count


@dataclass(frozen=True)
class ShardedSet:
    """S shards of a training set."""

    head: TrainingSet  # what all shards have in common; its requests do not count if there are files
    shards: tuple[Shard, ...]
    sizes: NDArray[np.int64]  # [S] requests
    valued: NDArray[np.int64]  # [S] requests whose page has feedback of positive value

    @classmethod
    def of(cls, data: "TrainingSet | ShardedSet") -> "ShardedSet":
        """A set in memory is one shard."""
        if isinstance(data, ShardedSet):
            return data
        return cls(data, (Held(data),), np.array([data.num_requests]), np.array([len(data.valued())]))

    @property
    def num_requests(self) -> int:
        return int(self.sizes.sum())

    def learners(
        self, policy: FusionPolicy, engine: Engine, workers: Workers | None = None, threads: int | None = None
    ) -> Actors:
        """A `ShardLearner` for every shard: in this process if the set is in memory, else where the workers are.

        threads: of torch in each worker.
        """
        chosen: Engine = "fused" if is_fused(policy, engine) else "torch"  # here, not by each worker's processor
        parts = [
            LearnerPart(number, len(self.shards), shard, policy, chosen, threads)
            for number, shard in enumerate(self.shards)
        ]
        here = workers is None or any(isinstance(shard, Held) for shard in self.shards)
        return (LocalWorkers() if workers is None or here else workers).actors(ShardLearner, parts, "training")

    def take(self, rows: NDArray[np.int64]) -> TrainingSet:
        """Some requests, by their numbers in the whole log, ascending, as a set in memory."""
        shard, local = located(rows, self.sizes)
        parts = []
        for number in np.unique(shard):
            data, found = self.shards[number].batch(torch.from_numpy(local[shard == number]))
            parts.append(data.select(found))
        return concatenated(parts)


def located(rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The shard of each of the rows [n], and its number there, if shards have sizes [S]."""
    ends = np.cumsum(sizes)
    shard = np.searchsorted(ends, rows, side="right")
    return shard, rows - (ends - sizes)[shard]


def concatenated(parts: Sequence[TrainingSet]) -> TrainingSet:
    """One set of several with the same head."""
    return parts[0] if len(parts) == 1 else parts[0].joined(parts[1:])


@dataclass(frozen=True)
class Batch:
    """The requests of one step, by shard: rows of one shard are next to each other, in the order of the shards."""

    rows: tuple[Tensor | None, ...]  # [S] of int64 [b]: numbers of the shard's requests; None: none
    firsts: tuple[int, ...]  # [S] place of the first in the batch
    size: int  # B
    values: Tensor | None  # [B, T] multipliers of the tasks' values
    seed: int = 0

    @classmethod
    def of(cls, rows: Tensor, sizes: NDArray[np.int64], values: Tensor | None = None, seed: int = 0) -> "Batch":
        """rows [B]: numbers of requests, counted through all shards of these sizes; values: in the batch's order."""
        if len(sizes) == 1:
            return cls((rows,), (0,), len(rows), values, seed)
        shard, local = located(rows.numpy(), sizes)
        order = np.argsort(shard, kind="stable")
        counts = np.bincount(shard, minlength=len(sizes))
        ends = np.cumsum(counts)
        pieces = np.split(local[order], ends[:-1])
        chosen = tuple(torch.from_numpy(piece) if len(piece) else None for piece in pieces)
        return cls(chosen, tuple((ends - counts).tolist()), len(rows), values, seed)

    def slices(self, values: Tensor | None) -> list[Tensor | None]:
        """Values [B, …] of the batch by shard."""
        return [
            None if rows is None or values is None else values[first : first + len(rows)]
            for rows, first in zip(self.rows, self.firsts, strict=True)
        ]

    def draws(self, policy: FusionPolicy, reference: Tensor | None = None) -> list[Draw | None]:
        """For the learners of the shards."""
        parameters = parameters_of(policy).cpu()
        parts = zip(self.rows, self.firsts, self.slices(self.values), strict=True)
        return [
            None if rows is None else Draw(rows, first, self.size, parameters, values, self.seed, reference)
            for rows, first, values in parts
        ]


def total(gradients: Sequence[Tensor]) -> Tensor:
    """Sum of gradients [P] in order."""
    result = gradients[0].clone()
    for gradient in gradients[1:]:
        result += gradient
    return result


def known(parts: Sequence[Any]) -> list[Any]:
    """Results without those of shards that had no row in the batch."""
    return [part for part in parts if part is not None]
