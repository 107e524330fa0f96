"""pygrade longterm-plan"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from pygrade._typing import Array, Floats
from pygrade._util.serialization import write_json
from pygrade.cli import terminal
from pygrade.cli.commands.evaluate import judged_record, judging_requests, valued
from pygrade.config.ignored import refuse
from pygrade.config.longterm import LongtermPlanOptions
from pygrade.config.training import RewardConfig
from pygrade.console.trade_offs import judge_of
from pygrade.evaluation.front import Judge
from pygrade.logs import Logs
from pygrade.longterm import page
from pygrade.longterm.experiment_plan import ExperimentPlan
from pygrade.longterm.plan import first_shares, immediate_effects, money_of_past, next_shares, plan_record
from pygrade.longterm.read import in_order_of
from pygrade.longterm.settings_grid import parse_grid
from pygrade.longterm.user_table import load_users
from pygrade.policy import FusionPolicy
from pygrade.training.propensity import slot_propensity
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")


def run(options: LongtermPlanOptions) -> dict[str, Any]:
    if options.cohort is None:
        refuse(options, ("experiment", "seed"), "--cohort")
    policy = FusionPolicy.load(options.policy)
    trained = TrainingRecord.load(options.policy, policy.version)
    logs = valued(options, trained, policy)
    tasks, points = parse_grid(options.settings, logs.tasks)
    past = None if options.past is None else money_of_past(options.past)
    fresh, in_sample = judging_requests(logs, trained)
    if in_sample:
        logger.warning("the policy was trained on these requests: what a setting costs at once is in-sample")
    reward = RewardConfig(propensity="estimate" if options.propensity is None else options.propensity)
    judge = judge_of(policy, fresh, slot_propensity(logs, reward), options.k, reward.propensity_floor)
    pages = value_of_pages(judge, tasks, points)
    plan = make_plan(options, tasks, points, pages, fresh)
    record = plan_record(plan, past, options.share, options.gain, options.margin, options.power)
    if options.out is not None:
        write_json(options.out, record)
    if not options.json:
        _print(record, plan, options)
    return judged_record(options, policy, in_sample, logs.num_requests - fresh.num_requests) | record


def value_of_pages(judge: Judge, tasks: Sequence[str], points: Array) -> Floats:
    """[K, R]: what the logged requests' pages are worth, ranked at shifted values; at the base, values as they are."""
    trained = [1.0] * len(judge.logs.tasks)
    settings = [{task: shift for task, shift in zip(tasks, point, strict=True) if shift} for point in points.tolist()]
    return np.stack([judge.values_of(judge.scores(trained, shifts or None)) for shifts in settings])


def make_plan(
    options: LongtermPlanOptions, tasks: tuple[str, ...], points: Floats, pages: Array, logs: Logs
) -> ExperimentPlan:
    """The plan of pages [K, R]; of a running experiment, with the next cohort's shares."""
    base = int(np.flatnonzero((points == 0).all(1))[0])
    immediate, covariance = immediate_effects(pages, base, logs.user_number)
    allowed = immediate >= -options.guard
    worth = {task: float(logs.task_values[logs.tasks.index(task)]) for task in tasks}
    count = int(allowed.sum())
    shares = first_shares(allowed, base, 1 / count)
    plan = ExperimentPlan(tasks, points, shares, options.guard, worth, immediate, covariance)
    if options.cohort is None:
        return plan
    table = in_order_of(plan, load_users(options.cohort, options.experiment))
    return ExperimentPlan(
        tasks, points, next_shares(table, plan, options.seed), options.guard, worth, immediate, covariance
    )


def _print(record: dict[str, Any], plan: ExperimentPlan, options: LongtermPlanOptions) -> None:
    title = "Settings, what a page is worth under them at once, and their shares of the users"
    terminal.table(title, *page.plan_table(plan))
    for line in page.plan_lines(record):
        terminal.text(line)
    if options.out is not None:
        terminal.text(f"plan: {options.out}")
