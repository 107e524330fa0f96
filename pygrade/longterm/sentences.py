"""The one sentence that an experiment over weeks ends in: serve, keep, wait, or undecidable."""

from collections.abc import Mapping
from typing import Any

from pygrade.longterm.experiment_plan import ExperimentPlan

KEEP_SHARE = 5  # per cent of the users who stay at the base after a choice
OWN_ESTIMATE = 30_000  # users, from which on the chosen setting's own estimate is not too high

SERVE, KEEP, WAIT, UNDECIDABLE = "serve", "keep", "wait", "undecidable"


def sentence(record: Mapping[str, Any], plan: ExperimentPlan) -> tuple[str, str]:
    """The kind and the sentence of a record of `read`."""
    if problems := record["checks"]["problems"]:
        return UNDECIDABLE, f"Not decidable: {'; '.join(problems)}."
    if "lift" not in record:
        return WAIT, _wait(record, plan)
    if record["choice"] is not None:
        return SERVE, _serve(record, plan)
    return KEEP, _keep(record)


def _serve(record: Mapping[str, Any], plan: ExperimentPlan) -> str:
    k = record["choice"]
    low = f"at least {percent(record['low'][k])}"
    gain = f"{percent(record['lift'][k])} ({low})" if record["users"] >= OWN_ESTIMATE else low
    drawn = sum(row["users"] > 0 for row in record["settings"])
    words = setting_words(plan, k)
    at_once = "" if plan.immediate is None else f"; its first sessions are worth {percent(float(plan.immediate[k]))}"
    return (
        f"{words[0].upper()}{words[1:]} earns {gain} of {record['horizon']}-day money per user, from "
        f"{record['users']:,} users in {drawn} settings{at_once}. Serve it, and keep {KEEP_SHARE} % of the users at "
        "the base."
    )


def _keep(record: Mapping[str, Any]) -> str:
    best, seen = record["lift"][record["estimate"]], record["seen"]
    of_ten = f"{round(10 * seen)} of 10" if seen < 0.95 else "nearly all"
    return (
        f"No setting is better: the best estimate is {percent(best)}, a gain of {percent(record['asked_gain'], '')} "
        f"would have been seen in {of_ten} experiments. The values stay."
    )


def _wait(record: Mapping[str, Any], plan: ExperimentPlan) -> str:
    index = record["index"]
    if index is None:
        why = "a plan with logged pages" if plan.immediate is None else "visits of 7 days"
        return (
            f"{record['horizon']}-day money is not complete, and without {why} nothing orders the settings yet. Wait."
        )
    day = f"Day {index['age']}"
    order = sorted(range(len(index["lift"])), key=lambda k: -index["lift"][k])
    top = ", ".join(f"{setting_words(plan, k)} ({percent(index['lift'][k])})" for k in order[:3])
    left = f"Wait, or narrow the range to {range_words(plan, index['left'])}."
    slope, age = index["finished_slope"], index["age"]
    if index["validated"]:
        known = (
            f"in {index['experiments']} finished experiments 1 % of it at day {age} was {slope['value']:+.1f} % "
            f"(± {1.96 * slope['error']:.1f}) of {record['horizon']}-day money, which alone decides"
        )
    else:
        known = f"this shop has not seen yet that day {age} orders them as day {record['horizon']} does"
    return f"{day}: settings are ordered by return so: {top}; {known}. {left}"


def percent(share: float, sign: str = "+") -> str:
    """``+3.6 %``; sign "": without a plus."""
    return f"{100 * share:{sign}.1f} %".replace("-", "−")


def number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4g}".replace("-", "−")


def setting_words(plan: ExperimentPlan, k: int) -> str:
    """A setting as a shop says it: ``a click that costs 4 instead of earning 1``."""
    shifts = dict(zip(plan.tasks, plan.points[k].tolist(), strict=True))
    moved = [task for task, shift in shifts.items() if shift]
    return " and ".join(_task_words(task, shifts[task], plan.values.get(task)) for task in moved) or "the base"


def _task_words(task: str, shift: float, value: float | None) -> str:
    article = "an" if task[:1] in "aeiou" else "a"
    if value is None:
        return f"{article} {task} worth {number(abs(shift))} {'more' if shift > 0 else 'less'}"
    new = value + shift
    was = f"{'earning' if value >= 0 else 'costing'} {number(abs(value))}"
    if new == 0:
        return f"{article} {task} that earns nothing instead of {was}"
    same = (new > 0) == (value > 0)
    return (
        f"{article} {task} that {'earns' if new > 0 else 'costs'} {number(abs(new))} instead of "
        f"{number(abs(value)) if same else was}"
    )


def range_words(plan: ExperimentPlan, left: list[int]) -> str:
    """The shifts of some settings by task: ``click −6 to −2``."""
    points = plan.points[left]
    spans = zip(plan.tasks, points.min(0).tolist(), points.max(0).tolist(), strict=True)
    return ", ".join(f"{task} {number(low, '+')} to {number(high, '+')}" for task, low, high in spans)
