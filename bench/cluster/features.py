"""Five point-in-time aggregates of a log: by `materialize`, and by polars written by hand for just these five.

    python -m bench.cluster.features [--requests N] [--out bench/results/cluster_features.json]

The aggregates, of shown rows whose feedback came strictly before the request: the user's rows and clicks, the item's
rows and clicks, and log(1 + hours) since the user's last row. Both read the same Parquet files and write their result,
each in a process of its own: `materialize` without workers, polars with one thread and with two. They must agree before
they are timed. polars holds the whole log in memory; `materialize` does not, and also writes ids, feedback, fitted
values and the state.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.cpu.machine import facts
from bench.report.results import RESULTS, write_json
from devtools.synthetic_log import write_synthetic_log

TARGET = 2.0  # times the time of polars
COUNTS = ("user_rows", "user_clicks", "item_rows", "item_clicks")


def by_hand(log: Path, out: Path) -> None:
    """The aggregates of every row, as one Parquet file."""
    import polars as pl

    parts = sorted((log / "events").glob("part-*.parquet"))
    columns = ["request_id", "user_id", "item_id", "timestamp", "event_time", "position", "y_click"]
    rows = pl.scan_parquet(parts).select(columns).collect()
    shown = rows.filter(pl.col("position").is_not_null()).sort("event_time")

    def past(key: str, name: str) -> pl.DataFrame:
        """What is known of each key from each of its events on."""
        return shown.select(
            key,
            "event_time",
            pl.col("y_click").cum_count().over(key).alias(f"{name}_rows"),
            pl.col("y_click").cum_sum().over(key).alias(f"{name}_clicks"),
            pl.col("event_time").alias("last"),
        )

    def seen(asked: pl.DataFrame, key: str, name: str) -> pl.DataFrame:
        """What the rows of ``asked``, in order of time, know of their key."""
        return asked.join_asof(
            past(key, name),
            left_on="timestamp",
            right_on="event_time",
            by=key,
            allow_exact_matches=False,
            check_sortedness=False,
        )

    requests = rows.select("request_id", "user_id", "timestamp").unique("request_id", keep="first", maintain_order=True)
    hours = (pl.col("timestamp") - pl.col("last")) / 3_600_000
    of_users = seen(requests, "user_id", "user").select(
        "request_id", pl.col("user_rows", "user_clicks").fill_null(0), hours.log1p().alias("user_recency")
    )
    of_items = seen(rows.select("request_id", "item_id", "timestamp"), "item_id", "item")
    features = of_items.select("request_id", "item_id", pl.col("item_rows", "item_clicks").fill_null(0))
    joined = features.join(of_users, "request_id", "left", maintain_order="left")
    joined.with_columns(pl.col(*COUNTS, "user_recency").cast(pl.Float32)).write_parquet(out)


def ours(log: Path, out: Path) -> None:
    """The same by `materialize`."""
    from pygrade.data.events import EventLog
    from pygrade.features import Feature, FeatureSchema, materialize

    events = EventLog.open(log)
    features = [
        Feature(name, entity, "count", source, (f"{entity}_id",))
        for entity in ("user", "item")
        for name, source in ((f"{entity}_rows", ""), (f"{entity}_clicks", "y_click"))
    ]
    features.append(Feature("user_recency", "user", "recency", key=("user_id",)))
    materialize(events, FeatureSchema.of(features, events), out)


def check(polars_file: Path, folder: Path) -> int:
    """Compares the two; returns the number of rows."""
    import polars as pl

    from pygrade.features import FeatureSet

    (batch,) = FeatureSet.open(folder).batches(requests=10**12)
    frame = pl.read_parquet(polars_file)
    np.testing.assert_array_equal(frame["item_id"].to_numpy(), batch.item_id)
    for name in (*COUNTS, "user_recency"):
        column = batch.column(name)
        values = column if name.startswith("item") else column[batch.row_request]
        np.testing.assert_allclose(frame[name].fill_null(np.nan).to_numpy(), values, rtol=1e-6, err_msg=name)
    assert batch.column("user_clicks").max() > 5 and np.isfinite(batch.column("user_recency")).mean() > 0.1
    return len(frame)


def timed(contender: str, log: Path, out: Path, threads: int) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of a process that runs a contender once."""
    environment = os.environ | {"POLARS_MAX_THREADS": str(threads if contender == "polars" else 1)}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.cluster.features", "--run", contender, str(log), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(contender: str, log: Path, out: Path) -> None:
    """One timed run, after the imports; prints its figures."""
    import polars

    import pygrade.features  # noqa: F401

    polars.thread_pool_size()
    started, before = time.perf_counter(), time.process_time()
    if contender == "polars":
        by_hand(log, out)
    else:
        ours(log, out)
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that started this one
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), "peak_mib": round(peak, 1)}))


def measure(requests: int, repeats: int) -> dict[str, object]:
    """polars with one and with two threads, and ours: the middle one of their runs, taken in turn."""
    from pygrade.data.events import import_events

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_synthetic_log(folder / "raw", requests, users=20_000, items=30_000)
        log = import_events(f"logs:{folder / 'raw'}", folder / "log").path
        by_hand(log, folder / "polars")
        ours(log, folder / "ours")
        rows = check(folder / "polars", folder / "ours")
        runs: dict[str, list[dict[str, float]]] = {}
        for _ in range(repeats):
            for contender, threads in (("polars", 1), ("pygrade", 1), ("polars", 2)):
                new = timed(contender, log, folder / contender, threads)
                runs.setdefault(f"{contender} {threads}", []).append(new)
                print(contender, threads, new, file=sys.stderr)
    figures = {name: sorted(seen, key=lambda run: run["seconds"])[len(seen) // 2] for name, seen in runs.items()}
    own = figures["pygrade 1"]["seconds"]
    ratios = {str(threads): round(own / figures[f"polars {threads}"]["seconds"], 2) for threads in (1, 2)}
    return {"rows": rows, "runs": figures, "times_polars": ratios, "target": TARGET}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200_000, help="requests of the log, of 10 rows each")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "cluster_features.json")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        contender, log, out = options.run
        run(contender, Path(log), Path(out))
        return
    record = {"machine": facts(), **measure(options.requests, options.repeats)}
    write_json(options.out, record)
    print(json.dumps(record["times_polars"]))
    sys.exit(max(record["times_polars"].values()) > TARGET)


if __name__ == "__main__":
    main()
