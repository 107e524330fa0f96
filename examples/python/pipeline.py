"""python pipeline.py [DIR]: from a log of events to pages for users, with a store that feedback changes at once.

DIR gets the log of a simulated shop, the pipeline's run with its LMDB store, and is reused: the stages that are done
are not done again.
"""

import sys
import time
from pathlib import Path

from pygrade import Pipeline
from pygrade.config.pipeline import PipelineConfig
from pygrade.config.simulation import SimulateConfig
from pygrade.pipeline.run import run_pipeline
from pygrade.simulation.marketplace import MarketplaceConfig
from pygrade.simulation.simulate import simulate_logs


def main(directory: Path) -> None:
    log, run = directory / "events", directory / "run"
    if not log.exists():
        simulate_logs(SimulateConfig(1_500, world=MarketplaceConfig(log_users=400, items=400)), log)
    summary = run_pipeline(f"logs:{log}", run, PipelineConfig(allow_unproven=True))  # so small a log proves little
    print(summary["stages"]["evaluate"]["replay"]["verdict"]["sentence"])

    system = Pipeline.load(run)
    request = {"user_id": 7, "k": 5, "candidates": 200, "scenario": "feed"}
    before = system.rank(**request)
    weights = dict(zip(system.models.policy.tasks, before.page.weights[0].tolist(), strict=True))
    print("page:", before.items.tolist(), {task: round(weight, 2) for task, weight in weights.items()})

    # A click on the second item; the user's next page knows it.
    event = {"user_id": [7], "item_id": [int(before.items[1])], "event_time": [int(time.time() * 1000)]}
    event |= {f"y_{task}": [float(task == "click")] for task in system.models.schema.tasks}
    system.update(event | {"scenario": ["feed"]})
    after = system.rank(**request, seen=before.items)
    print("next:", after.items.tolist(), "known events of the user:", before.history, "→", after.history)
    system.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pipeline-example"))
