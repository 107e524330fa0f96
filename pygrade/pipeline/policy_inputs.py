"""Inputs of the policy and its correction beside predictions: numbers and frequent levels of features, by name.

Of requests: every number, histories included, and 0/1 columns ``feature=level`` of categories and lists of users and
context. Of items, for the correction: attributes, and the item's past: how often it was shown before the request, and
the shrunk rates of each task, as the models do not use them up. Embeddings are left to the models: a correction has
room for a few dozen columns.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.data.events import EventLog
from pygrade.features import Feature, FeatureBatch, FeatureSet
from pygrade.features.values import code_of, kind_of, lists_of
from pygrade.logs.categories import most_frequent
from pygrade.pipeline.parts import Period, map_parts
from pygrade.workers import Workers

ROOM = 32
"""0/1 columns of requests, and attributes of items, at most: those of levels that divide most."""

_ALIKE = 0.99  # shares of two levels of a feature that add up to more: one column tells both

Counts = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class PolicyInputs:
    """Names of columns, see `FeatureBatch.request_inputs` and `item_inputs`."""

    features: tuple[str, ...]
    items: tuple[str, ...]


def choose_inputs(log: EventLog, features: FeatureSet, period: Period, workers: Workers) -> PolicyInputs:
    """The numbers of a schema, and of its levels those that divide the requests of a period most."""
    schema = features.schema
    counts = reduce(_add, map_parts(workers, features, count_levels, period, "levels"))
    numbers = [name for f in schema.group("request_dense") if f.kind != "vector" for name in f.columns]
    context = [f for f in schema.group("request_ids") if has_levels(f)]
    items = [f for f in schema.group("item_ids") if has_levels(f)]
    own = _numbers_of_items(features)
    tables = {"user": log.users(), "item": log.items()}
    levels = _chosen(context, counts, log, tables, features, ROOM)
    columns = [*own, *_past_of_items(features), *_chosen(items, counts, log, tables, features, ROOM - len(own))]
    return PolicyInputs((*numbers, *levels), tuple(name for name in columns if name not in log.tasks))


def has_levels(feature: Feature) -> bool:
    """True if it can have 0/1 columns. Static weights and levels of items know scenarios and items by themselves."""
    return feature.kind in ("categorical", "list") and feature.source not in ("user_id", "item_id", "scenario")


def count_levels(batches: list[FeatureBatch]) -> Counts:
    """Work over parts: of each such feature the requests or rows that have an id; those of 0 are all of them."""
    return reduce(_add, map(_count, batches))


def _count(batch: FeatureBatch) -> Counts:
    counts: Counts = {}
    for name in ("request_ids", "item_ids"):
        for feature, columns in batch.fitted.schema.slices(name):
            if not has_levels(feature):
                continue
            own = np.sort(getattr(batch, name)[:, columns], 1)
            first = np.ones_like(own, bool)
            first[:, 1:] = own[:, 1:] != own[:, :-1]  # an id counts once in a row
            counts[feature.name] = np.bincount(own[first], minlength=batch.fitted.sizes[name][columns.start])
            counts[feature.name][0] = len(own)
    return counts


def _add(one: Counts, other: Counts) -> Counts:
    return {name: counts + other[name] for name, counts in one.items()}


def _numbers_of_items(features: FeatureSet) -> list[str]:
    """Attributes of items that are numbers and vary, each once: the first feature that is made of it."""
    dense = [f for f in _varying(features) if f.kind == "dense"]
    return list({f.source: f.name for f in reversed(dense)}.values())[::-1][: ROOM // 2]


def _past_of_items(features: FeatureSet) -> list[str]:
    """Exposures of items and rates of their tasks, over all of the past: `ROOM` / 2 at most."""
    past = [f for f in _varying(features) if f.key == ("item_id",) and not f.window_hours]
    kept = [f for f in past if (f.kind, f.source) == ("count", "") or (f.kind == "rate" and f.source[:2] == "y_")]
    return [f.name for f in kept[: ROOM // 2]]


def _varying(features: FeatureSet) -> list[Feature]:
    """The features of items that are numbers and vary in the training window."""
    constant = {record["feature"] for record in features.summary if not record.get("std", 1.0)}
    return [f for f in features.schema.group("item_dense") if f.name not in constant]


def _chosen(
    candidates: Iterable[Feature], counts: Counts, log: EventLog, tables: Any, features: FeatureSet, room: int
) -> list[str]:
    """``feature=level`` of the ``room`` levels whose share p has the largest p (1 - p), in order of features."""
    spreads: list[tuple[float, str]] = []
    for feature in candidates:
        rows, count = int(counts[feature.name][0]), counts[feature.name][1:]
        names = _texts_of(feature, log, tables)
        texts = [names.get(code, "") for code in features.fitted.vocabularies[feature.name].tolist()]
        chosen = most_frequent(count, rows, texts)
        shares = {texts[level]: count[level] / rows for level in chosen}
        if feature.kind == "categorical" and len(shares) == 2 and sum(shares.values()) > _ALIKE:
            del shares[max(shares, key=lambda text: shares[text])]
        spreads += [(share * (1.0 - share), f"{feature.name}={text}") for text, share in shares.items()]
    best = {name for _, name in sorted(spreads, key=lambda spread: (-spread[0], spread[1]))[: max(room, 0)]}
    return [name for _, name in spreads if name in best]


def _texts_of(feature: Feature, log: EventLog, tables: Any) -> dict[int, str]:
    """Code → level, of the values that the log has."""
    column: Any
    if feature.entity == "context":
        pl = require("polars", "pipeline")
        column = log.scan().select(pl.col(feature.source).unique()).collect()[feature.source]
    else:
        column = tables[feature.entity][feature.source]
    if feature.kind == "list":
        column = lists_of(column).explode()
    values = column.drop_nulls().unique().to_list()
    return {code_of(v): v for v in values} if kind_of(column.dtype) == "str" else {int(v): str(int(v)) for v in values}
