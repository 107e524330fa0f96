"""A log ready for training: `TrainingData`, in one shard in memory, or in several in files.

A shard has a contiguous range of the log's requests. The number of shards depends on the log alone, and whatever is
added up over them is added in their order. So a policy has the same bits wherever the shards are: in this process, or
in workers (`pygrade.workers`).
"""

import hashlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pygrade._typing import Floats, Ints
from pygrade.config.training import CemConfig, Engine, RewardConfig
from pygrade.logs import Logs
from pygrade.logs.keys import hashes
from pygrade.logs.log_parts import LogParts
from pygrade.policy import FusionPolicy
from pygrade.storage import Place
from pygrade.training.policy_step import is_fused
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.reward import format_weight
from pygrade.training.shard_learner import ShardLearner, StepRequest
from pygrade.training.shards import FileShard, Fold, MemoryShard, Shard
from pygrade.training.training_record import TrainingRecord
from pygrade.workers import Actors, LocalWorkers, Workers

T = TypeVar("T")
Numbers = TypeVar("Numbers", Tensor, Floats)
MAX_SHARDS = 64
CHUNK = 20_000  # requests that a job holds at a time
LogSource = Logs | LogParts | Place | Sequence[Place]
"""A log: in memory, or its Parquet files and directories."""


def open_log(source: LogSource, limit: int) -> Logs | LogParts:
    """The log; read if it has no more requests than the limit."""
    if isinstance(source, Logs):
        return source
    parts = source if isinstance(source, LogParts) else LogParts.open(source)
    return parts.read(0, parts.num_requests) if parts.num_requests <= limit else parts


def shard_bounds(requests: int, shard_requests: int) -> Ints:
    """[S + 1]: shard s has the requests bounds[s] … bounds[s + 1] - 1; sizes differ by 1 at most.

    One shard for every ``shard_requests`` requests begun, up to `MAX_SHARDS`.
    """
    count = min(max(-(-requests // shard_requests), 1), MAX_SHARDS)
    return np.arange(count + 1, dtype=np.int64) * requests // count


def shard_of_rows(rows: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """The shard of each of the rows [n], and its number there, if shards have sizes [S]."""
    ends = np.cumsum(sizes)
    shard = np.searchsorted(ends, rows, side="right")
    return shard, rows - (ends - sizes)[shard]


def sum_in_order(parts: Sequence[Numbers]) -> Numbers:
    """Sum of arrays from the first to the last, so that it has the same bits wherever they come from."""
    return reduce(operator.add, parts)


def split_batch(
    rows: Tensor,
    sizes: Ints,
    parameters: Tensor,
    values: Tensor | None = None,
    seed: int = 0,
    reference: Tensor | None = None,
) -> list[StepRequest | None]:
    """The requests of one step by shard; None: it has none of them.

    rows [B]: numbers of requests, counted through all shards of sizes [S]; values [B, T]: in the order of the shards.
    """
    shard, local = shard_of_rows(rows.numpy(), sizes)
    counts = np.bincount(shard, minlength=len(sizes))
    firsts = (np.cumsum(counts) - counts).tolist()
    pieces = np.split(local[np.argsort(shard, kind="stable")], firsts[1:])
    result: list[StepRequest | None] = []
    for piece, first in zip(pieces, firsts, strict=True):
        part = None if values is None else values[first : first + len(piece)]
        request = StepRequest(torch.from_numpy(piece), first, len(rows), parameters, part, seed, reference)
        result.append(request if len(piece) else None)
    return result


def without_empty(parts: Sequence[T | None]) -> list[T]:
    """Results of the shards that had rows in the batch."""
    return [part for part in parts if part is not None]


@dataclass(frozen=True)
class LogRange:
    """A shard's requests in the log itself."""

    number: int
    count: int
    log: Logs | LogParts
    start: int
    stop: int
    sample: int  # requests to draw from it

    def __str__(self) -> str:
        return f"shard {self.number + 1} of {self.count}, requests {self.start:,} to {self.stop - 1:,}"

    def chunks(self) -> Iterator[Logs]:
        """Its requests, `CHUNK` at a time."""
        if isinstance(self.log, LogParts):
            yield from self.log.chunks(self.start, self.stop, CHUNK)
            return
        for start in range(self.start, self.stop, CHUNK):
            yield self.log.select(slice(start, min(start + CHUNK, self.stop)))


@dataclass(frozen=True)
class TrainingData:
    """S shards of a log, and a sample of its requests for all that is not learning: all of them if it is in memory."""

    shards: tuple[Shard, ...]
    sample: Logs
    tensors: RequestTensors  # of the sample; what does not go by request is that of the whole log
    # Of a log in files:
    times: tuple[int, int] | None = None  # first and last (ms)
    digest: str = ""  # of the shards' content
    ranges: tuple[LogRange, ...] = ()

    @classmethod
    def of(cls, tensors: RequestTensors, logs: Logs) -> "TrainingData":
        """A log in memory is one shard."""
        return cls((MemoryShard(tensors),), logs, tensors)

    @property
    def in_memory(self) -> bool:
        """True if the sample is the whole log."""
        return isinstance(self.shards[0], MemoryShard)

    @property
    def files(self) -> tuple[FileShard, ...]:
        """The shards that are in files."""
        return tuple(shard for shard in self.shards if isinstance(shard, FileShard))

    @cached_property
    def sizes(self) -> Ints:
        """[S] requests."""
        return np.array([shard.size for shard in self.shards], np.int64)

    @cached_property
    def valued(self) -> Ints:
        """[S] requests whose page has feedback of positive value."""
        return np.array([len(shard.valued()) for shard in self.shards], np.int64)

    @property
    def num_requests(self) -> int:
        return int(self.sizes.sum())

    def fingerprint(self) -> str:
        """Changes with whatever is learned from."""
        if self.digest:
            return self.digest
        digest = hashlib.sha256()
        for tensor in self.tensors.by_request().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def learners(
        self, policy: FusionPolicy, engine: Engine, workers: Workers | None = None, threads: int | None = None
    ) -> Actors:
        """A `ShardLearner` for every shard: in this process if the log is in memory, else where the workers are.

        threads: of torch in each worker.
        """
        chosen: Engine = "fused" if is_fused(policy, engine) else "torch"  # here, not by each worker's processor
        make = partial(ShardLearner, policy=policy, engine=chosen, threads=threads)
        return (LocalWorkers() if workers is None or self.in_memory else workers).actors(make, self.shards, "training")

    def take(self, rows: Ints) -> RequestTensors:
        """Some requests, by their numbers in the whole log, ascending."""
        shard, local = shard_of_rows(rows, self.sizes)
        parts = []
        for number in np.unique(shard):
            tensors, found = self.shards[int(number)].batch(torch.from_numpy(local[shard == number]))
            parts.append(tensors.select(found))
        return parts[0].join(parts[1:])

    def for_search(self, search: CemConfig) -> RequestTensors:
        """The requests that the search for static weights scores on, or draws these from."""
        if self.in_memory:
            return self.tensors
        rows, count = np.arange(self.num_requests), search.subsample
        if len(rows) > count:
            rows = np.sort(np.random.default_rng(search.seed).choice(len(rows), count, replace=False))
        return self.take(rows)

    def fit_normalization(self, policy: FusionPolicy, seed: int, workers: Workers) -> None:
        """Sets the mean and deviation of the policy's inputs, as training sees them."""
        if self.in_memory:
            policy.fit_normalization(self.tensors.inputs_seen(seed).cpu())
            return
        mean: Floats | None = None
        for _ in range(2):
            work = partial(input_moments, seed=seed, mean=mean)
            count, total = sum_in_order(list(workers.map(work, self.files, "normalization")))
            before, mean = mean, total / np.maximum(count, 1)
        assert before is not None and mean is not None
        policy.set_normalization(torch.from_numpy(before), torch.from_numpy(mean).sqrt())

    def record(self, policy_version: str) -> TrainingRecord:
        """The training record of a policy that learned from this data."""
        if self.in_memory:
            return TrainingRecord.of(self.sample, policy_version)
        keys = np.concatenate([shard.index().keys for shard in self.files])
        return TrainingRecord.of(self.sample, policy_version, keys, self.times)

    def fold_of_sample(self, folds: int, seed: int) -> Ints:
        """[n]: the fold of each request of the sample, of a log in files."""
        users = hashes(self.sample.user_id)
        return np.asarray(np.argmax([Fold(number, folds, seed).has(users) for number in range(folds)], 0))

    def without(self, fold: Fold, reward: RewardConfig) -> "TrainingData":
        """Return a log in files without the users of a fold."""
        keep = np.flatnonzero(~fold.has(hashes(self.sample.user_id)))
        tensors = self.tensors.select(torch.from_numpy(keep).to(self.tensors.discount.device))
        digest = f"{self.digest} without {fold.number} of {fold.folds}, {fold.seed}"
        shards = tuple(replace(shard, without=fold) for shard in self.files)
        part = TrainingData(shards, self.sample.select(keep), tensors, self.times, digest)
        return part.weigh_format(reward)

    def weigh_format(self, reward: RewardConfig) -> "TrainingData":
        """Return a copy of a log in files whose format weight uses the mean over all pages."""
        tensors = self.tensors
        if reward.format_weight > 0.0:
            total = sum(float(shard.index().page_value.sum()) for shard in self.files)
            weights = tensors.component_weights.clone()
            weights[-1] = format_weight(reward, total / self.num_requests)
            tensors = replace(tensors, component_weights=weights)
        head = tensors.select(torch.zeros(0, dtype=torch.int64, device=tensors.discount.device))
        return replace(self, tensors=tensors, shards=tuple(replace(shard, head=head) for shard in self.files))


def input_moments(shard: FileShard, seed: int, mean: Floats | None) -> Floats:
    """[2, D]: how many inputs of a shard are known, and their sum or, if a mean is given, their squared distance."""
    head, inputs = shard.head.to("cpu"), shard.inputs()
    values = head.draw_values(seed, 0, shard.number, len(inputs))
    x = replace(head, inputs=inputs).inputs_at(torch.arange(len(inputs)), values).numpy().astype(np.float64)
    seen = ~np.isnan(x)
    distance = x if mean is None else np.square(x - mean)
    return np.stack([seen.sum(0).astype(np.float64), np.where(seen, distance, 0.0).sum(0)])
