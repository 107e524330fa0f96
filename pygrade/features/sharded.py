"""Materialization by several workers: the log is cut by time into spans, the past by key into shards.

1. *histories*, a job for each span: the records that its own feedback makes, and the keys that its requests ask for.
2. *pasts*, a job for each shard of the keys: the records that each span finds when it starts, which are the sum of the
   records of the spans before it, and the records at the end of the log.
3. *rows*, a job for each span: the one-process pass over its chunks, from these records on.

Records are sums, maxima and latest events of a set (`pygrade.features.records`), so that all of this is exact: neither
the number of workers nor that of spans and shards changes a bit. A key's feedback in a span is one record, however
much there is. Feedback that comes after its span's last request is handed to the span that it falls into.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pygrade import _core
from pygrade._util.files import atomic_file
from pygrade.features.aggregates import Feedback, State, keys_of
from pygrade.features.chunks import (
    chunk_columns,
    feedback_columns,
    feedback_of,
    key_parts,
    scenario_codes,
)
from pygrade.features.compute import Attributes
from pygrade.features.feature import is_measure
from pygrade.features.fitted import DENSE, IDS, Fitter, Sample
from pygrade.features.records import Ints
from pygrade.features.schema import FeatureSchema, SplitEvents
from pygrade.features.spill import Spill, SpillWriter
from pygrade.features.stream import Stream, write_parts
from pygrade.features.values import mix
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

    def attributes(self) -> tuple[Attributes, Attributes]:
        """Of users and items, mapped from files: the processes of a machine share them."""
        return self._attributes("user"), self._attributes("item")

    def _attributes(self, entity: str) -> Attributes:
        columns = self.schema.attributes(entity)
        return Attributes(columns, self._mapped(f"{entity}-ids"), self._mapped(f"{entity}-values"))

    def _mapped(self, name: str) -> Ints:
        path = self.folder / f"{name}.npy"
        array: Ints = np.load(path, mmap_mode="r" if path.stat().st_size > _MAPPED else None)
        return array

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


Made = tuple[list[dict[str, Any]], int, Fitter, Callable[[Path], None]]
"""Entries of the parts, the number of requests in the window, the fitter, and what writes the last state."""


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


def materialize_sharded(plan: Plan, jobs: Sequence[SpanJob], workers: Workers) -> Made:
    """Writes the parts into the plan's folder. What an earlier call of the same plan and jobs left there is used.

    The folder then holds, beside the parts, for each span the records of the keys of its rows and of its feedback.
    """
    targets = list(workers.map(_history, jobs, "features: histories"))
    sources = tuple(tuple(r for r, reached in enumerate(targets) if t in reached) for t in range(len(jobs) + 1))
    wait_for_all(
        workers.map(_past, [ShardJob(plan, number, sources) for number in range(plan.shards)], "features: pasts")
    )
    rows_jobs = [RowsJob(job, sources[job.number]) for job in jobs]
    made = gathered(jobs, workers.map(_rows, rows_jobs, "features: rows"))

    def save_state(path: Path) -> None:
        state = State(plan.schema)
        for shard in range(plan.shards):
            _merge_piece(state, Spill(plan.past(shard)), "end")
        state.save(path)

    return *made, save_state


# ---- 1: histories


def _history(job: SpanJob) -> list[int]:
    return list(once(job.plan, job.plan.history(job.number).name, _write_history, job))


def _write_history(job: SpanJob) -> list[int]:
    """Writes the span's history; returns the spans in which its feedback comes."""
    plan, schema = job.plan, job.plan.schema
    users, items = plan.attributes()
    states: dict[int, State] = {}
    asked = {name: _core.KeyIndex() for name in schema.tables}
    late: dict[int, Feedback] = {}
    for frame in job.log.read(job.places, feedback_columns(schema)):
        feedback = feedback_of(schema, users, items, frame)
        target = np.searchsorted(plan.ends, feedback.time, side="right").clip(min=job.number)
        for number in np.unique(target).tolist():
            events = feedback.take(target == number) if (target != number).any() else feedback
            states.setdefault(number, State(schema)).apply(events)
            if number != job.number:
                late[number] = late[number].then(events) if number in late else events
        for name, keys in _asked(schema, users, items, frame).items():
            asked[name].add(keys)
    with SpillWriter(plan.history(job.number)) as spill:
        _add_by_shard(spill, "asked", plan.shards, [[index.keys()] for index in asked.values()])
        for number, state in states.items():
            pieces = [[records.keys, records.all()] for records in state.records.values()]
            _add_by_shard(spill, str(number), plan.shards, pieces)
        for number, events in late.items():
            spill.add(f"late/{number}", _columns(schema, events))
    return sorted(states)


def _asked(schema: FeatureSchema, users: Attributes, items: Attributes, frame: Any) -> dict[str, Ints]:
    """The keys of each table that the rows of a frame ask for."""
    user, item = frame["user_id"].to_numpy(), frame["item_id"].to_numpy()
    parts = key_parts(schema, users, items, user, item, scenario_codes(frame), users.get(user), items.get(item))
    return {name: keys_of(table, parts, len(user)) for name, table in schema.tables.items()}


def _add_by_shard(spill: SpillWriter, name: str, shards: int, tables: list[list[Ints]]) -> None:
    """A piece for each shard with the rows of the arrays of each table; the first array of a table has its keys."""
    orders = []
    for keys, *_ in tables:
        shard = (mix(keys).view(np.uint64) % np.uint64(shards)).astype(np.uint16)
        starts = np.append(0, np.cumsum(np.bincount(shard, minlength=shards)))
        orders.append(np.split(np.argsort(shard, kind="stable"), starts[1:-1]))
    for number in range(shards):
        pieces = zip(tables, orders, strict=True)
        spill.add(f"{name}/{number}", [array[order[number]] for arrays, order in pieces for array in arrays])


# ---- 2: pasts


def _past(job: ShardJob) -> None:
    once(job.plan, job.plan.past(job.number).name, _write_past, job)


def _write_past(job: ShardJob) -> None:
    """Writes the shard's records at the start of each span, of the keys that it asks for, and all at the end."""
    plan = job.plan
    state = State(plan.schema)
    with SpillWriter(plan.past(job.number)) as spill:
        for span in range(len(plan.ends)):
            history = Spill(plan.history(span))
            arrays = []
            for records, keys in zip(state.records.values(), history.get(f"asked/{job.number}"), strict=True):
                found, known = records.get(keys)
                arrays += [keys[known], found[known]]
            spill.add(str(span), arrays)
            for source in job.sources[span]:
                _merge_piece(state, Spill(plan.history(source)), f"{span}/{job.number}")
        for source in job.sources[-1]:
            _merge_piece(state, Spill(plan.history(source)), f"{len(plan.ends)}/{job.number}")
        spill.add("end", [array for records in state.records.values() for array in (records.keys, records.all())])


def _merge_piece(state: State, spill: Spill, piece: str) -> None:
    arrays = spill.get(piece)
    for records, keys, more in zip(state.records.values(), arrays[::2], arrays[1::2], strict=True):
        records.merge(keys, more)


# ---- 3: rows


def _rows(job: RowsJob) -> tuple[list[dict[str, Any]], int]:
    entries, inside = once(job.span.plan, f"rows-{job.span.number:05d}", _write_rows, job)
    return entries, inside


def _write_rows(job: RowsJob) -> tuple[list[dict[str, Any]], int]:
    """Writes the span's parts; returns their entries and the number of requests in the window."""
    span, plan = job.span, job.span.plan
    state, pending = State(plan.schema), None
    for shard in range(plan.shards):
        _merge_piece(state, Spill(plan.past(shard)), str(span.number))
    for source in job.sources:
        if source != span.number:
            events = _events(plan.schema, Spill(plan.history(source)).get(f"late/{span.number}"))
            pending = events if pending is None else pending.then(events)
    before = plan.ends[span.number - 1] if span.number else None
    return write_span(Stream(plan.schema, *plan.attributes(), state, pending, before), span)


def write_span(stream: Stream, span: SpanJob) -> tuple[list[dict[str, Any]], int]:
    """Writes the parts of a span and its sample; returns their entries and the number of requests in the window."""
    plan, entries, inside = span.plan, [], 0
    with SpillWriter(plan.sample(span.number)) as spill:
        frames = span.log.read(span.places, chunk_columns(plan.schema))
        for number, part in enumerate(write_parts(stream, frames, plan.folder, plan.window, span.first_part)):
            entries.append(part.entry)
            inside += part.fitted_requests
            _write_sample(spill, number, part.sample)
    return entries, inside


def gathered(
    spans: Sequence[SpanJob], results: Iterable[tuple[list[dict[str, Any]], int]]
) -> tuple[list[dict[str, Any]], int, Fitter]:
    """The entries of all parts, the requests in the window and the fitter, of `write_span` of each span in order."""
    entries: list[dict[str, Any]] = []
    requests, fitter = 0, Fitter(spans[0].plan.schema)
    for span, (made, inside) in zip(spans, results, strict=True):
        entries += made
        requests += inside
        for sample in _samples(span.plan.sample(span.number), span.plan.schema):
            fitter.add(sample)
    return entries, requests, fitter


def _write_sample(spill: SpillWriter, number: int, sample: Sample) -> None:
    counts = [np.array([*sample.rows.values()], np.int64), np.array([*sample.known.values()], np.int64)]
    moments = [values.ravel() for values in sample.moments.values()]
    spill.add(str(number), [*counts, *moments, *(column for codes in sample.codes.values() for column in codes)])


def _samples(path: Path, schema: FeatureSchema) -> Iterator[Sample]:
    """The samples of a span's parts, in order."""
    spill, size = Spill(path), len(DENSE)
    with_ids = [feature for name in IDS for feature in schema.group(name)]
    named = [feature.name for feature in with_ids if feature.kind != "hashed"]
    for number in spill.names():
        rows, known, *rest = spill.get(number)
        codes = [np.stack(pair) for pair in zip(rest[size::2], rest[size + 1 :: 2], strict=True)]
        yield Sample(
            rows=dict(zip((*DENSE, *IDS), rows.tolist(), strict=True)),
            moments={name: values.reshape(3, -1) for name, values in zip(DENSE, rest, strict=False)},
            known=dict(zip([feature.name for feature in with_ids], known.tolist(), strict=True)),
            codes=dict(zip(named, codes, strict=True)),
        )


def _columns(schema: FeatureSchema, events: Feedback) -> list[Ints]:
    """Feedback as arrays, and back."""
    measures = [source for source in schema.outcomes if source in events.observed]
    return [
        events.time,
        events.item,
        *(events.parts[part] for part in schema.key_parts),
        *(events.values[source] for source in schema.outcomes),
        *(events.observed[source] for source in measures),
    ]


def _events(schema: FeatureSchema, columns: Sequence[Ints]) -> Feedback:
    time, item, *rest = columns
    parts, values = len(schema.key_parts), len(schema.outcomes)
    measures = [source for source in schema.outcomes if is_measure(source)]
    return Feedback(
        time,
        item,
        dict(zip(schema.key_parts, rest[:parts], strict=True)),
        dict(zip(schema.outcomes, rest[parts : parts + values], strict=True)),
        dict(zip(measures, rest[parts + values :], strict=True)),
    )


def once(plan: Plan, name: str, work: Callable[[Any], Any], job: Any) -> Any:
    """work(job), or what it returned to an earlier call: a JSON file beside the job's files says that it is done."""
    path = plan.folder / f"{name}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    result = work(job)
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(result), encoding="utf-8")
    return result
