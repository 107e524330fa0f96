"""python make_shop.py [FILE] [REQUESTS]: a shop's log as shops have them, to try the other examples on.

The users are simulated. Names, slots from 1, seconds and true/false are what a data warehouse gives, not what pygrade
reads: `pygrade doctor` or `Logs.from_table` says which column is what.
"""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pygrade.config.simulation import SimulateConfig
from pygrade.simulation.marketplace import MarketplaceConfig
from pygrade.simulation.simulate import simulate_logs

TASKS = ("click", "cart", "order")
FEATURES = ("trait_intent", "trait_price", "specificity", "log_history", "hour_sin", "hour_cos")


def shop(requests: int = 20_000, seed: int = 0) -> pa.Table:
    """A row per candidate: who asked for what where, what a model predicted, what was shown, what the user did."""
    config = SimulateConfig(
        requests, seed, dirichlet_share=0.0, world=MarketplaceConfig(log_users=requests // 3, items=2_000)
    )
    log = simulate_logs(config)
    row, shown = log.row_request, log.shown
    table = {
        "session_id": np.char.add("s", log.request_id.astype(str))[row],
        "customer": np.char.add("c", log.user_id.astype(str))[row],
        "product_id": np.char.add("p", log.item_id.astype(str)),
        "slot": pa.array(log.position + 1, mask=~shown),
        "surface": log.scenario[row],
        "at": (log.timestamp // 1000)[row],
        "page_order": np.where(log.exploration == "shuffle", "shuffle", "none")[row],
    }
    for name in FEATURES:
        table[name] = log.context[row, log.features.index(name)]
    for task in TASKS:
        place = log.tasks.index(task)
        table[f"{task}_score"] = log.predictions[:, place]
        table[f"{task}ed"] = pa.array(log.feedback[:, place] > 0, mask=~shown)
    return pa.table(table)


if __name__ == "__main__":
    file, requests = (*sys.argv[1:], *("shop.parquet", "20000")[len(sys.argv) - 1 :])
    pq.write_table(shop(int(requests)), file)
    print(f"{file}: {requests} requests")
