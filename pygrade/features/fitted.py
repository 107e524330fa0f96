"""Values learned from the training window: means, deviations, vocabularies."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pygrade import _core
from pygrade._util.files import atomic_file
from pygrade.features.feature import Feature, SchemaError
from pygrade.features.schema import FeatureSchema, read_tensors
from pygrade.features.values import NULL, KeySums

DENSE = ("request_dense", "item_dense", "cross_dense")
IDS = ("request_ids", "item_ids")
_SCHEMA = "schema"


@dataclass(frozen=True)
class FeatureEncoder:
    """Normalization and vocabularies of one schema."""

    schema: FeatureSchema
    mean: Mapping[str, NDArray[np.float64]]  # array name → mean of each column over the training window; unknown: 0
    std: Mapping[str, NDArray[np.float64]]  # array name → standard deviation of each column; (nearly) 0: 1
    vocabularies: Mapping[str, NDArray[np.int64]]  # feature name → codes [V], ascending; an id is the place + 1

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureEncoder, (self.schema, self.mean, self.std, self.vocabularies)  # without the core

    def encode(self, name: str, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids [q, F] of raw codes [q, F] of the array request_ids or item_ids."""
        ids: NDArray[np.int64] = _core.encode_ids(self.core, np.ascontiguousarray(codes), name == "request_ids")
        return ids

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Number of ids, 0 included, of each column of request_ids and item_ids."""
        return {
            name: tuple(
                1 + len(self.vocabularies.get(feature.name, ()))
                for feature in self.schema.group(name)
                for _ in feature.columns
            )
            for name in IDS
        }

    @cached_property
    def core(self) -> _core.Features:
        """Schema and fitted values in the C++ core."""
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
    def load(cls, path: Path, schema: FeatureSchema | None = None) -> "FeatureEncoder":
        """Reads what `save` wrote. `SchemaError` if it is damaged or was fitted for another schema."""
        tensors = read_tensors(path, None if schema is None else schema.hash)
        stored = tensors.pop(_SCHEMA, np.zeros(0, np.uint8))
        schema = schema or FeatureSchema.from_json(stored.tobytes().decode(errors="replace"))
        groups: dict[str, dict[str, Any]] = {"mean": {}, "std": {}, "vocabulary": {}}
        for name, values in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = values
        missing = {"mean", "std"} - {group for group, values in groups.items() if set(values) == set(DENSE)}
        missing |= {f.name for n in IDS for f in schema.group(n)} - set(groups["vocabulary"])
        if missing:
            raise SchemaError(f"{path} holds no fitted features: {min(missing)} is missing")
        return cls(schema, groups["mean"], groups["std"], groups["vocabulary"])


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
        self._filled: dict[str, int] = {}
        self._codes = {f.name: KeySums() for f in self._id_features}

    @property
    def _id_features(self) -> list[Feature]:
        return [feature for name in IDS for feature in self.schema.group(name)]

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
            for feature, own in self.schema.slices(name):
                columns = arrays[name][:, own]
                filled = int((columns[:, 0] != NULL).sum())
                self._filled[feature.name] = self._filled.get(feature.name, 0) + filled
                self._codes[feature.name].add(columns.ravel())

    def summary(self, fitted: FeatureEncoder) -> list[dict[str, Any]]:
        """A record of each feature: name, array, kind and the share of values that are known; of numbers mean and std,
        of ids the size of the vocabulary."""
        records = []
        for name in (*DENSE, *IDS):
            for feature, own in self.schema.slices(name):
                record: dict[str, Any] = {"feature": feature.name, "array": name, "kind": feature.kind}
                rows = max(self._rows[name], 1)
                if name in DENSE:
                    count = float(self._count[name][own.start])
                    spread = (self._square[name][own].mean() / max(count, 1.0)) ** 0.5  # of a vector: over its numbers
                    record |= {"known": count / rows, "std": float(spread)}
                    record["mean"] = float(self._mean[name][own].mean())
                else:
                    record["known"] = self._filled.get(feature.name, 0) / rows
                    record["values"] = len(fitted.vocabularies[feature.name])
                records.append(record)
        return records

    def finish(self) -> FeatureEncoder:
        """The fitted values. A vocabulary has the ``max_size`` most frequent values with ``min_count`` occurrences."""
        std = {}
        for name, square in self._square.items():
            deviation = np.sqrt(square / self._count[name].clip(min=1.0))
            std[name] = np.where(deviation > 1e-6 * np.abs(self._mean[name]).clip(min=1.0), deviation, 1.0)
        vocabularies = {}
        for feature in self._id_features:
            codes, seen = self._codes[feature.name].result()
            order = np.lexsort((codes, -seen))[: feature.max_size]
            vocabularies[feature.name] = np.sort(codes[order[seen[order] >= feature.min_count]])
        return FeatureEncoder(self.schema, dict(self._mean), std, vocabularies)
