"""Policies with trade-offs: one for every trade-off beside one trained for each, and multipliers that keep a level."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.study.settings import merged
from bench.study.stats import Results, over_worlds
from bench.study.trial import ArmRanking, Options, Trial
from pygrade._typing import Array
from pygrade.config.training import TrainConfig
from pygrade.evaluation.arms import PRODUCTION
from pygrade.evaluation.front import Judge, solve
from pygrade.logs import Logs, numbered
from pygrade.metrics.intervals import Interval
from pygrade.policy import FusionPolicy
from pygrade.policy.mixture import Baseline
from pygrade.policy.spec import fusion_formula
from pygrade.training.baselines import baseline_scores
from pygrade.training.cross_fit import fold_of_requests

FAMILY, RETRAINED = "family", "retrained"
_FOLDS = 4


def family(trial: Trial, options: Options) -> ArmRanking:
    """Figures: lifts over expected value, in per cent, at each of the trade-offs (name → task → multiplier), of one
    policy for all and of one trained for that trade-off alone.
    """
    rest = {name: value for name, value in options.items() if name != "trade_offs"}
    policy = trial.trained(_config(trial, rest), trial.logs)
    figures = {}
    for name, table in options["trade_offs"].items():
        factors = np.array([table.get(task, 1.0) for task in trial.logs.tasks], np.float32)
        values = factors * np.array(trial.logs.task_values, np.float32)
        single = trial.trained(trial.config(merged(rest, {"reward.task_values": values.tolist()})), trial.logs)
        base = _value(trial, trial.requests.p_hat @ values, values)
        for kind, scores in ((FAMILY, _scores(trial, policy, factors)), (RETRAINED, _scores(trial, single))):
            figures[f"{kind}, {name}"] = 100 * (_value(trial, scores, values) / base - 1)
    return trial.serve(policy, figures=figures)


def trade_offs(results: Results, regime: str) -> dict[str, tuple[Interval, Interval, Interval]]:
    """By trade-off, in per cent over worlds: the lifts of `FAMILY` and `RETRAINED` over expected value, and the first
    minus the second.
    """
    records = results.records(regime, FAMILY)
    names = [key.removeprefix(f"{FAMILY}, ") for key in (records[0]["figures"] if records else ()) if FAMILY in key]
    worlds = results.worlds(regime, FAMILY)

    def lifts(kind: str, name: str) -> list[float]:
        key = f"{kind}, {name}"
        return [results.number(regime, FAMILY, world, lambda record: record["figures"][key]) for world in worlds]

    table = {}
    for name in names:
        one, single = lifts(FAMILY, name), lifts(RETRAINED, name)
        differences = [ours - theirs for ours, theirs in zip(one, single, strict=True)]
        table[name] = (over_worlds(one), over_worlds(single), over_worlds(differences))
    return table


def kept(trial: Trial, options: Options) -> ArmRanking:
    """A policy with trade-offs at the multipliers that keep events of some tasks (``keep``: task → share of
    production's) and earn most value. They are searched by cross-fitting, as `pygrade front` does.
    """
    keep: Mapping[str, float] = options["keep"]
    config = _config(trial, {name: value for name, value in options.items() if name != "keep"})
    fold = fold_of_requests(numbered(trial.logs.user_id), _FOLDS, trial.seed)
    search = []
    for number in range(_FOLDS):
        part = trial.trained(config, trial.logs.select(fold != number))
        search.append(_judge(trial, part, trial.logs.select(fold == number)))
    solution = solve(search, search[0], keep)
    figures = {f"multiplier {task}": u for task, u in solution.values.items()}
    figures |= {f"searched {name}": 100 * lift for name, lift in solution.searched.items()}
    policy = trial.trained(config, trial.logs)
    scores = _scores(trial, policy, np.array(list(solution.values.values()), np.float32))
    return ArmRanking(scores, figures=figures)


def _config(trial: Trial, options: Mapping[str, Any]) -> TrainConfig:
    return trial.config(merged(options, {"policy.trade_offs": True}))


def _judge(trial: Trial, policy: FusionPolicy, logs: Logs) -> Judge:
    formula, slots = fusion_formula(policy.config), trial.world.config.page_size
    production = Baseline(PRODUCTION, policy.config.transform, tuple(trial.production.tolist()))
    return Judge(policy, logs, baseline_scores(production, logs, formula), trial.data.propensity.curve(slots), slots)


def _scores(trial: Trial, policy: FusionPolicy, factors: Array | None = None) -> Array:
    requests = trial.requests
    return policy.scores(requests.context, requests.p_hat, scenario=requests.scenario, values=factors)


def _value(trial: Trial, scores: Array, values: Array) -> float:
    """Per test request, of the candidates with the highest scores [n, C]."""
    pages = trial.pages(ArmRanking(scores))
    return float((trial.world.expected(trial.requests, pages).events @ values).mean())
