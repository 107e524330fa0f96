"""python own_logs.py [FILE] [DIR]: a log with names of its own → a verdict → a page, in Python alone.

FILE is a Parquet file like that of make_shop.py (which makes one if there is none). The command line does the same:
`pygrade doctor`, `pygrade train`, `pygrade rank`.
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq
from make_shop import shop

from pygrade import Logs, evaluate, train


def main(file: Path, directory: Path) -> None:
    if not file.exists():
        pq.write_table(shop(1_000), file)
    # Columns are known by exact names and types; say the others. A warning tells what was changed.
    logs = Logs.from_table(
        pq.read_table(file),
        columns={"exploration": "page_order"},
        values={"click": 1, "cart": 3, "order": 60},
    )
    print(f"{logs.num_requests} requests, tasks {', '.join(logs.tasks)}, context {', '.join(logs.features)}")

    result = train(logs, out_dir=directory)
    print(result.verdict)

    late = result.heldout  # the latest fifth, which judges
    page = result.rank(late, k=10)
    print("first page:", late.item_id[page.indices[0]].tolist())

    weights = {"served": page.weights, "equal weights": [1 / len(logs.tasks)] * len(logs.tasks)}
    lift = evaluate(late, weights, baseline="equal weights", k=5).lifts["served"]["value"]
    span = f"({100 * lift.low:+.1f} … {100 * lift.high:+.1f})"
    print(f"replay, value of the first five slots over equal weights: {100 * lift.value:+.1f} % {span}")


if __name__ == "__main__":
    file, directory = (*sys.argv[1:], *("shop.parquet", "runs/own-logs-example")[len(sys.argv) - 1 :])
    main(Path(file), Path(directory))
