"""Makes a log ready for training: in memory, or in shards on disk, of which no process holds more than a part.

Of a longer log, three passes run as jobs of one shard each: figures of the whole and samples (`measure_shard`), sums
for calibration if they are asked for (`slope_sums`), and the records (`build_shard`). What a statistic of the whole log
would need in one place is taken from samples of fixed size: the slot propensity from up to 50,000 shuffled and 30,000
other pages, and all that is not learning (simple baselines, the judgment of trust, weights for missing features, the
summary's rewards) from ``sample_requests`` requests, uniformly drawn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pygrade._typing import Floats
from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.logs import Logs, concatenate, request_keys
from pygrade.logs.keys import hashes
from pygrade.logs.log_parts import LogParts, order_of
from pygrade.policy import PolicySpec
from pygrade.training.data import LogRange, TrainingData, shard_bounds, sum_in_order
from pygrade.training.propensity import slot_propensity
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.reward import CompositeReward, LogFigures, calibration_sums, slopes_of
from pygrade.training.shards import FileShard, ShardIndex, write_shard
from pygrade.workers import LocalWorkers, Workers

SHARDS = "shards"  # folder of a log that is prepared on disk, while it is learned from
_SHUFFLED, _PLAIN = 50_000, 30_000  # pages of the sample for the slot propensity


def prepare_data(log: Logs | LogParts, config: TrainConfig, directory: Path, workers: Workers) -> TrainingData:
    """The log, with the values of events that count, ready for training; its shards, if it has several, are written
    into `SHARDS` of the directory.
    """
    reward, device, folder = config.reward, config.device, directory / SHARDS
    spec = PolicySpec(log.tasks, log.features, config.policy)
    bounds = shard_bounds(log.num_requests, config.shard_requests)
    count = len(bounds) - 1
    if count == 1:
        logs = log if isinstance(log, Logs) else log.read(0, log.num_requests)
        return TrainingData.of(CompositeReward(reward).build(logs, spec).to(device), logs)
    if isinstance(log, Logs):
        workers = LocalWorkers()  # it is in this process
    cuts = np.arange(count + 1) * min(config.sample_requests, log.num_requests) // count
    ranges = tuple(
        LogRange(number, count, log, int(bounds[number]), int(bounds[number + 1]), int(cuts[number + 1] - cuts[number]))
        for number in range(count)
    )
    measured = list(workers.map(measure_shard, ranges, "survey of the log"))
    if incomplete := sum(part.incomplete for part in measured):
        wanted = "requests list only a part of their candidates; want a log without them"
        raise ValueError(f"{incomplete} of {log.num_requests} {wanted}")
    sample = concatenate([part.sample for part in measured if part.sample is not None])
    figures = _figures(measured, sample, reward)
    if reward.prior_calibration == "slope":
        work = partial(slope_sums, figures=figures, reward=reward)
        figures = replace(figures, slopes=slopes_of(sum_in_order(list(workers.map(work, ranges, "calibration")))))
    build = partial(build_shard, spec=spec, reward=reward, figures=figures, folder=folder)
    digest = " ".join(workers.map(build, ranges, "training set"))
    tensors = CompositeReward(reward).build(sample, spec, figures).to(device)
    shards = tuple(FileShard(part.number, _shard_folder(folder, part), tensors) for part in ranges)
    spans = [span for part in measured if (span := part.times) is not None]
    times = (min(s[0] for s in spans), max(s[1] for s in spans)) if len(spans) == count else None
    return TrainingData(shards, sample, tensors, times, digest, ranges).weigh_format(reward)


class ShardFigures(NamedTuple):
    """Figures of a shard of the log, by `measure_shard`."""

    longest: int
    shortest: int
    slots: int
    last_slot: int
    incomplete: int
    times: tuple[int, int] | None  # first and last
    sample: Logs | None
    pages: list[Logs]  # shown rows of up to so many shuffled and other requests


def measure_shard(job: LogRange) -> ShardFigures:
    """Reads a shard of the log once."""
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
            drawn = [_draw([*drawn, logs], job.sample)]
        mixed = np.zeros(logs.num_requests, bool) if logs.exploration is None else logs.exploration == "shuffle"
        for kind, chosen in ((True, mixed & (shown > 0)), (False, ~mixed & (shown > 0))):
            if chosen.any():
                shown_rows = replace(logs.select(chosen).shown_only(), candidates=None)
                pages[kind] = [_draw([*pages[kind], shown_rows], limits[kind])]
    sample = drawn[0] if drawn else None
    span = (min(times), max(times)) if times else None
    return ShardFigures(longest, shortest, slots, last, incomplete, span, sample, [*pages[True], *pages[False]])


def _draw(parts: Sequence[Logs], limit: int) -> Logs:
    """The requests with the smallest hashes: a uniform sample that does not depend on how the log was cut."""
    logs = concatenate(list(parts))
    if logs.num_requests <= limit:
        return logs
    order = np.argsort(order_of(logs.request_id), kind="stable")[:limit]
    return logs.select(np.sort(order))


def _figures(measured: Sequence[ShardFigures], sample: Logs, reward: RewardConfig) -> LogFigures:
    pages = [page for part in measured for page in part.pages]
    propensity = slot_propensity(concatenate(pages) if pages else sample, reward)
    longest, shortest = max(part.longest for part in measured), min(part.shortest for part in measured)
    slots, last = max(part.slots for part in measured), max(part.last_slot for part in measured)
    return LogFigures(propensity, 1.0, longest, shortest < longest, slots, last)


def slope_sums(job: LogRange, figures: LogFigures, reward: RewardConfig) -> Floats:
    """The sums [2, T] of a shard's calibration."""
    return sum_in_order([calibration_sums(logs, figures.floored(logs, reward)) for logs in job.chunks()])


def build_shard(job: LogRange, spec: PolicySpec, reward: RewardConfig, figures: LogFigures, folder: Path) -> str:
    """Writes a shard; returns the hash of its content."""

    def chunks() -> Iterator[tuple[RequestTensors, ShardIndex]]:
        composite = CompositeReward(reward)
        for logs in job.chunks():
            tensors = composite.build(logs, spec, figures)
            valued = np.zeros(tensors.num_requests, bool)
            valued[tensors.valued().numpy()] = True
            page_value = composite.page_values(logs, figures)
            yield tensors, ShardIndex(request_keys(logs), hashes(logs.user_id), valued, page_value)

    return write_shard(_shard_folder(folder, job), job.stop - job.start, chunks())


def _shard_folder(folder: Path, job: LogRange) -> Path:
    return folder / f"shard-{job.number:05d}"
