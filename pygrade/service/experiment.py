"""Experiments over weeks: which setting of the tasks' values a service gives to a user, and what its log shows of it.

The service keeps no list of users: cohort and setting are hashes of the experiment's name and the user's id. A cohort
begins a week after the one before it. Users are enrolled by their first visit in the first week of their cohort; who
comes later gets the setting, too, and is left out of the table, so that a cohort's weeks end together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pygrade import _core
from pygrade._typing import Array, Floats, Ints
from pygrade.config import user_table as names
from pygrade.logs import Logs

DAY_MS = 86_400_000


def assign(experiment: str, cohorts: Sequence[Sequence[float]], user_id: Any) -> tuple[Ints, Ints]:
    """Cohorts and settings [U], int32, that a service gives to the users user_id [U], integers or text as in its log.

    cohorts: shares of the settings, a list for each cohort, as in the service's options.
    """
    users = np.asarray(user_id)
    if users.ndim != 1 or users.dtype.kind not in "iuUO":
        raise ValueError(f"user_id has dtype {users.dtype} and shape {users.shape}; want one id or text a user")
    return _core.assign_users(experiment, [[float(share) for share in row] for row in cohorts], [str(u) for u in users])


@dataclass(frozen=True)
class Experiment:
    """The experiment of a service, as its options describe it."""

    name: str
    start: int  # ms since 1970, of the first day
    settings: tuple[Mapping[str, float], ...]  # shifts of the values by task
    cohorts: tuple[tuple[float, ...], ...]  # shares of the settings, a list for each cohort

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> "Experiment":
        """Of the table ``experiment`` of the service's options."""
        missing = [key for key in ("name", "start", "settings") if key not in options]
        if missing:
            raise ValueError(f"experiment.{missing[0]} is missing; want name, start and settings")
        settings = tuple(dict(entry) for entry in options["settings"])
        even = [[1.0 / len(settings)] * len(settings)] if settings else []
        start = datetime.fromisoformat(str(options["start"])).replace(tzinfo=UTC)
        cohorts = tuple(tuple(map(float, row)) for row in options.get("cohorts", even))
        return cls(str(options["name"]), int(start.timestamp() * 1000), settings, cohorts)


@dataclass(frozen=True)
class UserTable:
    """A row per user who was enrolled, and counts of what was left out."""

    columns: dict[str, Array]  # see `pygrade.config.user_table`
    outside: int  # requests outside the experiment, or before the user's cohort began
    late: int  # users whose first visit came after the first week of their cohort


def user_table(logs: Logs, experiment: Experiment) -> UserTable:
    """The users of an experiment by the joined log of a service, with what their events were worth.

    Money and visits are those that the log shows; sum those of a shop's books by the same users and days instead where
    the log shows a part. A window that the log does not reach the end of is NaN; so is the time before the enrollment,
    of users without a visit in it.
    """
    if logs.experiment is None or logs.setting is None or logs.cohort is None or logs.timestamp is None:
        raise ValueError("logs have no experiment, setting, cohort and timestamp; want the joined log of a service")
    of_it = logs.experiment == experiment.name
    if not of_it.any():
        known = ", ".join(sorted({str(name) for name in np.unique(logs.experiment)} - {""})) or "none"
        raise ValueError(f"experiment is {experiment.name!r}; the log has {known}")
    last = int(logs.setting[of_it].max())
    if last >= len(experiment.settings):
        raise ValueError(f"settings has {len(experiment.settings)} entries; the log has setting {last}")
    day = (logs.timestamp - experiment.start) // DAY_MS
    inside = np.flatnonzero(of_it & (logs.setting >= 0))
    order = inside[np.argsort(logs.timestamp[inside], kind="stable")]
    _, first = np.unique(logs.user_number[order], return_index=True)
    rows = order[np.sort(first)]  # of the enrollments
    in_time = day[rows] // names.COHORT_DAYS == logs.cohort[rows]
    rows = rows[in_time]
    place = np.full(int(logs.user_number.max()) + 1, -1)
    place[logs.user_number[rows]] = np.arange(len(rows))
    kept = np.flatnonzero(place[logs.user_number] >= 0)
    user = place[logs.user_number[kept]]
    age = day[kept] - day[rows][user]
    columns: dict[str, Array] = {
        names.USER_ID: logs.user_id[rows],
        names.EXPERIMENT: np.full(len(rows), experiment.name),
        names.SETTING: logs.setting[rows],
    }
    columns |= _shifts(logs, experiment, logs.setting[rows], kept[age >= 0], user[age >= 0])
    columns[names.ENROLLED] = day[rows]
    worth = logs.value_of(logs.feedback)
    request = np.repeat(np.arange(logs.num_requests), np.diff(logs.offsets))
    money = np.bincount(request, worth, logs.num_requests)[kept]
    left = int(day.max()) - day[rows]  # days after the enrollment's, of which the last may be a part
    for windows, name, sums in (
        (names.MONEY_DAYS, names.money, lambda some: np.bincount(user[some], money[some], len(rows))),
        (names.VISIT_DAYS, names.visits, lambda some: _days(user[some], age[some], len(rows))),
    ):
        for days in windows:
            found = sums((age >= 0) & (age < days))
            columns[name(days)] = np.where(left >= days, found, np.nan)
    before = (age < 0) & (age >= -names.BEFORE_DAYS)
    came = _days(user[before], age[before], len(rows))
    columns[names.BEFORE_MONEY] = np.where(came > 0, np.bincount(user[before], money[before], len(rows)), np.nan)
    columns[names.BEFORE_VISITS] = np.where(came > 0, came, np.nan)
    return UserTable(columns, int(of_it.sum()) - len(inside), int((~in_time).sum()))


def _days(user: Ints, age: Ints, count: int) -> Floats:
    """[count]: on how many distinct days each user came."""
    pairs = np.unique(np.stack([user, age], 1), axis=0)
    return np.bincount(pairs[:, 0].astype(np.int64), minlength=count).astype(np.float64)


def _shifts(logs: Logs, experiment: Experiment, setting: Array, requests: Ints, user: Ints) -> dict[str, Array]:
    """Shifts as assigned, and those served: of the user's requests since the enrollment the one farthest from it."""
    assigned = np.array([[entry.get(task, 0.0) for task in logs.tasks] for entry in experiment.settings], np.float32)
    of_user = assigned[setting]
    served = np.zeros((len(requests), len(logs.tasks)), np.float32)
    if logs.shifts is not None:
        served = np.nan_to_num(logs.shifts[requests])
    found = of_user.copy()
    order = np.argsort(np.abs(served - of_user[user]).sum(1), kind="stable")
    found[user[order]] = served[order]  # the last assignment of a user stays
    columns = {names.SHIFT + task: of_user[:, t] for t, task in enumerate(logs.tasks)}
    return columns | {names.SERVED + task: found[:, t] for t, task in enumerate(logs.tasks)}
