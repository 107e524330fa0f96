"""Raw events of one's own, by a schema (`event_schema`): tables of users, items and events → requests with feedback.

Jobs read pieces of the tables: rows of events go into partitions by user, attributes into partitions by id. Jobs of
some users group exposures into requests and join feedback to them (`event_joins`); jobs of some ids join their tables
(`attribute_joins`). What is lost on the way is counted and said in ``notes`` of source.json.

A value counts where it is known: a dated row of users is context of the requests after it; of items, whose features
hold one value, that at the item's first event counts; a table without a time is taken as known all along.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.config.data import RawEventsConfig
from pygrade.data.attribute_joins import (
    DATED,
    JoinFacts,
    TableFacts,
    TablePiece,
    add_rows,
    empty_frame,
    jobs_of,
    join_ids,
    parts_of,
    places_of,
    read_attributes,
)
from pygrade.data.disk_shuffle import DiskShuffle, read_frames
from pygrade.data.event_joins import FEEDBACK, HIDDEN, SHOWN, JoinRules, make_requests
from pygrade.data.event_log import EventSource
from pygrade.data.event_schema import EVERY, AttributeTable, EventSchema, EventTable, kinds_of, read_schema
from pygrade.data.event_tables import (
    Batch,
    Piece,
    PieceJob,
    Plan,
    Values,
    nothing,
    pieces_of,
    plan_of,
    read_piece,
)
from pygrade.data.event_writer import PIECE, EventWriter
from pygrade.data.import_shards import ImportShard, ShardWriter
from pygrade.data.lost_rows import Lost, Unknown, sentences
from pygrade.storage import Place, download, is_url

if TYPE_CHECKING:
    import polars as pl

_NO_SLOT = 2**31 - 1


def open_schema(place: Place) -> EventSchema:
    """The schema at a path or URL; see `read_schema`."""
    return read_schema(download(place), str(place).rpartition("/")[0] if is_url(place) else None)


def import_raw_events(place: Place, writer: EventWriter, config: RawEventsConfig | None = None) -> None:
    """Writes the events of a schema's tables. ValueError names file, row and column, or key of the schema."""
    schema = open_schema(place)
    stated = (config or RawEventsConfig()).task_values or {}
    if unknown := sorted(set(stated) - set(schema.tasks)):
        raise ValueError(
            f"task_values names {unknown[0]!r}; want some of the schema's tasks, {', '.join(schema.tasks)}"
        )
    values = {**schema.values, **stated}
    plan, lost = plan_of(schema, writer.rows), Lost()
    tables = {"user": [t for t in schema.users if not t.time], "item": [*schema.items, *schema.dated_items]}
    _read(plan, tables, writer, lost)
    writer.finish(
        EventSource(
            name=schema.name,
            license=schema.license,
            tasks=schema.tasks,
            task_values=tuple(float(values.get(task, 1.0)) for task in schema.tasks),
            funnel=schema.funnel,
            users=kinds_of(tables["user"]),
            items=kinds_of(tables["item"]),
            context=schema.context,
            measures=schema.measures,
            category=schema.category,
            price=schema.price,
            value_tasks=schema.value_tasks,
            utc_offset_hours=schema.utc_offset_hours,
            notes=tuple(sentences(lost, schema.window_hours)),
        )
    )


def _read(plan: Plan, tables: Mapping[str, Sequence[AttributeTable]], writer: EventWriter, lost: Lost) -> None:
    """All stages: what they lose is counted in ``lost``."""
    schema, before = plan.schema, len(writer.shards)
    whole = dict[str, dict[str, bool]](user={}, item={})
    carried = [f"item-{number}" for number in range(len(schema.items), len(tables["item"]))]
    events, rest = [], iter(carried)
    for table in schema.events:
        shuffle = next(rest) if table.dated is not None else ""
        events += [_EventPiece(plan, piece, table, shuffle) for piece in _pieces(plan, table, writer.rows)]
    first_slot = _NO_SLOT
    for job, facts in zip(events, writer.read(_read_events, events, "events: read"), strict=True):
        lost.count(_name(job.table), facts.attributes.left_out, facts.kinds)
        first_slot = min(first_slot, facts.first_slot)
        _merge(whole["item"], facts.attributes.whole)
    listed = [("user", f"user-{n}", t) for n, t in enumerate(tables["user"])]
    listed += [("item", f"item-{n}", t) for n, t in enumerate(schema.items)]
    dated = [table for table in schema.users if table.time]
    listed += [("user", f"{DATED}-{n}", t) for n, t in enumerate(dated)]
    pieces = [TablePiece(plan, piece, *entry) for entry in listed for piece in _pieces(plan, entry[2], writer.rows)]
    for piece, found in zip(
        pieces, writer.read(read_attributes, pieces, "events: tables") if pieces else (), strict=True
    ):
        lost.count(_name(piece.table), found.left_out)
        _merge(whole[piece.entity], {} if piece.shuffle.startswith(DATED) else found.whole)
    lost.undated = [_name(table) for _, _, table in listed if not table.time]
    shards = writer.shards[before:]
    if first_slot == _NO_SLOT and any(table.slot for table in schema.events):
        raise ValueError("no exposure has a slot; want slots of what was shown, or no key slot: the order in time")
    _make_events(plan, len(dated), first_slot, shards, writer, lost)
    for entity, some in tables.items():
        if some:
            jobs = jobs_of(entity, some, shards, whole[entity], writer.rows)
            _count_joins(entity, some, writer.read(join_ids, jobs, f"events: {entity}s"), shards, lost)


def _name(table: EventTable | AttributeTable) -> str:
    return ", ".join(Path(file).name for file in table.files)


def _pieces(plan: Plan, table: EventTable | AttributeTable, rows: int) -> list[Piece]:
    return [piece for file in table.files for piece in pieces_of(plan.schema.place(file), PIECE * rows)]


def _merge(whole: dict[str, bool], found: Mapping[str, bool]) -> None:
    for name, is_whole in found.items():
        whole[name] = whole.get(name, True) and is_whole


# ---- rows of a user meet ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _EventPiece(PieceJob):
    """A job: rows of a table of events, which go into partitions by user."""

    table: EventTable
    shuffle: str  # of the attributes of items in these rows


@dataclass
class _EventFacts:
    attributes: TableFacts = field(default_factory=TableFacts)
    kinds: Counter[str] = field(default_factory=Counter)  # that are neither exposure nor feedback → rows
    first_slot: int = _NO_SLOT


def _read_events(job: _EventPiece, shard: ShardWriter) -> _EventFacts:
    facts, values = _EventFacts(), job.plan.values(job.table)
    for batch in read_piece(job.piece, item=job.table.item):
        kept = _complete(batch, job.table, values, facts.attributes.left_out)
        if kept is None:
            continue
        role, feedback = _roles(kept, job, values, facts)
        if not (used := role >= 0).any():
            continue
        rows, role = kept.take(used), role[used]
        feedback = {task: flag[used] for task, flag in feedback.items()}
        if job.table.has_exposures and job.table.request is not None:
            lacking = (role > FEEDBACK) & ~rows.present(job.table.request, values)
            facts.attributes.left_out["are exposures without a request and are left out"] += int(lacking.sum())
            if lacking.all():
                continue
            rows, role = rows.take(~lacking), role[~lacking]
            feedback = {task: flag[~lacking] for task, flag in feedback.items()}
        _add_events(rows, role, feedback, job, shard, facts)
    return facts


def _complete(batch: Batch, table: EventTable, values: Values, left_out: Counter[str]) -> Batch | None:
    """The rows with user, item and time."""
    keep = np.ones(len(batch), bool)
    for column, what in ((table.user, "user"), (table.item, "item"), (table.time, "time")):
        there = batch.present(column, values)
        if what == "time":
            there = batch.optional_times(column, values).is_not_null().to_numpy()
        left_out[f"have no {what} ({column!r}) and are left out"] += int((keep & ~there).sum())
        keep &= there
    return batch.take(keep) if keep.any() else None


def _roles(
    batch: Batch, job: _EventPiece, values: Values, facts: _EventFacts
) -> tuple[NDArray[np.int8], dict[str, NDArray[np.bool_]]]:
    """What each row is (-1: nothing), and its feedback."""
    table, rows = job.table, len(batch)
    if table.form == "wide":
        (column,) = table.exposure
        shown = np.ones(rows, bool)
        if column != EVERY:
            shown = (batch.number(column, values).fill_null(0.0) > 0).to_numpy()
        if table.slot is not None:
            shown &= (batch.number(table.slot, values).fill_null(-1.0) >= 0).to_numpy()
        feedback = {task: _flags(batch, task, names[0], shown, values, facts) for task, names in table.tasks.items()}
        return np.where(shown, SHOWN, HIDDEN).astype(np.int8), feedback
    if table.kind is None:
        role = np.full(rows, SHOWN if table.has_exposures else FEEDBACK, np.int8)
        return role, {task: np.ones(rows, bool) for task, kinds in table.tasks.items() if kinds}
    kind = batch.text(table.kind, values)
    feedback = {task: kind.is_in(list(kinds)).fill_null(False).to_numpy() for task, kinds in table.tasks.items()}
    shown = kind.is_in(list(table.exposure)).fill_null(False).to_numpy()
    role = np.where(shown, SHOWN, np.where(np.any([*feedback.values(), np.zeros(rows, bool)], 0), FEEDBACK, -1))
    for name in kind.filter(role < 0).fill_null("(none)").to_list():
        facts.kinds[name] += 1
    if table.slot is not None and table.has_exposures:
        unseen = (batch.number(table.slot, values).fill_null(-1.0) < 0).to_numpy()
        role = np.where(shown & unseen, HIDDEN, role)
    return role.astype(np.int8), feedback


def _flags(
    batch: Batch, task: str, column: str, shown: NDArray[np.bool_], values: Values, facts: _EventFacts
) -> NDArray[np.bool_]:
    """Feedback of exposures. ValueError if it is no flag, or given where nothing was shown."""
    found = batch.number(column, values)
    empty = int((found.is_null().to_numpy() & shown).sum())
    facts.attributes.left_out[f"have nothing in {column!r} ({task}): taken as no event"] += empty
    numbers = found.fill_null(0.0).to_numpy()
    for bad, want in (
        ((numbers != 0) & (numbers != 1), f'0 and 1, or a condition: {task} = "{column} > 0"'),
        (~shown & (numbers != 0), "nothing where the row was not shown: nobody saw the item"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{batch.table.where}: {column!r} (feedback {task!r}) is {numbers[row]:g} in row "
                f"{batch.table.row_name(row)}; want {want}"
            )
    flags: NDArray[np.bool_] = numbers > 0
    return flags


def _add_events(
    batch: Batch,
    role: NDArray[np.int8],
    feedback: Mapping[str, NDArray[np.bool_]],
    job: _EventPiece,
    shard: ShardWriter,
    facts: _EventFacts,
) -> None:
    polars = require("polars", "pipeline")
    table, schema, values, rows = job.table, job.plan.schema, job.plan.values(job.table), len(batch)
    user, item = batch.ids(table.user, "user", values, shard), batch.ids(table.item, "item", values, shard)
    time = polars.Series(batch.times(table.time, values))
    known = time if table.event_time is None else batch.optional_times(table.event_time, values).fill_null(time)
    columns = {"user_id": user, "item_id": item, "request_id": _requests(batch, job, values, shard), "timestamp": time}
    columns |= {"event_time": known, "role": polars.Series(role), "slot": _slots(batch, role, table, values, facts)}
    columns["scenario"] = _scenarios(batch, table, values)
    context, empty = {a.name: a for a in table.context}, nothing(rows, "Float64")
    for name, kind in {a.name: a.kind for t in schema.events for a in t.context}.items():
        dtype = polars.Float64 if kind == "dense" else polars.String
        found = batch.attribute(context[name], values) if name in context else empty
        columns[f"c_{name}"] = found.cast(dtype)
    for name in schema.measures:
        found = batch.number(table.measures[name][0], values) if name in table.measures else empty
        columns[f"m_{name}"] = found.cast(polars.Float32)
    for task in schema.tasks:
        flags = feedback.get(task, np.zeros(rows, bool))
        columns[f"y_{task}"] = polars.Series(flags.astype(np.float32))
    frame = polars.DataFrame({name: series.alias(name) for name, series in columns.items()})
    shard.shuffle("rows").add(places_of(user, job.plan.partitions), frame)
    for entity, ids in (("user", user), ("item", item)):
        seen = (
            polars.DataFrame({"id": ids, "first": time})
            .group_by("id")
            .agg(polars.col("first").min(), polars.len().alias("rows"))
        )
        shard.shuffle(f"seen-{entity}").add(parts_of(seen["id"]), seen)
    if table.dated is not None:
        place = TablePiece(job.plan, job.piece, "item", job.shuffle, table.dated)
        add_rows(batch, item, place, shard, facts.attributes)


def _requests(batch: Batch, job: _EventPiece, values: Values, shard: ShardWriter) -> "pl.Series":
    """int64, null where there is none."""
    polars = require("polars", "pipeline")
    if job.table.request is None:
        return nothing(len(batch))
    there = batch.present(job.table.request, values)
    result = polars.Series(np.where(there, np.cumsum(there) - 1, 0))
    if not there.any():
        return nothing(len(batch))
    ids = batch.take(there).ids(job.table.request, "request", values, shard)
    found: pl.Series = polars.select(polars.when(polars.Series(there)).then(ids.gather(result))).to_series()
    return found


def _slots(batch: Batch, role: NDArray[np.int8], table: EventTable, values: Values, facts: _EventFacts) -> "pl.Series":
    """int32 as in the table, null where nothing was shown."""
    polars = require("polars", "pipeline")
    if table.slot is None:
        return nothing(len(batch), "Int32")
    numbers = batch.number(table.slot, values).fill_null(-1.0).to_numpy()
    shown = role == SHOWN
    bad = shown & (numbers != np.round(numbers))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{batch.table.where}: {table.slot!r} (slot) is {numbers[row]:g} in row {batch.table.row_name(row)}; want "
            "a whole number, or nothing where the item was not shown"
        )
    facts.first_slot = int(min(facts.first_slot, numbers[shown].min(initial=_NO_SLOT)))
    slots = polars.Series(np.where(shown, numbers, 0).astype(np.int32))
    found: pl.Series = polars.select(polars.when(polars.Series(shown)).then(slots)).to_series()
    return found


def _scenarios(batch: Batch, table: EventTable, values: Values) -> "pl.Series":
    """Text; a number n of a column is COLUMNn, which can be read in reports."""
    polars = require("polars", "pipeline")
    if table.scenario is None:
        return nothing(len(batch), "String")
    found = batch.text(table.scenario, values)
    number = found.str.contains(r"^\d+$")
    text: pl.Series = polars.select(polars.when(number).then(table.scenario + found).otherwise(found)).to_series()
    return text


# ---- requests --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Users:
    """A job: all rows of some users, to make requests of them."""

    partition: int
    plan: Plan
    rules: JoinRules
    rows: int
    files: tuple[Path, ...]
    dated: tuple[tuple[Path, ...], ...]  # of each dated table of users

    @property
    def consumes(self) -> tuple[Path, ...]:
        return (*self.files, *(path for files in self.dated for path in files))

    def __str__(self) -> str:
        return f"partition {self.partition + 1} of {self.plan.partitions} of the users"


def _make_events(
    plan: Plan, dated: int, first_slot: int, shards: Sequence[ImportShard], writer: EventWriter, lost: Lost
) -> None:
    schema = plan.schema
    slot = -1 if not any(table.slot for table in schema.events) else min(first_slot, 1)
    grouping = (schema.requests, schema.gap_minutes, schema.max_rows, schema.window_hours, schema.utc_offset_hours)
    rules = JoinRules(*grouping, slot)
    jobs = []
    for part in range(plan.partitions):
        rows = sum(shard.held.get("rows", {}).get(part, 0) for shard in shards)
        files = tuple(path for shard in shards for path in shard.files("rows", part))
        tables = tuple(tuple(path for s in shards for path in s.files(f"{DATED}-{n}", part)) for n in range(dated))
        if rows:
            jobs.append(_Users(part, plan, rules, rows, files, tables))
    if not jobs:
        raise ValueError(f"the tables of events hold no event: {'; '.join(sentences(lost, 0)) or 'they are empty'}")
    done = writer.read(_make_requests, jobs, "events: requests")
    for _, counts in done:
        lost.joins.update(counts)
    if schema.requests != "column":
        writer.number_requests([requests for requests, _ in done])


def _make_requests(job: _Users, shard: ShardWriter) -> "tuple[int, Counter[str]]":
    """Adds the requests, in order of the users' hashes and numbered from 0 on; their number, and counts."""
    polars = require("polars", "pipeline")
    dated = {
        str(n): _dated_rows(table, files) for n, (table, files) in enumerate(zip(_dated(job), job.dated, strict=True))
    }
    parts = -(-job.rows // shard.rows)  # of about shard.rows rows
    finer = DiskShuffle(shard.directory / "finer")
    if parts > 1:
        for frame in read_frames(job.files):
            finer.add(places_of(frame["user_id"], parts * job.plan.partitions) - job.partition * parts, frame)
    first, counts = 0, Counter[str]()
    for part in sorted(finer.rows) or [-1]:
        frame = finer.take(part) if parts > 1 else polars.concat(list(read_frames(job.files)))
        events, requests, some = make_requests(frame, job.rules, dated, first)
        if not any(table.scenario for table in job.plan.schema.events):
            events = events.drop("scenario", strict=False)
        if requests:
            shard.add_events(events)
        first += requests
        counts.update(some)
    return first, counts


def _dated(job: _Users) -> list[AttributeTable]:
    return [table for table in job.plan.schema.users if table.time]


def _dated_rows(table: AttributeTable, files: Sequence[Path]) -> "pl.DataFrame":
    """user_id, since and the attributes as context."""
    polars = require("polars", "pipeline")
    frame = polars.concat(list(read_frames(files))) if files else empty_frame(table)
    found: pl.DataFrame = frame.select(
        polars.col("id").alias("user_id"), "since", *(polars.col(a.name).alias(f"c_{a.name}") for a in table.attributes)
    )
    return found


# ---- what was lost ---------------------------------------------------------------------------------------------------
def _count_joins(
    entity: str, tables: Sequence[AttributeTable], facts: Sequence[JoinFacts], shards: Sequence[ImportShard], lost: Lost
) -> None:
    for number, table in enumerate(tables):
        lost.several[_name(table)] += sum(fact.several[number] for fact in facts)
        lost.late[_name(table)] += sum(fact.late[number] for fact in facts)
    examples = [number for fact in facts for number in fact.examples][:3]
    names = _names(entity, examples, shards)
    lost.unknown[entity] = Unknown(
        sum(fact.ids for fact in facts) and sum(fact.unknown for fact in facts),
        sum(fact.ids for fact in facts),
        sum(fact.rows for fact in facts),
        [names.get(number, str(number)) for number in examples],
    )


def _names(kind: str, ids: Sequence[int], shards: Sequence[ImportShard]) -> dict[int, str]:
    """The names of ids that are text."""
    polars = require("polars", "pipeline")
    found: dict[int, str] = {}
    for shard in shards:
        for part in shard.held.get("names", {}):
            for frame in read_frames(shard.files("names", part)):
                some = frame.filter((polars.col("kind") == kind) & polars.col("id").is_in(list(ids)))
                found |= dict(some.select("id", "name").iter_rows())
    return found
