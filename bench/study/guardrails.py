"""Guardrails in a drifting world: limits that are solved anew each day, against limits on estimates and a fixed choice.

    python -m bench.study.guardrails --out bench/results/guardrails.json

The world drifts during `DAYS` days. A day's pages are served at the prices found on the log of the days before; a tenth
of them are shuffled. Whether the limits held that day is known in closed form. docs/PROTOCOL.md has the rule.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.report.results import write_json
from pygrade._util.serialization import read_json
from pygrade.config.guardrails import GuardrailConfig, Limit
from pygrade.config.marketplace import PRODUCTION_WEIGHTS, MarketplaceConfig
from pygrade.config.training import RewardConfig
from pygrade.evaluation.guardrails import Measure, priced, solve_prices
from pygrade.logs import Logs, concatenate
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.policy.guardrails import Guardrails
from pygrade.serving.ranker import BlendedRanker
from pygrade.simulation.marketplace import FEATURES, TASK_VALUES, TASKS, Marketplace, Requests
from pygrade.simulation.simulate import rank_pages
from pygrade.training.baselines import expected_value
from pygrade.training.guardrails import keep_limits, measure_limits
from pygrade.training.propensity import slot_propensity

Array = NDArray[Any]
WORLDS, DEVELOPMENT = (9811, 9812, 9813, 9814, 9815), (9701, 9702, 9801, 9802, 9803, 9804, 9805)
DAYS, REQUESTS, JUDGED, SHUFFLED = 20, 2_000, 4_000, 0.1
WINDOW = 5  # days of log that prices are found on
GROUPS = ("new", "seller")
LIMITS = ("click >= 0.98", "search: click >= 0.96", "share new >= 0.28", "share seller <= 0.115")
CONFIG = GuardrailConfig(limits=LIMITS)
_REWARD = RewardConfig()
_CYCLE, _NEW = 56, 14  # days after which an item comes as another one, and for which it is new


@dataclass(frozen=True)
class Day:
    """Requests of a day, with what their items belong to."""

    world: Marketplace
    number: int
    requests: Requests

    @classmethod
    def of(cls, world: Marketplace, number: int, count: int, stream: int) -> "Day":
        """Stream 0 is logged, stream 1 judges."""
        requests = world.requests(count, 2 * number + stream, "log", number / DAYS)
        return cls(world, number, requests)

    @property
    def groups(self) -> NDArray[np.float32]:
        """[n, C, 2]: whether an item was launched lately, and whether it is of the seller of the dear ones."""
        item = self.requests.item_id
        launched = np.random.default_rng([self.world.seed, 21]).integers(0, _CYCLE, self.world.config.items)[item]
        age = (self.number - launched) % _CYCLE
        return np.stack([age < _NEW, self.world.price[item] > 0.8], -1).astype(np.float32)

    def rank(self, policy: FusionPolicy) -> Array:
        """Pages [n, K] that a policy serves."""
        r, k = self.requests, self.world.config.page_size
        items = None if policy.correction is None else self.groups.reshape(len(r), -1, len(GROUPS))
        ranker = BlendedRanker(policy, 0)
        scenario = [str(name) for name in r.scenario]
        return ranker.rank(r.context, r.p_hat, k, scenario=scenario, items=items).indices.astype(np.int64)

    def production(self) -> Array:
        """Pages [n, K] that production serves."""
        return rank_pages(self.requests.p_hat, _production().weights, self.world.config.page_size)

    def log(self, pages: Array) -> Logs:
        """The log of the day's pages, of which some are shuffled first."""
        r, rng = self.requests, np.random.default_rng([self.world.seed, 22, self.number])
        shuffled = rng.random(len(r)) < SHUFFLED
        pages = pages.copy()
        pages[shuffled] = rng.permuted(pages[shuffled], axis=1)
        _, shown = self.world.sample(r, pages, self.number)
        count, candidates = r.item_id.shape
        feedback = np.zeros((count, candidates, len(TASKS)), np.float32)
        np.put_along_axis(feedback, pages[:, :, None], shown, 1)
        position = np.full((count, candidates), -1, np.int32)
        np.put_along_axis(position, pages, np.arange(pages.shape[1], dtype=np.int32)[None], 1)
        return Logs(
            tasks=TASKS,
            features=FEATURES,
            request_id=np.arange(count) + 1_000_000 * self.number,
            user_id=r.user_id,
            offsets=np.arange(count + 1) * candidates,
            context=r.context,
            item_id=r.item_id.ravel().astype(np.int64),
            position=position.ravel(),
            predictions=r.p_hat.reshape(-1, len(TASKS)),
            feedback=feedback.reshape(-1, len(TASKS)),
            task_values=TASK_VALUES,
            scenario=r.scenario,
            exploration=np.where(shuffled, "shuffle", "none"),
            timestamp=86_400_000 * self.number + (3_600_000 * r.hour).astype(np.int64),
            items=GROUPS,
            item_features=self.groups.reshape(-1, len(GROUPS)),
        )


def _production() -> Baseline:
    weights = np.array(PRODUCTION_WEIGHTS) / sum(PRODUCTION_WEIGHTS)
    return Baseline("production", "zlog", tuple(weights.tolist()))


def truth(day: Day, policy: FusionPolicy, limits: Sequence[Limit]) -> dict[str, Any]:
    """What the limits are on, in closed form, by limit; value: over production's."""
    pages, old = day.rank(policy), day.production()
    ours, base = (day.world.expected(day.requests, entry) for entry in (pages, old))
    stay = 1.0 - np.take_along_axis(day.requests.leave, pages, 1).astype(np.float64)
    reached = np.cumprod(np.concatenate([np.ones((len(pages), 1)), stay[:, :-1]], 1), 1)
    seen = reached * day.world.attention(pages.shape[1])
    found = []
    for limit in limits:
        rows = slice(None) if limit.scenario is None else day.requests.scenario == limit.scenario
        if limit.share:
            group = day.groups[..., GROUPS.index(limit.name)]
            found.append(float((seen * np.take_along_axis(group, pages, 1))[rows].sum() / seen[rows].sum()))
        else:
            t = TASKS.index(limit.name)
            found.append(float(ours.events[rows, t].sum() / base.events[rows, t].sum()))
    holds = [x <= n.level if n.upper else x >= n.level for x, n in zip(found, limits, strict=True)]
    return {"limits": found, "holds": holds, "value": float(ours.value.sum() / base.value.sum())}


def follow(world: Marketplace, arm: str) -> list[dict[str, Any]]:
    """Each day's truth under an arm: none, once, estimates, guardrails."""
    limits = tuple(Limit.parse(text) for text in LIMITS)
    first = Day.of(world, 0, REQUESTS, 0)
    logs = [first.log(first.production())]
    free = FusionPolicy(PolicySpec(TASKS, FEATURES)).eval()
    free.mixture = Mixture(0.0, expected_value(logs[0]))
    free.guardrails = Guardrails((), CONFIG.confidence, 0, production=_production())
    policy, record = free, []
    for number in range(1, DAYS + 1):
        window = concatenate(logs[-WINDOW:])
        if arm == "estimates":
            policy = _by_estimates(free, window)
        elif arm == "guardrails" or (arm == "once" and number == 1):
            policy = keep_limits(free, window, CONFIG, _REWARD, in_use=None if policy is free else policy)
        alarm = policy.guardrails is not None and not policy.guardrails.hold
        record.append(truth(Day.of(world, number, JUDGED, 1), policy, limits) | {"alarm": alarm})
        day = Day.of(world, number, REQUESTS, 0)
        logs.append(day.log(day.rank(policy)))
    return record


def _by_estimates(free: FusionPolicy, logs: Logs) -> FusionPolicy:
    """The policy at the prices at which the estimates keep the limits."""
    measure = measure_limits(free, logs, CONFIG, _REWARD, slot_propensity(logs, _REWARD), _production())
    measure = Measure(measure.judge, measure.limits, None)
    return priced(measure, solve_prices(measure), _production())


def run(worlds: Sequence[int], arms: Sequence[str], kept: Path | None) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Days by arm and world; kept: a directory with those that are done."""
    config, result = replace(MarketplaceConfig(), drift=1.0), dict[str, dict[str, list[dict[str, Any]]]]()
    for seed in worlds:
        world = Marketplace(config, seed)
        for arm in arms:
            path = None if kept is None else kept / f"{arm}-{seed}.json"
            days = read_json(path)["days"] if path is not None and path.exists() else follow(world, arm)
            if path is not None:
                write_json(path, {"days": days})
            result.setdefault(arm, {})[str(seed)] = days
    return result


def summary(days: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Shares of the days on which all limits hold, and each; value over production; alarms."""
    every = [day for world in days.values() for day in world]
    holds = np.array([day["holds"] for day in every])
    by_world = [float(np.mean([all(day["holds"]) for day in world])) for world in days.values()]
    return {
        "days": len(every),
        "all": float(holds.all(1).mean()),
        "worst_world": min(by_world),
        "each": dict(zip(LIMITS, holds.mean(0).tolist(), strict=True)),
        "value": float(np.mean([day["value"] for day in every])) - 1.0,
        "alarms": int(sum(day["alarm"] for day in every)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", type=int, default=list(WORLDS))
    parser.add_argument("--arms", nargs="+", default=["none", "once", "estimates", "guardrails"])
    parser.add_argument("--kept", type=Path, help="directory of results that are done")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.kept is not None:
        options.kept.mkdir(parents=True, exist_ok=True)
    result = {arm: summary(days) for arm, days in run(options.worlds, options.arms, options.kept).items()}
    for arm, entry in result.items():
        print(arm, entry)
    if options.out is not None:
        facts = {"limits": LIMITS, "requests": REQUESTS, "window": WINDOW, "confidence": CONFIG.confidence}
        write_json(options.out, {**facts, "worlds": options.worlds, "arms": result})


if __name__ == "__main__":
    main()
