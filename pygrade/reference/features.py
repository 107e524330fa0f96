"""The features of one request from the feedback that is known of the past, in float64.

Every feature is defined on the set of events: nothing is kept between requests. ``schema`` is anything with the
``features`` and ``utc_offset_hours`` of `pygrade.features.FeatureSchema`; codes stand for texts and whole numbers, and
`NULL` for what is missing. A count, rate or recency of a key reads the events with the same codes; those with a missing
code count nowhere. Sums are in fixed point, so that they are the same in every order of the events.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NULL = -(2**63)
SCALE = float(2**20)  # sums are in units of 1 / SCALE
LARGEST = float(2**31)  # measures are limited to ± this
STEPS = 8  # of a window: the current one and the 7 before it
HOUR = 3_600_000  # ms
LN2, HALF_ROOT = 0.6931471805599453, 0.7071067811865476


@dataclass(frozen=True)
class Events:
    """e shown rows with their outcomes."""

    time: Ints  # [e] ms of the outcome
    item_id: Ints  # [e]
    parts: Mapping[str, Ints]  # [e] codes of each part of a key: user_id, item_id, scenario, user.NAME, item.NAME
    outcomes: Mapping[str, Floats]  # [e] of each column y_TASK and m_MEASURE, NaN if unknown


@dataclass(frozen=True)
class Request:
    """A request with n candidates, and their attributes by column and kind: float, code, codes of a list, or floats of
    a vector."""

    time: int  # ms
    user_id: int
    scenario: int  # code
    context: Mapping[str, float | int]  # a number or code of each column
    user: Mapping[tuple[str, str], Any]  # [1, length] each
    item_id: Ints  # [n]
    items: Mapping[tuple[str, str], Any]  # [n, length] each


def features_of(schema: Any, events: Events, request: Request) -> dict[str, NDArray[Any]]:
    """request_dense [1, Du], request_ids [1, Fu], sequences [1, L], item_dense [n, Di], item_ids [n, Fi] and
    cross_dense [n, Dx].

    Dense values are float32, rounded once; ids are codes.
    """
    rows = len(request.item_id)
    made: dict[str, list[NDArray[Any]]] = {}
    for f in schema.features:
        owner = "request" if f.entity in ("user", "context") else f.entity
        if f.kind == "sequence":
            made.setdefault("sequences", []).append(latest_items(f, events, request))
        elif f.kind in ("categorical", "hashed", "list"):
            made.setdefault(f"{owner}_ids", []).append(codes_of(f, request))
        elif f.kind == "vector":
            attributes = request.user if f.entity == "user" else request.items
            made.setdefault(f"{owner}_dense", []).append(attributes[f.source, "floats"])
        else:
            value = history(f, events, request) if f.key or f.kind in ("count", "rate", "recency") else None
            number = dense(f, request, schema.utc_offset_hours) if value is None else value
            made.setdefault(f"{owner}_dense", []).append(rounded(number)[:, None])
    empty: dict[str, NDArray[Any]] = {"sequences": np.zeros((1, 0), np.int64)}
    for owner, count in (("request", 1), ("item", rows)):
        empty[f"{owner}_dense"] = np.zeros((count, 0), np.float32)
        empty[f"{owner}_ids"] = np.zeros((count, 0), np.int64)
    empty["cross_dense"] = np.zeros((rows, 0), np.float32)
    return {name: np.concatenate([none, *made.get(name, [])], 1) for name, none in empty.items()}


# ---- what is no history


def codes_of(f: Any, request: Request) -> Ints:
    """Codes [q, F] of a categorical, hashed or list feature."""
    plain = {"user_id": request.user_id, "scenario": request.scenario}
    if f.source in plain:
        return np.array([[plain[f.source]]], np.int64)
    if f.source == "item_id":
        return request.item_id[:, None]
    if f.entity == "context":
        return np.array([[request.context[f.source]]], np.int64)
    attributes = request.user if f.entity == "user" else request.items
    codes: Ints = attributes[f.source, "codes" if f.kind == "list" else "code"][:, : max(f.length, 1)]
    return codes


def dense(f: Any, request: Request, utc_offset_hours: float) -> Floats:
    """Numbers [q] of an attribute, a context column or the local time."""
    if f.source.startswith("time:"):
        local = np.array([request.time], np.int64) + round(utc_offset_hours * HOUR)
        angle = 2.0 * math.pi / 1440.0 * int(local[0] // 60_000 % 1440)
        weekday = int((local[0] // 86_400_000 + 3) % 7)  # 1970-01-01 was a Thursday; Monday is 0
        shown = {"hour_sin": math.sin(angle), "hour_cos": math.cos(angle), "weekend": float(weekday >= 5)}
        number = np.array([shown[f.source.removeprefix("time:")]])
    elif f.entity == "context":
        number = np.array([request.context[f.source]], np.float64)
    else:
        attributes = request.user if f.entity == "user" else request.items
        number = attributes[f.source, "float"][:, 0]
    if f.transform == "age":
        number = (float(request.time) - number) / HOUR
    return number if f.transform == "none" else log1p(positive(number))


# ---- histories


def history(f: Any, events: Events, request: Request) -> Floats:
    """Counts, rates and recencies [q]."""
    own = same_key(f.key, events, request)
    if f.kind == "recency":
        values, _ = fixed_point(f.source, events)
        counted = own & (values > 0) if f.source else own
        last = np.where(counted, events.time, np.iinfo(np.int64).min).max(1, initial=np.iinfo(np.int64).min)
        hours = (np.full(len(last), request.time, np.int64) - last) / HOUR
        return log1p(positive(np.where(counted.any(1), hours, np.nan)))
    inside = own & in_window(f.window_hours, own, events, request)
    if f.kind == "rate":
        prior = mean(f.source, np.ones((1, len(events.time)), np.bool_), events, 0.0, np.zeros(1))
        if f.entity == "cross" and "user_id" in f.key:
            prior = mean(f.source, same_key(("user_id",), events, request), events, f.smoothing, prior)
        return mean(f.source, inside, events, f.smoothing, prior)
    values, _ = fixed_point(f.source, events)
    count = inside @ values / SCALE if f.source else inside.sum(1).astype(np.float64)
    return log1p(positive(count)) if f.transform == "log1p" else count


def latest_items(f: Any, events: Events, request: Request) -> Ints:
    """The last items [1, L] that the user had a (positive) event with, the greatest by time, then id; -1: none."""
    counted = same_key(("user_id",), events, request)[0]
    if f.source:
        counted &= fixed_point(f.source, events)[0] > 0
    order = np.lexsort((events.item_id[counted], events.time[counted]))[::-1][: f.length]
    items = np.full((1, f.length), -1, np.int64)
    items[0, : len(order)] = events.item_id[counted][order]
    return items


def mean(source: str, inside: NDArray[np.bool_], events: Events, weight: float, prior: Floats) -> Floats:
    """(s + m·g) / (n + m) [q] of the events inside [q, e]: n have the outcome, s is their sum, m the weight, g the
    prior; g if n + m is 0."""
    values, known = fixed_point(source, events)
    total = (inside & known).sum(1) + weight
    summed = inside @ values / SCALE + weight * prior
    return np.where(total > 0.0, summed / np.where(total > 0.0, total, 1.0), prior)


def same_key(key: tuple[str, ...], events: Events, request: Request) -> NDArray[np.bool_]:
    """[q, e] whether an event counts for the key of the request, q = 1, or for that of a row, q = n."""
    same = np.ones((len(request.item_id) if any(p.startswith("item") for p in key) else 1, len(events.time)), np.bool_)
    for part in key:
        owner, _, column = part.partition(".")
        if column:
            asked = (request.user if owner == "user" else request.items)[column, "code"][:, 0]
        else:
            plain = {"user_id": [request.user_id], "scenario": [request.scenario], "item_id": request.item_id}
            asked = np.asarray(plain[part], np.int64)
        same &= (asked[:, None] == events.parts[part]) & (asked[:, None] != NULL)
    return same


def in_window(hours: float, own: NDArray[np.bool_], events: Events, request: Request) -> NDArray[np.bool_]:
    """[q, e] whether an event lies in the current step of a window or in one of the 7 before it. A key keeps only the
    steps of a window before its own latest event."""
    if not hours:
        return np.ones_like(own)
    size = max(round(hours * HOUR / STEPS), 1)
    step, now = events.time // size, np.array([request.time], np.int64) // size
    newest = np.where(own, step, np.iinfo(np.int64).min + STEPS).max(1, initial=np.iinfo(np.int64).min + STEPS)
    inside: NDArray[np.bool_] = (step <= now) & (step > now - STEPS) & (step > newest[:, None] - STEPS)
    return inside


def fixed_point(source: str, events: Events) -> tuple[Ints, NDArray[np.bool_]]:
    """The outcome [e] in units of 1 / SCALE, 0 if unknown, and whether it is known; of "" ones."""
    if not source:
        return np.full(len(events.time), int(SCALE)), np.ones(len(events.time), np.bool_)
    numbers = events.outcomes[source.removeprefix("log1p(").removesuffix(")")]
    known = ~np.isnan(numbers)
    numbers = np.where(known, numbers, 0.0)
    if source.startswith("log1p("):
        numbers = log1p(positive(numbers))
    return np.rint(np.clip(numbers, -LARGEST, LARGEST) * SCALE).astype(np.int64), known


# ---- numbers


def positive(x: Floats) -> Floats:
    """max(x, 0), NaN for NaN."""
    return np.where(x < 0.0, 0.0, x)


def log1p(x: Floats) -> Floats:
    """log(1 + x) for x ≥ 0, NaN for NaN and infinity: only + − × ÷, so the bits depend on x alone.

    1 + x = m · 2^e with m in [√½, √2); log m = 2 (s + s³/3 + s⁵/5 + …), s = (m − 1) / (m + 1). A library's vectorized
    logarithm may differ in the last bit between machines, and between the body and the tail of an array. The error is
    below 4e-16 of the result from x = 1 on, and absolute below it (1 + x is rounded).
    """
    mantissa, exponent = np.frexp(1.0 + x)
    small = mantissa < HALF_ROOT
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    with np.errstate(invalid="ignore"):  # of infinity
        s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.full_like(square, 1.0 / 21.0)
    for odd in range(19, 0, -2):
        series = series * square + 1.0 / odd
    result: Floats = (exponent - small) * LN2 + 2.0 * s * series
    return result


def rounded(x: Floats) -> NDArray[np.float32]:
    """As float32, infinite beyond it; one NaN, whatever the processor makes of it."""
    with np.errstate(over="ignore"):
        values = x.astype(np.float32)
    values[np.isnan(values)] = np.nan
    return values
