"""Raw events of one's own, by a schema (`event_schema`): tables of users, items and events → requests with feedback.

Rows of events are sorted by user: exposures are grouped into requests, and feedback is joined to them (`event_joins`).
The tables of users and items are joined by id (`attribute_joins`). What is lost on the way is counted and said in
``notes`` of source.json.

A value counts where it is known: a dated row of users is context of the requests after it; of items, whose features
hold one value, that at the item's first event counts; a table without a time is taken as known all along.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pygrade._util.hashing import hash_ids
from pygrade._util.optional_imports import require
from pygrade.config.data import RawEventsConfig
from pygrade.data.attribute_joins import AttributeSpill, join_ids
from pygrade.data.event_joins import FEEDBACK, HIDDEN, SHOWN, make_requests
from pygrade.data.event_schema import EVERY, AttributeTable, EventSchema, EventTable, read_schema
from pygrade.data.event_tables import Batch, Values, file_names, left_out, nothing, read_batches, text_ids
from pygrade.data.event_writer import EventWriter
from pygrade.storage import Place, download, is_url

if TYPE_CHECKING:
    import polars as pl

_NO_SLOT = 2**31 - 1
_MOST_KINDS = 10  # that are named
_LOST = 0.5  # of the feedback, above which it is an error
_ALONE = 0.5  # of the requests, from which on it is said that they have one exposure


def open_schema(place: Place) -> EventSchema:
    """The schema at a path or URL; see `read_schema`."""
    return read_schema(download(place), str(place).rpartition("/")[0] if is_url(place) else None)


def import_raw_events(place: Place, writer: EventWriter, config: RawEventsConfig | None = None) -> None:
    """Writes the events of a schema's tables. ValueError names file, row and column, or key of the schema."""
    schema, stated = open_schema(place), (config or RawEventsConfig()).task_values or {}
    if unknown := sorted(set(stated) - set(schema.tasks)):
        raise ValueError(
            f"task_values names {unknown[0]!r}; expected some of the schema's tasks, {', '.join(schema.tasks)}"
        )
    import_schema(replace(schema, values={**schema.values, **stated}), writer)


def import_schema(schema: EventSchema, writer: EventWriter) -> None:
    """Writes the events of a schema. ValueError names file, row and column, or key of the schema."""
    writer.finish(schema.source(_Import(schema, writer).run()))


class _Import:
    """An import on its way; ``notes``: what it loses or assumes, for people."""

    def __init__(self, schema: EventSchema, writer: EventWriter) -> None:
        self.schema, self.writer, self.notes, self.named = schema, writer, list[str](), text_ids(schema)
        self.rows = writer.spill("rows")
        self.first_slot = _NO_SLOT

    def run(self) -> list[str]:
        schema, carried = self.schema, list[AttributeSpill]()
        for table in schema.events:
            if table.dated is not None:
                carried.append(AttributeSpill(table.dated, self.writer.spill(f"carried-{len(carried)}")))
            self._read_events(table, None if table.dated is None else carried[-1])
        dated = self._read_tables("user", [table for table in schema.users if table.time])
        undated = [table for table in schema.users if not table.time]
        users, items = self._read_tables("user", undated), self._read_tables("item", schema.items)
        if self.first_slot == _NO_SLOT and any(table.slot for table in schema.events):
            raise ValueError(
                "no exposure has a slot; expected slots of what was shown, or no key slot: the order in time"
            )
        self._make_events(dated)
        for entity, tables in (("user", users), ("item", [*items, *carried])):
            if tables:
                self.notes += join_ids(entity, tables, self.rows, self.writer)
        if timeless := [file_names(table) for table in (*undated, *schema.items) if not table.time]:
            self.notes.append(
                f"{', '.join(timeless)}: no time, so its values are taken as known before the first event; what was "
                "counted later tells the future"
            )
        return self.notes

    def _values(self, table: EventTable | AttributeTable) -> Values:
        return Values(table.unknown, self.schema.utc_offset_hours, self.named)

    def _read_tables(self, entity: str, tables: Sequence[AttributeTable]) -> list[AttributeSpill]:
        result = []
        for number, table in enumerate(tables):
            kind = "dated" if table.time else "plain"
            result.append(AttributeSpill(table, self.writer.spill(f"{entity}-{kind}-{number}")))
            self.notes += result[-1].read(entity, self.schema, self._values(table), self.writer)
        return result

    # ---- events ------------------------------------------------------------------------------------------------------
    def _read_events(self, table: EventTable, own: AttributeSpill | None) -> None:
        lost, kinds, values = Counter[str](), Counter[str](), self._values(table)
        batches = (batch for file in table.files for batch in read_batches(self.schema.place(file), table.item))
        for batch in batches:
            kept = _complete(batch, table, values, lost)
            if kept is None:
                continue
            role, feedback = _roles(kept, table, values, lost, kinds)
            used = role >= 0
            if table.has_exposures and table.request is not None and used.any():
                lacking = (role > FEEDBACK) & ~kept.present(table.request, values)
                lost["are exposures without a request and are left out"] += int(lacking.sum())
                used = used & ~lacking
            if used.any():
                feedback = {task: flag[used] for task, flag in feedback.items()}
                self._add(kept.take(used), role[used], feedback, table, own)
        self.notes += left_out(table, lost)
        if kinds:
            named = ", ".join(f"{kind!r} ({count:,} rows)" for kind, count in kinds.most_common(_MOST_KINDS))
            self.notes.append(f"{file_names(table)}: neither exposure nor feedback, left out: {named}")

    def _add(
        self,
        batch: Batch,
        role: NDArray[np.int8],
        feedback: Mapping[str, NDArray[np.bool_]],
        table: EventTable,
        own: AttributeSpill | None,
    ) -> None:
        polars = require("polars")
        schema, values, rows, writer = self.schema, self._values(table), len(batch), self.writer
        user, item = batch.ids(table.user, "user", values, writer), batch.ids(table.item, "item", values, writer)
        time = polars.Series(batch.times(table.time, values))
        event_time = (
            time if table.event_time is None else batch.optional_times(table.event_time, values).fill_null(time)
        )
        columns = {"hash": polars.Series(hash_ids(user.to_numpy())), "user_id": user, "item_id": item}
        columns |= {"request_id": _requests(batch, table, values, writer), "timestamp": time}
        columns |= {
            "event_time": event_time,
            "role": polars.Series(role),
            "slot": self._slots(batch, role, table, values),
        }
        columns["scenario"] = _scenarios(batch, table, values)
        context, empty = {a.name: a for a in table.context}, nothing(rows, "Float64")
        for name, kind in {a.name: a.kind for t in schema.events for a in t.context}.items():
            dtype = polars.Float64 if kind == "dense" else polars.String
            column_values = batch.attribute(context[name], values) if name in context else empty
            columns[f"c_{name}"] = column_values.cast(dtype)
        for name in schema.measures:
            column_values = batch.number(table.measures[name][0], values) if name in table.measures else empty
            columns[f"m_{name}"] = column_values.cast(polars.Float32)
        for task in schema.tasks:
            flags = feedback.get(task, np.zeros(rows, bool))
            columns[f"y_{task}"] = polars.Series(flags.astype(np.float32))
        self.rows.add(polars.DataFrame({name: series.alias(name) for name, series in columns.items()}))
        if own is not None:
            own.add(batch, item, values)

    def _slots(self, batch: Batch, role: NDArray[np.int8], table: EventTable, values: Values) -> "pl.Series":
        """Slots [M] int32 as in the table, null where nothing was shown."""
        if table.slot is None:
            return nothing(len(batch), "Int32")
        polars = require("polars")
        numbers = batch.number(table.slot, values).fill_null(-1.0).to_numpy()
        shown = role == SHOWN
        bad = shown & (numbers != np.round(numbers))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{batch.table.where}: {table.slot!r} (slot) is {numbers[row]:g} in row {batch.table.row_name(row)}; "
                "expected a whole number, or nothing where the item was not shown"
            )
        self.first_slot = int(min(self.first_slot, numbers[shown].min(initial=_NO_SLOT)))
        slots = polars.Series(np.where(shown, numbers, 0).astype(np.int32))
        result: pl.Series = polars.select(polars.when(polars.Series(shown)).then(slots)).to_series()
        return result

    # ---- requests ----------------------------------------------------------------------------------------------------
    def _make_events(self, dated: Sequence[AttributeSpill]) -> None:
        """Adds the requests, in order of the users' hashes and numbered from 0 on."""
        schema, joins = self.schema, Counter[str]()
        slot = -1 if not any(table.slot for table in schema.events) else min(self.first_slot, 1)
        first = 0
        if not self.rows.count:
            raise ValueError(f"the tables of events hold no event: {'; '.join(self.notes) or 'they are empty'}")
        for frame in self.rows.frames(["hash"], "user_id"):
            context = [_dated_context(table, frame["user_id"]) for table in dated]
            events, requests, counts = make_requests(frame.drop("hash"), schema, slot, context, first)
            if not any(table.scenario for table in schema.events):
                events = events.drop("scenario", strict=False)
            if requests:
                self.writer.add_events(events)
            first += requests
            joins.update(counts)
        self._count_joins(joins)

    def _count_joins(self, counts: Counter[str]) -> None:
        """Adds sentences on the counts of `make_requests` to the notes."""
        if counts["repeated"]:
            self.notes.append(f"{counts['repeated']:,} events repeat others in every column: each is counted once")
        alone, requests, lost, events = (counts[name] for name in ("alone", "requests", "lost", "feedback"))
        if alone > _ALONE * requests:
            self.notes.append(
                f"{alone:,} of {requests:,} requests ({100 * alone / requests:.3g} %) have one exposure, of which "
                "there is no order to learn: are users and items swapped, or is what makes a request wrong (requests, "
                "gap_minutes)?"
            )
        if lost:
            said = (
                f"{lost:,} of {events:,} events of feedback ({100 * lost / max(events, 1):.3g} %) are left out: no "
                "exposure of their user and item in the same request, or in the "
                f"{self.schema.window_hours:g} hours before"
            )
            if lost > _LOST * events:
                raise ValueError(
                    f"{said}: are these the exposures ({self._exposures()})? Else name others (exposure), other ids "
                    "(request, user, item), or a longer time (window_hours)"
                )
            self.notes.append(said)

    def _exposures(self) -> str:
        named = [(file_names(table), table.exposure) for table in self.schema.events if table.exposure]
        return "; ".join(f"{files}: {', '.join(kinds)}" for files, kinds in named)


def _dated_context(attributes: AttributeSpill, users: "pl.Series") -> "pl.DataFrame":
    """user_id, since and the dated attributes of some users as context."""
    polars = require("polars")
    types = {a.name: polars.Float32 if a.kind == "dense" else polars.String for a in attributes.table.attributes}
    frames = attributes.spill.frames(["id", "since"], "id", users.unique())
    frame = polars.concat([polars.DataFrame(schema={"id": polars.Int64, "since": polars.Int64, **types}), *frames])
    renamed: pl.DataFrame = frame.rename({"id": "user_id", **{name: f"c_{name}" for name in types}})
    return renamed


def _complete(batch: Batch, table: EventTable, values: Values, lost: Counter[str]) -> Batch | None:
    """The rows with user, item and time."""
    keep = np.ones(len(batch), bool)
    for column, what in ((table.user, "user"), (table.item, "item"), (table.time, "time")):
        there = batch.present(column, values)
        if what == "time":
            there = batch.optional_times(column, values).is_not_null().to_numpy()
        lost[f"have no {what} ({column!r}) and are left out"] += int((keep & ~there).sum())
        keep &= there
    return batch.take(keep) if keep.any() else None


def _roles(
    batch: Batch, table: EventTable, values: Values, lost: Counter[str], kinds: Counter[str]
) -> tuple[NDArray[np.int8], dict[str, NDArray[np.bool_]]]:
    """Each row's role (`event_joins`; -1: none) [n], and its feedback by task [n]."""
    rows = len(batch)
    if table.form == "wide":
        (column,) = table.exposure
        shown = np.ones(rows, bool)
        if column != EVERY:
            shown = (batch.number(column, values).fill_null(0.0) > 0).to_numpy()
        if table.slot is not None:
            shown &= (batch.number(table.slot, values).fill_null(-1.0) >= 0).to_numpy()
        feedback = {task: _flags(batch, task, names[0], shown, values, lost) for task, names in table.tasks.items()}
        return np.where(shown, SHOWN, HIDDEN).astype(np.int8), feedback
    if table.kind is None:
        role = np.full(rows, SHOWN if table.has_exposures else FEEDBACK, np.int8)
        return role, {task: np.ones(rows, bool) for task, kinds in table.tasks.items() if kinds}
    kind = batch.text(table.kind, values)
    feedback = {task: kind.is_in(list(kinds)).fill_null(False).to_numpy() for task, kinds in table.tasks.items()}
    shown = kind.is_in(list(table.exposure)).fill_null(False).to_numpy()
    role = np.where(shown, SHOWN, np.where(np.any([*feedback.values(), np.zeros(rows, bool)], 0), FEEDBACK, -1))
    kinds.update(kind.filter(role < 0).fill_null("(none)").to_list())
    if table.slot is not None and table.has_exposures:
        unseen = (batch.number(table.slot, values).fill_null(-1.0) < 0).to_numpy()
        role = np.where(shown & unseen, HIDDEN, role)
    return role.astype(np.int8), feedback


def _flags(
    batch: Batch, task: str, column: str, shown: NDArray[np.bool_], values: Values, lost: Counter[str]
) -> NDArray[np.bool_]:
    """Feedback [M] of exposures. ValueError if it is no flag, or there where nothing was shown."""
    series = batch.number(column, values)
    empty = int((series.is_null().to_numpy() & shown).sum())
    lost[f"have nothing in {column!r} ({task}): taken as no event"] += empty
    numbers = series.fill_null(0.0).to_numpy()
    for bad, want in (
        ((numbers != 0) & (numbers != 1), f'0 and 1, or a condition: {task} = "{column} > 0"'),
        (~shown & (numbers != 0), "nothing where the row was not shown: nobody saw the item"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{batch.table.where}: {column!r} (feedback {task!r}) is {numbers[row]:g} in row "
                f"{batch.table.row_name(row)}; expected {want}"
            )
    flags: NDArray[np.bool_] = numbers > 0
    return flags


def _requests(batch: Batch, table: EventTable, values: Values, writer: EventWriter) -> "pl.Series":
    """Request ids [M] int64, null where there is none."""
    polars = require("polars")
    if table.request is None:
        return nothing(len(batch))
    there = batch.present(table.request, values)
    result = polars.Series(np.where(there, np.cumsum(there) - 1, 0))
    if not there.any():
        return nothing(len(batch))
    ids = batch.take(there).ids(table.request, "request", values, writer)
    requests: pl.Series = polars.select(polars.when(polars.Series(there)).then(ids.gather(result))).to_series()
    return requests


def _scenarios(batch: Batch, table: EventTable, values: Values) -> "pl.Series":
    """Scenarios [M] as text; a number n of a column becomes COLUMNn, which reports can show."""
    polars = require("polars")
    if table.scenario is None:
        return nothing(len(batch), "String")
    texts = batch.text(table.scenario, values)
    number = texts.str.contains(r"^\d+$")
    text: pl.Series = polars.select(polars.when(number).then(table.scenario + texts).otherwise(texts)).to_series()
    return text
