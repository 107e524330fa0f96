"""python trade_offs.py [DIR]: one policy for every trade-off, turned by a request instead of a training.

Trains a policy whose network reads what the tasks are worth in a request, and shows what later pages hold as an order
becomes worth more: the events that the model predicts for the first ten items. `pygrade evaluate --trade-offs` draws
this with intervals, from the feedback.
"""

import sys
from pathlib import Path

import numpy as np

from pygrade import BlendedRanker, train
from pygrade.config.policy import PolicyConfig
from pygrade.config.simulation import SimulateConfig
from pygrade.config.training import CrossFitConfig, TrainConfig
from pygrade.simulation.marketplace import MarketplaceConfig
from pygrade.simulation.simulate import simulate_logs


def main(directory: Path) -> None:
    logs = simulate_logs(SimulateConfig(2_000, world=MarketplaceConfig(log_users=800, items=1_000)))
    early, late = logs.split(0.8)
    off = CrossFitConfig(folds=0)  # quick
    config = TrainConfig(policy=PolicyConfig(trade_offs=True), cross_fit=off)
    ranker = BlendedRanker(train(early, config, directory).policy)
    worth = logs.task_values[logs.tasks.index("order")]
    print("  order", *(f"{task:>8}" for task in logs.tasks), "  events per page as predicted")
    for factor in (0.25, 1.0, 4.0):
        page = ranker.rank_log(late, 10, values={"order": factor * worth})
        rows = late.offsets[:-1, None] + page.indices
        events = late.predictions[rows].sum(1).mean(0)
        weights = np.round(page.weights.mean(0), 2)
        print(f"{factor * worth:7.2f}", *(f"{number:8.3f}" for number in events), "  weights", weights)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/trade-offs-example"))
