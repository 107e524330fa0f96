"""Time and peak memory of what reads whole tables, and of the same with more rows.

    python -m bench.system.growth doctor|logs|events [--quick] [--out DIRECTORY]

    doctor  `pygrade doctor` on tables of a shop in Parquet: 60,000 requests of 40 candidates each, a tenth and four
            times as many: 17 columns, seven of them text, among them the ids of requests and users; 3 % shuffled pages.
            What a process takes without a table stands beside it (`pygrade --version --verbose`)
    logs    a pipeline on a synthetic log, and on one with 4 times the rows of the same users and items. Up to the
            policy's log, the memory depends on the numbers of users and items, the models, and buffers, but not on the
            length of the log. The policy's training holds a sample of its log: it grows up to 100,000 requests
    events  the first stages of a pipeline on raw events by a schema, a large catalog, and with a fourth of the events:
            users, items and events (long: exposures, clicks and orders in one table, without order)

Each run is a process of its own on two processors. The peak of a stage is ru_maxrss at its end. CPU time counts where
other work on the machine shall not. What depends on the catalog alone is in all sizes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from devtools.synthetic_log import write_synthetic_log
from pygrade._util.optional_imports import require
from ..cpu.machine import facts, pin
from ..report.results import RESULTS, write_json

CANDIDATES, PAGE, BLOCK = 40, 10, 20_000
LIMIT_SECONDS, LIMIT_GROWTH = 10.0, 1.2  # doctor: time of the middle one; growth of the time per row to the largest
LIMIT_MEMORY, UNTIL = 1.2, "logs"  # logs: memory with 4 times the rows, over that with 1, at the end of this stage
START, DAYS, SHOWN, PART = 1_700_000_000_000, 28, 8, 200_000
ITEMS, USERS = 1_000_000, 300_000
SCHEMA = """
requests = "column"
values = { click = 1.0, order = 1.0 }
value_tasks = "order"
category = "brand"

[[events]]
files = "events.parquet"
form = "long"
user = "user"
item = "item"
time = "time"
kind = "kind"
exposure = "impression"
tasks = { click = "click", order = "order" }
request = "page"
slot = "slot"

[[users]]
files = "users.parquet"
id = "user"
attributes = { country = "categorical", age = "dense" }

[[items]]
files = "items.parquet"
id = "item"
attributes = { brand = "hashed", color = "categorical", price = "dense", published = "time" }
"""
_LOGS = """
import sys
from pygrade.config.mtl import MtlConfig
from pygrade.config.pipeline import PipelineConfig
from pygrade.pipeline.run import run_pipeline
from pygrade.config.prerank import PrerankConfig
config = PipelineConfig(allow_unproven=True, prerank=PrerankConfig(epochs=1), mtl=MtlConfig(epochs=1))
run_pipeline(f"logs:{sys.argv[1]}/log", f"{sys.argv[1]}/run", config)
"""
_EVENTS = """
import json, resource, sys, time
from pathlib import Path
from pygrade._util.memory import peak_mib
from pygrade.config.pipeline import PipelineConfig
from pygrade.data.events import EventLog
from pygrade.pipeline.features import make_events, make_features
from pygrade.workers import LOCAL

folder, stages = Path(sys.argv[1]), {}

def timed(name, stage, *arguments):
    begun = time.perf_counter()
    result = stage(*arguments)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    stages[name] = {"cpu_s": round(cpu - sum(stage["cpu_s"] for stage in stages.values()), 1),
                    "wall_s": round(time.perf_counter() - begun, 1), "peak_mib": round(peak_mib(), 1)}
    return result

facts = timed("events", make_events, folder, f"events:{folder / 'events.toml'}", None)
(folder / "features").mkdir()
timed("features", make_features, folder / "features", EventLog.open(folder / "log"), None, PipelineConfig(), LOCAL)
rows = {name: facts[name] for name in ("num_requests", "num_rows", "positives", "notes")}
(folder / "measured.json").write_text(json.dumps({**rows, "stages": stages}))
"""


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


def write_tables(folder: Path, events: int, items: int, users: int, seed: int = 0) -> int:
    """Writes users, items and about ``events`` events, PART of them at a time; returns their number."""
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    rng = np.random.default_rng([seed, 0])
    brand, quality = rng.integers(0, max(items // 100, 2), items), rng.normal(size=items)
    parquet.write_table(
        pa.table(
            {
                "item": np.arange(items),
                "brand": brand,
                "color": pa.array(np.array(["red", "blue", "green", "white"])[rng.integers(0, 4, items)]),
                "price": rng.lognormal(3, 1, items).round(2),
                "published": START - rng.integers(0, 365 * 86_400, items) * 1000,
            }
        ),
        folder / "items.parquet",
    )
    country = pa.array(np.array(["DE", "AT", "CH"])[rng.integers(0, 3, users)])
    parquet.write_table(
        pa.table({"user": np.arange(users), "country": country, "age": rng.integers(18, 80, users)}),
        folder / "users.parquet",
    )
    popular = np.cumsum((1.0 + np.arange(items)) ** -0.7)
    pages = int(events / (SHOWN * 1.26))  # of 100 exposures 23 are clicked, 3 bought
    count, writer = 0, None
    for number, first in enumerate(range(0, pages, PART // SHOWN)):
        table = _part(
            np.random.default_rng([seed, 1, number]),
            first,
            min(PART // SHOWN, pages - first),
            pages,
            popular,
            quality,
            users,
        )
        if writer is None:
            writer = parquet.ParquetWriter(folder / "events.parquet", table.schema)
        writer.write_table(table)
        count += len(table)
    assert writer is not None
    writer.close()
    (folder / "events.toml").write_text(SCHEMA, encoding="utf-8")
    return count


def _part(rng, first, count, pages, popular, quality, users):
    """Exposures of some pages and what followed, shuffled."""
    pa = require("pyarrow")
    page = np.repeat(np.arange(first, first + count), SHOWN)
    item = np.searchsorted(popular, rng.random(count * SHOWN) * popular[-1])
    user = np.repeat((users * rng.random(count) ** 1.5).astype(np.int64), SHOWN)
    time = START + page * (DAYS * 86_400_000 // pages)
    slot = np.tile(np.arange(1, SHOWN + 1), count)
    click = rng.random(len(page)) < 1 / (1 + np.exp(1.0 - quality[item] + 0.1 * slot))
    order = click & (rng.random(len(page)) < 0.15)
    frames = [
        (np.arange(len(page)), "impression", 0),
        (np.flatnonzero(click), "click", 20_000),
        (np.flatnonzero(order), "order", 300_000),
    ]
    rows = np.concatenate([rows for rows, _, _ in frames])
    kind = np.concatenate([np.full(len(rows), n) for n, (rows, _, _) in enumerate(frames)])
    delay = np.concatenate([np.full(len(rows), delay) for rows, _, delay in frames])
    mixed = rng.permutation(len(rows))
    rows, kind, delay = rows[mixed], kind[mixed], delay[mixed]
    kinds = pa.DictionaryArray.from_arrays(pa.array(kind.astype(np.int8)), [name for _, name, _ in frames])
    slots = pa.array(slot[rows], mask=kind > 0)
    return pa.table(
        {
            "page": page[rows],
            "user": user[rows],
            "item": item[rows],
            "time": time[rows] + delay,
            "kind": kinds,
            "slot": slots,
        }
    )


def run(*arguments: str) -> dict[str, float]:
    """Seconds and peak memory of a Python program in a process of its own."""
    begin, load = time.perf_counter(), os.getloadavg()[0]
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(arguments)} ended with status {status}")
    return {
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "load": round(load, 1),  # of others, before it starts: with some, CPU time says more than the clock
    }


def measure_doctor(requests: int, folder: Path) -> dict[str, Any]:
    """`doctor` on a table of ``requests`` requests, with everything that it writes."""
    table = folder / "shop.parquet"
    write_shop(table, requests)
    used = run("-m", "pygrade", "doctor", str(table), "--values", "click=0.1,order=20", "--out", str(folder / "run"))
    size = round(table.stat().st_size / 2**20, 1)
    return {"requests": requests, "rows": requests * CANDIDATES, "file_mib": size, **used}


def measure_logs(requests: int, folder: Path) -> dict[str, Any]:
    """Peak memory of a pipeline on a log of ``requests`` requests."""
    write_synthetic_log(folder / "log", requests)
    run("-c", _LOGS, str(folder))
    summary = json.loads((folder / "run" / "summary.json").read_text())
    return {
        "requests": summary["stages"]["events"]["num_requests"],
        "rows": summary["stages"]["events"]["num_rows"],
        "peak_mib": round(summary["peak_memory_mib"], 1),
        "stage_peak_mib": {name: round(stage["peak_mib"], 1) for name, stage in summary["stages"].items()},
    }


def measure_events(events: int, folder: Path) -> dict[str, Any]:
    """The first stages on about ``events`` events."""
    count = write_tables(folder, events, min(ITEMS, events), min(USERS, events))
    run("-c", _EVENTS, str(folder))
    return {"events": count, **json.loads((folder / "measured.json").read_text())}


def doctor_faults(runs: list[dict[str, Any]]) -> list[str]:
    """The limits that the runs of doctor miss."""
    middle, largest = runs[-2:]
    growth = (largest["cpu_seconds"] / largest["rows"]) / (middle["cpu_seconds"] / middle["rows"])
    faults = [f"{middle['seconds']} s; expected at most {LIMIT_SECONDS}"] * (middle["seconds"] > LIMIT_SECONDS)
    return faults + [f"{growth:.2f} times the time of a row; expected at most {LIMIT_GROWTH}"] * (growth > LIMIT_GROWTH)


def logs_faults(runs: list[dict[str, Any]]) -> list[str]:
    """The limit that the runs of a pipeline miss."""
    ratio = runs[1]["stage_peak_mib"][UNTIL] / runs[0]["stage_peak_mib"][UNTIL]
    return [f"{ratio:.3f} of the memory until {UNTIL}; expected at most {LIMIT_MEMORY}"] * (ratio > LIMIT_MEMORY)


# Subject → file of results, sizes, size of a quick run, measurement, limits.
SUBJECTS: dict[str, tuple[str, tuple[int, ...], int, Any, Any]] = {
    "doctor": ("doctor.json", (6_000, 60_000, 240_000), 2_000, measure_doctor, doctor_faults),
    "logs": ("pipeline_memory.json", (40_000, 160_000), 1_500, measure_logs, logs_faults),
    "events": ("raw_events.json", (2_500_000, 10_000_000), 20_000, measure_events, lambda _: []),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.system.growth", description=__doc__.split("\n")[0])
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--quick", action="store_true", help="one small size; writes no file without --out")
    parser.add_argument("--out", type=Path, help=f"directory of the results; {RESULTS.name}/ by default")
    options = parser.parse_args()
    name, sizes, quick, measure, faults_of = SUBJECTS[options.subject]
    pin(2)
    # First: a process's peak is at least what this one holds when it starts.
    start, runs = run("-m", "pygrade", "--version", "--verbose"), []
    for size in (quick,) if options.quick else sizes:
        with tempfile.TemporaryDirectory() as scratch:
            runs.append(measure(size, Path(scratch)))
        print(runs[-1], file=sys.stderr)
    out = options.out or (None if options.quick else RESULTS)
    record = {"machine": facts(), "processors": len(os.sched_getaffinity(0)), "start": start, "runs": runs}
    if out is not None:
        write_json(out / name, record)
    faults = [] if options.quick else faults_of(runs)
    print(*faults, sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
