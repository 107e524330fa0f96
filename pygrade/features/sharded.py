"""Materialization by several workers: the log is cut by time into spans, the past by key into shards.

1. *histories*, a job for each span: the records that its own feedback makes, and the keys that its requests ask for.
2. *pasts*, a job for each shard of the keys: the records that each span finds when it starts, which are the sum of the
   records of the spans before it, and the records at the end of the log.
3. *rows*, a job for each span: the one-process pass over its chunks, from these records on.

Records are sums, maxima and latest events of a set (`pygrade.features.state`), so that all of this is exact: neither
the number of workers nor that of spans and shards changes a bit. A key's feedback in a span is one record, however
much there is. Feedback that comes after its span's last request is handed to the span that it falls into.
"""

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pygrade import _core
from pygrade._util.files import atomic_file
from pygrade._util.hashing import splitmix64
from pygrade.features.attributes import Attributes
from pygrade.features.fitted import Fitter
from pygrade.features.history import PART, History, LogReader
from pygrade.features.record_file import RecordFile, RecordFileWriter
from pygrade.features.schema import FeatureSchema, SplitEvents
from pygrade.features.state import State
from pygrade.features.values import Ints
from pygrade.workers import Workers, wait_for_all

SPAN_ROWS = 1_000_000  # rows of a span: the records that its requests ask for are in memory
MOST_SHARDS = 256
_MAPPED = 1 << 20  # bytes; an empty file can't be


@dataclass(frozen=True)
class Plan:
    """What all jobs know."""

    folder: Path  # of the files between the jobs
    schema: FeatureSchema
    window: tuple[int, int] | None
    ends: tuple[int, ...]  # [spans] timestamp of the last request of each
    shards: int

    def reader(self) -> LogReader:
        """The reader of the log. The attributes are mapped from files: the processes of a machine share them."""
        users, items = (
            Attributes(self._mapped(f"{entity}-ids"), self._mapped(f"{entity}-values")) for entity in ("user", "item")
        )
        return LogReader(self.schema, users, items)

    def _mapped(self, name: str) -> Ints:
        path = self.folder / f"{name}.npy"
        return np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > _MAPPED else None))

    def history(self, span: int) -> Path:
        """Records of a span's feedback, by the span in which it comes, and the keys that it asks for; by shard."""
        return self.folder / f"history-{span:05d}"

    def past(self, shard: int) -> Path:
        """Records of a shard at the starts of the spans, and at the end."""
        return self.folder / f"past-{shard:03d}"

    def sample(self, span: int) -> Path:
        """What a span tells about the training window."""
        return self.folder / f"sample-{span:05d}"


@dataclass(frozen=True)
class SpanJob:
    """A run of chunks."""

    plan: Plan
    log: SplitEvents
    number: int
    first_part: int
    places: tuple[Any, ...]

    @property
    def rows(self) -> int:
        """For the progress."""
        return sum(place.rows for place in self.places)

    def __str__(self) -> str:
        first, last = self.first_part, self.first_part + len(self.places) - 1
        return f"span {self.number} of {len(self.plan.ends)}, chunks {first} to {last}"


@dataclass(frozen=True)
class ShardJob:
    """The keys of one shard."""

    plan: Plan
    number: int
    sources: tuple[tuple[int, ...], ...]  # of each span, then of the log's end: the spans whose feedback comes then

    def __str__(self) -> str:
        return f"shard {self.number} of {self.plan.shards}"


@dataclass(frozen=True)
class RowsJob:
    """A span whose past is known."""

    span: SpanJob
    sources: tuple[int, ...]  # spans whose feedback comes in this one

    @property
    def rows(self) -> int:
        """For the progress."""
        return self.span.rows

    def __str__(self) -> str:
        return str(self.span)


def plan_of(
    log: SplitEvents,
    schema: FeatureSchema,
    users: Attributes,
    items: Attributes,
    folder: Path,
    window: tuple[int, int] | None,
    spans: Sequence[Sequence[Any]],
    shards: int | None,
) -> tuple[Plan, list[SpanJob]]:
    """What the jobs know, with the attributes in files, and a job for each span: a run of places of chunks."""
    if shards is None:
        shards = min(max(8, 1 << (len(spans) - 1).bit_length()), MOST_SHARDS)
    plan = Plan(folder, schema, window, tuple(span[-1].last for span in spans), shards)
    for entity, known in (("user", users), ("item", items)):
        for name, values in (("ids", known.ids), ("values", known.values)):
            with atomic_file(folder / f"{entity}-{name}.npy") as partial, partial.open("wb") as file:
                np.save(file, values)
    jobs, part = [], 0
    for number, span in enumerate(spans):
        jobs.append(SpanJob(plan, log.between(span[0].first, span[-1].last), number, part, tuple(span)))
        part += len(span)
    return plan, jobs


def materialize_sharded(
    plan: Plan, jobs: Sequence[SpanJob], workers: Workers
) -> tuple[list[dict[str, Any]], Fitter, Callable[[Path], None]]:
    """Writes the parts into the plan's folder. What an earlier call of the same plan and jobs left there is used.

    Returns the entries of the parts, the fitter, and what writes the last state. The folder then holds, beside the
    parts, for each span the records of the keys of its rows and of its feedback.
    """
    targets = list(workers.map(_history, jobs, "features: histories"))
    sources = tuple(tuple(r for r, reached in enumerate(targets) if t in reached) for t in range(len(jobs) + 1))
    wait_for_all(
        workers.map(_past, [ShardJob(plan, number, sources) for number in range(plan.shards)], "features: pasts")
    )
    rows_jobs = [RowsJob(job, sources[job.number]) for job in jobs]
    entries: list[dict[str, Any]] = []
    fitter = Fitter(plan.schema)
    for job, made in zip(jobs, workers.map(_rows, rows_jobs, "features: rows"), strict=True):
        entries += made
        for sample in pickle.loads(plan.sample(job.number).read_bytes()):
            fitter.add(sample)

    def save_state(path: Path) -> None:
        state = State(plan.schema)
        for shard in range(plan.shards):
            _merge_piece(state, RecordFile(plan.past(shard)), "end")
        state.save(path)

    return entries, fitter, save_state


# ---- 1: histories


def _history(job: SpanJob) -> list[int]:
    return list(run_if_missing(job.plan, job.plan.history(job.number).name, _write_history, job))


def _write_history(job: SpanJob) -> list[int]:
    """Writes the span's history; returns the spans in which its feedback comes."""
    plan, schema = job.plan, job.plan.schema
    reader = plan.reader()
    states: dict[int, State] = {}
    asked = {name: _core.KeyIndex() for name in schema.tables}
    late: dict[int, list[Ints]] = {}
    for frame in job.log.read(job.places, reader.event_columns):
        events = reader.events(frame)
        target = np.searchsorted(plan.ends, events[0], side="right").clip(min=job.number)
        for number in np.unique(target).tolist():
            some = np.ascontiguousarray(events[:, target == number])
            states.setdefault(number, State(schema)).apply(some)
            if number != job.number:
                late.setdefault(number, []).append(some)
        for index, keys in zip(asked.values(), reader.keys(frame), strict=True):
            index.add(keys)
    with RecordFileWriter(plan.history(job.number)) as file:
        _add_by_shard(file, "asked", plan.shards, [[index.keys()] for index in asked.values()])
        for number, state in states.items():
            pieces = [[records.keys, records.all()] for records in state.records.values()]
            _add_by_shard(file, str(number), plan.shards, pieces)
        for number, some_late in late.items():
            file.add(f"late/{number}", [np.concatenate(some_late, 1).T])
    return sorted(states)


def _add_by_shard(file: RecordFileWriter, name: str, shards: int, tables: list[list[Ints]]) -> None:
    """A piece for each shard with the rows of the arrays of each table; the first array of a table has its keys."""
    orders = []
    for keys, *_ in tables:
        shard = (splitmix64(keys.view(np.uint64)) % np.uint64(shards)).astype(np.uint16)
        starts = np.append(0, np.cumsum(np.bincount(shard, minlength=shards)))
        orders.append(np.split(np.argsort(shard, kind="stable"), starts[1:-1]))
    for number in range(shards):
        pieces = zip(tables, orders, strict=True)
        file.add(f"{name}/{number}", [array[order[number]] for arrays, order in pieces for array in arrays])


# ---- 2: pasts


def _past(job: ShardJob) -> None:
    run_if_missing(job.plan, job.plan.past(job.number).name, _write_past, job)


def _write_past(job: ShardJob) -> None:
    """Writes the shard's records at the start of each span, of the keys that it asks for, and all at the end."""
    plan = job.plan
    state = State(plan.schema)
    with RecordFileWriter(plan.past(job.number)) as file:
        for span in range(len(plan.ends)):
            history = RecordFile(plan.history(span))
            arrays = []
            for records, keys in zip(state.records.values(), history.get(f"asked/{job.number}"), strict=True):
                found, known = records.get(keys)
                arrays += [keys[known], found[known]]
            file.add(str(span), arrays)
            for source in job.sources[span]:
                _merge_piece(state, RecordFile(plan.history(source)), f"{span}/{job.number}")
        for source in job.sources[-1]:
            _merge_piece(state, RecordFile(plan.history(source)), f"{len(plan.ends)}/{job.number}")
        file.add("end", [array for records in state.records.values() for array in (records.keys, records.all())])


def _merge_piece(state: State, file: RecordFile, piece: str) -> None:
    arrays = file.get(piece)
    for records, keys, more in zip(state.records.values(), arrays[::2], arrays[1::2], strict=True):
        records.merge(keys, more)


# ---- 3: rows


def _rows(job: RowsJob) -> list[dict[str, Any]]:
    return list(run_if_missing(job.span.plan, f"rows-{job.span.number:05d}", _write_rows, job))


def _write_rows(job: RowsJob) -> list[dict[str, Any]]:
    """Writes the span's parts and what they tell about the training window; returns the entries of the parts."""
    span, plan = job.span, job.span.plan
    state, pending = State(plan.schema), []
    for shard in range(plan.shards):
        _merge_piece(state, RecordFile(plan.past(shard)), str(span.number))
    for source in job.sources:
        if source != span.number:
            pending.append(RecordFile(plan.history(source)).get(f"late/{span.number}")[0].T)
    reader = plan.reader()
    history = History(reader, state, pending, plan.ends[span.number - 1] if span.number else None)
    entries, samples = [], []
    for number, chunk in enumerate(history.chunks(span.log.read(span.places, reader.columns))):
        chunk.write(plan.folder / PART.format(span.first_part + number))
        entries.append(chunk.entry)
        samples.append(chunk.sample(plan.window))
    with atomic_file(plan.sample(span.number)) as partial:
        partial.write_bytes(pickle.dumps(samples))
    return entries


def run_if_missing(plan: Plan, name: str, work: Callable[[Any], Any], job: Any) -> Any:
    """work(job), or what it returned to an earlier call: a JSON file beside the job's files says that it is done."""
    path = plan.folder / f"{name}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    result = work(job)
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(result), encoding="utf-8")
    return result
