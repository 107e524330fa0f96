"""The record of one key's past: a fixed-size row of int64, the same in an array and as bytes in a store.

A record depends on the set of its events, not on their order: counts and sums are whole numbers (sums in
units of 2^-20), last times are maxima, the latest items are the greatest by (time, item), and a window is a ring of 8
slots of one step of time each; only the latest step of the key and the 7 before it are kept.

Fields of a record, in order:

- ``count``, then for each sum its total; for a sum of a measure, which may be unknown, first the events that have it;
- for each of ``lasts`` the time of the last event (`NEVER`);
- for each window 8 slots of (step, count, sums…), the step being time // (hours / 8);
- for each of ``recents`` L times and L items, the latest first (`NEVER`, -1).

A *view* of a record at a moment has the count, the sums and the last times, then for each window its count and sums
over the current step and the 7 before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pygrade.features.feature import is_measure

Ints = NDArray[np.int64]

NEVER = -(2**62)  # time of the last event if there was none
SLOTS = 8  # steps of a window


@dataclass(frozen=True)
class EventRun:
    """Events of several keys: in order of key, within a key of time, then item."""

    time: Ints  # [e]
    item: Ints  # [e]
    values: Mapping[str, Ints]  # [e] of each outcome, fixed point
    observed: Mapping[str, Ints]  # [e] 1 if a measure is known
    start: Ints  # [U] first event of each key

    @cached_property
    def size(self) -> Ints:
        """[U] events of each key."""
        return np.diff(np.append(self.start, len(self.time)))

    @cached_property
    def place(self) -> Ints:
        """[e] the key of each event."""
        return np.repeat(np.arange(len(self.start)), self.size)

    def positive(self, source: str) -> NDArray[np.bool_]:
        """[e] whether an outcome is above 0; True for ""."""
        return self.values[source] > 0 if source else np.ones(len(self.time), np.bool_)


@dataclass(frozen=True)
class View:
    """What q keys show to features at one moment each."""

    values: Ints  # [q, V]
    recents: Mapping[str, Ints]  # source → [q, L] items, the latest first, -1 if there are fewer


@dataclass(frozen=True)
class Table:
    """One table of records and the fields that its records have."""

    name: str
    key: tuple[str, ...]
    sums: tuple[str, ...] = ()
    lasts: tuple[str, ...] = ()
    windows: tuple[tuple[float, tuple[str, ...]], ...] = ()
    recents: tuple[tuple[str, int], ...] = ()

    @cached_property
    def columns(self) -> dict[str, int]:
        """Place of each field of a view: "count", "y_click", "n:m_play" (events that have it), "last:y_click"; of a
        window of 24 hours "count@24.0", "y_click@24.0"."""
        names = [*_added(self.sums), *(f"last:{source}" for source in self.lasts)]
        for hours, sums in self.windows:
            names += [f"{name}@{hours}" for name in _added(sums)]
        return {name: place for place, name in enumerate(names)}

    @property
    def per_row(self) -> bool:
        """Whether its keys name items: a request asks it once for every row."""
        return any(part.startswith("item") for part in self.key)

    @cached_property
    def width(self) -> int:
        """int64 values of a record."""
        return len(self.empty)

    @cached_property
    def empty(self) -> Ints:
        """The record of a key without events."""
        parts = [[0] * len(_added(self.sums)), [NEVER] * len(self.lasts)]
        parts += [[NEVER, *[0] * len(_added(sums))] * SLOTS for _, sums in self.windows]
        parts += [[NEVER] * length + [-1] * length for _, length in self.recents]
        return np.array([value for part in parts for value in part], np.int64)

    # ---- bytes

    def encode(self, records: Ints) -> list[bytes]:
        """Each record [q, width] as little-endian bytes."""
        content, step = records.astype("<i8").tobytes(), 8 * self.width
        return [content[at : at + step] for at in range(0, len(content), step)]

    def decode(self, values: list[bytes | None]) -> Ints:
        """Records [q, width] of their bytes; the empty one for None. ValueError if the bytes are no such record."""
        empty = self.empty.astype("<i8").tobytes()
        content = b"".join([empty if value is None else value for value in values])
        if len(content) != len(values) * len(empty):
            wrong = next(len(v) for v in values if v is not None and len(v) != len(empty))
            raise ValueError(f"a record of table {self.name!r} has {wrong} bytes; this schema's have {len(empty)}")
        return np.frombuffer(content, "<i8").reshape(len(values), self.width)

    # ---- writing

    def merged(self, records: Ints, run: EventRun) -> Ints:
        """Records [U, width] of the run's keys with its events added."""
        new = records.copy()
        if not len(run.start):
            return new
        added = _increments(self.sums, run)
        at = added.shape[1]
        new[:, :at] += np.add.reduceat(added, run.start, axis=0)
        for source in self.lasts:
            latest = np.maximum.reduceat(np.where(run.positive(source), run.time, NEVER), run.start)
            np.maximum(new[:, at], latest, out=new[:, at])
            at += 1
        for hours, sums in self.windows:
            width = SLOTS * (1 + len(_added(sums)))
            _merge_ring(new[:, at : at + width].reshape(len(new), SLOTS, width // SLOTS), step_of(hours), sums, run)
            at += width
        for source, length in self.recents:
            _merge_recents(new[:, at : at + 2 * length], length, run.positive(source), run)
            at += 2 * length
        return new

    # ---- reading

    def view(self, records: Ints, time: Ints) -> View:
        """The views of the records [q, width] at the times [q]."""
        at = len(_added(self.sums)) + len(self.lasts)
        parts = [records[:, :at]]
        for hours, sums in self.windows:
            width = SLOTS * (1 + len(_added(sums)))
            slots = records[:, at : at + width].reshape(len(records), SLOTS, width // SLOTS)
            now = (time // step_of(hours))[:, None]
            inside = (slots[:, :, 0] > now - SLOTS) & (slots[:, :, 0] <= now)
            parts.append((slots[:, :, 1:] * inside[:, :, None]).sum(1))
            at += width
        recents = {}
        for source, length in self.recents:
            recents[source] = records[:, at + length : at + 2 * length]
            at += 2 * length
        return View(np.concatenate(parts, 1), recents)

    def view_with(self, records: Ints, run: EventRun, group: Ints, time: Ints) -> View:
        """The views of the keys at the times [q], with the run's earlier events added to the records.

        group[q] is the key's place in the run, -1 if the run has none of its events. Only events with a time strictly
        before the query's count; none may be older than an event in the records.
        """
        base = self.view(records, time)
        values = base.values.copy()
        if not len(run.time):
            return View(values, base.recents)
        low = int(run.time.min())
        span = max(int(run.time.max()), int(time.max(initial=low))) - low + 1
        code = run.place * span + (run.time - low)
        first = np.where(group >= 0, run.start[group], 0)

        def until(moment: Ints) -> Ints:
            """[q] the place in the run behind the key's events before the moment."""
            places = np.searchsorted(code, group * span + (moment - low).clip(0), side="left")
            return np.where(group >= 0, np.maximum(places, first), 0)

        stop = until(time)
        running = _running(_increments(self.sums, run))
        at = running.shape[1]
        values[:, :at] += running[stop] - running[first]
        for source in self.lasts:
            latest = np.maximum.accumulate(np.where(run.positive(source), np.arange(len(run.time)), -1))[stop - 1]
            seen = (stop > first) & (latest >= first)
            values[:, at] = np.where(seen, np.maximum(values[:, at], run.time[latest]), values[:, at])
            at += 1
        for hours, sums in self.windows:
            step = step_of(hours)
            running = _running(_increments(sums, run))
            begin = until((time // step - SLOTS + 1) * step)
            values[:, at : at + running.shape[1]] += running[stop] - running[begin]
            at += running.shape[1]
        recents = {
            source: _recents_with(base.recents[source], run.positive(source), run.item, first, stop)
            for source, _ in self.recents
        }
        return View(values, recents)


def step_of(hours: float) -> int:
    """Milliseconds of one of the 8 steps of a window."""
    return max(round(hours * 3_600_000 / SLOTS), 1)


def _added(sums: tuple[str, ...]) -> list[str]:
    """Names of the additive fields."""
    return ["count", *(name for s in sums for name in ([f"n:{s}", s] if is_measure(s) else [s]))]


def _increments(sums: tuple[str, ...], run: EventRun) -> Ints:
    """[e, A] the increments of the additive fields by each event."""
    columns = [np.ones(len(run.time), np.int64)]
    for source in sums:
        columns += [run.observed[source], run.values[source]] if source in run.observed else [run.values[source]]
    return np.stack(columns, 1)


def _running(added: Ints) -> Ints:
    """[e + 1, A] sums of the first events."""
    running = np.zeros((len(added) + 1, added.shape[1]), np.int64)
    np.cumsum(added, axis=0, out=running[1:])
    return running


def _merge_ring(slots: Ints, step: int, sums: tuple[str, ...], run: EventRun) -> None:
    """Adds the run to the slots [U, SLOTS, 1 + A] of its keys, in place."""
    tag = run.time // step
    head = np.flatnonzero(np.append(True, (np.diff(run.place) != 0) | (np.diff(tag) != 0)))  # one step of one key
    total = np.add.reduceat(_increments(sums, run), head, axis=0)
    row, tag = run.place[head], tag[head]
    newest = np.maximum(slots[:, :, 0].max(1), tag[np.append(np.flatnonzero(np.diff(row)), len(row) - 1)])
    stale = slots[:, :, 0] <= newest[:, None] - SLOTS  # outside of every window from now on
    slots[stale] = [NEVER, *[0] * (slots.shape[2] - 1)]
    kept = tag > newest[row] - SLOTS
    row, tag, total = row[kept], tag[kept], total[kept]
    old = slots[row, tag % SLOTS]
    later = tag > old[:, 0]
    content = np.where((tag == old[:, 0])[:, None], old[:, 1:] + total, np.where(later[:, None], total, old[:, 1:]))
    slots[row, tag % SLOTS] = np.concatenate([np.maximum(tag, old[:, 0])[:, None], content], 1)


def _merge_recents(kept: Ints, length: int, mask: NDArray[np.bool_], run: EventRun) -> None:
    """Merges the masked events into kept [U, 2·L], the times and items of the latest, in place."""
    chosen = np.flatnonzero(mask)
    row = run.place[chosen]
    behind = np.searchsorted(row, row, side="right") - np.arange(len(row)) - 1  # how many of the key follow
    chosen, row, behind = chosen[behind < length], row[behind < length], behind[behind < length]
    rows = np.unique(row)
    local = np.searchsorted(rows, row)
    times = np.concatenate([np.full((len(rows), length), NEVER), kept[rows, :length]], 1)
    items = np.concatenate([np.full((len(rows), length), -1), kept[rows, length:]], 1)
    times[local, behind], items[local, behind] = run.time[chosen], run.item[chosen]
    order = np.lexsort((items, times), axis=-1)[:, ::-1][:, :length]
    kept[rows, :length] = np.take_along_axis(times, order, 1)
    kept[rows, length:] = np.take_along_axis(items, order, 1)


def _recents_with(base: Ints, mask: NDArray[np.bool_], item: Ints, first: Ints, stop: Ints) -> Ints:
    """[q, L] the masked items of the run's places first … stop − 1, the latest first, followed by base [q, L]."""
    length = base.shape[1]
    before = np.append(0, np.cumsum(mask))  # masked events among the first
    items = np.append(item[mask], -1)
    begin, end = before[first], before[stop]
    ahead = np.arange(length)
    place = end[:, None] - 1 - ahead
    old = ahead - (end - begin)[:, None]
    return np.where(place >= begin[:, None], items[place.clip(0)], np.take_along_axis(base, old.clip(0), 1))
