"""A declared feature, the same for a log and for a server.

Its **entity** is its level: ``user`` and ``context`` have one value a request, ``item`` and ``cross`` one value a row.
Its **kind** says how it is made:

=============  =====================================================================================================
dense          a number: an attribute, a context column ``c_…``, ``time:hour_sin``, ``time:hour_cos``, ``time:weekend``
categorical    the place of an attribute, id, ``scenario`` or text context in a vocabulary of the training window
list           the first ``length`` elements of a list attribute, each categorical; of a text its tags, which commas,
               semicolons or bars part: "red, cotton"
vector         the ``length`` numbers of an embedding of users or items, each a dense column; all NaN if it is missing,
               which models take for the mean of the training window. One of ``size`` > ``length`` numbers is projected
               onto them by fixed random signs, each sum divided by √length
sequence       the last ``length`` items the user had an event with (``source``: a positive event)
count          events of ``key`` before the request (``source``: positive ones), log(1 + n) with ``transform="log1p"``
rate           (s + m·g) / (n + m): the mean of ``source`` over the n events of ``key``, shrunk with m = ``smoothing``
               to g, the mean over all events so far; for a key that crosses the user with something, to the user's rate
recency        log(1 + hours) since the last (positive) event of ``key``; NaN if there was none
=============  =====================================================================================================

``key`` names what events are counted over: ``user_id``, ``item_id``, ``scenario``, ``user.NAME`` and ``item.NAME`` for
attributes (of a list its first element, of a float x its octave ⌊log2(1 + x)⌋), or several of them. ``window_hours``
limits counts and rates to the latest hours, in 8 whole steps: the current step and the 7 before it. ``source`` of
counts, rates and recencies: nothing (every shown row), ``y_TASK``, ``m_MEASURE`` or ``log1p(m_MEASURE)``.
"""

import json
from dataclasses import dataclass, fields
from typing import Any

from pygrade import _core

KINDS = ("dense", "categorical", "list", "vector", "sequence", "count", "rate", "recency")
ATTRIBUTE_TABLES = {"user": "user_static", "item": "item_static"}  # tables of a store that hold attributes
TIMES = ("time:hour_sin", "time:hour_cos", "time:weekend")
HISTORY = ("count", "rate", "recency")


class SchemaError(ValueError):
    """A schema that contradicts itself, or data that does not fit it."""


@dataclass(frozen=True)
class Feature:
    """One feature; see the module for its kinds."""

    name: str
    entity: str
    kind: str
    source: str = ""  # its column; of history features the outcome that is counted ("": every shown row)
    key: tuple[str, ...] = ()  # history features: what events are counted over
    transform: str = "none"  # log1p: log(1 + max(x, 0)) of dense or count; age: log(1 + hours) since a time in ms
    smoothing: float = 20.0  # rates: weight of the mean over all events, in events
    window_hours: float = 0.0  # counts and rates: only this many latest hours; 0: all of the past
    length: int = 0  # sequences and lists: number of elements; vectors: number of columns
    size: int = 0  # vectors: numbers of every embedding; 0: length
    min_count: int = 1  # categorical and list features: occurrences in the training window to be in the vocabulary
    max_size: int = 1_000_000  # categorical and list features: size of the vocabulary, the most frequent values

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", tuple(self.key))
        object.__setattr__(self, "window_hours", float(self.window_hours))
        object.__setattr__(self, "smoothing", float(self.smoothing))
        try:
            _core.check_feature(json.dumps(self.record))
        except SchemaError as error:
            named = str(error) if str(error).startswith("feature ") else f"feature {json.dumps(self.name)}: {error}"
            raise SchemaError(named) from None

    @property
    def record(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as they stand in the schema's JSON."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    @property
    def per_request(self) -> bool:
        """Return whether a request has one value, False if every row has its own."""
        return self.entity in ("user", "context")

    @property
    def is_id(self) -> bool:
        """Return whether it makes columns of ids."""
        return self.kind in ("categorical", "list")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it makes."""
        several = self.kind in ("list", "vector")
        return tuple(f"{self.name}_{i}" for i in range(self.length)) if several else (self.name,)
