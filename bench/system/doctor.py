"""Times `pygrade doctor` on tables of a shop in Parquet: `python -m bench.system.doctor [--quick] [--out DIRECTORY]`

60,000 requests of 40 candidates each, a tenth and four times as many: 17 columns, seven of them text, among them the
ids of requests and users; 3 % shuffled pages. Each run is a process of its own on two processors: wall and CPU time
from start to end, the peak of its memory, and what a process takes without a table (`pygrade --version --verbose`).
The rows of a request are next to each other, as a shop writes them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.cpu.machine import facts, pin
from bench.report.results import RESULTS, write_json
from pygrade._util.optional_imports import require

REQUESTS, TIMES, QUICK = 60_000, (0.1, 1, 4), 2_000
CANDIDATES, PAGE, BLOCK = 40, 10, 20_000
LIMIT_SECONDS, LIMIT_GROWTH = 10.0, 1.2  # time of the middle one; growth of the time per row to the largest


def write_shop(path: Path, requests: int, seed: int = 0) -> None:
    """A table of ``requests`` requests, a block at a time."""
    pa, parquet, writer = require("pyarrow"), require("pyarrow.parquet"), None
    for first in range(0, requests, BLOCK):
        table = pa.table(shop(first, min(BLOCK, requests - first), requests, np.random.default_rng((seed, first))))
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def shop(first: int, requests: int, total: int, rng: np.random.Generator) -> dict[str, Any]:
    """Columns of some requests of a shop; slots from 1, null where not shown."""
    shape = (requests, CANDIDATES)
    quality, taste = rng.normal(size=shape), rng.normal(size=shape)
    click, order = (1 / (1 + np.exp(bias - quality - part * taste)) for bias, part in ((2.0, 0.0), (4.0, 0.7)))
    shuffled = rng.random(requests) < 0.03
    noise = np.where(shuffled[:, None], 100.0, 0.3) * rng.normal(size=shape)
    slot = np.argsort(np.argsort(-(click + 5 * order + noise), 1), 1)
    seen = (slot < PAGE) * (slot + 1.0) ** -0.6
    item = (
        rng.integers(0, 50_000, requests)[:, None]
        + rng.permuted(np.tile(np.arange(200), (requests, 1)), axis=1)[:, :CANDIDATES]
    )
    users = rng.integers(0, max(total // 5, 1), requests)
    number = np.arange(first, first + requests)
    words = {
        "device": np.array(["app", "web", "tablet"])[rng.integers(0, 3, requests)],
        "plan": np.array(["free", "basic", "family", "premium"])[users % 4],
        "page_order": np.where(shuffled, "shuffle", "none"),
    }
    of_request = {
        "session_id": np.char.add("s-", np.char.zfill(number.astype(str), 9)),
        "customer": np.char.add("c-", users.astype(str)),
        "at": (1_770_000_000_000 + number * (30 * 86_400_000 // total)).astype("datetime64[ms]"),
        **words,
        "tenure_days": np.where(users % 10 == 0, np.nan, users % 1000),
        "hour": rng.integers(0, 24, requests),
    }
    return {name: np.repeat(values, CANDIDATES) for name, values in of_request.items()} | {
        "product_id": np.char.add("p-", (item % 50_000).astype(str)).ravel(),
        "brand": np.array([f"brand {b}" for b in range(60)])[(item % 60).ravel()],
        "margin": ((item % 97) / 97.0).ravel(),
        "price": (5 + item % 40 + 0.99).ravel(),
        "rank": np.where(slot < PAGE, slot + 1.0, np.nan).ravel(),
        "pred_click": click.ravel(),
        "pred_order": order.ravel(),
        "clicked": (rng.random(shape) < click * seen).ravel(),
        "ordered": (rng.random(shape) < order * seen).ravel(),
    }


def run(*arguments: str) -> dict[str, float]:
    """Seconds and peak memory of a pygrade command in a process of its own."""
    begin, load = time.perf_counter(), os.getloadavg()[0]
    process = subprocess.Popen([sys.executable, "-m", "pygrade", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"pygrade {' '.join(arguments)} ended with status {status}")
    return {
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "load": round(load, 1),  # of others, before it starts: with some, CPU time says more than the clock
    }


def measure(requests: int, folder: Path) -> dict[str, Any]:
    """`doctor` on a table of ``requests`` requests, with everything that it writes."""
    write_shop(folder / "shop.parquet", requests)
    options = ["--values", "click=0.1,order=20", "--out", str(folder / "run")]
    result = run("doctor", str(folder / "shop.parquet"), *options)
    size = (folder / "shop.parquet").stat().st_size
    return {"requests": requests, "rows": requests * CANDIDATES, "file_mib": round(size / 2**20, 1), **result}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.system.doctor", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one small table; writes no file without --out")
    parser.add_argument("--out", type=Path, help=f"directory of doctor.json; {RESULTS.name}/ by default")
    options = parser.parse_args()
    pin(2)
    start, runs = (
        run("--version", "--verbose"),
        [],
    )  # first: a process's peak is at least what this one holds when it starts
    for requests in [QUICK] if options.quick else [round(times * REQUESTS) for times in TIMES]:
        with tempfile.TemporaryDirectory() as scratch:
            runs.append(measure(requests, Path(scratch)))
        print(runs[-1], file=sys.stderr)
    out = options.out or (None if options.quick else RESULTS)
    record = {"machine": facts(), "processors": len(os.sched_getaffinity(0)), "start": start, "runs": runs}
    if out is not None:
        write_json(out / "doctor.json", record)
    if options.quick:
        return 0
    growth = (runs[-1]["cpu_seconds"] / runs[-1]["rows"]) / (runs[-2]["cpu_seconds"] / runs[-2]["rows"])
    print(f"{runs[-2]['seconds']} s; want at most {LIMIT_SECONDS}")
    print(f"{growth:.2f} times the time of a row with {TIMES[-1]} times the rows; want at most {LIMIT_GROWTH}")
    return int(runs[-2]["seconds"] > LIMIT_SECONDS or growth > LIMIT_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
