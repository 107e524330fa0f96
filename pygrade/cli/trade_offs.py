"""`pygrade evaluate --trade-offs`: what a policy offers between tasks, and values that keep some."""

import copy
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pygrade._util.serialization import write_bytes
from pygrade._util.threads import torch_threads
from pygrade.cli import terminal
from pygrade.cli.evaluated import evaluation_facts, evaluation_requests, with_logged_values
from pygrade.cli.verdict import IN_SAMPLE
from pygrade.config.ignored import refuse
from pygrade.config.logs import EvaluateOptions
from pygrade.config.training import RewardConfig
from pygrade.console.charts import plot_front
from pygrade.console.trade_offs import most_valuable, ranking_evaluator
from pygrade.evaluation.pareto_front import VALUE, RankingEvaluator, Solution, pareto_front, solve
from pygrade.evaluation.replay import evaluation_rule
from pygrade.logs import Logs
from pygrade.metrics.texts import lift_text
from pygrade.policy import FusionPolicy
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.storage import Folder, Place, join_path, place_of, publishing
from pygrade.training.baselines import baseline_scores, expected_value
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")

TRADE_OFFS = ("tasks", "compare", "keep", "maximize", "scenario", "save", "plot")  # options of it alone


def show(options: EvaluateOptions) -> dict[str, Any]:
    """Prints the Pareto front, and the values that --keep asks for."""
    with torch_threads(1):  # more wait for each other: the search ranks a few thousand requests hundreds of times
        return _show(options)


def _show(options: EvaluateOptions) -> dict[str, Any]:
    keep, compared = _levels(options.keep), [_values(word) for word in options.compare]
    if options.save is not None and not keep:
        raise ValueError("save is for the values found; expected --keep TASK=SHARE too")
    if not keep:
        refuse(options, ("maximize",), "--keep")
    policy = FusionPolicy.load(options.policy)
    if options.save is not None and options.scenario is not None and not policy.config.trade_offs:
        raise ValueError(
            "scenario's own values can be saved in a policy trained with --policy.trade-offs alone; give them at "
            "serving, or leave out --scenario"
        )
    trained = TrainingRecord.load(options.policy, policy.version)
    logs = with_logged_values(options, trained, policy)
    reward = RewardConfig(propensity="estimate" if options.propensity is None else options.propensity)
    propensity = slot_propensity(logs, reward)
    chosen = _of_scenario(logs, options.scenario)
    fresh, in_sample = evaluation_requests(chosen, trained)

    def on_requests(evaluator: FusionPolicy, requests: Logs) -> RankingEvaluator:
        return ranking_evaluator(evaluator, requests, propensity, options.k, reward.propensity_floor)

    search = [on_requests(*fold) for fold in _folds(options.policy, policy, trained, chosen)] if keep else []
    judged = fresh
    if keep and not search:
        logger.warning("no folds/ beside the policy: half of the users search for the values, half judge them")
        half = fresh.user_number % 2 == 0
        if half.all():
            raise ValueError("keep is to be judged on other users than it is searched on; the requests have one user")
        search, judged = [on_requests(policy, fresh.select(half))], fresh.select(~half)
    evaluator = on_requests(policy, judged)
    expected = baseline_scores(expected_value(judged), judged, policy.config)
    record = pareto_front(evaluator, options.tasks or most_valuable(judged), expected, compared).to_dict()
    solution = solve(search, evaluator, keep, options.maximize) if keep else None
    if options.plot is not None:
        with publishing(options.plot) as path:
            write_bytes(path, plot_front(record).encode())
    if options.save is not None and solution is not None:
        _save(policy, trained, solution, options)
    if not options.json:
        basis = _basis(judged, propensity, options.k)
        _print(record, solution, keep, options, IN_SAMPLE if in_sample else "", basis)
    return evaluation_facts(options, policy, in_sample, chosen.num_requests - fresh.num_requests) | {
        "searched_on": sum(evaluator.logs.num_requests for evaluator in search),
        "pareto_front": record,
        "solution": None if solution is None else solution.to_dict(),
    }


def _levels(words: tuple[str, ...]) -> dict[str, float]:
    levels = {}
    for word in words:
        task, equals, share = word.partition("=")
        try:
            levels[task] = float(share)
        except ValueError:
            equals = ""
        if not equals or not task:
            raise ValueError(f"keep is {word!r}; expected TASK=SHARE of production's events, e.g. click=1.0")
    return levels


def _values(setting: str) -> dict[str, float]:
    """``click=-3,dwell=2`` → {click: -3, dwell: 2}."""
    values: dict[str, float] = {}
    for word in setting.split(","):
        task, _, number = word.partition("=")
        try:
            values[task] = float(number)
        except ValueError as error:
            raise ValueError(
                f"compare is {setting!r}; expected TASK=NUMBER or several with commas, e.g. click=-3"
            ) from error
    return values


def _of_scenario(logs: Logs, scenario: str | None) -> Logs:
    if scenario is None:
        return logs
    if logs.scenario is None or scenario not in logs.scenario:
        wanted = "a log with scenarios" if logs.scenario is None else "one of " + ", ".join(np.unique(logs.scenario))
        raise ValueError(f"scenario is {scenario!r}; expected {wanted}")
    return logs.select(np.flatnonzero(logs.scenario == scenario))


def _folds(
    directory: Place, policy: FusionPolicy, trained: TrainingRecord | None, logs: Logs
) -> Iterator[tuple[FusionPolicy, Logs]]:
    """The policies of cross-fitting, each with the requests of the training that it was not trained on."""
    beside = Folder.at(directory).parent
    for name in beside.names("folds/*/policy/policy.json"):
        path = join_path(place_of(str(beside)), name.removesuffix("/policy.json"))
        fold_policy = FusionPolicy.load(path)
        record = TrainingRecord.load(path, fold_policy.version)
        if trained is None or record is None or not bool(np.isin(record.keys, trained.keys).all()):
            continue  # of another training
        rows = trained.seen(logs) & ~record.seen(logs)
        if (
            fold_policy.schema_hash() == policy.schema_hash()
            and _expected(fold_policy) == _expected(policy)
            and bool(rows.any())
        ):
            yield fold_policy, logs.select(rows)


def _expected(policy: FusionPolicy) -> Baseline | None:
    """The expected value that ranks by values; None: the network reads them."""
    return None if policy.config.trade_offs or policy.mixture is None else policy.mixture.expected_value


def _save(policy: FusionPolicy, trained: TrainingRecord | None, solution: Solution, options: EvaluateOptions) -> None:
    config, values = policy.config, solution.values
    turned = copy.deepcopy(policy)
    if (alone := _expected(policy)) is not None and policy.mixture is not None:
        turned.mixture = Mixture(0.0, alone.at(list(values.values())), baselines=policy.mixture.baselines)
    elif options.scenario is None:
        config = replace(config, values=values)
    else:
        config = replace(config, scenario_values=config.scenario_values | {options.scenario: values})
    turned.spec = replace(policy.spec, config=config)
    assert options.save is not None
    with publishing(options.save) as folder:
        turned.save(folder)
        if trained is not None:
            replace(trained, policy_version=turned.version).save(folder)


def _basis(logs: Logs, propensity: SlotPropensity, k: int) -> str:
    facts: dict[str, Any] = {"task_values": dict(zip(logs.tasks, logs.task_values, strict=True))}
    facts |= {"value_tasks": logs.value_tasks, "propensity": propensity.known(k)}
    return evaluation_rule(facts | {"propensity_source": propensity.reason or propensity.source})


def _print(
    record: dict[str, Any],
    solution: Solution | None,
    keep: dict[str, float],
    options: EvaluateOptions,
    heading: str,
    basis: str,
) -> None:
    columns = (*record["tasks"], VALUE)
    points = record["marks"] | record["knobs"]
    rows = [[name, *(lift_text(point["events"][column]) for column in columns)] for name, point in points.items()]
    size = f"{record['num_requests']:,} requests of {record['num_users']:,} users"
    terminal.table(f"{heading}Events over production, {size}, ± 95 %", ["", *columns], rows, caption=basis)
    if compared := record["compared"]:
        rows = [[name, *(lift_text(point["events"][column]) for column in columns)] for name, point in compared.items()]
        terminal.table(f"{heading}Values over the values as they are, ± 95 %", ["", *columns], rows)
    if solution is None:
        return
    result = solution.to_dict()
    names = (*result["values"], VALUE)
    rows = [
        [
            name,
            f"{result['values'][name]:.3g}" if name in result["values"] else "",
            f"{100 * (keep[name] - 1):+.2f} %" if name in keep else "most" if name == options.maximize else "",
            lift_text(result["judged"]["events"][name]),
            f"{100 * (result['judged']['predicted'][name] or 0):+.2f} %",
        ]
        for name in names
    ]
    title = f"{heading}Values that keep {', '.join(keep)} and earn most {options.maximize}"
    terminal.table(title, ["", "value", "wanted", "over production", "predicted"], rows)
    for task, gap in result["lacking"].items():
        reached, wanted = 100 * result["searched"][task], 100 * (keep[task] - 1)
        terminal.text(
            f"{task} {wanted:+.2f} % is out of reach: the Pareto front goes to {reached:+.2f} %, "
            f"{100 * gap:.2f} points less"
        )
    if options.save is not None:
        terminal.text(f"policy with these values: {options.save}")
