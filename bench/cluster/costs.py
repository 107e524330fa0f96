"""From measured runs to the stages of `bench.cluster.capacity`: what a row costs in each map of jobs.

A cost is the slope between the shortest and the longest log: what a run costs once is no cost of a row. The bytes of a
map are those that its processes moved through system calls, at least what the stage before left. A map that is not
the first of its stage reads what others of the stage wrote: these bytes are shuffled.
"""

from dataclasses import dataclass, replace
from typing import Any

from bench.cluster.capacity import Stage

CONTENDER = "local:2"
WORKING = ("worker", "ray")  # processes whose time is the workers'
MOST_SHARDS = {"features: pasts": 256}  # maps with a job for each shard of keys, and the most there are
_MIB = 2**20


@dataclass(frozen=True)
class Lengths:
    """The runs of one contender on the shortest and on the longest log."""

    short: dict[str, Any]
    long: dict[str, Any]
    rows: tuple[int, int]

    @classmethod
    def of(cls, record: dict[str, Any], contender: str) -> "Lengths":
        """ValueError if the record has one length only."""
        runs = [run for run in record["runs"].values() if contender in run]
        if len(runs) < 2:
            raise ValueError(f"{contender} ran on {len(runs)} lengths of the log; want two, see --growth")
        return cls(runs[0][contender], runs[-1][contender], (runs[0]["rows"], runs[-1]["rows"]))

    def slope(self, short: float, long: float) -> float:
        """Of a figure, per row."""
        return max(long - short, 0.0) / (self.rows[1] - self.rows[0])


def stages_of(record: dict[str, Any], contender: str = CONTENDER) -> list[Stage]:
    """A stage of `capacity` for each map of jobs, in order. What the driver does alone is with the first of a stage."""
    lengths = Lengths.of(record, contender)
    logs = [run["log_mib"] * _MIB for run in record["runs"].values() if contender in run]
    before = lengths.slope(logs[0], logs[-1])  # bytes per row that the stage reads at least
    made = []
    for name, long in lengths.long["stages"].items():
        short = lengths.short["stages"][name]
        alone = lengths.slope(short["driver_only"]["sampled_seconds"], long["driver_only"]["sampled_seconds"])
        for place, (called, costs) in enumerate(long["maps"].items()):
            stage = _stage(called, lengths, short["maps"][called], costs)
            if place == 0:
                read = max(stage.read_bytes, before)
                stage = replace(stage, driver_us=1e6 * alone, read_bytes=read, shuffled_bytes=0.0)
            if called in MOST_SHARDS:
                stage = replace(stage, jobs=MOST_SHARDS[called], key_bytes=key_bytes(record, called))
            made.append(stage)
        before = lengths.slope(short["output_mib"], long["output_mib"]) * _MIB
    return made


def _stage(name: str, lengths: Lengths, short: dict[str, Any], long: dict[str, Any]) -> Stage:
    seconds, read, written = (
        lengths.slope(*(sum(costs[field].get(kind, 0.0) for kind in WORKING) for costs in (short, long)))
        for field in ("cpu_seconds", "read_bytes", "written_bytes")
    )
    grows = long["jobs"] > short["jobs"]
    return Stage(
        name,
        cpu_us=1e6 * seconds,
        read_bytes=read,
        written_bytes=written,
        shuffled_bytes=read,
        job_rows=max(1, round(lengths.rows[1] / long["jobs"])) if grows else None,
        jobs=None if grows else int(long["jobs"]),
        base_mib=long["own_mib"].get("worker", 0.0),
    )


def key_bytes(record: dict[str, Any], name: str) -> float:
    """Memory of a user or an item in the shard of a map: from the run on a log with more of them, if there is one."""
    if "keys" not in record:
        return 0.0
    few, many = (
        next(entry["maps"][name] for entry in run[CONTENDER]["stages"].values() if name in entry["maps"])
        for run in (record["keys"]["few"], record["keys"]["many"])
    )
    more = record["keys"]["many"]["keys"] / many["jobs"] - record["keys"]["few"]["keys"] / few["jobs"]
    return max(many["own_mib"]["worker"] - few["own_mib"]["worker"], 0.0) * _MIB / more
