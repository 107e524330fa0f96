"""Which normalization of the advantage learns more: of the batch, of each component, or both (GDPO).

    python -m bench.study.advantages --out bench/results/advantages.json

GDPO (arXiv 2601.05242) normalizes each component of the reward within its group, adds them by their weights, and
divides the sum by its standard deviation in the batch. The first half is ``normalize="component"`` of
`group_advantage`; the second changes the size of the step against the KL term, and which advantages the clip cuts, but
no ratio between advantages of a batch.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from bench.report.results import write_json
from bench.study.settings import Regime, Settings, load_settings
from bench.study.stats import over_worlds
from bench.study.trial import Trial
from pygrade import ops
from pygrade.training.stages import train_stage2

WORLDS = {"small": range(9821, 9825), "hype": range(9831, 9835), "accurate": range(9841, 9845)}  # by regime
REQUESTS, TEST_REQUESTS = 5_000, 6_000
SMALL = {"log_users": 4_000, "test_users": 2_000, "items": 2_000}
BATCH = "batch"
ARMS: dict[str, dict[str, Any]] = {
    BATCH: {},
    "component": {"reward": {"format_weight": 0.001}, "stage2": {"normalize": "component"}},
    "GDPO": {"reward": {"format_weight": 0.001}, "stage2": {"normalize": "component"}},
}


@contextmanager
def normalized_batch() -> Iterator[None]:
    """Inside the block `group_advantage` also divides by the standard deviation of the batch, before it clips."""
    plain = ops.group_advantage

    def group_advantage(
        rewards: Tensor, weights: Tensor, normalize: str, leave_one_out: bool, clip: float | None
    ) -> Tensor:
        advantage = plain(rewards, weights, normalize, leave_one_out, None)
        assert isinstance(advantage, Tensor)
        advantage = advantage / advantage.square().mean().sqrt().clamp_min(1e-30)
        return advantage if clip is None else advantage.clamp(-clip, clip)

    with patch.object(ops, "group_advantage", group_advantage):
        yield


def measure(settings: Settings, regime: Regime, world: int) -> dict[str, float]:
    """Value over expected value in % of each arm in a world."""
    trial = Trial(settings, regime, world, seed=0)
    base = trial.outcome(trial.baseline(trial.baselines["expected value"]))
    lifts = {}
    for name, options in ARMS.items():
        config = trial.config(options)
        policy = trial.stage1(config)
        with normalized_batch() if name == "GDPO" else nullcontext():
            train_stage2(trial.training_data(config), policy, config.stage2, seed=trial.seed, engine=config.engine)
        lifts[name] = 100 * (trial.outcome(trial.serve(policy)) / base - 1)
    return lifts


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each kind of world and arm: the lift, and what it is above that of the batch, with 95 % t-intervals."""
    result = []
    for kind in dict.fromkeys(row["regime"] for row in rows):
        worlds = [row["lifts"] for row in rows if row["regime"] == kind]
        for arm in ARMS:
            lift = over_worlds([lifts[arm] for lifts in worlds])
            more = over_worlds([lifts[arm] - lifts[BATCH] for lifts in worlds])
            bounds = {"lift": lift.value, "more": more.value, "low": more.low, "high": more.high}
            result.append(
                {"regime": kind, "arm": arm, "worlds": len(worlds)} | {k: round(v, 3) for k, v in bounds.items()}
            )
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.study.advantages", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file, written after each world")
    parser.add_argument("--worlds", type=int, default=4, help="of each kind: %(default)s")
    options = parser.parse_args()
    settings = replace(load_settings(), test_requests=TEST_REQUESTS)
    rows: list[dict[str, Any]] = []
    for place in range(options.worlds):
        for name, worlds in WORLDS.items():
            regime = settings.regimes[name]
            small = replace(regime, requests=REQUESTS, world={**regime.world, **SMALL})
            rows.append({"regime": name, "world": worlds[place], "lifts": measure(settings, small, worlds[place])})
            print(rows[-1], flush=True)
            write_json(options.out, {"rows": rows, "summary": summary(rows)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
