"""pygrade abtest-plan"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pygrade.cli import console
from pygrade.cli.options import Output, Source
from pygrade.evaluation.abtest import plan_test
from pygrade.logs import numbered
from pygrade.metrics import intervals


@dataclass(frozen=True, kw_only=True)
class Options(Output, Source):
    """How many users an A/B test of your own needs, from the mean and the spread of each metric in your log.

    Metrics are per request: the value of its events, and the events of each task. Users are split evenly over two arms.

    Example: pygrade abtest-plan --data logs:runs/logs --effect 0.01
    """

    effect: float = 0.01  # relative lift that the test should find
    power: float = 0.8  # chance to find it
    task_values: tuple[float, ...] | None = None  # value of one event of each task; none: what the log says
    value_tasks: tuple[str, ...] | None = None  # tasks whose events are worth that times the item's value (its price)


def run(options: Options) -> dict[str, Any]:
    logs = options.load().valued(options.task_values, options.value_tasks)
    users = numbered(logs.user_id)
    rows = {"value": logs.value_of(logs.feedback)} | {task: logs.feedback[:, t] for t, task in enumerate(logs.tasks)}
    values = {
        name: intervals.mean(np.add.reduceat(amounts, logs.offsets[:-1], dtype=np.float64), users).to_dict()
        for name, amounts in rows.items()
    }
    count = int(users.max()) + 1
    plan = plan_test(values, count, options.effect, options.power)
    if not options.json:
        lines = [
            [name, console.interval(values[name]), *_cells(entry["users"], entry["detectable_lift"])]
            for name, entry in plan.items()
        ]
        head = ["", "per request", f"users for {100 * options.effect:g} %", f"lift that {count:,} users find"]
        console.table(f"A test with power {options.power:g}, users of both arms", head, lines)
    metrics = {name: {"baseline": values[name], **entry} for name, entry in plan.items()}
    return {"effect": options.effect, "power": options.power, "num_users": count, "metrics": metrics}


def _cells(users: float | None, lift: float | None) -> tuple[str, str]:
    return ("n/a", "n/a") if users is None or lift is None else (f"{users:,.0f}", f"{100 * lift:.2f} %")
