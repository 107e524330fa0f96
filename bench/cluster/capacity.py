"""What a log of 10⁹ or 10¹⁰ rows takes on a cluster: time, memory, bytes over the network, and the first wall.

A stage is a map of jobs; a core runs one job after another. A job waits for the driver to hand it out, reads from the
store that all nodes share (what earlier jobs shuffled is there, too), computes and writes. Cores that want the same
thing wait for each other: the time of a job among so many is that of a closed queueing network (mean value analysis),
whose stations are

    driver    the time to hand out a job and to take its result
    network   the bytes read and written / what a node's link moves
    store     the same bytes / what the store moves in all; the slower one of the two

A transfer is never faster than one stream. The time of a stage is jobs / cores × that of a job, the last ones stretched
by stragglers, at least the time until the largest job ends, whose key nobody can divide; what the driver alone does
with every row comes on top. `bench.cluster.simulation` plays the same stages job by job.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

CORES, NETWORK, STORE, STREAM, DRIVER = "cores", "network", "store", "a stream to the store", "driver"
SHARDS, KEY = "number of shards", "largest key"
_MIB = 2**20


@dataclass(frozen=True)
class Stage:
    """What a stage costs: per row, unless it says otherwise."""

    name: str
    cpu_us: float  # of the workers' processors
    driver_us: float = 0.0  # of the driver, while the workers wait
    read_bytes: float = 0.0  # from the store
    written_bytes: float = 0.0  # to the store
    shuffled_bytes: float = 0.0  # of the bytes read: those that other jobs of the run wrote for this stage
    job_rows: int | None = None  # rows of a job, if the jobs are pieces of the log
    jobs: int | None = None  # else the number of jobs, one a shard of keys; with job_rows: the most there are
    largest: float = 0.0  # share of the rows that the largest shard holds beside its part of the others
    base_mib: float = 0.0  # memory of a worker before it knows any key
    key_bytes: float = 0.0  # memory of one user or item in its shard

    def __post_init__(self) -> None:
        if self.jobs is None and self.job_rows is None:
            raise ValueError(f"{self.name}: jobs and job_rows are None; want one of them, or both")
        if not 0.0 <= self.largest < 1.0:
            raise ValueError(f"{self.name}: largest is {self.largest}; want 0 to 1")

    def count(self, rows: float) -> int:
        """The number of jobs."""
        pieces = math.inf if self.job_rows is None else max(1, math.ceil(rows / self.job_rows))
        return int(min(pieces, math.inf if self.jobs is None else self.jobs))

    def shares(self, rows: float) -> tuple[float, float]:
        """Shares of the rows in a common job and in the largest."""
        common = (1.0 - self.largest) / self.count(rows)
        return common, common + self.largest


@dataclass(frozen=True)
class Cluster:
    """Where the stages run."""

    cores: int
    node_cores: int = 16
    node_network: float = 1.25e9  # bytes/s of a node's link
    store: float = 1e11  # bytes/s of the store in all
    stream: float = 1e8  # bytes/s of one job with the store
    hand_out_ms: float = 1.0  # time of the driver to hand out a job and take its result
    spread: float = 0.1  # standard deviation of the logarithm of the time of equal jobs

    def __post_init__(self) -> None:
        for name in ("cores", "node_cores", "node_network", "store", "stream"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; want more than 0")

    @property
    def nodes(self) -> int:
        return math.ceil(self.cores / self.node_cores)


@dataclass(frozen=True)
class Log:
    """How long a log is, and of how many."""

    rows: float
    users: float
    items: float


@dataclass(frozen=True)
class Need:
    """What a stage takes."""

    stage: str
    seconds: float
    core_hours: float  # of processors that compute
    by: dict[str, float]  # least seconds that each resource allows, and the number of shards, and the largest key
    network_bytes: float  # between nodes and store
    shuffled_bytes: float  # of these: what jobs wrote for other jobs, read
    worker_mib: float

    @property
    def longest(self) -> str:
        """What takes the stage longest."""
        return max(self.by, key=lambda name: self.by[name])


def need(stage: Stage, log: Log, cluster: Cluster) -> Need:
    """The time and the rest of what one stage takes."""
    jobs, rows = stage.count(log.rows), log.rows
    common, largest = (share * rows for share in stage.shares(rows))
    moved = (stage.read_bytes + stage.written_bytes) * rows
    busy = min(cluster.cores, jobs)
    rounds = jobs / busy if jobs > 4 * busy else math.ceil(jobs / busy)
    each, single = (job_seconds(stage, common, cluster, beside) for beside in (busy, 1))
    tail = common * stage.cpu_us / 1e6 * (straggling(busy, cluster.spread) - 1.0)
    before = (jobs // 2 // busy) * each  # jobs are handed out in order, the largest in the middle
    last = before + each + (largest - common) * stage.cpu_us / 1e6
    by = {
        CORES: stage.cpu_us * rows / 1e6 / cluster.cores,
        NETWORK: moved / (cluster.nodes * cluster.node_network),
        STORE: moved / cluster.store,
        STREAM: moved / busy / cluster.stream,
        DRIVER: jobs * cluster.hand_out_ms / 1e3 + stage.driver_us * rows / 1e6,
        SHARDS: rounds * common * stage.cpu_us / 1e6 if jobs <= 4 * busy else 0.0,
        KEY: largest * stage.cpu_us / 1e6 if stage.largest else 0.0,
    }
    keys = (log.users + log.items) * stage.key_bytes / jobs
    return Need(
        stage.name,
        max(jobs / busy * each + tail, rounds * single + tail, last) + stage.driver_us * rows / 1e6,
        (stage.cpu_us + stage.driver_us) * rows / 3.6e9,
        by,
        moved,
        stage.shuffled_bytes * rows,
        stage.base_mib + keys / _MIB,
    )


def job_seconds(stage: Stage, rows: float, cluster: Cluster, busy: int) -> float:
    """The time of a job of ``rows`` rows while ``busy`` cores run such jobs: mean value analysis."""
    alone = stage.cpu_us * rows / 1e6  # waits for nobody
    stations = [(1, cluster.hand_out_ms / 1e3)]  # how many alike, and the time of a job in one of them
    volume = (stage.read_bytes + stage.written_bytes) * rows
    links = cluster.nodes * cluster.node_network < cluster.store  # they are slower than the store
    number, speed = (cluster.nodes, cluster.node_network) if links else (1, cluster.store)
    # As fast as ``lanes`` streams: one queue at its full speed, and the rest of a stream's time without waiting.
    lanes = max(speed / cluster.stream, 1.0)
    stations.append((number, volume / speed / number))
    alone += volume / cluster.stream * (1.0 - 1.0 / lanes)
    waiting = [0.0] * len(stations)  # jobs in one station of a kind
    cycle = alone
    for cores in range(1, busy + 1):
        stay = [demand * (1.0 + queue) for (_, demand), queue in zip(stations, waiting, strict=True)]
        cycle = alone + sum(number * time for (number, _), time in zip(stations, stay, strict=True))
        waiting = [cores / cycle * time for time in stay]
    return cycle


def straggling(jobs: int, spread: float) -> float:
    """The expected longest of so many equal jobs (lognormal times with mean 1): Blom's approximation."""
    if jobs < 2:
        return 1.0
    return math.exp(spread * NormalDist().inv_cdf((jobs - 0.375) / (jobs + 0.25)) - spread**2 / 2)


@dataclass(frozen=True)
class Wall:
    """From how many cores on a stage waits for something else than cores."""

    cores: int
    stage: str
    resource: str


def walls(stages: Sequence[Stage], log: Log, cluster: Cluster, most: int = 2**16) -> list[Wall]:
    """The walls of the stages, the first one first.

    A stage meets its wall when half of its cores' time is lost: twice the time that its processor work takes if
    it is spread evenly over the cores.
    """
    found = []
    for stage in stages:
        cores = 2
        while cores <= most:
            at = need(stage, log, replace(cluster, cores=cores))
            if at.seconds > 2 * at.by[CORES]:
                found.append(Wall(cores, stage.name, max((name for name in at.by if name != CORES), key=at.by.get)))
                break
            cores *= 2
    return sorted(found, key=lambda wall: wall.cores)
