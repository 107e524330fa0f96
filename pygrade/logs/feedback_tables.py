"""Feedback in tables of its own, such as clicks and orders beside impressions: a column of what was shown.

A table of feedback has a row an event, with the request and the item of its showing. A table of messages of several
kinds, some of which are showings with predictions, is several such tables.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._util.optional_imports import require
from pygrade.logs.conversion import NEVER, ImportNotes, row_times
from pygrade.logs.nested import flat, parse_json
from pygrade.logs.roles import KINDS, ROLES, SKIP, WINDOW, is_feedback, named, predicted_task
from pygrade.logs.table import Table
from pygrade.logs.table_formats import kind_of

if TYPE_CHECKING:
    import polars as pl

_ALIKE = 0.75  # of all columns of two files that both have: they are of one table
_HOURS = 24.0  # after its showing that an event counts, as in a schema of raw events
_LOST = 0.5  # largest share of a table's rows without a showing
_EARLY, _SOME = 60_000, 0.01  # ms before the showing, and the share of such events that is said
_KIND = (*KINDS, "type")
_MOST_KINDS = 50
_ENVELOPE = {"topic", "partition", "offset", "value"}  # of a message of Kafka


def same_table(a: tuple[str, Sequence[str]], b: tuple[str, Sequence[str]], stated_roles: Mapping[str, str]) -> bool:
    """Return whether two files, with their columns, are of one table: most columns are the same, and, unless they have
    predictions, the words of their names, as clicks and orders may have the same columns.
    """
    columns = {*a[1]}, {*b[1]}
    if len(columns[0] & columns[1]) < _ALIKE * max(len(columns[0] | columns[1]), 1):
        return False
    words = [name for name in (table_name(a[0]), table_name(b[0])) if re.search("(?i)[g-zß-ÿ]|[a-z]{5}", name)]
    return len({*words}) < 2 or len(words) < 2 or _has_predictions([*columns[0] & columns[1]], stated_roles)


def table_name(file: str) -> str:
    """The name of the table of a file: the words before a number.

    >>> [table_name(file) for file in ("clicks.csv.gz", "2026-orders", "carts/day=7/part-0.parquet")]
    ['clicks', 'orders', 'carts']
    """
    parts = [part for part in file.replace("\\", "/").split("/") if part and "=" not in part]
    name = parts[0].partition(".")[0]
    match = re.search(r"[^\W\d_](?:\D*[^\W\d_])?", name)
    return name if match is None else match[0]


def find_showing(columns: Mapping[str, Sequence[str]], stated_roles: Mapping[str, str]) -> str:
    """The table of what was shown, of several with these columns: the only one with predictions, whose columns of
    request and item the others have, too. Empty if there is none.
    """
    scored = [table for table, names in columns.items() if _has_predictions(names, stated_roles)]
    if len(columns) < 2 or len(scored) != 1:
        return ""
    key = _key(columns[scored[0]], stated_roles)
    skipped = stated_roles.get(SKIP, "").split("+")
    whole = all({*key} <= {*names} for table, names in columns.items() if table not in skipped)
    return scored[0] if key and whole else ""


def _has_predictions(names: Sequence[str], stated_roles: Mapping[str, str]) -> bool:
    """Return whether some of the columns are predictions, by the map or by their names."""
    return bool(_predictions(names, stated_roles))


def _predictions(names: Sequence[str], stated_roles: Mapping[str, str]) -> list[str]:
    given = {column for role, column in stated_roles.items() if role.startswith("p_")}
    return [name for name in names if name in given or (not given and predicted_task(name))]


def _key(names: Sequence[str], stated_roles: Mapping[str, str]) -> list[str]:
    """The columns of request and item; none if one is missing."""
    result = list[str]()
    for role in ("request_id", "item_id"):
        stated = stated_roles.get(role, "").split("+")
        columns = stated if {*stated} <= {*names} else named(list(names), ROLES[role].names)[:1]
        if not columns:
            return []
        result += columns
    return result


def unpack_messages(arrow: Any, where: str, notes: list[str]) -> Any:
    """The values of messages of Kafka, structures or JSON in text, as columns; other tables as they are."""
    names = set(arrow.column_names)
    if not names >= _ENVELOPE or kind_of(arrow.schema.field("value").type) not in ("struct", "text"):
        return arrow
    notes.append(f"messages of Kafka: their values are the rows; left out: {', '.join(sorted(names - {'value'}))}")
    return flat(parse_json(arrow.select(["value"]), set(), where, notes))


def join_feedback(
    tables: Any, stated_roles: Mapping[str, str], where: str, notes: list[str]
) -> tuple[Any, np.ndarray[Any, np.dtype[np.int64]] | None]:
    """The table of what was shown with a column of 0 and 1 for each table, and each kind of events, of feedback; and
    the numbers of its rows in the table given, None if it has all of them.

    tables: name → Arrow table, or one table, which stays as it is unless it is of messages of several kinds. An event
    counts up to ``window`` hours after its showing, and several of one kind once. What is joined, and how much of it is
    lost, is added to the notes. ValueError if there is no table of what was shown, if more than half of a table is
    lost, or if a task has feedback in two places.
    """
    rows = None
    if not isinstance(tables, Mapping):
        kind = _kind_column(tables, stated_roles)
        levels = {} if not kind else _by_kind(tables, kind)
        scored = [level for level, (part, _) in levels.items() if _scored(part, stated_roles)]
        if len(levels) < 2 or len(scored) != 1:
            return tables, None
        notes.append(f"{kind!r}: rows of kind {scored[0]!r} were shown, by their predictions; other kinds are feedback")
        showing, (part, rows) = scored[0], levels[scored[0]]
        tables = {level: part.drop_columns(kind) for level, (part, _) in levels.items()}
        once = _first_copies(part)
        if len(once) < len(part):
            notes.append(f"{len(part) - len(once):,} rows of kind {showing!r} repeat others in every column: left out")
            tables[showing], rows = tables[showing].take(once), rows[once]
    else:
        tables = {name: flat(table) for name, table in tables.items()}
        showing = find_showing({name: table.column_names for name, table in tables.items()}, stated_roles)
        if not showing:
            has = "; ".join(f"{name} has {', '.join(table.column_names)}" for name, table in tables.items())
            raise ValueError(
                f"{where}: of several tables one has to have predictions, and all its request and item: {has}; "
                "name them, --map request=COLUMN,item=COLUMN,p_TASK=COLUMN, or leave a table out"
            )
    shown, skipped = tables[showing], stated_roles.get(SKIP, "").split("+")
    key = _key(shown.column_names, stated_roles)
    tasks = [role[2:] for role in stated_roles if role.startswith("p_")]
    tasks = tasks or [predicted_task(name) for name in shown.column_names if predicted_task(name)]
    for name, table in _kinds_apart(tables, showing, skipped):
        column = _feedback_column(name, tasks, stated_roles)
        if twice := [own for own in shown.column_names if own == column or is_feedback(own, column.removeprefix("y_"))]:
            raise ValueError(f"{where}: the table {name!r} and the column {twice[0]!r} are both feedback of one task")
        flags = _flags(shown, table, key, stated_roles, (where, showing, name, column), notes)
        shown = shown.append_column(column, require("pyarrow").array(flags))
    return shown, rows


def _kind_column(table: Any, stated_roles: Mapping[str, str]) -> str:
    names = list(table.column_names)
    columns = [stated_roles["y_kind"]] if stated_roles.get("y_kind") in names else named(names, _KIND)
    texts = [name for name in columns if kind_of(table.schema.field(name).type) == "text"]
    return texts[0] if texts and _key(names, stated_roles) else ""


def _by_kind(table: Any, kind: str) -> dict[str, tuple[Any, np.ndarray[Any, np.dtype[np.int64]]]]:
    """Level → its rows, and their numbers; nothing of a column with many levels."""
    column = Table(table.select([kind]), "")
    levels, codes = column.levels(kind), column.codes(kind)
    if len(levels) > _MOST_KINDS:
        return {}
    numbers = {level: np.flatnonzero(codes == code) for code, level in enumerate(levels)}
    return {level: (table.take(rows), rows) for level, rows in numbers.items()}


def _first_copies(table: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The rows that are the same as none before, but for lists."""
    names = [field.name for field in table.schema if kind_of(field.type) not in ("list", "vector", "empty")]
    frame = require("polars").from_arrow(table.select(names)).with_row_index("row of the table")
    kept = frame.unique(names, keep="first", maintain_order=True)["row of the table"]
    return np.asarray(kept.to_numpy(), np.int64)


def _scored(table: Any, stated_roles: Mapping[str, str]) -> bool:
    return any(table.column(name).null_count < len(table) for name in _predictions(table.column_names, stated_roles))


def _kinds_apart(tables: Mapping[str, Any], showing: str, skipped: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The tables of feedback; one with several kinds of events is several."""
    for name, table in tables.items():
        if name == showing or name in skipped:
            continue
        kind = next(iter(named(list(table.column_names), _KIND)), "")
        texts = kind and kind_of(table.schema.field(kind).type) == "text"
        levels = _by_kind(table, kind) if texts else {}
        if len(levels) > 1:
            yield from ((level, part) for level, (part, _) in levels.items() if level not in skipped)
        else:
            yield name, table


def _feedback_column(table: str, tasks: Sequence[str], stated_roles: Mapping[str, str]) -> str:
    """The name of the column of feedback that a table becomes: y_TASK, or the table's own if the map names it so."""
    if table in (column for role, column in stated_roles.items() if role.startswith("y_")):
        return table
    word = re.sub(r"\W+", "_", table).strip("_").lower()
    forms = dict.fromkeys((word, word.removesuffix("s"), *word.split("_")))
    task = next((task for task in tasks for form in forms if is_feedback(form, task)), "")
    return f"y_{task or word.removesuffix('s')}"


def _flags(
    shown: Any,
    events: Any,
    key: Sequence[str],
    stated_roles: Mapping[str, str],
    names: tuple[str, str, str, str],
    notes: list[str],
) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return [M], 1 where a row that was shown has an event; ``names``: of all, of both tables, and of the column."""
    polars, (where, showing, name, column) = require("polars"), names
    times = [_time(table, label, stated_roles) for table, label in ((shown, showing), (events, name))]
    left, right = (_keyed(table, (shown, events), key) for table in (shown, events))
    clock = [polars.Series("at", series, dtype=polars.Int64) for series in times if series is not None]
    met = right.with_row_index("event")
    first = left.with_row_index("row")
    if len(clock) == 2:
        met, first = met.with_columns(clock[1].alias("event_at")), first.with_columns(clock[0])
    first = first.unique([f"k{n}" for n in range(len(key))], keep="first", maintain_order=True)
    by = [f"k{n}" for n in range(len(key))]
    pairs = met.join(first, by, "inner")
    lost = len(right) - len(pairs)
    if lost > _LOST * len(right):
        raise ValueError(
            f"{where}: {lost:,} of {len(right):,} rows of {name!r} meet no row of {showing!r} by {'+'.join(key)}: "
            f"expected the ids that were shown (another key? --map request=COLUMN,item=COLUMN), or skip={name}"
        )
    said, counted = list[str](), pairs
    if len(clock) == 2:
        delay = (pairs["event_at"] - pairs["at"]).drop_nulls().to_numpy()
        hours = window_of(stated_roles)
        late = ((pairs["event_at"] - pairs["at"]) > round(hours * 3_600_000)).fill_null(False)
        counted = pairs.filter(~late)
        if len(delay):
            half, most = (_seconds(float(np.quantile(delay, q, method="lower"))) for q in (0.5, 0.99))
            said.append(f"half of them within {half}, 99 % within {most}")
        if early := int((delay < -_EARLY).sum()) if len(delay) and (delay < -_EARLY).mean() > _SOME else 0:
            said.append(f"{early:,} come before it: do the clocks of the two tables differ?")
        if late.any():
            said.append(f"{late.sum():,} more than {hours:g} hours after it do not count (window={hours:g})")
    if lost:
        said.append(f"{lost:,} meet none")
    if repeated := len(counted) - len(counted.unique(by)):
        said.append(f"{repeated:,} repeat another one, and count once")
    notes.append(
        f"{name!r} ({len(right):,} rows) is joined to {showing!r} by {'+'.join(key)}, as feedback {column!r}"
        f"{': ' if said else ''}{'; '.join(said)}"
    )
    hit = left.join(counted.select(by).unique().with_columns(hit=1), by, "left", maintain_order="left")["hit"]
    return np.asarray(hit.fill_null(0).to_numpy(), np.int8)


def _keyed(table: Any, both: Sequence[Any], key: Sequence[str]) -> "pl.DataFrame":
    """Key columns k0, k1 … of one type in both tables."""
    polars, columns = require("polars"), {}
    for n, name in enumerate(key):
        whole = all(kind_of(other.schema.field(name).type) == "integer" for other in both)
        values = Table(table.select([name]), "").column(name) if len(table) else table.column(name)
        columns[f"k{n}"] = polars.Series(values=polars.from_arrow(values)).cast(
            polars.Int64 if whole else polars.String
        )
    result: pl.DataFrame = polars.DataFrame(columns)
    return result


def _time(table: Any, name: str, stated_roles: Mapping[str, str]) -> Any:
    """Return milliseconds [M], null where unknown; None without a column of times, or with several unnamed ones."""
    polars, names = require("polars"), list(table.column_names)
    stated = stated_roles.get("timestamp", "")
    parts = [stated] if stated in names else stated.split("+")
    if not len(table):
        return None
    if not {*parts} <= {*names}:
        known = named(names, ROLES["timestamp"].names)
        times = [name for name in known or names if Table(table.select([name]), "").is_time(name)]
        if not times or (not known and len(times) > 1):
            return None
        stated, parts = times[0], times[:1]
    return polars.Series(row_times(Table(table.select(parts), name), stated, ImportNotes())).replace(NEVER, None)


def window_of(stated_roles: Mapping[str, str]) -> float:
    """Hours after its showing that an event counts."""
    text = stated_roles.get(WINDOW, str(_HOURS))
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not hours > 0:
        raise ValueError(f"window is {text!r}; expected hours after its showing that an event counts, e.g. window=24")
    return hours


def _seconds(millis: float) -> str:
    """A duration for people.

    >>> _seconds(20_000), _seconds(5_400_000), _seconds(180_000_000)
    ('20 s', '90 min', '50 h')
    """
    seconds = millis / 1000
    if abs(seconds) < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if abs(seconds) < 7200 else f"{seconds / 3600:.3g} h"
