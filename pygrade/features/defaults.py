"""A default schema from the columns and outcomes of a log, without tuning."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pygrade.features.feature import Feature, SchemaError
from pygrade.features.schema import FeatureSchema, RawEvents
from pygrade.features.values import kind_of, lists_of

logger = logging.getLogger("pygrade")

SEQUENCE = 20
LIST, LONGEST_LIST = 3, 8  # elements of a list: as most rows have
VECTOR = 64  # numbers that a longer embedding is projected onto
WINDOW_HOURS = 24.0
CROSSED_TASKS = 3
_TYPES = {  # of the columns of a kind, and in words
    "dense": ("int", "float", "numbers"),
    "time": ("int", "float", "whole numbers, ms since 1970"),
    "categorical": ("int", "str", "list[int]", "list[str]", "text or whole numbers"),
    "hashed": ("int", "str", "text or whole numbers"),
    "list": ("str", "list[int]", "list[str]", "lists of texts or whole numbers, or texts of tags"),
    "embedding": ("list[float]", "lists of floats"),
}
_FEWEST = {"hashed": 2}  # occurrences of a value of a column with many values, to have an id of its own
PRICE = "item_value"  # the feature that has the prices of items, which serving takes if a request gives none


def default_schema(event_log: RawEvents, utc_offset_hours: float | None = None) -> FeatureSchema:
    """Features for a log of raw events, from its columns and their kinds in its ``source``.

    An attribute becomes a number (the log of a ``dense`` one, if none is negative), a category, the first
    elements of a list, the hours since a time, or the numbers of an embedding (projected onto 64 if there are more);
    the price also ``item_value``, as it is. Of the request: hour, weekend, context columns, user attributes, the user's
    counts (``user_count``: shown rows so far, the evidence), rates of every task, means of every measure, recency,
    counts and rates of the latest day, and the last 20 items with the first task. Of the item: id, attributes, age,
    counts, rates, recency; the same of its categories (the source's ``category`` and the first hashed attribute).
    Crossed: the user's counts and rates of those categories, shrunk to the user's own rates. ``utc_offset_hours``: of
    the users' clocks; None: that of the source.
    """
    source: dict[str, Any] = getattr(event_log, "source", {})
    offset = float(source.get("utc_offset_hours", 0.0)) if utc_offset_hours is None else utc_offset_hours
    events = {name: kind_of(dtype) for name, dtype in event_log.scan().collect_schema().items()}
    frames = {"user": event_log.users(), "item": event_log.items()}
    dtypes: dict[str, str] = {}
    for entity, frame in frames.items():
        if frame is not None:
            dtypes |= {f"{entity}s.{name}": kind_of(dtype) for name, dtype in frame.schema.items()}
    measures = sorted(name for name in events if name.startswith("m_"))
    features = list(_context(events, source.get("context", {})))
    categories = _categories(source, dtypes)
    for entity in ("user", "item"):
        features += _attributes(entity, dtypes, source.get(f"{entity}s", {}), frames[entity])
    features = [replace(f, name=f"{PRICE}_2") if f.name == PRICE else f for f in features]
    if source.get("price"):
        features.append(Feature(PRICE, "item", "dense", source["price"]))
    features += _user(event_log.tasks, measures)
    features += _item(event_log.tasks, measures, categories)
    return FeatureSchema.of(features, event_log, offset)


def _context(events: dict[str, str], kinds: dict[str, str]) -> Iterator[Feature]:
    for name in ("hour_sin", "hour_cos", "weekend"):
        yield Feature(name, "context", "dense", f"time:{name}")
    if "scenario" in events:
        yield Feature("scenario", "context", "categorical", "scenario")
    for column, dtype in events.items():
        if not column.startswith("c_"):
            continue
        if dtype == "float":
            yield Feature(column, "context", "dense", column)
        elif dtype == "str":
            kind = kinds.get(column.removeprefix("c_"), kinds.get(column, ""))
            yield Feature(column, "context", "categorical", column, min_count=_FEWEST.get(kind, 1))


def _attributes(entity: str, dtypes: dict[str, str], kinds: dict[str, str], frame: Any) -> Iterator[Feature]:
    yield Feature(f"{entity}_id", entity, "categorical", f"{entity}_id", min_count=2)
    for path, dtype in dtypes.items():
        owner, column = path.split(".", 1)
        if owner != f"{entity}s" or column == f"{entity}_id":
            continue
        name, kind = f"{entity}_{column.removeprefix(f'{entity}_')}", kinds.get(column, "")
        if kind in _TYPES and dtype not in _TYPES[kind]:
            raise SchemaError(f"{path} is of the kind {kind!r}, and {frame[column].dtype}; expected {_TYPES[kind][-1]}")
        if dtype == "other" or frame[column].null_count() == len(frame):
            what = f"it is {frame[column].dtype}" if dtype == "other" else "it has no value"
            logger.warning("features: %s is left out: %s", path, what)
        elif dtype == "list[float]":
            size = int(lists_of(frame[column]).list.len().max())
            length = min(size, VECTOR)
            yield Feature(name, entity, "vector", column, length=length, size=size if size > length else 0)
        elif kind == "list" or dtype.startswith("list"):
            yield Feature(name, entity, "list", column, length=_length(frame[column]))
        elif kind == "time" and dtype in ("int", "float"):
            yield Feature(name, entity, "dense", column, transform="age")
        elif dtype == "float" or (kind == "dense" and dtype == "int"):
            log = kind == "dense" and not (frame[column] < 0).any()
            yield Feature(name, entity, "dense", column, transform="log1p" if log else "none")
        elif dtype in ("int", "str"):
            yield Feature(name, entity, "categorical", column, min_count=_FEWEST.get(kind, 1))


def _length(column: Any) -> int:
    """Elements of a list, or tags of a text, that 19 of 20 rows do not exceed."""
    return min(max(int(lists_of(column).list.len().quantile(0.95, "higher") or 0), LIST), LONGEST_LIST)


def _categories(source: dict[str, Any], dtypes: dict[str, str]) -> list[str]:
    """Item attributes to count over: the stated category and the first hashed one, else the first discrete ones."""
    stated = [source["category"]] if source.get("category") else []
    stated += [name for name, kind in source.get("items", {}).items() if kind == "hashed"][:1]
    if not stated:
        stated = [
            path.removeprefix("items.")
            for path, dtype in dtypes.items()
            if path.startswith("items.")
            and path != "items.item_id"
            and dtype in ("int", "str")
            and source.get("items", {}).get(path.removeprefix("items.")) not in ("list", "dense", "time")
        ]
    return list(dict.fromkeys(stated))[:2]


def _user(tasks: tuple[str, ...], measures: list[str]) -> Iterator[Feature]:
    key = ("user_id",)
    yield Feature("user_count", "user", "count", key=key)
    yield Feature("user_log_count", "user", "count", key=key, transform="log1p")
    yield Feature("user_recency", "user", "recency", key=key)
    yield Feature("user_day_count", "user", "count", key=key, transform="log1p", window_hours=WINDOW_HOURS)
    for task in tasks:
        yield Feature(f"user_{task}_rate", "user", "rate", f"y_{task}", key)
    yield Feature(f"user_{tasks[0]}_day_rate", "user", "rate", f"y_{tasks[0]}", key, window_hours=WINDOW_HOURS)
    yield Feature(f"user_{tasks[0]}_recency", "user", "recency", f"y_{tasks[0]}", key)
    for measure in measures:
        yield Feature(f"user_{measure[2:]}_mean", "user", "rate", f"log1p({measure})", key)
    yield Feature(f"recent_{tasks[0]}", "user", "sequence", f"y_{tasks[0]}", length=SEQUENCE)


def _item(tasks: tuple[str, ...], measures: list[str], categories: list[str]) -> Iterator[Feature]:
    keys: list[tuple[str, tuple[str, ...]]] = [
        ("item", ("item_id",)),
        *((f"by_{name}", (f"item.{name}",)) for name in categories),
    ]
    for name, key in keys:
        yield Feature(f"{name}_count", "item", "count", key=key, transform="log1p")
        yield Feature(f"{name}_recency", "item", "recency", key=key)
        for task in tasks:
            yield Feature(f"{name}_{task}_rate", "item", "rate", f"y_{task}", key)
    yield Feature("item_day_count", "item", "count", key=("item_id",), transform="log1p", window_hours=WINDOW_HOURS)
    for measure in measures:
        yield Feature(f"item_{measure[2:]}_mean", "item", "rate", f"log1p({measure})", ("item_id",))
    for name in categories:
        key = ("user_id", f"item.{name}")
        yield Feature(f"user_by_{name}_count", "cross", "count", key=key, transform="log1p")
        yield Feature(f"user_by_{name}_recency", "cross", "recency", key=key)
        for task in tasks[:CROSSED_TASKS]:
            yield Feature(f"user_by_{name}_{task}_rate", "cross", "rate", f"y_{task}", key)
