"""Interleaved timing of contenders on rotated inputs, and the records that a suite yields.

A contender is a callable that takes the number of the call and works on input ``number % rotations``. With fewer than
64 distinct inputs the branch predictor learns the data, which favors code that branches on it.
"""

import importlib
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Contender = Callable[[int], Any]
Shape = Mapping[str, int | str]
OURS = "pygrade"
NOTHING = "nothing"  # a contender that does nothing: the overhead of the harness
ROTATIONS = 64
REST = 0.01  # seconds
SECONDS = {True: 0.6, False: 5.0}  # of a row, in a quick run or a full one
SHARED_BLOCK_US = 3000.0
ABSENT: set[str] = set()  # packages that the current row could not use


@dataclass(frozen=True)
class Timing:
    """Quantiles over the timed blocks, in µs per call."""

    p20: float
    p50: float
    p80: float
    blocks: int


@dataclass
class Row:
    """One op on one shape: ours, every peer, the C++ core alone, and a bound of this machine if one is measured."""

    op: str
    shape: Shape
    timings: dict[str, Timing]
    peers: tuple[str, ...]  # contenders that are library calls
    beside: tuple[str, ...] = ()  # contenders that are not library calls
    core: Timing | None = None  # the C++ core, without the Python call
    bound: Timing | None = None  # what the machine allows, measured in the same run
    bound_kind: str = ""  # read, copy or flop
    notes: str = ""
    work: dict[str, int] | None = None  # counted bytes and operations (roofline.py)
    gb_per_s: float | None = None
    shares: dict[str, float] = field(default_factory=dict)  # of the report's limits
    absent: tuple[str, ...] = ()  # packages of peers that are not installed

    @property
    def best_peer(self) -> str | None:
        """The fastest library peer by p50, or None without peers."""
        return min(self.peers, key=lambda name: self.timings[name].p50, default=None)

    def ratio_to(self, name: str | None) -> float | None:
        """Speed over the contender's, by p50."""
        return None if name is None else self.timings[name].p50 / self.timings[OURS].p50

    @property
    def ratio(self) -> float | None:
        """Speed over the best library peer's, by p50."""
        return self.ratio_to(self.best_peer)

    @property
    def core_ratio(self) -> float | None:
        """Speed of the C++ core over the best library peer's, by p50."""
        return None if self.core is None or self.best_peer is None else self.timings[self.best_peer].p50 / self.core.p50

    @property
    def bound_ratio(self) -> float | None:
        """The time of the C++ core over that of the bound."""
        return None if self.core is None or self.bound is None else self.core.p50 / self.bound.p50

    @property
    def overhead(self) -> float | None:
        """µs of the Python call: the whole call minus the harness's overhead and the C++ core."""
        if self.core is None or NOTHING not in self.timings:
            return None
        return self.timings[OURS].p50 - self.timings[NOTHING].p50 - self.core.p50

    @property
    def label(self) -> str:
        """The shape as text."""
        return " ".join(f"{key}={value}" for key, value in self.shape.items())


@dataclass
class Report:
    """The rows of a suite and the machine they were measured on."""

    suite: str
    machine: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)  # of the machine, in G/s
    skipped: dict[str, str] = field(default_factory=dict)  # peers and rows, and why


def optional(name: str) -> Any:
    """A module of a peer, or None, noted in `ABSENT`, if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        ABSENT.add(name)
        return None


def measure(contenders: Mapping[str, Contender], seconds: float, block_us: float = 50.0) -> dict[str, Timing]:
    """Time the contenders in turns, block by block, for ``seconds`` in total (or longer, until each has 7 blocks).

    A block is as many calls as fill ``block_us``, so that the cost of reading the clock is negligible; the quantiles
    are over blocks. Taking turns spreads the machine's drift evenly. The order is shuffled, and each contender starts
    at another input, so that none profits from what another has just loaded into the cache.

    On several processors a turn begins with a pause and some milliseconds of untimed calls, and its block is longer:
    thread pools of the previous contender keep spinning for a while, and waking threads may take milliseconds.
    """
    shared = len(os.sched_getaffinity(0)) > 1
    if shared:
        block_us = max(block_us, SHARED_BLOCK_US)
    number = {name: i * ROTATIONS // len(contenders) for i, name in enumerate(contenders)}
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
    turns, shuffle = list(contenders.items()), random.Random(0).shuffle
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, samples.values())) < 7:
        shuffle(turns)
        for name, run in turns:
            count, first = calls[name], number[name]
            if shared:
                time.sleep(REST)
                warm = time.perf_counter() + REST
                while time.perf_counter() < warm:
                    run(first)
            start = time.perf_counter_ns()
            for i in range(first, first + count):
                run(i)
            samples[name].append((time.perf_counter_ns() - start) / count / 1000.0)
            number[name] = first + count
    return {name: quantiles(values) for name, values in samples.items()}


def turns(runs: Mapping[str, Callable[[], Any]], calls: int, clock: Callable[[], int]) -> dict[str, list[float]]:
    """µs of each of ``calls`` calls by a clock in ns, after 20 that warm up, in shuffled turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs.items()), random.Random(0).shuffle
    for number in range(calls + 20):
        shuffle(order)
        for name, run in order:
            start = clock()
            run()
            if number >= 20:
                times[name].append((clock() - start) / 1000)
    return times


def quantiles(values: list[float]) -> Timing:
    """Quantiles of the times of blocks or calls."""
    if len(values) == 1:
        return Timing(values[0], values[0], values[0], 1)
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return Timing(fifths[0], statistics.median(values), fifths[3], len(values))


def progress(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)
