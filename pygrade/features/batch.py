"""The features of R requests with n rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.features.feature import SchemaError
from pygrade.features.fitted import FeatureEncoder


@dataclass(frozen=True)
class FeatureBatch:
    """R requests over n rows; rows offsets[r] to offsets[r + 1] are request r's.

    Dense values are as measured, NaN if unknown; ids are places in vocabularies from 1 on, 0 if unknown.
    ``names`` has the names of the columns.
    """

    request_id: NDArray[np.int64]  # [R]
    user_id: NDArray[np.int64]  # [R]
    timestamp: NDArray[np.int64]  # [R] ms
    scenario: NDArray[np.str_] | None  # [R]
    offsets: NDArray[np.int64]  # [R + 1]
    item_id: NDArray[np.int64]  # [n]
    position: NDArray[np.int32]  # [n] slot in which it was shown, -1: not shown
    feedback: NDArray[np.float32]  # [n, T] NaN: not shown
    request_dense: NDArray[np.float32]  # [R, Du]
    request_ids: NDArray[np.int64]  # [R, Fu]
    sequences: NDArray[np.int64]  # [R, L] item ids, the latest first, -1 padding
    item_dense: NDArray[np.float32]  # [n, Di]
    item_ids: NDArray[np.int64]  # [n, Fi]
    cross_dense: NDArray[np.float32]  # [n, Dx]
    fitted: FeatureEncoder  # schema, normalization and vocabularies
    defaults: bool = False  # the store failed: nothing is known of the user and the items

    @classmethod
    def of_request(
        cls,
        fitted: FeatureEncoder,
        user_id: int,
        timestamp: int,
        scenario: str | None,
        request_id: int,
        item_id: NDArray[np.int64],
        arrays: Mapping[str, NDArray[Any]],
        defaults: bool,
    ) -> "FeatureBatch":
        """A request of which nothing was shown yet, with the arrays `FEATURE_ARRAYS` by name."""
        return cls(
            request_id=np.array([request_id], np.int64),
            user_id=np.array([user_id], np.int64),
            timestamp=np.array([timestamp], np.int64),
            scenario=None if scenario is None else np.array([scenario]),
            offsets=np.array([0, len(item_id)], np.int64),
            item_id=item_id,
            position=np.full(len(item_id), -1, np.int32),
            feedback=np.full((len(item_id), len(fitted.schema.tasks)), np.nan, np.float32),
            fitted=fitted,
            defaults=defaults,
            **arrays,
        )

    def __len__(self) -> int:
        return len(self.user_id)

    @property
    def row_request(self) -> NDArray[np.int64]:
        """Return the request [n] of each row."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Names of the columns of request_dense, request_ids, item_dense, item_ids and cross_dense."""
        schema = self.fitted.schema
        return {
            "request_dense": schema.request_features,
            "request_ids": schema.request_id_features,
            "item_dense": schema.item_features,
            "item_ids": schema.item_id_features,
            "cross_dense": schema.cross_features,
        }

    def column(self, name: str) -> NDArray[Any]:
        """The values of one feature: [R] of users and contexts, [n] of items and crosses. `SchemaError` if unknown."""
        for group, names in self.names.items():
            if name in names:
                values: NDArray[Any] = getattr(self, group)[:, names.index(name)]
                return values
        listed = ", ".join(column for names in self.names.values() for column in names)
        raise SchemaError(f"there is no feature {name!r}; the schema has {listed}")

    def normalized(self) -> "FeatureBatch":
        """A copy with (x − mean) / std of the training window in the dense arrays, limited to ±10, 0 where unknown."""
        dense, item, cross = map(np.ascontiguousarray, (self.request_dense, self.item_dense, self.cross_dense))
        request, items = np.empty_like(dense), item.shape[1]
        rows = np.empty((len(item), items + cross.shape[1]), np.float32)
        self.fitted.core.normalize(dense, item, cross, request, rows)
        return replace(self, request_dense=request, item_dense=rows[:, :items], cross_dense=rows[:, items:])

    def model_inputs(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rows of dense [n, Du + Di + Dx], normalized, and ids [n, Fu + Fi]; sizes: ``fitted.sizes``."""
        ready, request = self.normalized(), self.row_request
        dense = np.concatenate([ready.request_dense[request], ready.item_dense, ready.cross_dense], 1)
        return dense, np.concatenate([self.request_ids[request], self.item_ids], 1)

    def request_inputs(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Return policy inputs [R, F] by name: columns of request_dense, and 0/1 columns ``feature=level`` of
        categorical and list features. `SchemaError` names what is neither."""
        core = self.fitted.core
        made: NDArray[np.float32] = core.inputs(list(names), True, *_arrays(self.request_dense, self.request_ids))
        return made

    def item_inputs(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Return the same of items, [n, I]; NaN in the columns that are no features."""
        core = self.fitted.core
        made: NDArray[np.float32] = core.inputs(list(names), False, *_arrays(self.item_dense, self.item_ids))
        return made

    def take(self, requests: NDArray[np.int64]) -> "FeatureBatch":
        """The requests with their rows, in the order asked for."""
        sizes = np.diff(self.offsets)[requests]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[requests] - offsets[:-1], sizes)
        chosen: dict[str, Any] = {"offsets": offsets}
        for name in (*REQUEST_ARRAYS, "scenario"):
            values = getattr(self, name)
            chosen[name] = None if values is None else values[requests]
        chosen |= {name: getattr(self, name)[rows] for name in ROW_ARRAYS}
        return replace(self, **chosen)


def _arrays(dense: NDArray[np.float32], ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return np.ascontiguousarray(dense), np.ascontiguousarray(ids)


FEATURE_ARRAYS = ("request_dense", "request_ids", "sequences", "item_dense", "item_ids", "cross_dense")
REQUEST_ARRAYS = ("request_id", "user_id", "timestamp", "request_dense", "request_ids", "sequences")
ROW_ARRAYS = ("item_id", "position", "feedback", "item_dense", "item_ids", "cross_dense")


def concatenate(batches: list[FeatureBatch]) -> FeatureBatch:
    """The requests of several batches of one schema, one after another."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    sizes = np.concatenate([np.diff(batch.offsets) for batch in batches])
    joined: dict[str, Any] = {"offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)}
    for field in fields(FeatureBatch):
        if field.name not in ("offsets", "fitted", "scenario", "defaults"):
            joined[field.name] = np.concatenate([getattr(batch, field.name) for batch in batches])
    if first.scenario is not None:
        joined["scenario"] = np.concatenate([batch.scenario for batch in batches if batch.scenario is not None])
    return replace(first, **joined)
