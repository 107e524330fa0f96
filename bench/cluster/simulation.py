"""The stages of `bench.cluster.capacity`, played job by job: a check of its closed form.

A job takes a core, reads, computes and writes. Equal jobs take unequal times (lognormal); the largest shard is larger;
the driver hands jobs out one after another, as cores become free. Transfers share evenly what the link of their node
and what the store can move, and none is faster than one stream. Nothing of the closed form is used.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.cluster.capacity import Cluster, Log, Stage

_READ, _COMPUTE, _WRITE, _FREE = range(4)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Played:
    """What happened in a stage."""

    seconds: float
    busy_share: float  # of the time of all cores: they had a job
    computing_share: float  # they computed
    longest_job: float  # s


def play(stage: Stage, log: Log, cluster: Cluster, seed: int = 0) -> Played:
    """Plays one stage."""
    work = _amounts(stage, log, cluster, np.random.default_rng(seed))
    jobs, cores = len(work), cluster.cores
    node = np.arange(cores) % cluster.nodes
    phase, left = np.full(cores, _FREE), np.full(cores, np.inf)
    job, begun = np.full(cores, -1), np.zeros(cores)
    now, driver, done, busy, computing, longest = 0.0, 0.0, 0, 0.0, 0.0, 0.0
    coming: list[tuple[float, int, int]] = []  # when a job begins, its number, on which core

    def hand_out(number: int, core: int) -> None:
        nonlocal driver
        driver = max(driver, now) + cluster.hand_out_ms / 1e3
        heapq.heappush(coming, (driver, number, core))

    def advance(core: int) -> None:
        """Puts the core into its job's next phase that has work to do."""
        phase[core] += 1
        while phase[core] < _FREE and work[job[core], phase[core]] == 0.0:
            phase[core] += 1
        left[core] = work[job[core], phase[core]] if phase[core] < _FREE else np.inf

    handed = min(cores, jobs)
    for number in range(handed):
        hand_out(number, number)
    while done < jobs:
        rate = rates(phase, node, cluster)
        until = np.full(cores, np.inf)
        active = phase != _FREE
        until[active] = left[active] / rate[active]
        step = min(float(until.min()), coming[0][0] - now if coming else np.inf)
        now += step
        busy += step * int(active.sum())
        computing += step * int((phase == _COMPUTE).sum())
        left[active] -= step * rate[active]
        for core in np.flatnonzero(until <= step).tolist():
            advance(core)
            if phase[core] == _FREE:
                done += 1
                longest = max(longest, now - begun[core])
                if handed < jobs:
                    hand_out(handed, core)
                    handed += 1
        while coming and coming[0][0] <= now:
            _, number, core = heapq.heappop(coming)
            job[core], begun[core], phase[core] = number, now, -1
            advance(core)
    spent = now * cores
    return Played(now + stage.driver_us * log.rows / 1e6, busy / spent, computing / spent, longest)


def rates(phase: Ints, node: Ints, cluster: Cluster) -> Floats:
    """What each core gets done of its phase: bytes/s, or s/s."""
    rate = (phase == _COMPUTE).astype(np.float64)
    moving = (phase == _READ) | (phase == _WRITE)
    if moving.any():
        beside = np.bincount(node[moving], minlength=cluster.nodes)[node[moving]]
        share = np.minimum(cluster.node_network / beside, cluster.store / moving.sum())
        rate[moving] = np.minimum(share, cluster.stream)
    return rate


def _amounts(stage: Stage, log: Log, cluster: Cluster, rng: np.random.Generator) -> Floats:
    """The bytes to read, the seconds to compute and the bytes to write of each job [J, 3]."""
    jobs = stage.count(log.rows)
    common, largest = stage.shares(log.rows)
    rows = np.full(jobs, common * log.rows)
    rows[jobs // 2] = largest * log.rows
    noise = np.exp(cluster.spread * rng.standard_normal(jobs) - cluster.spread**2 / 2)
    amounts = rows[:, None] * np.array([stage.read_bytes, stage.cpu_us / 1e6, stage.written_bytes])
    amounts[:, _COMPUTE] *= noise
    amounts[amounts.sum(1) == 0.0, _COMPUTE] = 1e-9  # a job takes some time
    return amounts
