"""Candidates of a table that are to be ranked: its columns have the roles and units that a training found."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.logs import attributes, conversion
from pygrade.logs.arrays import numbered
from pygrade.logs.column_map import ColumnMap
from pygrade.logs.expressions import with_expressions
from pygrade.logs.import_table import Attempt, read_roles
from pygrade.logs.logs import Logs
from pygrade.logs.parquet import METADATA_KEY
from pygrade.logs.roles import short_name
from pygrade.logs.table import Table, check_names, to_arrow

logger = logging.getLogger("pygrade")
_WHERE = "the frame"
_OPTIONAL = {"request_id", "user_id", "item_id", "scenario", "value", "category", "embedding"}


class Candidates(NamedTuple):
    """Requests of a table."""

    logs: Logs  # nothing is shown, and predictions are as the table has them
    rows: NDArray[np.int64]  # [M]: row of the table
    as_logged: bool  # the predictions are probabilities and amounts


def read_candidates(
    table: Any,
    tasks: Sequence[str],
    features: Sequence[str],
    items: Sequence[str],
    columns: Mapping[str, str],
    needed: Collection[str] = (),
) -> Candidates:
    """The requests of a table, with these tasks, features and item columns.

    columns: role → column, or expression; what is not there has its name in a log. needed: other roles that the table
    must have, such as ``item_id``. A table without the column of the request is one request. ValueError names all
    columns that are missing, or those of predictions if no row has each of them.
    """
    arrow, optional = to_arrow(table), _OPTIONAL - {*needed}
    check_names(arrow, _WHERE)
    names, predictions = arrow.column_names, {f"p_{task}" for task in tasks}
    # A log of pygrade's own, also behind a program that dropped its metadata.
    bare = {"request_id", "item_id", *predictions} <= {*names} and not _has(names, columns.get("request_id", names[0]))
    if bare or METADATA_KEY in (arrow.schema.metadata or {}):
        columns = {}
    roles = {role: columns.get(role, role) for role in (*_OPTIONAL, *needed)}
    for prefix, labels in (("p_", tasks), ("x_", features), ("i_", items)):
        roles |= dict(_role_of(prefix, label, columns, names) for label in labels)
    for role in roles.keys() & columns.keys():
        try:
            arrow, _ = with_expressions(arrow, _WHERE, {role: roles[role]})
        except ValueError:
            if role not in optional:
                raise
    names = arrow.column_names
    lacking = {role: column for role, column in roles.items() if not _has(names, column)}
    if missing := [f"{column!r} ({short_name(role)})" for role, column in lacking.items() if role not in optional]:
        have = ", ".join(names)
        raise ValueError(f"{_WHERE} has no column {', '.join(missing)}, which the policy reads. It has {have}")
    request = None if "request_id" in lacking else roles["request_id"]
    if request is None and "request_id" in columns:
        logger.warning("%s has no column %r: its rows are one request", _WHERE, roles["request_id"])
    elif request is not None and request not in names:  # several, joined by +
        joined = conversion.ids(Table(arrow, _WHERE), request, "request")
        arrow = arrow.append_column(request, require("pyarrow").array(joined))
    whole = Table(arrow, _WHERE)
    grouped, _ = whole.grouped(np.zeros(len(whole), np.int64) if request is None else whole.codes(request))
    mapping = ColumnMap({role: column for role, column in roles.items() if role not in lacking})
    fields = _fields(Attempt(grouped, mapping), tasks, (*features, *items))
    offsets, unseen = np.append(grouped.starts, len(grouped)).astype(np.int64), np.full(len(grouped), -1, np.int32)
    logs = Logs(tasks=tuple(tasks), offsets=offsets, position=unseen, **fields)
    _check_scored(logs, [roles[f"p_{task}"] for task in tasks])
    return Candidates(logs, grouped.rows, not predictions & columns.keys())


def _check_scored(logs: Logs, columns: Sequence[str]) -> None:
    """Warns of requests without a candidate that has all predictions; ValueError if that is so in all of them."""
    gaps = ~np.isfinite(logs.predictions)
    unscored = np.logical_and.reduceat(gaps.any(1), logs.offsets[:-1])
    if not unscored.any():
        return
    counts = zip(columns, gaps.sum(0), strict=True)
    text = ", ".join(f"{column!r} has no value in {count:,} of {len(gaps):,} rows" for column, count in counts if count)
    if unscored.all():
        raise ValueError(f"{_WHERE}'s predictions order nothing: {text}; expected each task's in some row of a request")
    where = f"{unscored.sum():,} of {len(unscored):,} requests have no candidate with all predictions"
    logger.warning("%s and keep the frame's order: %s", where, text)


def _role_of(prefix: str, label: str, columns: Mapping[str, str], names: Collection[str]) -> tuple[str, str]:
    """The role of a task, feature or item column, and its column; of ``device=app`` that of ``device``."""
    base = label.partition("=")[0]
    for role in (prefix + label, prefix + base):
        if role in columns or role in names:
            return role, columns.get(role, role)
    return prefix + base, base if base in names and prefix != "p_" else prefix + base


def _has(names: Collection[str], column: str) -> bool:
    return column in names or ("+" in column and all(part in names for part in column.split("+")))


def _fields(attempt: Attempt, tasks: Sequence[str], levels: Sequence[str]) -> dict[str, Any]:
    """The fields of a log; a table without ids has numbers."""
    table, roles, notes, problems = attempt.table, attempt.mapping.roles, attempt.notes, attempt.problems
    result: dict[str, Any] = {"request_id": np.arange(len(table.starts)), "item_id": np.arange(len(table))}
    read = table, attempt.mapping
    with problems.collect():
        result["features"], result["context"] = attributes.read_columns(*read, "x_", levels, notes, problems)
        result["items"], of_items = attributes.read_columns(*read, "i_", levels, notes, problems)
        result["item_features"] = of_items if result["items"] else None
    read_roles(attempt, result, roles)
    result.setdefault("user_id", result["request_id"])
    with problems.collect():
        if "embedding" in roles:
            items = numbered(result["item_id"])
            result["embedding"], result["embeddings"] = conversion.embeddings(table, roles["embedding"], items)
    with problems.collect():
        raw = np.stack([table.numbers(roles[f"p_{task}"]) for task in tasks], 1)
        result["predictions"], result["feedback"] = raw.astype(np.float32), np.zeros(raw.shape, np.float32)
    problems.check(_WHERE)
    for text in notes.warned:
        logger.warning("%s: %s", _WHERE, text)
    return result
