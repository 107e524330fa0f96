"""Tables of other programs as logs: what each column is, what is changed on the way, and the fields of the log."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pygrade.logs import attributes, contract, conversion, leaks, prediction_scale
from pygrade.logs.arrays import numbered
from pygrade.logs.column_map import PREFIXES, ColumnMap, find_request, parse_map, propose
from pygrade.logs.columns import PER_TASK
from pygrade.logs.conversion import ImportNotes
from pygrade.logs.nested import unnested
from pygrade.logs.parquet import METADATA_KEY, header_of
from pygrade.logs.table import Table, to_arrow

Columns = Mapping[str, str | Iterable[str]] | Sequence[str] | str
Duplicates = Literal["keep-shown", "refuse"]
_TEXTS = ("scenario", "policy_version", "baseline", "verdict")
_NUMBERS = ("position", "value", "shown", "trust")


@dataclass(frozen=True)
class ImportedTable:
    """The fields of a log that was made of a table, and how."""

    fields: dict[str, Any]  # the arguments of `Logs`
    mapping: ColumnMap
    notes: ImportNotes
    contract: list[tuple[str, str, str, str]]  # see `contract.contract_rows`
    where: str
    row_name: Callable[[int], str]
    values: dict[str, float]  # of one event, if the table is a log of pygrade's own
    value_tasks: tuple[str, ...]
    own: bool  # the table is a log of pygrade's own


def import_table(
    table: Any,
    columns: Columns | None = None,
    *,
    scale: Mapping[str, str] | None = None,
    duplicates: Duplicates = "keep-shown",
    levels: Sequence[str] = (),
    where: str = "the table",
) -> ImportedTable:
    """The fields of a log made of a table; see `Logs.from_table`. `where` names the table in messages.

    ValueError says what is missing (`LogContractError`) or refused.
    """
    if duplicates not in ("keep-shown", "refuse"):
        raise ValueError(f"duplicates is {duplicates!r}; want keep-shown or refuse")
    given, mapping, notes = parse_map(columns), ColumnMap(), ImportNotes()
    arrow = to_arrow(table)
    header = header_of((arrow.schema.metadata or {}).get(METADATA_KEY, b"{}"), Path(where))
    arrow, laid_out = unnested(arrow, where)
    notes.changed += laid_out
    found = Table(arrow, where)
    find_request(found, given, mapping)
    if "request_id" in mapping.roles:
        found = _grouped(found, mapping.roles["request_id"], notes)
    else:  # nothing can be said of what differs within a request
        found = found.grouped(np.arange(len(found)))[0]
    propose(found, given, mapping)
    contract.check(found, mapping)
    scales = prediction_scale.scales_of(scale, mapping.tasks)
    slot = conversion.slots(found, mapping, notes)
    keep = conversion.without_copies(found, mapping, slot, duplicates, notes)
    if not keep.all():
        found, slot = found.kept(keep), slot[keep]
    conversion.check_slots(found, mapping, slot)
    fields = _fields(found, mapping, slot, scales, levels, notes)
    _check_price(fields, mapping, notes, own=bool(header))
    notes.warned += mapping.odd
    if not fields["features"]:
        notes.warned.append("no feature of the request: the policy will see the predictions alone")
    rows = contract.contract_rows(found, mapping)
    values = dict(zip(header.get("tasks", ()), header.get("task_values", ()), strict=True))
    values = {task: float(value) for task, value in values.items() if task in mapping.tasks}
    priced = tuple(task for task in header.get("value_tasks", ()) if task in mapping.tasks and "value" in fields)
    return ImportedTable(fields, mapping, notes, rows, where, found.row_name, values, priced, bool(header))


def check_priced(imported: ImportedTable, worth: Mapping[str, float], priced: Sequence[str]) -> None:
    """ValueError if tasks with prices have none, or a proposed one that gains too much to be known before the page."""
    fields, mapping = imported.fields, imported.mapping
    no_price = [f"{name!r} is {why}" for name, why in mapping.left_out.items() if why.startswith("no price: ")]
    wanted = "a price that is known before the page is shown, named by value=COLUMN"
    if priced and "value" not in fields and no_price:
        raise ValueError(f"value_tasks is {tuple(priced)}, and {no_price[0]}; want {wanted}")
    if not priced or "value" not in fields or imported.own or mapping.why["value"] == "given":
        return
    values = np.where(np.isin(fields["tasks"], priced), [worth[task] for task in fields["tasks"]], 0.0)
    events = (fields["predictions"] @ values, fields["feedback"] @ values)
    if gain := leaks.absurd_price(events, fields["value"], fields["position"], fields["offsets"]):
        column = mapping.roles["value"]
        raise ValueError(
            f"{imported.where}: with {column!r} (price, by its name) the order by expected value {gain}; want {wanted}"
        )


def _grouped(table: Table, column: str, notes: ImportNotes) -> Table:
    """The rows of a request next to each other."""
    ids = conversion.ids(table, column, "request")
    code = table.codes(column) if column in table.names else _first_seen(ids)
    table, apart = table.grouped(code)
    if apart:
        notes.changed.append(f"{column!r} (request): the rows of a request were apart; now sorted by request")
    return table


def _first_seen(ids: NDArray[Any]) -> NDArray[np.int64]:
    """Numbers of the distinct ids in the order of their first rows."""
    place: dict[Any, int] = {}
    return np.fromiter((place.setdefault(value, len(place)) for value in ids), np.int64, len(ids))


def _fields(
    table: Table,
    mapping: ColumnMap,
    slot: NDArray[np.int32],
    scales: Mapping[str, str],
    levels: Sequence[str],
    notes: ImportNotes,
) -> dict[str, Any]:
    roles, starts, tasks = mapping.roles, table.starts, mapping.tasks
    shown = slot >= 0
    request = conversion.ids(table, roles["request_id"], "request")[starts]
    features, context = attributes.features(table, mapping, levels, notes)
    items, item_features = attributes.item_columns(table, mapping, shown, (*tasks, *features), levels, notes)
    of_numbers = [column for role, column in roles.items() if role in _NUMBERS or role.startswith(PREFIXES)]
    conversion.note_texts(table, of_numbers, notes)
    result: dict[str, Any] = {
        "tasks": tasks,
        "features": features,
        "request_id": request,
        "user_id": conversion.users(table, roles["user_id"], request, notes),
        "offsets": np.append(starts, len(table)).astype(np.int64),
        "item_id": conversion.ids(table, roles["item_id"], "item"),
        "position": slot,
        "context": context,
        "items": items,
        "item_features": item_features if items else None,
    }
    events = [conversion.feedback(table, roles[f"y_{task}"], task, shown, notes) for task in tasks]
    result["feedback"] = np.stack(events, 1)
    result["predictions"] = np.stack(
        [
            prediction_scale.predictions(table, roles[f"p_{task}"], task, y, shown, notes, scales.get(task))
            for task, y in zip(tasks, events, strict=True)
        ],
        1,
    )
    if "timestamp" in roles:
        result["timestamp"] = conversion.times(table, roles["timestamp"], notes)
    if "value" in roles:
        result["value"] = conversion.numbers(table, roles["value"], "", notes).astype(np.float32)
    for name in _TEXTS:
        if name in roles:
            result[name] = conversion.of_request(table, roles[name], table.texts(roles[name]))
    if "exploration" in roles:
        result["exploration"] = conversion.exploration(table, roles["exploration"], notes)
    for name, prefix in PER_TASK.items():
        if any(role.startswith(prefix) for role in roles):
            result[name] = _task_matrix(table, mapping, prefix, notes)
    if "trust" in roles:
        trust = conversion.of_request(table, roles["trust"], table.numbers(roles["trust"]))
        result["trust"] = trust.astype(np.float32)
    for name, dtype in (("seed", np.uint64), ("candidates", np.int64)):
        if name in roles:
            result[name] = conversion.of_request(table, roles[name], table.whole(roles[name], dtype))
    return result


def _check_price(fields: dict[str, Any], mapping: ColumnMap, notes: ImportNotes, own: bool) -> None:
    """A price that leaks is left out if it was proposed, and named if it was given or the log is pygrade's own."""
    if "value" not in fields:
        return
    sizes = np.diff(fields["offsets"])
    time = fields.get("timestamp", np.arange(len(sizes)))
    rows = fields["value"], fields["feedback"], fields["tasks"], fields["position"] >= 0
    why = leaks.price_leak(*rows, numbered(fields["item_id"]), np.repeat(time, sizes))
    column = mapping.roles["value"]
    if why and (own or mapping.why["value"] == "given"):
        notes.warned.append(f"{column!r} (price) {why}: is it known before the page is shown?")
    elif why:
        del fields["value"]
        mapping.drop("value", f"no price: {why}")
        notes.warned.append(f"{column!r} is no price, by its values: it {why}; if it is one, name it: value={column}")


def _task_matrix(table: Table, mapping: ColumnMap, prefix: str, notes: ImportNotes) -> NDArray[np.float32]:
    """[R, T]; NaN where there is no column."""
    block = np.full((len(table.starts), len(mapping.tasks)), np.nan, np.float32)
    for i, task in enumerate(mapping.tasks):
        column = mapping.roles.get(prefix + task)
        if column is not None:
            block[:, i] = conversion.of_request(table, column, conversion.numbers(table, column, "", notes))
    return block
