"""Time and peak memory of raw events by a schema, on a large catalog, and with a fourth of the events.

    python -m bench.system.raw_events [--events N] [--items N] [--until events|features|publish] [--out FILE]

Each size is a process of its own: the stages up to ``--until`` of a pipeline on tables of users, items and events
(long: exposures, clicks and orders in one table, without order). Time is CPU time, as other work on the machine does
not count there; the peak of a stage is ru_maxrss at its end. What depends on the catalog alone is in both sizes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.cpu.machine import facts
from bench.report.results import RESULTS, write_json
from pygrade._util.optional_imports import require

START, DAYS, PAGE, PART = 1_700_000_000_000, 28, 8, 200_000
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
_RUN = """
import json, resource, sys, time
from pathlib import Path
from pygrade._util.memory import peak_mib
from pygrade.config.pipeline import PipelineConfig
from pygrade.data.events import EventLog
from pygrade.pipeline.features import make_events, make_features
from pygrade.pipeline.run import run_pipeline
from pygrade.workers import LOCAL

folder, until = Path(sys.argv[1]), sys.argv[2]
stages = {}

def done(name, begun):
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    stages[name] = {"cpu_s": round(cpu - sum(stage["cpu_s"] for stage in stages.values()), 1),
                    "wall_s": round(time.perf_counter() - begun, 1), "peak_mib": round(peak_mib(), 1)}

begun = time.perf_counter()
facts = make_events(folder, f"events:{folder / 'events.toml'}", None)
done("events", begun)
if until != "events":
    begun = time.perf_counter()
    made = folder / "features"
    made.mkdir()
    make_features(made, EventLog.open(folder / "log"), None, PipelineConfig(), LOCAL)
    done("features", begun)
if until == "publish":
    begun = time.perf_counter()
    run_pipeline(f"events:{folder / 'events.toml'}", folder / "run", PipelineConfig(leak_checks=0, allow_unproven=True))
    done("pipeline", begun)
rows = {name: facts[name] for name in ("num_requests", "num_rows", "positives", "notes")}
(folder / "measured.json").write_text(json.dumps({**rows, "stages": stages}))
"""


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
    pages = int(events / (PAGE * 1.26))  # of 100 exposures 23 are clicked, 3 bought
    count, writer = 0, None
    for number, first in enumerate(range(0, pages, PART // PAGE)):
        table = _part(
            np.random.default_rng([seed, 1, number]),
            first,
            min(PART // PAGE, pages - first),
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
    page = np.repeat(np.arange(first, first + count), PAGE)
    item = np.searchsorted(popular, rng.random(count * PAGE) * popular[-1])
    user = np.repeat((users * rng.random(count) ** 1.5).astype(np.int64), PAGE)
    time = START + page * (DAYS * 86_400_000 // pages)
    slot = np.tile(np.arange(1, PAGE + 1), count)
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


def measure(events: int, items: int, users: int, until: str) -> dict[str, object]:
    """The stages on tables of this size."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        count = write_tables(folder, events, items, users)
        subprocess.run([sys.executable, "-c", _RUN, str(folder), until], check=True)
        return {"events": count, **json.loads((folder / "measured.json").read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=300_000)
    parser.add_argument("--until", choices=["events", "features", "publish"], default="features")
    parser.add_argument("--out", type=Path, default=RESULTS / "raw_events.json")
    options = parser.parse_args()
    runs = {}
    for name, events in (("a fourth", options.events // 4), ("all", options.events)):
        runs[name] = measure(events, options.items, options.users, options.until)
        print(name, runs[name], file=sys.stderr)
    record = {"machine": facts(), "items": options.items, "users": options.users, "until": options.until, "runs": runs}
    write_json(options.out, record)


if __name__ == "__main__":
    main()
