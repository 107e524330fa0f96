"""A table's columns in the units of a log. Every change is noted; what could mean two things is refused."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Bools, Floats, Ints
from pygrade._util.optional_imports import require
from pygrade.logs.arrays import count_distinct, numbered
from pygrade.logs.column_map import EXPLORED, ColumnMap
from pygrade.logs.columns import COLUMNS
from pygrade.logs.embeddings import EmbeddingError, read_lists
from pygrade.logs.problems import TableProblem
from pygrade.logs.table import Table
from pygrade.logs.text_times import read_times

_UNITS = {"seconds": 1e3, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}  # in milliseconds
_FIRST, _LAST = 3e11, 4e12  # times that a log may have: 1979 to 2096, in milliseconds
NEVER = np.iinfo(np.int64).max
_MINUTE = 60_000  # milliseconds


@dataclass
class ImportNotes:
    """Changes made to a table, and doubts about it, for people."""

    changed: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)  # what decides figures and was not given
    warned: list[str] = field(default_factory=list)


def refuse(table: Table, label: str, bad: Bools, values: Array, wanted: str, fact: str = "") -> None:
    """TableProblem that names the first bad row, what is there (or ``fact``) and what is wanted."""
    if bad.any():
        raise table.problem(label, bad, fact or f"is {values[int(np.argmax(bad))]:g}", wanted)


def _objects(values: Sequence[Any]) -> Array:
    return np.array([*values, None], dtype=object)[:-1]  # None: keeps numpy from making a matrix


def ids(table: Table, column: str, role: str) -> Array:
    """Return int64 [M], or an object array of str, of a column, or of several joined by +."""
    parts = [column] if column in table.names else column.split("+")
    for name in parts:
        if (missing := table.nulls(name)).any():
            problem = table.problem(f"{name!r} ({role})", missing, "is empty", "ids")
            if role == "request":  # these rows may be of the requests around them
                near = missing | np.append(missing[1:], False) | np.append(False, missing[:-1])
                problem.rows = table.rows[near]
            raise problem
    if len(parts) > 1:
        return _objects(["+".join(row) for row in zip(*map(table.texts, parts), strict=True)])
    kind = table.kind(column)
    if kind == "integer":
        try:
            return np.asarray(table.column(column).cast(require("pyarrow").int64()).to_numpy(), np.int64)
        except require("pyarrow").ArrowException:
            return table.texts(column)  # beyond 2^63
    if kind == "number":
        values = table.numbers(column)
        if not bool((values == np.round(values)).all() and np.abs(values).max() < 2**53):
            raise ValueError(f"{table.where}: {column!r} ({role}) holds fractions; expected ids, integers or text")
        return values.astype(np.int64)
    if kind not in ("text", "other"):
        raise ValueError(
            f"{table.where}: {column!r} ({role}) has type {table.type_of(column)}; expected integers or text"
        )
    return table.texts(column)


def users(table: Table, column: str, request: Array, notes: ImportNotes) -> Array:
    """Return the user [R] of each request; a new one where the column is empty."""
    missing = table.nulls(column) if column in table.names else np.zeros(len(table), bool)
    if not missing.any():
        return of_request(table, column, ids(table, column, "user"))
    texts, empty = of_request(table, column, table.texts(column)), of_request(table, column, missing)
    notes.changed.append(f"{column!r} (user) is empty in {empty.sum():,} requests: each is a user of its own")
    return _objects([f"request {r}" if e else t for t, e, r in zip(texts, empty, request, strict=True)])


def of_request(table: Table, column: str, values: Array) -> Array:
    """Return values [R] of rows [M]; TableProblem if the rows of a request disagree."""
    changed = np.append(False, values[1:] != values[:-1])
    if values.dtype.kind == "f":
        changed[1:] &= ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
    changed &= table.inside
    if changed.any():
        row = int(np.argmax(changed))
        wanted = f"one value a request (if its id is not unique, join columns: request=ITS_COLUMN+{column})"
        fact = f"has several values in {count_distinct(table.group[changed]):,} requests, e.g. {values[row - 1]} and"
        raise table.problem(f"{column!r}", changed, f"{fact} {values[row]}", wanted)
    return values[table.starts]


def slots(table: Table, mapping: ColumnMap, notes: ImportNotes) -> NDArray[np.int32]:
    """Return slots [M] from 0, -1 where not shown; of unknown slots 0 and -1, see `count_listed`."""
    if mapping.no_slots:
        return np.where(_shown_rows(table, mapping, notes), 0, -1).astype(np.int32)
    name = mapping.roles["position"]
    label = f"{name!r} (slot)"
    values = table.numbers(name) if name in table.names else _ordered_slots(table, name, notes)
    empty = np.isnan(values)
    refuse(table, label, ~empty & (values != np.round(values)), values, "whole numbers")
    refuse(table, label, np.abs(values) >= 2**31, values, "slots of a page")
    slot = np.where(empty, -1, values).astype(np.int64)
    hidden = slot < 0
    if (below := hidden & ~empty).any():
        notes.changed.append(f"{label}: {below.sum():,} rows below 0 were not shown")
    if flag := mapping.roles.get("shown"):
        unseen = ~(table.numbers(flag) > 0) & ~hidden
        notes.changed.append(f"{flag!r} (shown): {unseen.sum():,} rows with a slot were not shown")
        hidden |= unseen
    elif not hidden.any() and (np.bincount(table.group, slot == 0) > 1).any() and (slot == 1).any():
        hidden = slot == 0
        notes.changed.append(f"{label}: 0 stands in several rows of a request: {hidden.sum():,} rows not shown")
    if hidden.all():
        raise ValueError(f"{table.where}: {label} marks no row as shown; expected the slots of shown candidates")
    if slot[~hidden].min() == 1:
        slot = slot - 1
        notes.changed.append(f"{label}: counted from 1, now from 0")
    return np.where(hidden, -1, slot).astype(np.int32)


def _ordered_slots(table: Table, names: str, notes: ImportNotes) -> Floats:
    """Return slots [M] of columns joined by +, each within what the one before counts, as page+position; NaN where one
    is empty or below 0. Equal places of a request are one slot.
    """
    parts = [table.numbers(name) for name in names.split("+")]
    rows = np.flatnonzero(np.all([part >= 0 for part in parts], axis=0))
    keys = [table.group[rows], *(part[rows] for part in parts)]
    order = np.lexsort(keys[::-1])
    first, new = (np.append(True, np.any([np.diff(key[order]) != 0 for key in some], 0)) for some in (keys[:1], keys))
    count = np.cumsum(new)
    result = np.full(len(table), np.nan)
    result[rows[order]] = count - np.maximum.accumulate(np.where(first, count, 0))
    notes.changed.append(f"{names!r} (slot): a request's rows are counted from 0 in the order of these columns")
    return result


def _shown_rows(table: Table, mapping: ColumnMap, notes: ImportNotes) -> Bools:
    """Return whether the row was shown, of a table without slots, bool, of shape [M]."""
    if flag := mapping.roles.get("shown"):
        shown = np.asarray(table.numbers(flag) > 0)
        if not shown.any():
            raise ValueError(f"{table.where}: {flag!r} (shown) shows no row; expected 1 in the rows that were shown")
        return shown
    columns = [column for role, column in mapping.roles.items() if role.startswith("y_")]
    feedback = np.array([table.numbers(column) for column in columns]).reshape(-1, len(table))
    empty = np.isnan(feedback).all(0)
    if not columns or not empty.any():
        notes.changed.append("slot=none without shown=COLUMN: every row was shown, as all have feedback, if only a 0")
    elif bool((feedback == 0).any()):
        notes.changed.append(f"slot=none without shown=COLUMN: {empty.sum():,} rows without feedback were not shown")
    else:
        raise ValueError(
            f"{table.where}: slot is none, and feedback is empty in {empty.sum():,} rows and never 0: were these rows "
            "shown? Name shown=COLUMN, or write 0 where a shown row had no event"
        )
    return np.asarray(~empty | (not columns))


def count_listed(table: Table, mapping: ColumnMap, shown: Bools, notes: ImportNotes) -> NDArray[np.int32]:
    """Return the place [M] of each shown row among those of its request, by time if the rows of a request differ in it,
    else as they are listed; -1 where not shown.
    """
    column, rows = mapping.roles.get("timestamp"), np.flatnonzero(shown)
    group, order = table.group[rows], "as listed"
    if column is not None and table.varies(column).any():
        rows, order = rows[np.lexsort((row_times(table, column, ImportNotes())[rows], group))], f"by {column!r}"
    result = np.full(len(table), -1, np.int32)
    result[rows] = np.arange(len(rows)) - np.searchsorted(group, group)  # rows of a group stay together
    notes.warned.append(
        f"slots are unknown: shown rows are counted {order}, which says nothing of where they were shown"
    )
    return result


def check_slots(table: Table, mapping: ColumnMap, slot: NDArray[np.int32]) -> None:
    """TableProblem if a request shows two items in one slot: mostly the ids of visits with several pages."""
    shown = np.flatnonzero(slot >= 0)
    twice = np.zeros(len(table), bool)
    twice[shown] = _repeats(table.group[shown], slot[shown])
    if twice.any():
        request, name = mapping.roles["request_id"], mapping.roles["position"]
        joined = f"{request}+{mapping.roles.get('timestamp', 'COLUMN')}"
        wanted = f"each slot once in a request (if {request!r} covers several pages, join columns: request={joined})"
        count = f"has a slot twice in {count_distinct(table.group[twice]):,} requests,"
        raise table.problem(f"{name!r} (slot)", twice, count, wanted)


def _repeats(*keys: Array) -> Bools:
    """Return whether an earlier row has equal keys, bool, of shape [n]."""
    order = np.lexsort(keys)  # equal ones stay in order
    same = np.append(False, np.all([np.diff(key[order]) == 0 for key in keys], axis=0))
    result = np.empty(len(order), bool)
    result[order] = same
    return result


def times(table: Table, column: str, notes: ImportNotes) -> NDArray[np.int64]:
    """Return milliseconds [R] since 1970, the earliest of a request's rows."""
    millis = row_times(table, column, notes)
    first = np.minimum.reduceat(millis, table.starts)
    last = np.maximum.reduceat(np.where(millis == NEVER, -NEVER, millis), table.starts)
    refuse(table, f"{column!r} (time)", (first == NEVER)[table.group], millis, f"a time, or skip={column}", "is empty")
    if several := int((last != first).sum()):
        notes.changed.append(f"{column!r} (time) has several times in {several:,} requests: the earliest of each")
    return first


def check_scored(table: Table, column: str, page: NDArray[np.int64], notes: ImportNotes) -> None:
    """TableProblem if predictions were made more than a minute after their page, at page [R] milliseconds."""
    made = row_times(table, column, notes)
    late = (made != NEVER) & (made > page[table.group] + _MINUTE)
    wanted = "predictions that were made before their page, as others may hold its feedback"
    label = f"{column!r} (when predictions were made)"
    refuse(table, label, late, made.astype(np.float64), wanted, "is after the page's time")


def row_times(table: Table, column: str, notes: ImportNotes) -> NDArray[np.int64]:
    """Return milliseconds [M] since 1970, NEVER where missing; of columns joined by +, of a day and its hour."""
    if column not in table.names:
        day, hour = column.split("+", 1)
        start, hours = row_times(table, day, notes), table.numbers(hour)
        refuse(table, f"{hour!r} (time)", ~((hours >= 0) & (hours < 24)), hours, f"hours of {day!r}, from 0 to 23")
        return np.where(start == NEVER, NEVER, start + (hours * 3_600_000).astype(np.int64))
    if table.kind(column) == "text" and not table.is_numeric(column):
        millis, timed = _times_of_text(table, column, notes)
    elif table.kind(column) == "time":
        pa, stamps = require("pyarrow"), table.arrow.column(column)
        stamps = stamps.cast(pa.timestamp("ms", getattr(stamps.type, "tz", None)), safe=False)
        millis, timed = _integers(stamps), ~table.nulls(column)
        notes.changed.append(f"{column!r} (time): dates, now milliseconds since 1970 (UTC if they name no zone)")
    else:
        millis, timed = _times_of_numbers(table, column, notes)
    return np.where(timed, millis, NEVER)


def _integers(column: Any) -> NDArray[np.int64]:
    """0 for null."""
    return np.asarray(require("pyarrow.compute").fill_null(column.cast(require("pyarrow").int64()), 0).to_numpy())


def _times_of_text(table: Table, column: str, notes: ImportNotes) -> tuple[NDArray[np.int64], Bools]:
    """Return milliseconds [M], and where they are known."""
    codes, read = table.codes(column), read_times(require("pyarrow").array(table.levels(column)))
    wrong, timed, local = (np.append(mask, False)[codes] for mask in (read.wrong, read.timed, read.local))
    if wrong.any():
        wanted = "dates as in ISO 8601" + (": day or month may be first" if read.form.endswith("?") else "")
        text = table.texts(column)[int(np.argmax(wrong))]
        problem = table.problem(f"{column!r} (time)", wrong, f"is {text!r}", wanted)
        problem.rows = problem.rows if timed.any() else None
        raise problem
    zone = "UTC if they name no zone"
    if 0 < local.sum() < timed.sum():
        zone = f"{local.sum():,} of {timed.sum():,} rows name no zone: taken as UTC"
    form = f" ({read.form})" if read.form else ""
    notes.changed.append(f"{column!r} (time): dates{form}, now milliseconds since 1970 ({zone})")
    return np.append(read.millis, 0)[codes], timed


def _times_of_numbers(table: Table, column: str, notes: ImportNotes) -> tuple[NDArray[np.int64], Bools]:
    values = table.numbers(column)
    timed = ~np.isnan(values)
    fits = {name: (values * factor >= _FIRST) & (values * factor < _LAST) for name, factor in _UNITS.items()}
    unit = max(fits, key=lambda name: int(fits[name].sum()))
    if timed.any() and not fits[unit].any():
        low, high = np.nanmin(values), np.nanmax(values)
        wanted = "dates, or seconds, milli-, micro- or nanoseconds since 1970"
        raise ValueError(f"{table.where}: {column!r} (time) goes from {low:g} to {high:g}; expected {wanted}")
    refuse(table, f"{column!r} (time)", timed & ~fits[unit], values, f"{unit} since 1970, as in most rows")
    if unit == "milliseconds" and table.kind(column) == "integer":
        return _integers(table.column(column)), timed
    if unit != "milliseconds":
        notes.changed.append(f"{column!r} (time): {unit} since 1970, now milliseconds")
    return np.round(np.nan_to_num(values) * _UNITS[unit]).astype(np.int64), timed


def exploration(table: Table, column: str, notes: ImportNotes) -> Array:
    """Return the exploration [R] of pages: none, shuffle, dirichlet, or words for them; of a flag, shuffle or none."""
    label = f"{column!r} (exploration)"
    if table.is_numeric(column):
        flag = of_request(table, column, table.numbers(column))
        empty = np.isnan(flag)
        if not set(flag[~empty]) <= {0.0, 1.0}:
            raise ValueError(f"{table.where}: {label} is no flag; expected 0 and 1, or words")
        more = f" (it is empty in {empty.sum():,})" if empty.any() else ""
        shuffled = f"{int((flag == 1).sum()):,} requests were shuffled, the others not explored{more}"
        notes.changed.append(f"{label}: {shuffled}")
        return np.where(flag == 1, "shuffle", "none").astype(object)
    texts = table.texts(column)
    kinds = {word: EXPLORED.get(word.strip().lower(), "") for word in dict.fromkeys(texts.tolist())}
    unknown = np.isin(texts, [word for word, kind in kinds.items() if not kind])
    if unknown.any():
        wanted = "none, shuffle or dirichlet, 0 and 1, or yes and no"
        raise table.problem(label, unknown, f"is {texts[int(np.argmax(unknown))]!r}", wanted)
    if renamed := [f"{word!r} is {kind}" for word, kind in kinds.items() if word != kind]:
        notes.changed.append(f"{label}: {', '.join(renamed)}")
    return _objects([kinds[word] for word in of_request(table, column, texts)])


def feedback(table: Table, column: str, task: str, shown: Bools, notes: ImportNotes) -> NDArray[np.float32]:
    """Return feedback [M], 0 where not shown."""
    label = f"{column!r} (feedback {task!r})"
    values = table.numbers(column)
    if table.kind(column) == "bool":
        notes.changed.append(f"{label}: true and false, now 1 and 0")
    if (marked := ~shown & (values == -1)).any():
        notes.changed.append(f"{label}: -1 in {marked.sum():,} rows that were not shown, now empty")
        values = np.where(marked, np.nan, values)
    missing = np.isnan(values)
    refuse(table, label, ~missing & (values < 0), values, "feedback ≥ 0 (for harm, a negative --values)")
    refuse(table, label, np.isinf(values), values, "finite feedback")
    refuse(
        table, label, ~shown & (values > 0), values, "empty feedback where the row was not shown: nobody saw the item"
    )
    if (unseen := ~shown & (values == 0)).any():
        notes.changed.append(f"{label}: 0 in {unseen.sum():,} rows that were not shown, now empty")
    if (unknown := shown & missing).any():
        if bool((values[shown] == 0).any()):
            cure = f"requests of which it is not known left out: --map where={column} is not null"
            raise table.problem(
                label, unknown, "is empty, and 0 in other shown rows,", f"0 where there was no event; {cure}"
            )
        notes.changed.append(f"{label}: empty in {unknown.sum():,} shown rows and never 0: taken as no event")
    return np.where(shown & ~missing, values, 0.0).astype(np.float32)


def item_codes(table: Table, mapping: ColumnMap) -> Ints:
    """Return a number [M] for each item."""
    name = mapping.roles["item_id"]
    return table.codes(name) if name in table.names else numbered(ids(table, name, "item"))


def without_copies(table: Table, mapping: ColumnMap, slot: NDArray[np.int32], notes: ImportNotes) -> Bools:
    """Return the rows [M] to keep. Of an item listed several times in a request the shown rows stay, and one row if
    none was shown; of rows that are the same in slot, too, the first.
    """
    name, item = mapping.roles["item_id"], item_codes(table, mapping)
    if count_distinct(table.group * (int(item.max()) + 1) + item) == len(table):
        return np.ones(len(table), bool)
    order = np.lexsort((np.arange(len(table)), slot < 0, item, table.group))  # shown rows first
    same = np.append(False, (np.diff(item[order]) == 0) & (np.diff(table.group[order]) == 0))
    before = np.append(-1, slot[order][:-1])
    extra = np.zeros(len(table), bool)
    extra[order] = same & ((slot[order] < 0) | (slot[order] == before))
    if extra.any():
        count = f"{extra.sum():,} rows in {count_distinct(table.group[extra]):,} requests"
        notes.changed.append(f"{name!r} lists an item again within a request ({count}): the shown row is kept")
    return ~extra


def numbers(table: Table, column: str, kind: str, notes: ImportNotes) -> Floats:
    """Return the values [M] of a feature, an item column or another number (``kind`` "")."""
    if table.kind(column) == "bool" and kind:
        notes.changed.append(f"{column!r} ({kind}): true and false, now 1 and 0")
    try:
        values = table.numbers(column)
    except TableProblem as problem:
        if kind and problem.rows is not None:  # a feature may be missing
            problem.rows, problem.column = None, column
        raise
    if np.isinf(values).any():
        notes.changed.append(f"{column!r}: {np.isinf(values).sum():,} infinite values, now missing")
        values = np.where(np.isinf(values), np.nan, values)
    return values


def prices(table: Table, column: str, notes: ImportNotes) -> NDArray[np.float32]:
    """Return the values [M] of all candidates."""
    price = COLUMNS["value"].values
    assert price is not None
    values = numbers(table, column, "", notes)
    refuse(table, f"{column!r} (price)", ~((values >= price.low) & (values <= price.high)), values, price.wanted)
    return values.astype(np.float32)


def embeddings(table: Table, column: str, item: Ints) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Places [M] and vectors of the items [M], see `embeddings.read_lists`."""
    try:
        return read_lists(table.column(column), item)
    except EmbeddingError as error:
        raise ValueError(f"{column!r} (embedding) in row {table.row_name(error.row)}: {error.reason}") from error


def note_texts(table: Table, columns: Iterable[str], notes: ImportNotes) -> None:
    """Notes which of the columns hold numbers, or yes and no, as text."""
    for column in dict.fromkeys(columns):
        if column in table.names and table.kind(column) == "text" and not table.has_levels(column):
            values = table.numbers(column)
            row = int(np.argmax(~np.isnan(values)))
            text = table.column(column)[row].as_py()
            notes.changed.append(f"{column!r}: text, now numbers; {text!r} is {values[row]:g}")


def record_of(notes: ImportNotes, mapping: ColumnMap) -> dict[str, Any]:
    """The record for JSON."""
    return {"map": mapping.words(), "left_out": mapping.left_out, **vars(notes)}
