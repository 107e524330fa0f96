"""Attributes of users and items as numbers, as a store holds them."""

from typing import Any

import numpy as np

from pygrade.features.schema import FeatureSchema
from pygrade.features.values import Ints, code_lists_of, codes_of, floats_of, packed, projected, vectors_of

_BATCH = 1 << 14  # embeddings that are unpacked at once


class EntityAttributes:
    """Attributes of users or items by id: rows of int64, floats by their bits, of embeddings two float32 a word."""

    def __init__(self, ids: Ints, values: Ints) -> None:
        self.ids = ids  # [m] ascending
        self.values = values  # [m, C]

    @classmethod
    def of(cls, schema: FeatureSchema, entity: str, frame: Any | None) -> "EntityAttributes":
        """The attributes of a user or item table that the schema reads. ValueError for an id in two rows, `SchemaError`
        for an embedding of another length."""
        columns = schema.attributes(entity)
        if frame is None or not columns:
            width = sum((length + 1) // 2 if kind == "floats" else length for _, kind, length in columns)
            return cls(np.zeros(0, np.int64), np.zeros((0, width), np.int64))
        frame = frame.sort(f"{entity}_id")
        ids: Ints = frame[f"{entity}_id"].to_numpy()
        twice = ids[1:][np.diff(ids) == 0]
        if len(twice):
            raise ValueError(f"{entity}s: {entity}_id {twice[0]} is in more than one row; expected one")
        parts = []
        for column, kind, length in columns:
            values = frame[column]
            if kind == "float":
                parts.append(floats_of(values).view(np.int64)[:, None])
            elif kind == "floats":
                size = next(f.size for f in schema.features if f.kind == "vector" and f.source == column) or length
                some = (slice(at, at + _BATCH) for at in range(0, len(values), _BATCH))
                table, of = f"{entity}s", frame[f"{entity}_id"]
                blocks = [packed(projected(vectors_of(values[s], size, table, of[s]), length)) for s in some]
                parts.append(np.concatenate(blocks) if blocks else np.zeros((0, (length + 1) // 2), np.int64))
            elif kind == "codes" or values.dtype.is_nested():
                parts.append(code_lists_of(values, length))
            else:
                parts.append(codes_of(values)[:, None])
        return cls(ids.astype(np.int64), np.concatenate(parts, 1))
