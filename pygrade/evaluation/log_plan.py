"""Size of an A/B test, from the variances by user in a log."""

from typing import Any

import numpy as np

from pygrade.evaluation.abtest import plan_test
from pygrade.logs import Logs, numbered
from pygrade.metrics import intervals

_DAY = 86_400_000  # milliseconds


def plan_of_log(
    logs: Logs, effect: float = 0.01, power: float = 0.8, arms: int = 2
) -> tuple[dict[str, dict[str, Any]], int, int | None]:
    """`plan_test` of the value of a request's events and of the events of each task, with the ``baseline`` per request;
    the log's users and days (None without timestamps).
    """
    users, times = numbered(logs.user_id), logs.timestamp
    day = None if times is None else (times - times.min()) // _DAY
    early = np.zeros(logs.num_requests, bool)
    order = np.arange(logs.num_requests) if times is None else np.argsort(times, kind="stable")
    early[order[: logs.num_requests // 2]] = True
    rows = {"value": logs.value_of(logs.feedback)} | {task: logs.feedback[:, t] for t, task in enumerate(logs.tasks)}
    metrics: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        amounts = np.add.reduceat(row, logs.offsets[:-1], dtype=np.float64)
        plan = plan_test(amounts, users, early, day, effect, power=power, arms=arms)
        metrics[name] = {"baseline": intervals.mean(amounts, users).to_dict(), **plan}
    return metrics, int(users.max()) + 1, None if day is None else int(day.max()) + 1
