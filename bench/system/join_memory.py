"""Time and peak memory of `pygrade join` on exposures of a service, and on 4 times as many.

    python -m bench.system.join_memory [--rows N] [--out bench/results/join_memory.json]

Each run is a process of its own; the peak is its ru_maxrss.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from bench.cpu.machine import facts
from bench.report.results import RESULTS, write_json
from pygrade.logs import Logs
from pygrade.logs.parquet import write_part

LIMIT = 1.3  # memory with 4× the rows, over that with 1×
CANDIDATES, SHOWN, EVENTS = 50, 10, 3  # of a request
_PER_FILE = 2_000  # requests
_START, _GAP = 1_700_000_000_000, 40  # ms: the first request, and the time between two
_RUN = """
import json, resource, sys, time
from pathlib import Path
from pygrade.config.service import JoinConfig
from pygrade.service.join import join_logs
folder, begun = Path(sys.argv[1]), time.perf_counter()
record = join_logs(folder / "exposures", [folder / "feedback"], folder / "joined", JoinConfig(), 1 << 60)
record["seconds"] = time.perf_counter() - begun
record["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(record))
"""


def write(folder: Path, requests: int) -> int:
    """Files of a service that logs every candidate; how many events there are."""
    rng, events = np.random.default_rng(0), 0
    (folder / "exposures").mkdir()
    (folder / "feedback").mkdir()
    for start in range(0, requests, _PER_FILE):
        number = np.arange(start, min(start + _PER_FILE, requests))
        logs = _logs(rng, number)
        columns = {entry.name: getattr(logs, entry.name) for entry in fields(Logs)}
        write_part(columns, folder / "exposures" / f"exposures-{start:09d}.parquet")
        lines = []
        for page in range(len(number)):
            for slot in rng.choice(SHOWN, EVENTS, replace=False):
                row = page * CANDIDATES + int(slot)
                event = {"user": int(logs.user_id[page][1:]), "item": int(logs.item_id[row]), "task": "click"}
                event |= {"timestamp": int(logs.timestamp[page]) + 5000, "request_id": str(logs.request_id[page])}
                lines.append(json.dumps(event | {"event_id": f"{number[page]}-{slot}"}) + "\n")
        (folder / "feedback" / f"feedback-{start:09d}.jsonl").write_text("".join(lines))
        events += len(lines)
    return events


def _logs(rng: np.random.Generator, number: np.ndarray) -> Logs:
    count = len(number)
    rows = count * CANDIDATES
    return Logs(
        tasks=("click", "like", "order"),
        features=tuple(f"f{i}" for i in range(10)),
        request_id=np.array([f"{n:032x}" for n in number]),
        user_id=np.array([f"u{n % 10_000}" for n in number]),
        offsets=np.arange(count + 1) * CANDIDATES,
        context=rng.normal(size=(count, 10)).astype(np.float32),
        item_id=(np.arange(rows) % 1_000_003).astype(np.int64),
        position=np.tile(np.r_[np.arange(SHOWN), np.full(CANDIDATES - SHOWN, -1)], count).astype(np.int32),
        predictions=rng.random((rows, 3)).astype(np.float32),
        feedback=np.zeros((rows, 3), np.float32),
        weights=np.full((count, 3), 1 / 3, np.float32),
        concentration=np.full((count, 3), np.nan, np.float32),
        seed=np.zeros(count, np.uint64),
        exploration=np.full(count, "none"),
        timestamp=_START + _GAP * number.astype(np.int64),
        candidates=np.full(count, CANDIDATES),
        arm=np.full(count, "main"),
    )


def measure(rows: int) -> dict[str, float]:
    """Of about so many rows."""
    with tempfile.TemporaryDirectory() as scratch:
        events = write(Path(scratch), rows // CANDIDATES)
        run = subprocess.run([sys.executable, "-c", _RUN, scratch], check=True, capture_output=True, text=True)
    record = json.loads(run.stdout)
    if record["joined"] != events:
        raise ValueError(f"{record['joined']} of {events} events were joined")
    names = ("requests", "rows", "joined")
    return {name: record[name] for name in names} | {n: round(record[n], 1) for n in ("seconds", "peak_mib")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "join_memory.json")
    options = parser.parse_args()
    runs = {}
    for times in (1, 4):
        runs[f"{times}x"] = measure(times * options.rows)
        print(times, runs[f"{times}x"], file=sys.stderr)
    ratio = runs["4x"]["peak_mib"] / runs["1x"]["peak_mib"]
    write_json(options.out, {"machine": facts(), "runs": runs, "ratio": round(ratio, 3), "limit": LIMIT})
    print(f"{ratio:.3f} of the memory for 4 times the rows; want at most {LIMIT}")
    sys.exit(ratio > LIMIT)


if __name__ == "__main__":
    main()
