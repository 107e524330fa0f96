"""Columns of requests and groups of items, as few labeled classes each, to look at weights and changes by them."""

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade.data.event_log import EventLog
from pygrade.logs import Logs

MAX_CLASSES = 12
_BANDS = 4
_DAY = 86_400_000  # ms


def request_columns(logs: Logs) -> list[dict[str, Any]]:
    """Scenario, exploration, policy version, day and every feature: name, labels, and the class [R] of each request."""
    found = [_named(name, getattr(logs, name)) for name in ("scenario", "exploration", "policy_version")]
    if logs.timestamp is not None:
        found.append(_days(logs.timestamp))
    found += [_numbers(name, logs.context[:, f]) for f, name in enumerate(logs.features)]
    return [column for column in found if column is not None and len(column["labels"]) > 1]


def item_groups(logs: Logs, rows: NDArray[np.bool_], events: EventLog | None) -> list[dict[str, Any]]:
    """Groups of items for caps and boosts: class of the rows [m] of a log that the page holds.

    By price, by how often the log shows the item, and by the column of a pipeline's items that groups them best.
    """
    found: list[dict[str, Any] | None] = []
    if events is not None and (category := _category(events, logs.item_id[rows])) is not None:
        found.append(category)
    if logs.value is not None:
        found.append(_numbers("price", logs.value[rows]))
    _, item, counts = np.unique(logs.item_id.astype(str), return_inverse=True, return_counts=True)
    found.append(_numbers("times in the log", counts[item][rows].astype(np.float64)))
    return [group for group in found if group is not None and len(group["labels"]) > 1]


def _category(events: EventLog, items: Array) -> dict[str, Any] | None:
    name = events.source.get("category")
    table = events.items()
    if not name or table is None or name not in table.columns:
        return None
    known = dict(zip(table["item_id"].to_list(), table[name].to_list(), strict=True))
    values = ["" if known.get(item) is None else str(known[item]) for item in items.tolist()]
    return _named(name, np.array(values))


def _named(name: str, values: Array | None) -> dict[str, Any] | None:
    """The most frequent names; the rest is one class."""
    if values is None:
        return None
    names, place, counts = np.unique(np.asarray(values).astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    kept = order if len(order) <= MAX_CLASSES else order[: MAX_CLASSES - 1]
    kept = np.sort(kept)
    code = np.full(len(names), len(kept))
    code[kept] = np.arange(len(kept))
    labels = [str(names[i]) or "(none)" for i in kept]
    labels += [f"{len(names) - len(kept):,} others"] if len(kept) < len(names) else []
    return {"name": name, "labels": labels, "codes": code[place].astype(np.uint8)}


def _numbers(name: str, values: Array) -> dict[str, Any] | None:
    """Each value a class if they are few, else quarters; unknown ones are a class of their own."""
    known = np.isfinite(values)
    distinct = np.unique(values[known])
    if len(distinct) <= min(MAX_CLASSES - 1, 8):
        edges, labels = distinct[1:], [_short(value) for value in distinct]
    else:
        edges = np.unique(np.quantile(values[known], np.arange(1, _BANDS) / _BANDS))
        ends = [_short(edge) for edge in edges]
        labels = [f"below {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends))]
        labels.append(f"from {ends[-1]}")
    codes = np.where(known, np.searchsorted(edges, np.where(known, values, 0.0), side="right"), len(labels))
    labels += ["unknown"] if not known.all() else []
    return {"name": name, "labels": labels, "codes": codes.astype(np.uint8)}


def _days(times: NDArray[np.int64]) -> dict[str, Any] | None:
    """Days, or spans of days if they are many."""
    day = times // _DAY
    first, count = int(day.min()), int(day.max() - day.min()) + 1
    step = math.ceil(count / MAX_CLASSES)

    def text(index: int) -> str:
        start = datetime.fromtimestamp((first + index * step) * 86_400, UTC).date()
        return start.isoformat() if step == 1 else f"{start.isoformat()}, {step} days"

    labels = [text(index) for index in range(math.ceil(count / step))]
    return {"name": "day", "labels": labels, "codes": ((day - first) // step).astype(np.uint8)}


def _short(value: float) -> str:
    return f"{value:.3g}"
