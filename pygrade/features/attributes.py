"""Attributes of users and items as numbers, as a store holds them."""

from typing import Any

import numpy as np

from pygrade.features.schema import FeatureSchema
from pygrade.features.values import Ints, code_lists_of, codes_of, floats_of


class Attributes:
    """Attributes of users or items by id: rows of int64, floats by their bits."""

    def __init__(self, ids: Ints, values: Ints) -> None:
        self.ids = ids  # [m] ascending
        self.values = values  # [m, C]

    @classmethod
    def of(cls, schema: FeatureSchema, entity: str, frame: Any | None) -> "Attributes":
        """The attributes of a user or item table that the schema reads. ValueError for an id in two rows."""
        columns = schema.attributes(entity)
        if frame is None or not columns:
            return cls(np.zeros(0, np.int64), np.zeros((0, sum(length for _, _, length in columns)), np.int64))
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
        return cls(ids.astype(np.int64), np.concatenate(parts, 1))
