"""From what is known at a moment to the numbers of the features: one code for logs and for servers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.features.records import NEVER, Ints, View
from pygrade.features.schema import Feature, FeatureSchema, table_name
from pygrade.features.values import (
    COS_OF_MINUTE,
    NULL,
    SCALE,
    SIN_OF_MINUTE,
    code_lists_of,
    codes_of,
    floats_of,
    log1p,
)

Floats = NDArray[np.float64]


class Attributes:
    """Attributes of users or items by id: rows of int64, floats by their bits."""

    def __init__(self, columns: tuple[tuple[str, str, int], ...], ids: Ints, values: Ints) -> None:
        self.columns = columns
        self.ids = ids  # [m] ascending
        self.values = values  # [m, C]
        self.places: dict[tuple[str, str], slice] = {}
        at = 0
        for column, kind, length in columns:
            self.places[column, kind] = slice(at, at + length)
            at += length
        unknown = [
            np.array([np.nan]).view(np.int64)[0] if kind == "float" else NULL
            for _, kind, n in columns
            for _ in range(n)
        ]
        self.empty = np.array(unknown, np.int64)  # [C]

    @classmethod
    def of(cls, schema: FeatureSchema, entity: str, frame: Any | None) -> "Attributes":
        """The attributes of a user or item table that the schema reads. ValueError where an id stands twice."""
        columns = schema.attributes(entity)
        nothing = cls(columns, np.zeros(0, np.int64), np.zeros((0, sum(c[2] for c in columns)), np.int64))
        if frame is None or not columns:
            return nothing
        frame = frame.sort(f"{entity}_id")
        ids: Ints = frame[f"{entity}_id"].to_numpy()
        twice = ids[1:][np.diff(ids) == 0]
        if len(twice):
            raise ValueError(f"{entity}s: {entity}_id {twice[0]} stands in more than one row; want one")
        parts = []
        for column, kind, length in columns:
            values = frame[column]
            if kind == "float":
                parts.append(floats_of(values).view(np.int64)[:, None])
            elif kind == "codes" or values.dtype.is_nested():
                parts.append(code_lists_of(values, length))
            else:
                parts.append(codes_of(values)[:, None])
        return cls(columns, ids, np.concatenate(parts, 1))

    def get(self, ids: Ints) -> Ints:
        """Rows [q, C] of the ids; unknown values for an unknown id."""
        if not len(self.ids):
            return np.tile(self.empty, (len(ids), 1))
        place = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return np.where((self.ids[place] == ids)[:, None], self.values[place], self.empty)

    def encode(self, rows: Ints) -> list[bytes]:
        """Each row [q, C] as little-endian bytes."""
        content, step = rows.astype("<i8").tobytes(), 8 * len(self.empty)
        return [content[at : at + step] for at in range(0, len(content), step)]

    def decode(self, values: list[bytes | None]) -> Ints:
        """Rows [q, C] of their bytes; unknown values for None. ValueError where the bytes are no such row."""
        empty = self.empty.astype("<i8").tobytes()
        content = b"".join([empty if value is None else value for value in values])
        if len(content) != len(values) * len(empty):
            raise ValueError(f"a row of attributes has another size than this schema's {len(empty)} bytes")
        return np.frombuffer(content, "<i8").reshape(len(values), len(self.empty))


@dataclass(frozen=True)
class Inputs:
    """What is known of R requests with n rows when they are asked."""

    timestamp: Ints  # [R]
    user_id: Ints  # [R]
    scenario: Ints  # [R] codes
    context: Mapping[str, NDArray[Any]]  # column → float64 [R], or codes int64 [R]
    users: Ints  # [R, C] rows of attributes
    item_id: Ints  # [n]
    row_request: Ints  # [n]
    items: Ints  # [n, C] rows of attributes
    views: Mapping[str, View]  # table → [R] or, where its key has an item, [n]


@dataclass(frozen=True)
class Raw:
    """Features before vocabularies and normalisation."""

    request_dense: NDArray[np.float32]  # [R, Du]
    request_ids: Ints  # [R, Fu] codes
    sequences: Ints  # [R, L]
    item_dense: NDArray[np.float32]  # [n, Di]
    item_ids: Ints  # [n, Fi] codes
    cross_dense: NDArray[np.float32]  # [n, Dx]


def compute(schema: FeatureSchema, users: Attributes, items: Attributes, inputs: Inputs) -> Raw:
    """All features of the requests and rows. ``users`` and ``items`` say where each attribute stands.

    Elementwise additions, multiplications and divisions in float64, rounded once to float32: a value's bits do not
    depend on what it is computed beside.
    """
    maker = _Maker(schema, {"user": users, "item": items}, inputs)
    requests, rows = len(inputs.user_id), len(inputs.item_id)

    def dense(name: str, size: int) -> NDArray[np.float32]:
        columns = [maker.dense(feature) for feature in schema.group(name)]
        return np.stack(columns, 1).astype(np.float32) if columns else np.zeros((size, 0), np.float32)

    def codes(name: str, size: int) -> Ints:
        columns = [maker.codes(feature) for feature in schema.group(name)]
        return np.concatenate(columns, 1) if columns else np.zeros((size, 0), np.int64)

    sequences = [
        inputs.views["user"].recents[feature.source][:, : feature.length] for feature in schema.group("sequences")
    ]
    return Raw(
        request_dense=dense("request_dense", requests),
        request_ids=codes("request_ids", requests),
        sequences=np.concatenate(sequences, 1) if sequences else np.zeros((requests, 0), np.int64),
        item_dense=dense("item_dense", rows),
        item_ids=codes("item_ids", rows),
        cross_dense=dense("cross_dense", rows),
    )


class _Maker:
    def __init__(self, schema: FeatureSchema, attributes: Mapping[str, Attributes], inputs: Inputs) -> None:
        self.schema, self.attributes, self.inputs = schema, attributes, inputs
        self._means: dict[tuple[str, str], Floats] = {}

    def codes(self, feature: Feature) -> Ints:
        """[q, columns] codes of a categorical, hashed or list feature."""
        inputs = self.inputs
        plain = {"user_id": inputs.user_id, "item_id": inputs.item_id, "scenario": inputs.scenario}
        if feature.source in plain:
            return plain[feature.source][:, None]
        if feature.entity == "context":
            return inputs.context[feature.source][:, None]
        columns = self._attribute(feature, "codes" if feature.kind == "list" else "code")
        return columns[:, : max(feature.length, 1)]

    def _attribute(self, feature: Feature, kind: str) -> Ints:
        rows = self.inputs.users if feature.entity == "user" else self.inputs.items
        return rows[:, self.attributes[feature.entity].places[feature.source, kind]]

    def dense(self, feature: Feature) -> Floats:
        """[q] values of a dense or history feature."""
        if feature.kind == "dense":
            number = self._number(feature)
            if feature.transform == "age":
                return log1p(((self._time(feature) - number) / 3_600_000.0).clip(min=0.0))
            return _transformed(feature, number)
        if feature.kind == "rate":
            return self._rate(feature)
        view = self.inputs.views[table_name(feature.key)]
        table = self.schema.tables[table_name(feature.key)]
        if feature.kind == "count":
            if feature.source:
                counted = view.values[:, table.columns[_column(feature.source, feature)]] / SCALE
            else:
                counted = view.values[:, table.columns[_column("count", feature)]].astype(np.float64)
            return _transformed(feature, counted)
        last = view.values[:, table.columns[f"last:{feature.source}"]]
        hours = (self._time(feature) - last).clip(min=0) / 3_600_000.0
        return log1p(np.where(last == NEVER, np.nan, hours))

    def _time(self, feature: Feature) -> Ints:
        time = self.inputs.timestamp
        return time if feature.per_request else time[self.inputs.row_request]

    def _number(self, feature: Feature) -> Floats:
        if feature.source.startswith("time:"):
            local = self.inputs.timestamp + round(self.schema.utc_offset_hours * 3_600_000)
            if feature.source == "time:weekend":
                weekday = (local // 86_400_000 + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
                return (weekday >= 5).astype(np.float64)
            minute = local // 60_000 % 1440
            return (SIN_OF_MINUTE if feature.source == "time:hour_sin" else COS_OF_MINUTE)[minute]
        if feature.entity == "context":
            return self.inputs.context[feature.source]
        return np.ascontiguousarray(self._attribute(feature, "float")[:, 0]).view(np.float64)

    def _rate(self, feature: Feature) -> Floats:
        """(s + m·g) / (n + m), 0 / 0 being g."""
        parents = self.schema.parents(feature)
        prior = self._mean(parents[0], feature.source)  # [R]
        for key in parents[1:]:
            name = table_name(key)
            prior = self._smoothed(name, feature.source, feature.source, "count", prior, feature.smoothing)
        if not feature.per_request:
            prior = prior[self.inputs.row_request]
        name = table_name(feature.key)
        return self._smoothed(
            name, feature.source, _column(feature.source, feature), _column("count", feature), prior, feature.smoothing
        )

    def _smoothed(self, name: str, source: str, column: str, count: str, prior: Floats, weight: float) -> Floats:
        view, columns = self.inputs.views[name].values, self.schema.tables[name].columns
        events = view[:, columns.get(f"n:{column}", columns[count])].astype(np.float64)
        total = view[:, columns[column]] / SCALE
        known = events + weight
        return np.where(known > 0, (total + weight * prior) / np.where(known > 0, known, 1.0), prior)

    def _mean(self, key: tuple[str, ...], source: str) -> Floats:
        """[R] mean over all events so far; 0 before the first."""
        name = table_name(key)
        if (name, source) not in self._means:
            zero = np.zeros(len(self.inputs.timestamp))
            self._means[name, source] = self._smoothed(name, source, source, "count", zero, 0.0)
        return self._means[name, source]


def _column(name: str, feature: Feature) -> str:
    return f"{name}@{feature.window_hours}" if feature.window_hours else name


def _transformed(feature: Feature, values: Floats) -> Floats:
    return log1p(values.clip(min=0.0)) if feature.transform == "log1p" else values
