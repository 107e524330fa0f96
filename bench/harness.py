"""Interleaved timing of contenders on rotated inputs, and the records that a suite writes.

A contender is a callable that takes the number of a call and works on input ``number % rotations``. With fewer than 64
distinct inputs the branch predictor learns the data and flatters whoever branches on it.
"""

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

Contender = Callable[[int], Any]
OURS = "pygrade"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Quantiles over the timed blocks, in microseconds a call."""

    p20: float
    p50: float
    p80: float
    blocks: int


@dataclass
class Row:
    """One op on one shape: ours and every peer, and a bound of this machine where one is measured."""

    op: str
    shape: dict[str, int | str]
    timings: dict[str, Timing]
    library_peers: tuple[str, ...]  # peers that are library calls; the rest is written for the occasion
    bound_us: float | None = None  # what the machine allows, measured in the same run
    core_us: float | None = None  # our C++ alone, without the Python call
    bound: str = ""  # read, copy or flop
    notes: str = ""

    @property
    def best_peer(self) -> str:
        """The fastest library peer by p50."""
        return min(self.library_peers, key=lambda name: self.timings[name].p50)

    @property
    def ratio(self) -> float:
        """How many times faster than the best library peer, by p50."""
        return self.timings[self.best_peer].p50 / self.timings[OURS].p50


@dataclass
class Report:
    """A suite's rows with what they were measured on."""

    suite: str
    machine: dict[str, str]
    rows: list[Row] = field(default_factory=list)


def measure(contenders: Mapping[str, Contender], seconds: float = 1.0, block_us: float = 50.0) -> dict[str, Timing]:
    """Time the contenders in turns, block by block, until ``seconds`` have passed for each.

    A block is as many calls as fill ``block_us``, so that reading the clock costs nothing visible; the quantiles are
    over blocks. Turns share the machine's drift evenly.
    """
    number = dict.fromkeys(contenders, 0)
    calls: dict[str, int] = {}
    for name, run in contenders.items():
        for _ in range(3):  # warm up: compilation, allocation, caches
            run(number[name])
            number[name] += 1
        start = time.perf_counter()
        run(number[name])
        once = max(time.perf_counter() - start, 1e-7)
        calls[name] = max(1, min(1000, int(block_us * 1e-6 / once)))
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < end or min(map(len, samples.values())) < 7:
        for name, run in contenders.items():
            count, first = calls[name], number[name]
            start = time.perf_counter_ns()
            for i in range(first, first + count):
                run(i)
            samples[name].append((time.perf_counter_ns() - start) / count / 1000.0)
            number[name] = first + count
    return {name: _quantiles(values) for name, values in samples.items()}


def _quantiles(values: list[float]) -> Timing:
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return Timing(fifths[0], statistics.median(values), fifths[3], len(values))


def pin(threads: int) -> None:
    """Run this process on ``threads`` processors only, with as many threads in every library that listens."""
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, available[:threads])
    import torch

    torch.set_num_threads(threads)
    try:
        import faiss

        faiss.omp_set_num_threads(threads)
    except ImportError:
        pass
    try:
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    except ImportError:
        pass


def machine() -> dict[str, str]:
    """Processor, instruction set, operating system and the versions of everything that is timed."""
    from pygrade import _core

    facts = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "isa": _core.active_isa(),
        "python": platform.python_version(),
        "system": platform.system(),
    }
    for package in ("pygrade", "torch", "triton", "numpy", "numba", "faiss-cpu", "onnxruntime", "jax", "scipy"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return facts


def _processor() -> str:
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"} | os.environ)
        facts = dict(line.split(":", 1) for line in text.stdout.splitlines() if ":" in line)
        return f"{facts['Model name'].strip()} (family {facts['CPU family'].strip()}, model {facts['Model'].strip()})"
    except (OSError, KeyError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()


def table(report: Report) -> str:
    """The rows as text: ours, the best library peer, the ratio, and the ratio to the bound."""
    lines = [f"suite {report.suite} on {report.machine['processor']}, {report.machine['isa']}"]
    head = f"{'op':22}{'shape':44}{'pygrade µs':>11}{'best peer µs':>14}  {'peer':18}{'ratio':>7}{'× bound':>9}"
    lines += [head, "-" * len(head)]
    for row in report.rows:
        shape = " ".join(f"{key}={value}" for key, value in row.shape.items())
        bound = "" if not row.bound_us or not row.core_us else f"{row.core_us / row.bound_us:.2f}"
        ours, best = row.timings[OURS].p50, row.timings[row.best_peer].p50
        lines.append(f"{row.op:22}{shape:44}{ours:11.2f}{best:14.2f}  {row.best_peer:18}{row.ratio:7.2f}{bound:>9}")
    return "\n".join(lines)


def write(report: Report, directory: Path) -> Path:
    """``<suite>.json`` and ``<suite>.csv`` (one line a contender) in ``directory``; each replaced as a whole."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{report.suite}.json"
    content = {
        "suite": report.suite,
        "machine": report.machine,
        "rows": [asdict(row) | {"best_peer": row.best_peer, "ratio": round(row.ratio, 3)} for row in report.rows],
    }
    _replace(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    temporary = directory / f".{report.suite}.csv.new"
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["op", "shape", "contender", "p20_us", "p50_us", "p80_us", "processor", "isa", "pygrade"])
        where = [report.machine["processor"], report.machine["isa"], report.machine.get("pygrade", "")]
        for row in report.rows:
            shape = " ".join(f"{key}={value}" for key, value in row.shape.items())
            for name, t in row.timings.items():
                writer.writerow([row.op, shape, name, f"{t.p20:.3f}", f"{t.p50:.3f}", f"{t.p80:.3f}", *where])
    temporary.replace(directory / f"{report.suite}.csv")
    return path


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)


def progress(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)
