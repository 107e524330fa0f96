"""Joins feedback events to the pages that were served.

Events come late, out of order, more than once, and before their page; what a join returns depends on the set of pages
and events alone.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pygrade._typing import Bools
from pygrade.logs import Logs, concatenate, read_logs, validate
from pygrade.logs.parquet import write_part

Key = int | str
_IDS = ("request_id", "user_id", "item_id")
PAGES, EVENTS = "pages.parquet", "events.json"  # of a saved join


class Event(NamedTuple):
    """Feedback on one item of a served page. Ids are integers or strings, of numpy or plain, as in the page's log."""

    event_id: Key  # the same each time it is delivered
    request_id: Key  # of the page
    item_id: Key  # an item of that page
    task: str  # one of the policy's tasks
    amount: float = 1.0  # finite, 0 or more
    timestamp: int | None = None  # ms since 1970; None: not later than the page's feedback is waited for


class FeedbackJoin:
    """Pages whose feedback is still coming, and the events received for them and for pages not served yet.

    ``max_pending_events``: events kept whose page is not known; the oldest requests' are dropped beyond.
    ``max_amount``: the largest amount of one event. ``delay_ms``: how long after its page an event may happen; None:
    any time. ``single_tasks``: their events on one item of a page count at most 1 together. ``counters``: events,
    repeated, late (after ``delay_ms``, or received when its page had left), unknown (dropped without a page),
    not_on_page, joined, capped (items of a page with more of a single task), removed_pages.
    """

    def __init__(
        self,
        tasks: tuple[str, ...],
        max_pending_events: int,
        max_amount: float,
        delay_ms: int | None = None,
        single_tasks: Iterable[str] = (),
    ) -> None:
        self.tasks = tasks
        self.max_pending_events = max_pending_events
        self.max_amount = max_amount
        self.delay_ms = delay_ms
        self.single = np.isin(tasks, list(single_tasks))  # [T]
        self.counters: Counter[str] = Counter()
        self.pages: list[Logs] = []
        self.joined: AbstractSet[Key] = set()  # requests whose events are late from now on
        self._served: dict[Key, dict[Key, Event]] = {}  # request → event id → event
        self._unknown: dict[Key, dict[Key, Event]] = {}  # the same for requests without a page
        self._num_unknown = 0

    @property
    def events(self) -> list[Event]:
        """All events that wait."""
        return [event for group in (self._served, self._unknown) for own in group.values() for event in own.values()]

    def serve(self, logs: Logs) -> None:
        """Add served pages; a page that is refused changes nothing."""
        if logs.timestamp is None or logs.exploration is None or logs.concentration is None:
            raise ValueError(
                "logs have no timestamp, exploration or concentration; expected `Page.log_rows(timestamp=…)`"
            )
        if logs.tasks != self.tasks:
            raise ValueError(f"logs have tasks {', '.join(logs.tasks)}; expected {', '.join(self.tasks)}")
        validate(logs, "the served pages")
        for name in _IDS if self.pages else ():
            now, before = getattr(logs, name).dtype.kind, getattr(self.pages[0], name).dtype.kind
            if (now in "iu") != (before in "iu"):
                raise ValueError(f"{name} is {_kind(now)}, in earlier pages {_kind(before)}; expected one kind of id")
        ids = [as_key("request_id", value) for value in logs.request_id]
        again = {key for key in ids if key in self._served or key in self.joined}
        if again:
            raise ValueError(f"request_id repeats: {sorted(map(str, again))[:3]}; expected each request once")
        self.pages.append(logs)
        for key in ids:
            self._served[key] = self._unknown.pop(key, {})
            self._num_unknown -= len(self._served[key])

    def unseen(self, logs: Logs) -> Bools:
        """Return whether the request was not served here, as far as is still known, bool, of shape [R]."""
        keys = (as_key("request_id", value) for value in logs.request_id)
        return np.array([key not in self._served and key not in self.joined for key in keys], bool)

    def feedback(self, events: Iterable[Event]) -> None:
        """Add events; if one is malformed none of them is taken, and the ValueError or TypeError names it."""
        for event in [self._checked(event) for event in events]:
            if event.request_id in self.joined:
                self.counters["late"] += 1
                continue
            served = event.request_id in self._served
            own = (self._served if served else self._unknown).setdefault(event.request_id, {})
            repeated = event.event_id in own
            self.counters["repeated" if repeated else "events"] += 1
            self._num_unknown += not (served or repeated)
            own[event.event_id] = event
        while self._num_unknown > self.max_pending_events:
            lost = len(self._unknown.pop(next(iter(self._unknown))))
            self.counters["unknown"] += lost
            self._num_unknown -= lost

    def forget(self, requests: Iterable[Key] | None = None, before: int | None = None) -> None:
        """Drop the events that wait for these requests, or that happened before a time (ms), without their page; they
        count as unknown."""
        for request in list(self._unknown) if requests is None else requests:
            own = self._unknown.get(request, {})
            late = [key for key, event in own.items() if before is None or (event.timestamp or before) < before]
            for key in late:
                del own[key]
            if not own:
                self._unknown.pop(request, None)
            self._num_unknown -= len(late)
            self.counters["unknown"] += len(late)

    def remove(self, users: Mapping[str, int]) -> list[Key]:
        """Drop the waiting pages of `removed_pages`, with their events; returns their requests."""
        requests: list[Key] = []
        for number, logs in enumerate(self.pages):
            if (gone := removed_pages(logs, users)).any():
                requests += [as_key("request_id", value) for value in logs.request_id[gone]]
                self.pages[number] = logs.select(np.flatnonzero(~gone))
        self.pages = [logs for logs in self.pages if logs.num_requests]
        for request in requests:
            del self._served[request]
            self.counters["removed_pages"] += 1
        return requests

    def complete_pages(self, until: int) -> Logs | None:
        """The pages served up to ``until`` (ms) with their feedback, by time and request; None if there is none.

        They leave the join; nothing changes if this raises.
        """
        pages = concatenate(self.pages) if self.pages else None
        if pages is None or pages.timestamp is None or not (pages.timestamp <= until).any():
            return None
        ripe = pages.timestamp <= until
        logs = pages.select(np.flatnonzero(ripe))
        order = np.lexsort((logs.request_id, pages.timestamp[ripe]))
        logs = logs.select(order)
        feedback, counted, taken = logs.feedback.astype(np.float64), Counter[str](), []
        for r, value in enumerate(logs.request_id):
            request = as_key("request_id", value)
            taken.append(request)
            own = self._served[request]
            if not own:
                continue
            rows = range(int(logs.offsets[r]), int(logs.offsets[r + 1]))
            row_of = {as_key("item_id", logs.item_id[row]): row for row in rows if logs.position[row] >= 0}
            last = math.inf if self.delay_ms is None else int(pages.timestamp[ripe][order[r]]) + self.delay_ms
            for event in sorted(own.values(), key=lambda event: str(event.event_id)):  # sums keep one order
                row = row_of.get(event.item_id)
                if event.timestamp is not None and event.timestamp > last:
                    counted["late"] += 1
                elif row is None:
                    counted["not_on_page"] += 1
                else:
                    counted["joined"] += 1
                    feedback[row, self.tasks.index(event.task)] += event.amount
        capped = self.single & (feedback > 1)
        counted["capped"] += int(capped.sum())
        feedback[capped] = 1.0
        rest = [] if ripe.all() else [pages.select(np.flatnonzero(~ripe))]
        delays = () if self.delay_ms is None else (self.delay_ms,)
        logs = replace(logs, feedback=feedback.astype(np.float32), feedback_delays=delays)
        self.pages = rest
        for request in taken:
            del self._served[request]
        self.counters += counted  # leaves out zeros
        return logs

    def save(self, folder: Path) -> None:
        """Write the pages and events that wait into an empty directory."""
        if self.pages:
            write_part(vars(concatenate(self.pages)), folder / PAGES)
        (folder / EVENTS).write_text(json.dumps(self.events), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Add what was saved; the counters then count its events again."""
        if (folder / PAGES).exists():
            self.serve(read_logs(folder / PAGES))
        self.feedback(Event(*values) for values in json.loads((folder / EVENTS).read_bytes()))

    def _checked(self, event: Event) -> Event:
        ids = {
            f"{name}_id": as_key(f"{name}_id", getattr(event, f"{name}_id")) for name in ("event", "request", "item")
        }
        if event.task not in self.tasks:
            raise ValueError(
                f"task is {event.task!r} in event {event.event_id!r}; expected one of {', '.join(self.tasks)}"
            )
        amount = event.amount
        if isinstance(amount, bool | str | bytes) or not isinstance(amount, int | float | np.number):
            raise TypeError(f"amount is {amount!r} in event {event.event_id!r}; expected a number")
        if not (math.isfinite(amount) and 0 <= amount <= self.max_amount):
            raise ValueError(f"amount is {amount} in event {event.event_id!r}; expected 0 to {self.max_amount:g}")
        for name in ("request_id", "item_id") if self.pages else ():
            kind = getattr(self.pages[0], name).dtype.kind
            if isinstance(ids[name], int) != (kind in "iu"):
                raise ValueError(
                    f"{name} is {ids[name]!r} in event {event.event_id!r}; expected {_kind(kind)}, as the pages"
                )
        time = event.timestamp
        if time is not None and (isinstance(time, bool) or not isinstance(time, int | np.integer)):
            raise TypeError(f"timestamp is {time!r} in event {event.event_id!r}; expected ms since 1970, or None")
        return Event(**ids, task=event.task, amount=float(amount), timestamp=None if time is None else int(time))


def removed_pages(logs: Logs, users: Mapping[str, int]) -> Bools:
    """Return whether each page [R] was served before its user was removed; users: times (ms) by the texts of ids."""
    assert logs.timestamp is not None
    ids = logs.user_id.astype(str)
    gone = np.isin(ids, list(users))
    gone[gone] = [time <= users[user] for user, time in zip(ids[gone], logs.timestamp[gone], strict=True)]
    return gone


def as_key(name: str, value: Any) -> Key:
    """An id as a plain integer or string; TypeError for anything else."""
    key = value.item() if isinstance(value, np.generic) else value
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; expected an integer or a string")
    return key


def _kind(code: str) -> str:
    return "an integer" if code in "iu" else "a string"
