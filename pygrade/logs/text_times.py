"""Text that stands for times: ISO 8601 with and without zones, and dates as they are written by country."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.logs.text_numbers import is_unknown

_SPELLINGS = (  # what ISO 8601 writes otherwise
    (r"^(\d{4})[/.](\d{2})[/.](\d{2})", r"\1-\2-\3"),
    (r"(\d)\s*([zZ]|UTC|GMT)$", r"\1Z"),
    (r"(:\d{2}(\.\d+)?)\s+([+-]\d{2}:?\d{2})$", r"\1\3"),
    (r"(:\d{2}),(\d+)", r"\1.\2"),
)
_ZONED = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}(:\d{2}(:\d{2}(\.\d{1,9})?)?)?(Z|[+-]\d{2}(:?\d{2})?)$"
_LOCAL = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?)?$"
_DAYS = {"day.month.year": "%d.%m.%Y", "day/month/year": "%d/%m/%Y", "month/day/year": "%m/%d/%Y"}
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


class TextTimes(NamedTuple):
    """Times of texts [n]."""

    millis: NDArray[np.int64]  # since 1970; 0 where there is none
    timed: NDArray[np.bool_]
    wrong: NDArray[np.bool_]  # neither a time nor a word for a missing one
    local: NDArray[np.bool_]  # names no zone, and is taken as UTC
    form: str  # of dates by country: the order of day and month


def read_times(texts: Any) -> TextTimes:
    """The times of an Arrow array of texts.

    Days before months, or after, are read if all dates of that kind are possible one way only.
    """
    pa, pc = require("pyarrow"), require("pyarrow.compute")
    texts = pc.utf8_trim_whitespace(texts)
    for written, iso in _SPELLINGS:
        texts = pc.replace_substring_regex(texts, written, iso)
    zoned, local = (np.asarray(pc.match_substring_regex(texts, form)) for form in (_ZONED, _LOCAL))
    unknown = np.array([is_unknown(text) for text in texts.to_pylist()], bool)
    millis, timed, form = np.zeros(len(texts), np.int64), np.zeros(len(texts), bool), ""
    for rows, zone in ((zoned, "UTC"), (local, None)):
        millis[rows], timed[rows] = _iso(texts.filter(pa.array(rows)), zone)
    others = ~(zoned | local | unknown)
    if others.any():
        form, millis[others], timed[others] = _by_country(texts.filter(pa.array(others)))
    return TextTimes(millis, timed, ~timed & ~unknown, timed & ~zoned, form)


def are_time_texts(texts: Any) -> bool:
    """Return whether most of these texts are times, or dates that could be of two days."""
    times = read_times(texts)
    return times.form.endswith("?") or bool(times.timed.sum() > times.wrong.sum() * 4)


def _iso(texts: Any, zone: str | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    pa = require("pyarrow")
    try:
        return _millis(texts.cast(pa.timestamp("ns", zone)))
    except pa.ArrowException:  # a month 13, say
        parts = []
        for text in texts:
            try:
                parts.append(text.cast(pa.timestamp("ns", zone)).cast(pa.timestamp("ms"), safe=False))
            except pa.ArrowException:
                parts.append(pa.scalar(None, pa.timestamp("ms")))
        return _millis(pa.array(parts, pa.timestamp("ms")))


def _by_country(texts: Any) -> tuple[str, NDArray[np.int64], NDArray[np.bool_]]:
    """Order of day and month, times, and which are known: of the order in which most are, if there is one only."""
    pc = require("pyarrow.compute")
    readings = {}
    for name, day in _DAYS.items():
        clocks = [pc.strptime(texts, format=day + clock, unit="ms", error_is_null=True) for clock in _CLOCKS]
        readings[name] = _millis(pc.coalesce(*clocks))
    most = max(timed.sum() for _, timed in readings.values())
    best = [name for name, (_, timed) in readings.items() if timed.sum() == most]
    if most and len(best) == 1:
        return (best[0], *readings[best[0]])
    return "day or month first?" if most else "", np.zeros(len(texts), np.int64), np.zeros(len(texts), bool)


def _millis(times: Any) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    pa, pc = require("pyarrow"), require("pyarrow.compute")
    numbers = times.cast(pa.timestamp("ms", times.type.tz), safe=False).cast(pa.int64())
    return np.asarray(pc.fill_null(numbers, 0), np.int64), np.asarray(times.is_valid())
