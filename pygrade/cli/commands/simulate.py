"""pygrade simulate"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pygrade.cli import console
from pygrade.cli.options import Output, part
from pygrade.simulation.simulate import SimulateConfig, simulate_logs

logger = logging.getLogger("pygrade")


@dataclass(frozen=True, kw_only=True)
class Options(Output, SimulateConfig):
    """Write the production log of a simulated marketplace, in the Parquet layout that train and evaluate read.

    Example: pygrade simulate --out runs/logs --num-requests 5000
    """

    out: Path  # directory to write; an earlier log there is replaced


def run(options: Options) -> dict[str, Any]:
    config = part(SimulateConfig, options)
    logger.info("simulating %s requests …", f"{config.num_requests:,}")
    logs = simulate_logs(config, options.out)
    events = dict(zip(logs.tasks, logs.feedback.sum(0, dtype=float).tolist(), strict=True))
    if not options.json:
        console.text(f"{logs.num_requests:,} requests with {logs.num_rows:,} candidates in {options.out}")
        console.text("events: " + ", ".join(f"{int(count):,} {task}" for task, count in events.items()))
    return {
        "out": str(options.out),
        "requests": logs.num_requests,
        "users": len(np.unique(logs.user_id)),
        "rows": logs.num_rows,
        "tasks": list(logs.tasks),
        "features": list(logs.features),
        "seed": config.seed,
        "events": events,
    }
