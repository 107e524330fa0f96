"""python -m bench.evidence.shops OUT.json [EFFECT=SEED,… …]: `train` on raw tables of shops with a planted effect.

OUT keeps what it has; the seeds of the protocol are 9701 to 9703.
"""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.report.results import write_json
from bench.study.served import train_once
from pygrade.config.training import TrainConfig
from pygrade.evaluation.arms import EXPECTED_VALUE
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import Logs
from pygrade.policy.spec import fusion_formula
from pygrade.training.baselines import baseline_scores

sys.path.insert(0, str(Path(__file__).parents[2] / "examples/python"))
from planted_shop import COLUMNS, EFFECTS, VALUES, Shop, Truth

Array = NDArray[Any]
REQUESTS, JUDGING = 20_000, 10_000
SEEDS = (9701, 9702, 9703)


def shop(effect: str, seed: int, requests: int = REQUESTS, config: TrainConfig | None = None) -> dict[str, Any]:
    """What `train` serves on a shop's table, by the truth of later requests."""
    started = time.process_time()
    world = Shop(seed, effect)
    options: dict[str, Any] = {"columns": COLUMNS, "values": VALUES, "value_tasks": ["order"]}
    logs = Logs.from_table(world.table(requests)[0], **options)
    table, truth = world.table(JUDGING, 1)
    later = Logs.from_table(table, **options).arranged(logs.tasks, logs.features, logs.items)
    result = train_once(logs, config or TrainConfig())
    policy, trust = result.policy, result.summary["trust"]
    scores = policy_scores(policy, later)
    oracle, served = truth.lift(truth.value()), truth.lift(scores)
    lift = trust["lift"]
    entries = {entry.name: entry for entry in result.baselines}
    base = entries.get(trust["baseline"], entries[EXPECTED_VALUE])
    against = baseline_scores(base, later, fusion_formula(policy.config))
    true, within = (lift_over(truth, scores, against, rows) for rows in (None, later.shown))
    return {
        "effect": effect,
        "seed": seed,
        "requests": requests,
        "oracle": round(oracle, 3),
        "served": round(served, 3),
        "share": round(100 * served / oracle, 1),
        "verdict": policy.mixture.verdict if policy.mixture else None,
        "sentence": policy.mixture.sentence if policy.mixture else None,
        "over": base.name,
        "true": round(true, 3),
        "within": round(within, 3),
        "bounds": None if lift is None else [round(100 * lift[end], 3) for end in ("low", "value", "high")],
        "seconds": round(time.process_time() - started, 1),
    }


def lift_over(truth: Truth, scores: Array, base: Array, rows: Array | None) -> float:
    """The true lift over a baseline in per cent; rows [M]: those that pages may show, such as the logged pages'."""
    earned = [
        truth.earned(values if rows is None else np.where(rows, values, -np.inf)).sum() for values in (scores, base)
    ]
    return float(100 * (earned[0] / earned[1] - 1))


def main(out: Path, wanted: list[str]) -> None:
    logging.getLogger("pygrade").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    chosen = [word.split("=") for word in wanted] or [[effect, ",".join(map(str, SEEDS))] for effect in EFFECTS]
    record = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"shops": []}
    for effect, seeds in chosen:
        for seed in map(int, seeds.split(",")):
            record["shops"] = [e for e in record["shops"] if (e["effect"], e["seed"]) != (effect, seed)]
            record["shops"].append(shop(effect, seed))
            write_json(out, record)
            print(json.dumps(record["shops"][-1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
