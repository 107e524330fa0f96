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
_IDS = ("user_id", "item_id", "scenario")
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
        object.__setattr__(self, "key", tuple(self.key))
        object.__setattr__(self, "window_hours", float(self.window_hours))
        object.__setattr__(self, "smoothing", float(self.smoothing))
        if not self.name.isidentifier():
            raise self.error("the name is no identifier")
        for label, value, known in (
            ("entity", self.entity, ENTITIES),
            ("kind", self.kind, KINDS),
            ("transform", self.transform, _TRANSFORMS),
        ):
            if value not in known:
                raise self.error(f"{label} is {value!r}; want one of {', '.join(known)}")
        _CHECKS[self.kind](self)
        _check_options(self)

    def error(self, what: str) -> SchemaError:
        """An error that names the feature."""
        return SchemaError(f"feature {self.name!r}: {what}")

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


def _check_dense(f: Feature) -> None:
    _check_column(f)
    if f.source.startswith("time:") and not f.per_request:
        raise f.error(f"source is {f.source!r}; a time is a dense feature of the context")
    if f.source in _IDS:
        raise f.error(f"{f.source} is categorical or hashed, not dense")


def _check_categorical(f: Feature) -> None:
    _check_column(f)
    if f.source.startswith("time:"):
        raise f.error(f"source is {f.source!r}; a time is a dense feature of the context")
    if f.source in _IDS and f.per_request == (f.source == "item_id"):
        raise f.error(f"entity is {f.entity!r}; {f.source} is of another one")


def _check_list(f: Feature) -> None:
    _check_categorical(f)
    if f.source in _IDS:
        raise f.error(f"{f.source} is categorical or hashed, not list")


def _check_sequence(f: Feature) -> None:
    _check_outcome(f)
    _check_keyless(f)
    if f.entity != "user":
        raise f.error(f"entity is {f.entity!r}; a sequence is of the user")


def _check_count(f: Feature) -> None:
    _check_outcome(f)
    _check_key(f)


def _check_rate(f: Feature) -> None:
    if not f.source:
        raise f.error("source is ''; a rate wants an outcome")
    _check_outcome(f)
    _check_key(f)


_CHECKS = {
    "dense": _check_dense,
    "categorical": _check_categorical,
    "hashed": _check_categorical,
    "list": _check_list,
    "sequence": _check_sequence,
    "count": _check_count,
    "rate": _check_rate,
    "recency": _check_count,
}


def _check_column(f: Feature) -> None:
    if not f.source:
        raise f.error("source is ''; want the column it is made of")
    _check_keyless(f)


def _check_outcome(f: Feature) -> None:
    if f.source and not _OUTCOME.fullmatch(f.source):
        raise f.error(f"source is {f.source!r}; want y_TASK, m_MEASURE, log1p(m_MEASURE) or ''")
    if f.kind != "rate" and is_measure(f.source):
        raise f.error(f"source is {f.source!r}; a {f.kind} wants y_TASK or ''")


def _check_keyless(f: Feature) -> None:
    if f.key:
        raise f.error(f"key is {f.key}; a {f.kind} feature has none")
    if f.entity == "cross":
        raise f.error(f"a cross feature is a count, rate or recency, not {f.kind!r}")


def _check_key(f: Feature) -> None:
    for part in f.key:
        if part not in _IDS and not part.startswith(("user.", "item.")):
            raise f.error(f"key names {part!r}; want user_id, item_id, scenario, user.NAME or item.NAME")
    levels = {"item" if part.startswith("item") else "request" for part in f.key} or {"request"}
    level = "cross" if len(levels) > 1 else levels.pop()
    allowed = ("user", "context") if level == "request" else (level,)
    if f.entity not in allowed:
        raise f.error(f"entity is {f.entity!r}; its key makes it {' or '.join(allowed)}")


def _check_options(f: Feature) -> None:
    if (f.length > 0) != (f.kind in ("sequence", "list")):
        raise f.error(f"length is {f.length}; want 1 or more for lists and sequences, 0 elsewhere")
    if (f.buckets > 0) != (f.kind == "hashed"):
        raise f.error(f"buckets is {f.buckets}; want 1 or more for hashed features, 0 elsewhere")
    if f.transform == "age" and (f.kind != "dense" or f.source.startswith("time:")):
        raise f.error("transform 'age' is for dense features that are times")
    if f.transform == "log1p" and f.kind not in ("dense", "count"):
        raise f.error("transform 'log1p' is for dense features and counts")
    if f.window_hours and f.kind not in ("count", "rate"):
        raise f.error(f"window_hours is {f.window_hours}; a {f.kind} has no window")
    if not (f.window_hours >= 0 and f.smoothing >= 0 and f.min_count >= 1 and f.max_size >= 1):
        raise f.error("window_hours, smoothing want 0 or more; min_count, max_size 1 or more")


def is_measure(source: str) -> bool:
    """Whether an outcome may be unknown; records then count the events that have it."""
    return source.startswith(("m_", "log1p(m_"))


@lru_cache
def table_name(key: tuple[str, ...]) -> str:
    """("user_id",) → user, ("item.author",) → author, ("user_id", "item.author") → cross:user*author, () → all."""
    short = {"user_id": "user", "item_id": "item"}
    names = [short.get(part, part.removeprefix("item.").replace(".", "_")) for part in key]
    return "all" if not names else names[0] if len(names) == 1 else "cross:" + "*".join(names)
