"""Computes features from what is known at a moment: one code for logs and for servers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade import _core
from pygrade.features.feature import Feature, table_name
from pygrade.features.records import NEVER, Ints, View
from pygrade.features.schema import FeatureSchema
from pygrade.features.values import (
    COS_OF_MINUTE,
    NULL,
    SCALE,
    SIN_OF_MINUTE,
    code_lists_of,
    codes_of,
    floats_of,
)

Floats = NDArray[np.float64]
_HOUR = 3_600_000  # ms


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
        """The attributes of a user or item table that the schema reads. ValueError for an id in two rows."""
        columns = schema.attributes(entity)
        nothing = cls(columns, np.zeros(0, np.int64), np.zeros((0, sum(c[2] for c in columns)), np.int64))
        if frame is None or not columns:
            return nothing
        frame = frame.sort(f"{entity}_id")
        ids: Ints = frame[f"{entity}_id"].to_numpy()
        twice = ids[1:][np.diff(ids) == 0]
        if len(twice):
            raise ValueError(f"{entity}s: {entity}_id {twice[0]} is in more than one row; want one")
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
        """Rows [q, C] of their bytes; unknown values for None. ValueError if the bytes are no such row."""
        empty = self.empty.astype("<i8").tobytes()
        content = b"".join([empty if value is None else value for value in values])
        if len(content) != len(values) * len(empty):
            raise ValueError(f"a row of attributes has another size than this schema's {len(empty)} bytes")
        return np.frombuffer(content, "<i8").reshape(len(values), len(self.empty))


@dataclass(frozen=True)
class Inputs:
    """What is known of R requests with n rows at their time."""

    timestamp: Ints  # [R]
    user_id: Ints  # [R]
    scenario: Ints  # [R] codes
    context: Mapping[str, NDArray[Any]]  # column → float64 [R], or codes int64 [R]
    users: Ints  # [R, C] rows of attributes
    item_id: Ints  # [n]
    row_request: Ints  # [n]
    items: Ints  # [n, C] rows of attributes
    views: Mapping[str, View]  # table → [R], or [n] if its key has an item


@dataclass(frozen=True)
class Raw:
    """Features before vocabularies and normalization."""

    request_dense: NDArray[np.float32]  # [R, Du]
    request_ids: Ints  # [R, Fu] codes
    sequences: Ints  # [R, L]
    item_dense: NDArray[np.float32]  # [n, Di]
    item_ids: Ints  # [n, Fi] codes
    cross_dense: NDArray[np.float32]  # [n, Dx]


def compute(schema: FeatureSchema, users: Attributes, items: Attributes, inputs: Inputs) -> Raw:
    """All features of the requests and rows. ``users`` and ``items`` give the place of each attribute.

    Elementwise additions, multiplications and divisions in float64, rounded once to float32: a value's bits do not
    depend on the other values of the call.
    """
    maker = _Maker(schema, {"user": users, "item": items}, inputs)
    return Raw(
        request_dense=maker.dense("request_dense"),
        request_ids=maker.codes("request_ids"),
        sequences=maker.sequences(),
        item_dense=maker.dense("item_dense"),
        item_ids=maker.codes("item_ids"),
        cross_dense=maker.dense("cross_dense"),
    )


class _Maker:
    def __init__(self, schema: FeatureSchema, attributes: Mapping[str, Attributes], inputs: Inputs) -> None:
        self.schema, self.attributes, self.inputs = schema, attributes, inputs

    def _size(self, name: str) -> int:
        return len(self.inputs.user_id if name.startswith("request") else self.inputs.item_id)

    def dense(self, name: str) -> NDArray[np.float32]:
        """[q, D] of one of the dense arrays."""
        features = self.schema.group(name)
        values = np.empty((self._size(name), len(features)))
        rates: dict[tuple[tuple[str, ...], float, float], list[int]] = {}
        for place, feature in enumerate(features):
            if feature.kind == "rate":
                rates.setdefault((feature.key, feature.window_hours, feature.smoothing), []).append(place)
            else:
                values[:, place] = self._value(feature)
        for places in rates.values():
            values[:, places] = self._rates([features[place] for place in places])
        logs = [at for at, f in enumerate(features) if f.kind == "recency" or f.transform != "none"]
        if logs:
            chosen = values.take(logs, axis=1)
            _core.log1p(chosen)
            values[:, logs] = chosen
        with np.errstate(over="ignore"):  # infinite beyond float32
            rounded = values.astype(np.float32)
        rounded[np.isnan(rounded)] = np.nan  # one NaN, whatever the processor makes of it
        return rounded

    def codes(self, name: str) -> Ints:
        """[q, F] codes of categorical, hashed and list features."""
        columns = [self._codes(feature) for feature in self.schema.group(name)]
        return np.concatenate(columns, 1) if columns else np.zeros((self._size(name), 0), np.int64)

    def sequences(self) -> Ints:
        """[R, L] items."""
        columns = [self.inputs.views["user"].recents[f.source][:, : f.length] for f in self.schema.group("sequences")]
        return np.concatenate(columns, 1) if columns else np.zeros((len(self.inputs.user_id), 0), np.int64)

    def _codes(self, feature: Feature) -> Ints:
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

    def _value(self, feature: Feature) -> Floats | Ints:
        """[q] of a dense feature, count or recency, before its logarithm."""
        if feature.kind == "dense":
            number = self._number(feature)
            return (self._time(feature) - number) / _HOUR if feature.transform == "age" else number
        view = self.inputs.views[table_name(feature.key)].values
        columns = self.schema.tables[table_name(feature.key)].columns
        if feature.kind == "count":
            counted = view[:, columns[_column(feature.source or "count", feature)]]
            return counted / SCALE if feature.source else counted
        last = view[:, columns[f"last:{feature.source}"]]
        return np.where(last == NEVER, np.nan, (self._time(feature) - last) / _HOUR)

    def _time(self, feature: Feature) -> Ints:
        time = self.inputs.timestamp
        return time if feature.per_request else time[self.inputs.row_request]

    def _number(self, feature: Feature) -> Floats:
        if feature.source.startswith("time:"):
            local = self.inputs.timestamp + round(self.schema.utc_offset_hours * _HOUR)
            if feature.source == "time:weekend":
                weekday = (local // 86_400_000 + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
                return (weekday >= 5).astype(np.float64)
            minute = local // 60_000 % 1440
            return (SIN_OF_MINUTE if feature.source == "time:hour_sin" else COS_OF_MINUTE)[minute]
        if feature.entity == "context":
            return self.inputs.context[feature.source]
        return np.ascontiguousarray(self._attribute(feature, "float")[:, 0]).view(np.float64)

    def _rates(self, features: list[Feature]) -> Floats:
        """(s + m·g) / (n + m) of features [q, k] with one key, window and smoothing."""
        first, sources = features[0], [f.source for f in features]
        prior = self._means((), sources, "count", np.zeros((len(self.inputs.user_id), len(sources))), 0.0)
        for key in self.schema.parents(first)[1:]:
            prior = self._means(key, sources, "count", prior, first.smoothing)
        if not first.per_request:
            prior = prior[self.inputs.row_request]
        names = [_column(source, first) for source in sources]
        return self._means(first.key, names, _column("count", first), prior, first.smoothing)

    def _means(self, key: tuple[str, ...], names: list[str], count: str, prior: Floats, weight: float) -> Floats:
        """(s + m·g) / (n + m) of the view's columns [q, k]; g if n + m is 0."""
        view, columns = self.inputs.views[table_name(key)].values, self.schema.tables[table_name(key)].columns
        counts = [columns.get(f"n:{name}", columns[count]) for name in names]
        means: Floats = _core.shrunk_means(view, counts, [columns[name] for name in names], weight, prior)
        return means


def _column(name: str, feature: Feature) -> str:
    return f"{name}@{feature.window_hours}" if feature.window_hours else name
