"""Importing and reading three times the rows takes no more memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.datasets.kuairand_world import FIRST_DAY, HOUR, LOG_HEADER, user_text

ROWS = 400_000  # a file of CSV longer than the 32 MiB that pyarrow reads ahead
USERS, ITEMS = 1000, 20_000
# Each thread of polars and pyarrow and each arena of an allocator keeps memory that was freed: with 2 threads the peaks
# of one import differed by 25 MB, with 16 by 45 MB.
ONE_HEAP = {
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
}
# ru_maxrss would start from the peak of the process that starts this one
PROGRAM = """
import re, sys
from pathlib import Path
from pygrade.data.events import import_events
log = import_events(sys.argv[1], sys.argv[2], rows=25_000)
rows = sum(len(chunk) for chunk in log.chunks(25_000))
print(rows, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def write_kuairand(directory: Path, rows: int) -> str:
    rng = np.random.default_rng(0)
    time = FIRST_DAY + rng.integers(0, 14 * 24 * HOUR, rows)
    columns = {name: np.zeros(rows, np.int64) for name in LOG_HEADER.split(",")}
    columns |= {
        "user_id": np.sort(rng.integers(0, USERS, rows)),
        "video_id": rng.integers(0, ITEMS, rows),
        "time_ms": time,
        "date": 20220408 + (time - FIRST_DAY) // (24 * HOUR),
        "is_click": rng.integers(0, 2, rows),
        "play_time_ms": rng.integers(0, 60_000, rows),
        "duration_ms": np.full(rows, 9000),
        "tab": rng.integers(0, 3, rows),
    }
    pl.DataFrame(columns).write_csv(directory / "log_standard_4_08_to_4_21_1k.csv")
    (directory / "user_features_1k.csv").write_text(user_text(list(range(USERS))))
    return f"kuairand:{directory}"


def write_contract(directory: Path, rows: int) -> str:
    rng = np.random.default_rng(0)
    request = np.arange(rows) // 20
    click = rng.integers(0, 2, rows).astype(np.float32)
    frame = pl.DataFrame(
        {
            "request_id": request,
            "user_id": request % USERS,
            "item_id": rng.integers(0, ITEMS, rows // 20)[request] + np.arange(rows) % 20,
            "position": (np.arange(rows) % 20).astype(np.int32),
            "timestamp": 9973 * rng.permutation(rows // 20)[request],
            **{f"x_{i}": rng.normal(size=rows // 20).astype(np.float32)[request] for i in range(8)},
            "p_click": click,
            "y_click": click,
        }
    )
    for number, part in enumerate(frame.iter_slices(100_000)):  # a part at a time is read whole
        part.write_parquet(directory / f"part-{number:05d}.parquet")
    return f"logs:{directory}"


@pytest.mark.release
@pytest.mark.parametrize("write", [write_kuairand, write_contract])
def test_memory_does_not_grow_with_the_log(tmp_path, write):
    peak = {}
    for times in (1, 3):
        source = tmp_path / f"{times}"
        source.mkdir()
        spec = write(source, times * ROWS)
        command = [sys.executable, "-c", PROGRAM, spec, str(tmp_path / f"log{times}")]
        run = subprocess.run(command, env=os.environ | ONE_HEAP, capture_output=True, text=True, check=True)
        rows, peak[times] = map(int, run.stdout.split())
        assert rows == times * ROWS
    assert peak[3] <= 1.3 * peak[1], peak  # 1.7 if an import keeps its rows
