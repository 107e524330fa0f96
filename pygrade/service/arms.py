"""Lifts of a service's arms over the first one, from its pages and their feedback.

Each user counts once, in the arm that served them first: a user that another arm served later keeps that arm, and the
later pages are left out and counted. The intervals hold at any time, so the figures may be looked at every minute.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._util.serialization import to_builtins
from pygrade.evaluation.abtest import UserMetric, read_test, sample_ratio
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.training.feedback import Event, FeedbackJoin

VALUE = "value"  # the metric: what the feedback of a request is worth
_MIN_USERS = 100  # of an arm: with fewer, the intervals are too narrow
_MAX_EVENTS = 1_000_000  # that wait for their page


class ArmReadings:
    """Pages, requests and feedback by user."""

    def __init__(
        self,
        tasks: tuple[str, ...],
        delay_ms: int,
        max_amount: float,
        shares: Mapping[str, float],
        planned_users: int,
        single_tasks: Sequence[str] = (),
    ) -> None:
        """shares: planned, by arm, the control first; planned_users: of all arms, at which the intervals are best;
        single_tasks: see `FeedbackJoin`.
        """
        self.tasks, self.shares, self.planned_users = tasks, dict(shares), planned_users
        self.counters: Counter[str] = Counter()  # requests, crossed, unknown_arm
        self._join = FeedbackJoin(tasks, _MAX_EVENTS, max_amount, delay_ms, single_tasks)
        self._place: dict[str, int] = {}  # user → row
        self._arm: list[int] = []
        self._sums = np.zeros((1024, 2 + len(tasks)))  # requests, value, events of each task

    def serve(self, logs: Logs) -> None:
        """Add pages; repeated requests are left out."""
        fresh = self._join.unseen(logs)
        if fresh.any():
            self._join.serve(logs.select(np.flatnonzero(fresh)).shown_only())

    def feedback(self, events: Iterable[Event]) -> None:
        """Add feedback; ValueError or TypeError if an event is malformed."""
        self._join.feedback(events)

    def remove(self, users: Mapping[str, int]) -> None:
        """Drop the pages that wait of users that were removed; sums of theirs stay."""
        self._join.remove(users)

    def update(self, now: int) -> None:
        """Count the pages whose feedback is complete at a time (ms)."""
        assert self._join.delay_ms is not None
        logs = self._join.complete_pages(now - self._join.delay_ms)
        if logs is None:
            return
        arms = np.full(logs.num_requests, next(iter(self.shares))) if logs.arm is None else logs.arm
        values = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1])
        events = np.add.reduceat(logs.feedback, logs.offsets[:-1])
        names = list(self.shares)
        for r, user in enumerate(map(str, logs.user_id)):
            if arms[r] not in self.shares:
                self.counters["unknown_arm"] += 1
                continue
            arm = names.index(str(arms[r]))
            row = self._place.setdefault(user, len(self._arm))
            if row == len(self._arm):
                self._arm.append(arm)
                if row == len(self._sums):
                    self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
            if self._arm[row] != arm:
                self.counters["crossed"] += 1
                continue
            self.counters["requests"] += 1
            self._sums[row] += np.r_[1.0, values[r], events[r]]

    def record(self, now: int) -> dict[str, Any]:
        """The state of the test as JSON; ``reason`` says why there are no lifts."""
        names, arm = list(self.shares), np.array(self._arm, np.int64)
        sums = self._sums[: len(arm)]
        users = np.bincount(arm, minlength=len(names))
        metrics = {name: UserMetric(sums[:, 1 + c], sums[:, 0]) for c, name in enumerate((VALUE, *self.tasks))}
        record: dict[str, Any] = {
            "time": now,
            "control": names[0],
            "planned_users": self.planned_users,
            "users": dict(zip(names, users.tolist(), strict=True)),
            "counters": dict(self.counters),
            "sample_ratio": None,
            "values": {},
            "lifts": {},
            "reason": self._reason(users, names),
        }
        if record["reason"] is not None:
            return record
        record["sample_ratio"] = to_builtins(sample_ratio(users.tolist(), list(self.shares.values())))
        record["values"] = {
            name: {
                label: intervals.ratio(m.numerator[rows], m.denominator[rows], np.flatnonzero(rows)).to_dict()
                for label, m in metrics.items()
            }
            for name, rows in ((name, arm == a) for a, name in enumerate(names))
        }
        lively = {
            label: metric
            for label, metric in metrics.items()
            if all((metric.numerator[arm == a] > 0).sum() > 1 for a in range(len(names)))
        }
        if not lively:
            return record | {"reason": "no arm has events yet"}
        lifts = read_test(arm, names, lively, self.planned_users)
        record["lifts"] = {
            name: {label: to_builtins(vars(lift)) for label, lift in arms.items()} for name, arms in lifts.items()
        }
        return record

    def _reason(self, users: Any, names: Sequence[str]) -> str | None:
        if len(names) < 2:
            return "the service has one arm"
        few = [f"{name} has {count}" for name, count in zip(names, users, strict=True) if count < _MIN_USERS]
        return f"expected {_MIN_USERS} users of each arm; {', '.join(few)}" if few else None

    def save(self, folder: Path) -> None:
        """Writes everything into an empty directory."""
        self._join.save(folder)
        users = np.array(list(self._place)) if self._place else np.zeros(0, "U1")
        np.savez(folder / "users.npz", user=users, arm=np.array(self._arm), sums=self._sums[: len(self._arm)])
        record = {"counters": dict(self.counters), "arms": list(self.shares), "tasks": list(self.tasks)}
        (folder / "arms.json").write_text(json.dumps(record), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Continues what was saved; ValueError if it was of other arms or tasks."""
        record = json.loads((folder / "arms.json").read_text(encoding="utf-8"))
        if record["arms"] != list(self.shares) or record["tasks"] != list(self.tasks):
            raise ValueError(f"{folder} is of arms {', '.join(record['arms'])}; expected {', '.join(self.shares)}")
        self.counters.update(record["counters"])
        self._join.load(folder)
        with np.load(folder / "users.npz") as arrays:
            self._place = {str(user): row for row, user in enumerate(arrays["user"])}
            self._arm = arrays["arm"].tolist()
            sums = arrays["sums"]
        self._sums = np.concatenate([sums, np.zeros((max(1024, len(sums)), sums.shape[1]))])
