"""Train/serve skew: features that a server reads against those that a model was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.features.batch import FeatureBatch
from pygrade.features.center import FeatureCenter
from pygrade.features.materialize import FeatureSet
from pygrade.features.schema import RawEvents


@dataclass(frozen=True)
class FeatureSkew:
    """One feature offline against online."""

    feature: str
    values: int  # number of values compared
    equal: float  # share with the same bits (all NaN are the same)
    max_difference: float  # largest |offline − online|; inf if one side is unknown; of ids and sequences 0 or inf


class Skew:
    """Compares batches of the same requests, read offline and online, feature by feature."""

    def __init__(self) -> None:
        self._features: dict[str, tuple[int, int, float]] = {}

    def add(self, offline: FeatureBatch, online: FeatureBatch) -> None:
        """ValueError if the batches are not the same requests with the same items."""
        for name in ("user_id", "timestamp", "offsets", "item_id"):
            if not np.array_equal(getattr(offline, name), getattr(online, name)):
                raise ValueError(f"online has another {name} than offline; want the same requests and items")
        names = {**offline.names, "sequences": ("sequences",) * offline.sequences.shape[1]}
        for group, columns in names.items():
            before, after = getattr(offline, group), getattr(online, group)
            if before.shape != after.shape:
                raise ValueError(f"online has {group} of shape {after.shape}; offline {before.shape}")
            for column, feature in enumerate(columns):
                self._compare(feature, before[:, column], after[:, column])

    def _compare(self, feature: str, a: NDArray[Any], b: NDArray[Any]) -> None:
        if a.dtype.kind == "f":
            unknown = np.isnan(a) & np.isnan(b)
            equal = unknown | (a.view(np.uint32) == b.view(np.uint32))
            apart = np.where(unknown, 0.0, np.abs(a.astype(np.float64) - b.astype(np.float64)))
            apart[np.isnan(apart)] = np.inf
        else:
            equal = a == b
            apart = np.where(equal, 0.0, np.inf)
        values, same, largest = self._features.get(feature, (0, 0, 0.0))
        largest = max(largest, float(apart.max(initial=0.0)))
        self._features[feature] = (values + len(a), same + int(equal.sum()), largest)

    @property
    def exact(self) -> bool:
        """Whether every value had the same bits; False without values."""
        return bool(self._features) and all(values == same for values, same, _ in self._features.values())

    def features(self) -> list[FeatureSkew]:
        """Every feature, those that differ most often first."""
        skews = [
            FeatureSkew(name, values, same / max(values, 1), largest)
            for name, (values, same, largest) in self._features.items()
        ]
        return sorted(skews, key=lambda skew: (skew.equal, -skew.max_difference, skew.feature))


def replay(
    event_log: RawEvents,
    features: FeatureSet,
    center: FeatureCenter,
    start: int,
    stop: int | None = None,
    seed: int | None = None,
    delay: int = 0,
) -> Iterator[tuple[FeatureBatch, FeatureBatch]]:
    """Serves the requests with start ≤ timestamp < stop again, one after another: (offline, online) of each.

    The center's store must be at ``start`` (`state_before`). Before each request the center gets the feedback since the
    one before it, in order of arrival, or shuffled with ``seed``. With a ``delay`` (ms) feedback comes that much later
    than in the log, which shows the cost of a slow pipeline. The log is read from its beginning, a chunk at a time.
    """
    pl = require("polars", "pipeline")
    random = np.random.default_rng(seed)
    offline = _one_by_one(features, start, stop)
    waiting: Any = None
    context = sorted(features.schema.context)
    for frame in event_log.chunks():
        arriving = frame.filter(pl.col("position").is_not_null() & (pl.col("event_time") >= start))
        waiting = arriving if waiting is None else pl.concat([waiting, arriving])
        heads = frame.filter(pl.col("request_id").ne_missing(pl.col("request_id").shift(1)))
        for head in heads.rows(named=True):
            time = head["timestamp"]
            if time < start or (stop is not None and time >= stop):
                continue
            arrived = pl.col("event_time") < time - delay
            come, waiting = waiting.filter(arrived), waiting.filter(~arrived)
            if len(come):
                order = come["event_time"].arg_sort() if seed is None else random.permutation(len(come))
                center.update(come[order])
            batch = next(offline)
            online = center.read(
                head["user_id"],
                batch.item_id,
                {name: head[name] for name in context},
                time,
                head.get("scenario"),
                head["request_id"],
            )
            yield batch, online
        if stop is not None and len(frame) and frame["timestamp"][-1] >= stop:
            return


def _one_by_one(features: FeatureSet, start: int, stop: int | None) -> Iterator[FeatureBatch]:
    for batch in features.batches(start, stop):
        for request in range(len(batch)):
            yield batch.take(np.array([request]))
