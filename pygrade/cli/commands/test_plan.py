"""pygrade test plan"""

from typing import Any

from pygrade.cli import terminal
from pygrade.cli.options import load_log
from pygrade.config.abtest import TestPlanOptions
from pygrade.evaluation.abtest import MAX_EXTRAPOLATION, plan_of_log
from pygrade.evaluation.plan_readings import items_compete, plan_readings
from pygrade.metrics.texts import value_text


def run(options: TestPlanOptions) -> dict[str, Any]:
    logs = load_log(options)
    metrics, count, days = plan_of_log(logs, options.effect, options.power, options.arms)
    pages = [] if logs.slots is None else [*logs.slots.T]
    estimators = {
        arm: plan_readings(logs, pages[0], slots, options.effect, power=options.power)
        for arm, slots in zip(logs.arms[1:], pages[1:], strict=True)
    }
    gate = items_compete(logs) if estimators else None
    if not options.json:
        _print(metrics, options, count, days)
    if estimators and not options.json:
        rows = [
            [a, estimator, *(str(p[key] or "n/a") for key in ("requests", "days"))]
            for a, r in estimators.items()
            for estimator, p in r.items()
        ]
        terminal.table(
            "The same effect in value by each estimator",
            ["arm", "estimator", "requests", "days"],
            rows,
            caption=str(gate),
        )
    settings = {"effect": options.effect, "power": options.power, "arms": options.arms}
    return {**settings, "num_users": count, "num_days": days, "metrics": metrics, "readings": estimators}


def _print(metrics: dict[str, dict[str, Any]], options: TestPlanOptions, count: int, days: int | None) -> None:
    beyond = "n/a" if days is None else f"> {MAX_EXTRAPOLATION * days}" if days > 1 else "> 1"
    lines = []
    for name, metric_plan in metrics.items():
        cells = [name, value_text(metric_plan["baseline"])]
        for kind in ("", "cuped_"):
            names = ("users", "days", "detectable_lift", "least_lift")
            users, needed, lift, least = (metric_plan[kind + key] for key in names)
            gain = [] if kind == "" else ["n/a" if users is None else f"{100 * metric_plan['cuped_gain']:.0f} %"]
            late = beyond if least is None or least < options.effect else "never"
            plan = ["n/a"] * 3 if users is None else [f"{users:,}", f"{needed or late}", f"{100 * lift:.2f} %"]
            cells += [*gain, *plan]
        lines.append(cells)
    asked = ["users over all arms", "days", "detectable"]
    span = "" if days is None else f" and {days} days"
    terminal.table(
        f"A test of {options.arms} arms that finds {100 * options.effect:g} % with power {options.power:g}; "
        "users over all arms, days with all traffic",
        ["", "per request", *asked, "CUPED saves", *(f"{name}, CUPED" for name in ("users", *asked[1:]))],
        lines,
        caption=f"detectable: the lift that the log's {count:,} users{span} find; CUPED's saving is measured "
        "on the log (its first half predicts its second); never: these users differ too much for any test",
    )
