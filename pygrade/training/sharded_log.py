"""A log made ready for training in shards on disk: no process holds more than a part of it.

Three passes over the log, as jobs of one shard each: figures of the whole and samples (`survey`), sums for calibration
if they are asked for, and the records (`_build`). What a statistic of the whole log would need in one place is taken
from samples of fixed size: the slot propensity from up to 50,000 shuffled and 30,000 other pages, and all that is not
learning (simple baselines, the judgment of trust, weights for missing features, the summary's rewards) from
``sample_requests`` requests, uniformly drawn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade.logs import Logs, concatenate, request_keys
from pygrade.logs.keys import hashes
from pygrade.logs.log_parts import LogParts, order_of
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.reward import (
    CompositeReward,
    LogFigures,
    RewardConfig,
    calibration_sums,
    format_weight,
    slopes_of,
)
from pygrade.training.shard_files import Fold, Index, ShardFiles, write_shard
from pygrade.training.sharded_set import ShardedSet, shard_bounds
from pygrade.training.static_weights import CemConfig
from pygrade.training.training_record import TrainingRecord, find_single_tasks
from pygrade.training.training_set import TrainingSet
from pygrade.workers import LocalWorkers, Workers

CHUNK = 20_000  # requests that a job holds at a time
_SHUFFLED, _PLAIN = 50_000, 30_000  # pages of the sample for the slot propensity


@dataclass(frozen=True)
class _Range:
    """A shard's part of the log."""

    number: int
    count: int
    log: Logs | LogParts
    start: int
    stop: int
    sample: int  # requests of the shard to draw

    def __str__(self) -> str:
        return f"shard {self.number + 1} of {self.count}, requests {self.start:,} to {self.stop - 1:,}"

    def chunks(self) -> Iterator[Logs]:
        if isinstance(self.log, LogParts):
            yield from self.log.chunks(self.start, self.stop, CHUNK)
            return
        for start in range(self.start, self.stop, CHUNK):
            yield self.log.select(slice(start, min(start + CHUNK, self.stop)))


class _Survey(NamedTuple):
    """What the log is, in one shard."""

    longest: int
    shortest: int
    slots: int
    last_slot: int
    incomplete: int
    times: tuple[int, int] | None  # first and last
    sample: Logs | None
    pages: list[Logs]  # shown rows of up to so many shuffled and other requests


def survey(job: _Range) -> _Survey:
    """Reads a shard once."""
    longest, shortest, slots, last, incomplete = 0, 2**62, 1, 0, 0
    times: list[int] = []
    drawn: list[Logs] = []
    pages: dict[bool, list[Logs]] = {True: [], False: []}
    limits = {True: -(-_SHUFFLED // job.count), False: -(-_PLAIN // job.count)}
    for logs in job.chunks():
        sizes, shown = np.diff(logs.offsets), np.bincount(logs.row_request, logs.shown, logs.num_requests)
        longest, shortest = max(longest, int(sizes.max())), min(shortest, int(sizes.min()))
        slots, last = max(slots, int(shown.max())), max(last, int(logs.position.max(initial=0)))
        incomplete += logs.incomplete
        if logs.timestamp is not None:
            times += [int(logs.timestamp.min()), int(logs.timestamp.max())]
        if job.sample:
            drawn = [_smallest([*drawn, logs], job.sample)]
        mixed = np.zeros(logs.num_requests, bool) if logs.exploration is None else logs.exploration == "shuffle"
        for kind, chosen in ((True, mixed & (shown > 0)), (False, ~mixed & (shown > 0))):
            if chosen.any():
                shown_rows = replace(logs.select(chosen).shown_only(), candidates=None)
                pages[kind] = [_smallest([*pages[kind], shown_rows], limits[kind])]
    sample = drawn[0] if drawn else None
    span = (min(times), max(times)) if times else None
    return _Survey(longest, shortest, slots, last, incomplete, span, sample, [*pages[True], *pages[False]])


def _smallest(parts: Sequence[Logs], limit: int) -> Logs:
    """The requests with the smallest hashes: a uniform sample that does not depend on how the log was cut."""
    logs = concatenate(list(parts))
    if logs.num_requests <= limit:
        return logs
    order = np.argsort(order_of(logs.request_id), kind="stable")[:limit]
    return logs.select(np.sort(order))


class _Sums(NamedTuple):
    job: _Range
    figures: LogFigures
    reward: RewardConfig

    def __str__(self) -> str:
        return str(self.job)


def calibrate(job: _Sums) -> NDArray[np.float64]:
    """The sums [2, T] of a shard's calibration."""
    total = np.zeros(0)
    for logs in job.job.chunks():
        part = calibration_sums(logs, job.figures.floored(logs, job.reward))
        total = total + part if total.size else part
    return total


class _Build(NamedTuple):
    job: _Range
    spec: PolicySpec
    reward: RewardConfig
    figures: LogFigures
    folder: Path

    def __str__(self) -> str:
        return str(self.job)


def build(job: _Build) -> str:
    """Writes a shard; returns the hash of its content."""
    return write_shard(job.folder, job.job.stop - job.job.start, _prepared(job))


def _prepared(job: _Build) -> Iterator[tuple[TrainingSet, Index]]:
    reward = CompositeReward(job.reward)
    for logs in job.job.chunks():
        data = reward.build(logs, job.spec, job.figures)
        valued = np.zeros(data.num_requests, bool)
        valued[data.valued().numpy()] = True
        page_value = reward.page_values(logs, job.figures)
        yield data, Index(request_keys(logs), hashes(logs.user_id), valued, page_value)


@dataclass(frozen=True)
class ShardedLog:
    """What training needs of a log that is in shards."""

    data: ShardedSet
    sample: Logs  # of its requests, in their order
    sample_data: TrainingSet  # of the sample
    digest: str  # of all that is learned from
    times: tuple[int, int] | None  # first and last (ms)
    parts: tuple["_Range", ...] = ()  # the log itself, shard by shard

    def searched(self, search: CemConfig) -> TrainingSet:
        """The requests that the search for static weights scores on."""
        rows, count = np.arange(self.data.num_requests), search.subsample
        if len(rows) > count:
            rows = np.sort(np.random.default_rng(search.seed).choice(len(rows), count, replace=False))
        return self.data.take(rows)

    def fit_normalization(self, policy: FusionPolicy, seed: int, workers: Workers) -> None:
        """Sets the mean and deviation of the policy's inputs, as training sees them."""
        mean = None
        for _ in range(2):
            jobs = [_Inputs(shard, number, seed, mean) for number, shard in enumerate(files(self.data))]
            count, total = added(list(workers.map(moments, jobs, "normalization")))
            before, mean = mean, total / np.maximum(count, 1)
        assert before is not None and mean is not None
        policy.set_normalization(torch.from_numpy(before), torch.from_numpy(mean).sqrt())

    def record(self, policy_version: str) -> TrainingRecord:
        """Of a policy that learned from it."""
        keys = np.sort(np.concatenate([shard.index().keys for shard in files(self.data)]))
        sample = self.sample
        first, last = self.times or (None, None)
        values = sample.tasks, sample.task_values, sample.value_tasks
        return TrainingRecord(keys, policy_version, *values, first, last, find_single_tasks(sample))

    def fold_of_sample(self, folds: int, seed: int) -> NDArray[np.int64]:
        """[n]: the fold of each request of the sample."""
        users = hashes(self.sample.user_id)
        return np.asarray(np.argmax([Fold(number, folds, seed).has(users) for number in range(folds)], 0))

    def without(self, fold: Fold, reward: RewardConfig) -> "ShardedLog":
        """The same of the users who are not in a fold."""
        keep = ~fold.has(hashes(self.sample.user_id))
        shards = tuple(replace(shard, without=fold) for shard in files(self.data))
        device = str(self.data.head.discount.device)
        data = with_format_weight(_set_of(self.data.head.to("cpu"), shards), reward, device)
        sample_data = self.sample_data.select(torch.from_numpy(np.flatnonzero(keep)).to(device))
        stage2 = replace(sample_data.stage2, weights=data.head.stage2.weights)
        digest = f"{self.digest} without {fold.number} of {fold.folds}, {fold.seed}"
        return ShardedLog(data, self.sample.select(keep), replace(sample_data, stage2=stage2), digest, self.times)


def sharded(
    log: Logs | LogParts,
    spec: PolicySpec,
    reward: RewardConfig,
    folder: Path,
    shard_requests: int,
    sample_requests: int,
    workers: Workers,
    device: str = "cpu",
) -> ShardedLog:
    """The training set of a log with the values of events that count, in shards below ``folder``."""
    if isinstance(log, Logs):
        workers = LocalWorkers()  # it is in this process
    bounds = shard_bounds(log.num_requests, shard_requests)
    count = len(bounds) - 1
    cuts = np.arange(count + 1) * min(sample_requests, log.num_requests) // count
    jobs = [
        _Range(number, count, log, int(bounds[number]), int(bounds[number + 1]), int(cuts[number + 1] - cuts[number]))
        for number in range(count)
    ]
    found = list(workers.map(survey, jobs, "survey of the log"))
    if incomplete := sum(part.incomplete for part in found):
        wanted = "requests list only a part of their candidates; want a log without them"
        raise ValueError(f"{incomplete} of {log.num_requests} {wanted}")
    sample = concatenate([part.sample for part in found if part.sample is not None])
    pages = [page for part in found for page in part.pages]
    figures = _figures(found, slot_propensity(concatenate(pages) if pages else sample, reward))
    if reward.prior_calibration == "slope":
        sums = list(workers.map(calibrate, [_Sums(job, figures, reward) for job in jobs], "calibration"))
        figures = replace(figures, slopes=slopes_of(added(sums)))
    built = [_Build(job, spec, reward, figures, folder / f"shard-{job.number:05d}") for job in jobs]
    digest = " ".join(workers.map(build, built, "training set"))
    sample_data = CompositeReward(reward).build(sample, spec, figures)
    head = sample_data.select(torch.zeros(0, dtype=torch.int64))
    whole = with_format_weight(_set_of(head, tuple(ShardFiles(job.folder, head) for job in built)), reward, device)
    weighted = replace(sample_data, stage2=replace(sample_data.stage2, weights=whole.head.stage2.weights.cpu()))
    times = [part.times for part in found]
    known = [span for span in times if span is not None]
    span = (min(s[0] for s in known), max(s[1] for s in known)) if len(known) == len(times) else None
    return ShardedLog(whole, sample, weighted.to(device), digest, span, tuple(jobs))


def added(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Sum of arrays in order."""
    result = parts[0].copy()
    for part in parts[1:]:
        result += part
    return result


def _figures(found: Sequence[_Survey], propensity: SlotPropensity) -> LogFigures:
    longest, shortest = max(part.longest for part in found), min(part.shortest for part in found)
    slots, last = max(part.slots for part in found), max(part.last_slot for part in found)
    return LogFigures(propensity, 1.0, longest, shortest < longest, slots, last)


def _set_of(head: TrainingSet, shards: tuple[ShardFiles, ...]) -> ShardedSet:
    sizes = np.array([shard.size for shard in shards], np.int64)
    return ShardedSet(head, shards, sizes, np.array([len(shard.valued()) for shard in shards], np.int64))


def with_format_weight(data: ShardedSet, reward: RewardConfig, device: str) -> ShardedSet:
    """The set on a device, with the weight of the format component by the mean of all its pages."""
    head = data.head
    if reward.format_weight > 0.0:
        total = sum(float(shard.index().page_value.sum()) for shard in files(data))
        weights = head.stage2.weights.clone()
        weights[-1] = format_weight(reward, total / data.num_requests)
        head = replace(head, stage2=replace(head.stage2, weights=weights))
    head = head.to(device)
    return replace(data, head=head, shards=tuple(replace(shard, head=head) for shard in files(data)))


def files(data: ShardedSet) -> Iterator[ShardFiles]:
    """The shards of a set that is in files."""
    for shard in data.shards:
        assert isinstance(shard, ShardFiles)
        yield shard


class _Inputs(NamedTuple):
    shard: ShardFiles
    number: int
    seed: int
    mean: NDArray[np.float64] | None  # [D]

    def __str__(self) -> str:
        return str(self.shard)


def moments(job: _Inputs) -> NDArray[np.float64]:
    """[2, D]: how many inputs of a shard are known, and their sum or, if a mean is given, their squared distance."""
    head, inputs = job.shard.head.to("cpu"), job.shard.inputs()
    values = head.draw_values(job.seed, 0, job.number, len(inputs))
    whole = replace(head, inputs=inputs)
    x = whole.inputs_at(torch.arange(len(inputs)), values).numpy().astype(np.float64)
    seen = ~np.isnan(x)
    away = x if job.mean is None else np.square(x - job.mean)
    return np.stack([seen.sum(0).astype(np.float64), np.where(seen, away, 0.0).sum(0)])
