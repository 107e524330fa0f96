"""Values learned from the training window: means, deviations, vocabularies."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from pygrade import _core
from pygrade._util.files import atomic_file
from pygrade.features.feature import SchemaError
from pygrade.features.schema import FeatureSchema
from pygrade.features.tensor_file import read_tensors
from pygrade.features.values import NULL

DENSE = ("request_dense", "item_dense", "cross_dense")
IDS = ("request_ids", "item_ids")
_SCHEMA = "schema"


@dataclass(frozen=True)
class Fitted:
    """Normalization and vocabularies of one schema."""

    schema: FeatureSchema
    mean: Mapping[str, NDArray[np.float64]]  # array name → mean of each column over the training window; unknown: 0
    std: Mapping[str, NDArray[np.float64]]  # array name → standard deviation of each column; (nearly) 0: 1
    vocabularies: Mapping[str, NDArray[np.int64]]  # feature name → codes [V], ascending; an id is the place + 1

    def __reduce__(self) -> tuple[Any, ...]:
        return Fitted, (self.schema, self.mean, self.std, self.vocabularies)  # without the core

    def encode(self, name: str, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids [q, F] of raw codes [q, F] of the array request_ids or item_ids."""
        ids: NDArray[np.int64] = _core.encode_ids(self.core, np.ascontiguousarray(codes), name == "request_ids")
        return ids

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Number of ids, 0 included, of each column of request_ids and item_ids."""
        return {
            name: tuple(
                1 + (feature.buckets or len(self.vocabularies.get(feature.name, ())))
                for feature in self.schema.group(name)
                for _ in feature.columns
            )
            for name in IDS
        }

    @cached_property
    def core(self) -> _core.Features:
        """The same in the C++ core."""
        return _core.Features(self.schema.to_json(), self.to_bytes())

    def to_bytes(self) -> bytes:
        """A safetensors file with the schema in it; equal content, equal bytes."""
        tensors: dict[str, NDArray[Any]] = {f"mean.{name}": values for name, values in self.mean.items()}
        tensors |= {f"std.{name}": values for name, values in self.std.items()}
        tensors |= {f"vocabulary.{name}": values for name, values in self.vocabularies.items()}
        # A tensor, since a header of two entries would have no fixed order.
        tensors[_SCHEMA] = np.frombuffer(self.schema.to_json().encode(), np.uint8)
        return safetensors.numpy.save(tensors, {"schema": self.schema.hash})

    def save(self, path: Path) -> None:
        """Writes `to_bytes`, whole or not at all."""
        with atomic_file(path) as partial:
            partial.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path, schema: FeatureSchema | None = None) -> "Fitted":
        """Reads what `save` wrote. `SchemaError` if it is damaged or was fitted for another schema."""
        if schema is None:
            schema = schema_in(path)
        tensors = read_tensors(path, schema.hash)
        tensors.pop(_SCHEMA, None)
        groups: dict[str, dict[str, Any]] = {"mean": {}, "std": {}, "vocabulary": {}}
        for name, values in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = values
        missing = {"mean", "std"} - {group for group, values in groups.items() if set(values) == set(DENSE)}
        missing |= {f.name for n in IDS for f in schema.group(n) if f.kind != "hashed"} - set(groups["vocabulary"])
        if missing:
            raise SchemaError(f"{path} holds no fitted features: {min(missing)} is missing")
        return cls(schema, groups["mean"], groups["std"], groups["vocabulary"])


def schema_in(path: Path) -> FeatureSchema:
    """The schema in a file of `Fitted.save`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return FeatureSchema.from_json(file.get_tensor(_SCHEMA).tobytes().decode())
    except (safetensors.SafetensorError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path} is truncated, corrupt or no fitted features: {error}") from error


class Fitter:
    """Accumulates means, deviations and vocabularies over the chunks of a training window."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self.requests = 0
        widths = {name: sum(len(f.columns) for f in schema.group(name)) for name in DENSE}
        self._count = {name: np.zeros(width) for name, width in widths.items()}
        self._mean = {name: np.zeros(width) for name, width in widths.items()}
        self._square = {name: np.zeros(width) for name, width in widths.items()}
        self._rows = dict.fromkeys((*DENSE, *IDS), 0)
        self._known: dict[str, int] = {}
        named = [f for name in IDS for f in schema.group(name) if f.kind != "hashed"]
        self._codes = {f.name: _core.KeyIndex() for f in named}
        self._seen = {f.name: np.zeros(0, np.int64) for f in named}

    def add(self, requests: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Adds the next requests: dense arrays [q, D] and raw codes [q, F] by name. The order decides the last bits of
        means and deviations."""
        self.requests += requests
        for name in DENSE:
            if not len(arrays[name]):
                continue
            count, mean, square = _core.moments(arrays[name])
            total = self._count[name] + count
            shift = mean - self._mean[name]
            self._square[name] += square + shift**2 * self._count[name] * count / total.clip(min=1.0)
            self._mean[name] += shift * count / total.clip(min=1.0)
            self._count[name] = total
        for name in (*DENSE, *IDS):
            self._rows[name] += len(arrays[name])
        for name in IDS:
            at = 0
            for feature in self.schema.group(name):
                columns = arrays[name][:, at : at + len(feature.columns)]
                at += len(feature.columns)
                known = int((columns[:, 0] != NULL).sum())
                self._known[feature.name] = self._known.get(feature.name, 0) + known
                if feature.kind != "hashed":
                    self._count_codes(feature.name, np.ascontiguousarray(columns).ravel())

    def _count_codes(self, feature: str, codes: NDArray[np.int64]) -> None:
        numbers = self._codes[feature].add(codes)
        more = len(self._codes[feature])
        counted = np.bincount(numbers[numbers >= 0], minlength=more)
        counted[: len(self._seen[feature])] += self._seen[feature]
        self._seen[feature] = counted

    def summary(self, fitted: Fitted) -> list[dict[str, Any]]:
        """Of each feature its name, array, kind and the share of values that are known; of numbers mean and std, of ids
        the size of the vocabulary."""
        records = []
        for name in (*DENSE, *IDS):
            place = 0
            for feature in self.schema.group(name):
                record: dict[str, Any] = {"feature": feature.name, "array": name, "kind": feature.kind}
                rows = max(self._rows[name], 1)
                if name in DENSE:
                    own = slice(place, place + len(feature.columns))  # of a vector: over its numbers
                    spread = (self._square[name][own].mean() / max(self._count[name][place], 1.0)) ** 0.5
                    record |= {"known": float(self._count[name][place]) / rows, "std": float(spread)}
                    record["mean"] = float(self._mean[name][own].mean())
                    place = own.stop
                else:
                    record["known"] = self._known.get(feature.name, 0) / rows
                    record["values"] = feature.buckets or len(fitted.vocabularies[feature.name])
                records.append(record)
        return records

    def finish(self) -> Fitted:
        """The fitted values. A vocabulary has the ``max_size`` most frequent values with ``min_count`` occurrences."""
        std = {}
        for name, square in self._square.items():
            deviation = np.sqrt(square / self._count[name].clip(min=1.0))
            std[name] = np.where(deviation > 1e-6 * np.abs(self._mean[name]).clip(min=1.0), deviation, 1.0)
        vocabularies = {}
        for feature in (f for name in IDS for f in self.schema.group(name) if f.kind != "hashed"):
            codes, seen = self._codes[feature.name].keys(), self._seen[feature.name]
            order = np.lexsort((codes, -seen))[: feature.max_size]
            vocabularies[feature.name] = np.sort(codes[order[seen[order] >= feature.min_count]])
        return Fitted(self.schema, dict(self._mean), std, vocabularies)
