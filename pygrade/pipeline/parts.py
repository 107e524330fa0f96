"""Work over the parts of materialized features, one job a part: what it finds comes back in the order of the parts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from pygrade.features import FeatureBatch, FeatureSet
from pygrade.workers import Workers

REQUESTS = 1024  # of a batch
CHECKPOINTS = "checkpoints"  # in a stage's directory while it trains
_PARTS_OF_A_RANK = 16  # from so many on, ranks share whole parts, and one has at most a 16th more than another

Result = TypeVar("Result")
Period = tuple[int | None, int | None]
"""First time (ms), and the time after the last; None: no bound."""


class OpenPart:
    """Base of dataclasses that workers get and keep open: pickled without what they have loaded."""

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class RequestRange:
    """A part of a feature set, in a period (ms)."""

    number: int
    of: int
    start: int | None
    stop: int | None

    def __str__(self) -> str:
        return f"part {self.number} of {self.of}"


@dataclass(frozen=True)
class PartWork(OpenPart):
    """Base of work on the parts of a feature set, which is opened when it is first needed."""

    features: Path

    @cached_property
    def _set(self) -> FeatureSet:
        return FeatureSet.open(self.features)

    def batches(self, part: RequestRange) -> Iterator[FeatureBatch]:
        """The part's requests in its period."""
        return self._set.batches(part.start, part.stop, REQUESTS, parts=[part.number])


@dataclass(frozen=True)
class PartTask(PartWork, Generic[Result]):
    """work(batches) of a part's requests in its period; None if there are none."""

    work: Callable[[list[FeatureBatch]], Result]

    def __call__(self, part: RequestRange) -> Result | None:
        batches = list(self.batches(part))
        return self.work(batches) if batches else None


def parts_of(features: FeatureSet, period: Period) -> list[RequestRange]:
    """The parts that may have requests in a period."""
    return [RequestRange(number, features.num_parts, *period) for number in features.parts_between(*period)]


def map_parts(
    workers: Workers, features: FeatureSet, work: Callable[[list[FeatureBatch]], Result], period: Period, name: str
) -> Iterator[Result]:
    """work(batches) of every part with requests in the period, by workers that hold it; in the order of parts."""
    for result in workers.map(PartTask(features.path, work), parts_of(features, period), name):
        if result is not None:
            yield result


def features_between(
    features: FeatureSet, start: int | None, stop: int | None, rank: int = 0, ranks: int = 1
) -> Callable[[], Iterator[FeatureBatch]]:
    """A factory of the batches of a period; with ranks, of one's share: every ``ranks``-th part, or, if the parts are
    few, every ``ranks``-th request."""
    parts = features.parts_between(start, stop)
    if ranks == 1:
        return lambda: features.batches(start, stop, REQUESTS)
    if len(parts) >= _PARTS_OF_A_RANK * ranks:
        return lambda: features.batches(start, stop, REQUESTS, parts=parts[rank::ranks])

    def share() -> Iterator[FeatureBatch]:
        for batch in features.batches(start, stop, REQUESTS):
            own = np.arange(rank, len(batch), ranks)
            if len(own):
                yield batch.take(own)

    return share
