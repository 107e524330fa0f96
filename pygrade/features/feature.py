"""A declared feature, the same for a log and for a server.

Its **entity** is its level: ``user`` and ``context`` have one value a request, ``item`` and ``cross`` one value a row.
Its **kind** says how it is made:

=============  =====================================================================================================
dense          a number: an attribute, a context column ``c_…``, ``time:hour_sin``, ``time:hour_cos``, ``time:weekend``
categorical    the place of an attribute, id, ``scenario`` or text context in a vocabulary of the training window
hashed         1 + hash mod ``buckets`` of the same sources: no vocabulary, unseen values included
list           the first ``length`` elements of a list attribute, each categorical
sequence       the last ``length`` items the user had an event with (``source``: a positive event)
count          events of ``key`` before the request (``source``: positive ones), log(1 + n) with ``transform="log1p"``
rate           (s + m·g) / (n + m): the mean of ``source`` over the n events of ``key``, shrunk with m = ``smoothing``
               to g, the mean over all events so far; for a key that crosses the user with something, to his own rate
recency        log(1 + hours) since the last (positive) event of ``key``; NaN if there was none
=============  =====================================================================================================

``key`` names what events are counted over: ``user_id``, ``item_id``, ``scenario``, ``user.NAME`` and ``item.NAME`` for
attributes (of a list its first element, of a float x its octave ⌊log2(1 + x)⌋), or several of them. ``window_hours``
limits counts and rates to the latest hours, in 8 whole steps: the current step and the 7 before it. ``source`` of
counts, rates and recencies: nothing (every shown row), ``y_TASK``, ``m_MEASURE`` or ``log1p(m_MEASURE)``.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

ENTITIES = ("user", "context", "item", "cross")
KINDS = ("dense", "categorical", "hashed", "list", "sequence", "count", "rate", "recency")
ATTRIBUTE_TABLES = {"user": "user_static", "item": "item_static"}  # tables of a store that hold attributes
TIMES = ("time:hour_sin", "time:hour_cos", "time:weekend")
HISTORY = ("count", "rate", "recency")
_TRANSFORMS = ("none", "log1p", "age")
_OUTCOME = re.compile(r"y_\w+|m_\w+|log1p\(m_\w+\)")


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
    length: int = 0  # sequences and lists: number of elements
    buckets: int = 0  # hashed features: number of buckets
    min_count: int = 1  # categorical and list features: occurrences in the training window to be in the vocabulary
    max_size: int = 1_000_000  # categorical and list features: size of the vocabulary, the most frequent values

    def __post_init__(self) -> None:
        where = f"feature {self.name!r}"
        object.__setattr__(self, "key", tuple(self.key))
        object.__setattr__(self, "window_hours", float(self.window_hours))
        object.__setattr__(self, "smoothing", float(self.smoothing))
        if not self.name.isidentifier():
            raise SchemaError(f"{where}: the name is no identifier")
        for label, value, known in (
            ("entity", self.entity, ENTITIES),
            ("kind", self.kind, KINDS),
            ("transform", self.transform, _TRANSFORMS),
        ):
            if value not in known:
                raise SchemaError(f"{where}: {label} is {value!r}; want one of {', '.join(known)}")
        if self.kind in (*HISTORY, "sequence"):
            if self.source and not _OUTCOME.fullmatch(self.source):
                raise SchemaError(f"{where}: source is {self.source!r}; want y_TASK, m_MEASURE, log1p(m_MEASURE) or ''")
            if self.kind == "rate" and not self.source:
                raise SchemaError(f"{where}: source is ''; a rate wants an outcome")
            if self.kind in ("recency", "sequence", "count") and is_measure(self.source):
                raise SchemaError(f"{where}: source is {self.source!r}; a {self.kind} wants y_TASK or ''")
        elif not self.source:
            raise SchemaError(f"{where}: source is ''; want the column it is made of")
        elif self.source.startswith("time:"):
            if self.kind != "dense" or not self.per_request:
                raise SchemaError(f"{where}: source is {self.source!r}; a time is a dense feature of the context")
        elif self.source in ("user_id", "scenario", "item_id"):
            if self.kind not in ("categorical", "hashed"):
                raise SchemaError(f"{where}: {self.source} is categorical or hashed, not {self.kind}")
            if self.per_request == (self.source == "item_id"):
                raise SchemaError(f"{where}: entity is {self.entity!r}; {self.source} is of another one")
        if self.kind in HISTORY:
            for part in self.key:
                if part not in ("user_id", "item_id", "scenario") and not part.startswith(("user.", "item.")):
                    raise SchemaError(
                        f"{where}: key names {part!r}; want user_id, item_id, scenario, user.NAME or item.NAME"
                    )
            levels = {"item" if part.startswith("item") else "request" for part in self.key} or {"request"}
            level = "cross" if len(levels) > 1 else levels.pop()
            allowed = {"cross": ("cross",), "item": ("item",), "request": ("user", "context")}[level]
            if self.entity not in allowed:
                raise SchemaError(f"{where}: entity is {self.entity!r}; its key makes it {' or '.join(allowed)}")
        elif self.key:
            raise SchemaError(f"{where}: key is {self.key}; a {self.kind} feature has none")
        elif self.entity == "cross":
            raise SchemaError(f"{where}: a cross feature is a count, rate or recency, not {self.kind!r}")
        if self.kind == "sequence" and self.entity != "user":
            raise SchemaError(f"{where}: entity is {self.entity!r}; a sequence is of the user")
        if (self.length > 0) != (self.kind in ("sequence", "list")):
            raise SchemaError(f"{where}: length is {self.length}; want 1 or more for lists and sequences, 0 elsewhere")
        if (self.buckets > 0) != (self.kind == "hashed"):
            raise SchemaError(f"{where}: buckets is {self.buckets}; want 1 or more for hashed features, 0 elsewhere")
        if self.transform == "age" and (self.kind != "dense" or self.source.startswith("time:")):
            raise SchemaError(f"{where}: transform 'age' is for dense features that are times")
        if self.transform == "log1p" and self.kind not in ("dense", "count"):
            raise SchemaError(f"{where}: transform 'log1p' is for dense features and counts")
        if self.window_hours and self.kind not in ("count", "rate"):
            raise SchemaError(f"{where}: window_hours is {self.window_hours}; a {self.kind} has no window")
        if not (self.window_hours >= 0 and self.smoothing >= 0 and self.min_count >= 1 and self.max_size >= 1):
            raise SchemaError(f"{where}: window_hours, smoothing want 0 or more; min_count, max_size 1 or more")

    @property
    def per_request(self) -> bool:
        """Whether a request has one value (else every row has its own)."""
        return self.entity in ("user", "context")

    @property
    def is_id(self) -> bool:
        """Whether it makes columns of ids."""
        return self.kind in ("categorical", "hashed", "list")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it makes."""
        return tuple(f"{self.name}_{i}" for i in range(self.length)) if self.kind == "list" else (self.name,)


def is_measure(source: str) -> bool:
    """Whether an outcome may be unknown; records then count the events that have it."""
    return source.startswith(("m_", "log1p(m_"))


@lru_cache
def table_name(key: tuple[str, ...]) -> str:
    """("user_id",) → user, ("item.author",) → author, ("user_id", "item.author") → cross:user*author, () → all."""
    short = {"user_id": "user", "item_id": "item"}
    names = [short.get(part, part.removeprefix("item.").replace(".", "_")) for part in key]
    return "all" if not names else names[0] if len(names) == 1 else "cross:" + "*".join(names)
