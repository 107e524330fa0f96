"""Predictions of the user's own model, which the log of events holds, in place of those of a multi-task model."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.data.event_log import EventLog
from pygrade.features import FeatureBatch

if TYPE_CHECKING:
    import polars as pl

_KEYS = ("request_id", "item_id", "position")  # of a row: an item may be in several slots


class OwnPredictions:
    """Gives the predictions [n, T] of the rows of a batch, as `policy_log.Predict`; the log is read again for each."""

    def __init__(self, log: EventLog, tasks: tuple[str, ...]) -> None:
        self.log, self.columns = log, [f"p_{task}" for task in tasks]

    def __call__(self, batch: FeatureBatch) -> NDArray[np.float32]:
        """ValueError names a row that has no prediction."""
        polars = require("polars", "pipeline")
        request, times = batch.request_id[batch.row_request], batch.timestamp
        rows = polars.DataFrame(dict(zip(_KEYS, (request, batch.item_id, batch.position), strict=True)))
        wanted = polars.col("request_id").is_in(polars.Series(batch.request_id).implode())
        wanted &= polars.col("timestamp").is_between(times.min(), times.max())
        position = polars.col("position").fill_null(-1)
        logged = self.log.scan().filter(wanted).select(*_KEYS[:2], position, *self.columns).collect()
        found = rows.join(logged, on=_KEYS, how="left", maintain_order="left")
        self._check(found)
        return np.ascontiguousarray(found.select(self.columns).to_numpy().astype(np.float32))

    def _check(self, found: "pl.DataFrame") -> None:
        for column in self.columns:
            values: Any = found[column]
            if values.null_count():
                row = found.row(int(values.is_null().arg_max()), named=True)
                raise ValueError(
                    f"column {column!r}, request {row['request_id']}, item {row['item_id']}: null; want a prediction "
                    "of every candidate, as predictions is 'own'"
                )
