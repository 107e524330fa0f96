"""From measured runs to the stages of `bench.cluster.capacity`: what a row costs in each map of jobs.

A cost is the slope between the shortest and the longest log: what a run costs once is no cost of a row. The bytes of a
map are those that its processes moved through system calls, at least what the stage before left. A map that is not
the first of its stage reads what others of the stage wrote: these bytes are shuffled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.cluster.capacity import Stage

CONTENDER = "local:4"  # with fewer workers each holds the past of all keys, as no cluster would
WORKING = ("worker", "ray")  # processes whose time is the workers'
MOST_SHARDS = {"features: pasts": 256}  # maps with a job for each shard of keys, and the most there are
_MIB = 2**20


@dataclass(frozen=True)
class Seen:
    """A map of jobs in a run."""

    rows: int  # of the log
    log_bytes: float
    stage: dict[str, Any]
    before: dict[str, Any] | None  # the stage before it
    costs: dict[str, Any]


def stages_of(record: dict[str, Any], contender: str = CONTENDER) -> list[Stage]:
    """A stage of `capacity` for each map of jobs of the longest run, in order. What the driver does alone is with the
    first of its stage."""
    runs = [run for run in record["runs"].values() if contender in run]
    made = []
    names = list(runs[-1][contender]["stages"])
    for place, name in enumerate(names):
        for number, called in enumerate(runs[-1][contender]["stages"][name]["maps"]):
            seen = [
                Seen(
                    run["rows"], run["log_mib"] * _MIB, stages[name], stages[names[place - 1]] if place else None, costs
                )
                for run in runs
                for stages in (run[contender]["stages"],)
                if (costs := stages[name]["maps"].get(called)) is not None
            ]
            made.append(_stage(called, seen, number == 0))
            if called in MOST_SHARDS:
                made[-1] = replace(made[-1], jobs=MOST_SHARDS[called], key_bytes=key_bytes(record, called))
    return made


def slope(seen: Sequence[Seen], figure: Callable[[Seen], float]) -> float:
    """Of a figure, per row: between the shortest and the longest log; from nothing on if there is one alone."""
    first, last = seen[0], seen[-1]
    if first is last:
        return figure(last) / last.rows
    return max(figure(last) - figure(first), 0.0) / (last.rows - first.rows)


def _stage(name: str, seen: Sequence[Seen], first: bool) -> Stage:
    def of(field: str) -> float:
        return slope(seen, lambda one: sum(one.costs[field].get(kind, 0.0) for kind in WORKING))

    def given(one: Seen) -> float:
        return one.log_bytes if one.before is None else one.before["output_mib"] * _MIB

    jobs, last = seen[-1].costs["jobs"], seen[-1]
    fixed = len(seen) > 1 and seen[0].costs["jobs"] == jobs
    read = max(of("read_bytes"), slope(seen, given)) if first else of("read_bytes")
    return Stage(
        name,
        cpu_us=1e6 * of("cpu_seconds"),
        driver_us=1e6 * slope(seen, lambda one: one.stage["driver_only"]["sampled_seconds"]) if first else 0.0,
        read_bytes=read,
        written_bytes=of("written_bytes"),
        shuffled_bytes=0.0 if first else read,
        job_rows=None if fixed else max(1, round(last.rows / jobs)),
        jobs=int(jobs) if fixed else None,
        base_mib=last.costs["own_mib"].get("worker", 0.0),
    )


def key_bytes(record: dict[str, Any], name: str) -> float:
    """Memory of a user or an item in the shard of a map: from the run on a log with more of them, if there is one."""
    if "keys" not in record:
        return 0.0
    found = []
    for run in (record["keys"]["few"], record["keys"]["many"]):
        maps = {called: made for stage in run[CONTENDER]["stages"].values() for called, made in stage["maps"].items()}
        if name not in maps:
            return 0.0
        found.append((run["keys"] / maps[name]["jobs"], maps[name]["own_mib"].get("worker", 0.0)))
    (few, small), (many, large) = found
    return max(large - small, 0.0) * _MIB / (many - few)
