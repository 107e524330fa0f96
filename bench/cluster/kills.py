"""Kills at random during a pipeline on a Ray cluster of three nodes on this machine; all end with the same artifact.

    python -m bench.cluster.kills [--rows 60000] [--kills 20] [--seed 0] [--scratch DIR] [--out FILE]

A pipeline in one process without Ray says which version the artifact must have. Then pipelines run on the cluster, with
a few kills each at random moments, until there were enough:

    worker    SIGKILL of a process that runs a job
    node      all processes of a node but the head; another node joins seconds later
    driver    SIGKILL of `pygrade pipeline`; the same command again continues

Each run must end well, with that version and the same policy, byte for byte.
"""

import argparse
import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.cluster.synthetic import World, write_log
from bench.cluster.throughput import machine
from bench.cluster.watch import MARK, processes
from bench.cpu.harness import progress
from bench.report.results import FULL, write_json

WORKER, NODE, DRIVER = "worker", "node", "driver"
# Of the pipeline, a small system: what counts is that its stages run.
OPTIONS = shlex.split(
    """
    --min-events 2 --recall-at 10 50 --policy-requests 1000 --evaluate-requests 1000 --candidates 5 --leak-rows 5000
    --prerank.epochs 2 --prerank.width 8 --prerank.hidden 16 --mtl.epochs 1 --mtl.expert-hidden 16
    --train.static.iterations 3 --train.trust.folds 2 --train.stage1.steps 40 --train.stage2.steps 40
    --train.checkpoint-every 10 --train.no-tensorboard --allow-unproven --quiet
    """
)
_NODES = 3  # with a processor each; the first is the head
_ATTEMPTS = 5  # a busy machine does not start a node within the 30 s that Ray allows
_NO_JOB = tuple(  # titles of processes at rest, and of Ray's own actors
    f"ray::{name}"
    for name in ("IDLE", "Idle", "Dashboard", "RuntimeEnv", "_Autoscaling", "Autoscaling", "_Stats", "ActorLocation")
)
_PER_RUN = (WORKER, WORKER, NODE, WORKER, DRIVER)  # kinds of the kills of a run, in a random order
_GRACE, _MOST = 60.0, 1800.0  # s to find a worker that runs a job; of a run


@dataclass(frozen=True)
class Kill:
    """What was killed, and when."""

    run: int
    seconds: float  # since the run began
    kind: str
    stage: str  # the stage that ran, by its directory; empty between two
    what: str  # the job, or the node


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="an existing directory for the log and the runs")
    parser.add_argument("--out", type=Path, default=FULL / "cluster_kills.json")
    options = parser.parse_args(arguments)
    mark, rng = uuid.uuid4().hex, random.Random(options.seed)
    runs: list[dict[str, Any]] = []
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="kills-") as folder:
        place = Path(folder)
        write_log(place / "log", options.rows, World(users=500, items=1_000))
        command = [sys.executable, "-m", "pygrade", "pipeline", "--data", f"logs:{place / 'log'}", *OPTIONS]
        alone = Run(command, place / "alone", 0)
        alone.wait()
        expected = alone.left()
        progress(f"one process: {alone.seconds:.0f} s, artifact {expected['version']}")
        with nodes(mark) as cluster:
            command += ["--cluster", cluster.address]
            while not runs or len(kills) < options.kills:
                run = Run(command, place / f"run-{len(runs)}", len(runs))
                kinds = rng.sample(_PER_RUN, len(_PER_RUN))[: options.kills - len(kills)]
                kills += run.disturb(kinds if runs else [], runs[0]["seconds"] if runs else 0.0, cluster, mark, rng)
                left = run.left()
                runs.append({"seconds": round(run.seconds, 1), "same": left == expected, **left})
                progress(f"run {run.number}: {run.seconds:.0f} s, {'the same' if left == expected else 'DIFFERENT'}")
                shutil.rmtree(run.out)
    same = all(run["same"] for run in runs)
    record = {
        "machine": machine(),
        "rows": options.rows,
        "nodes": _NODES,
        "expected": expected,
        "kills": [asdict(kill) for kill in kills],
        "killed": Counter(kill.kind for kill in kills),
        "runs": runs,
        "all_same": same,
    }
    write_json(options.out, record)
    print(f"{len(kills)} kills in {len(runs) - 1} runs; {'the same artifact each time' if same else 'DIFFERENT'}")
    return 0 if same else 1


@contextmanager
def nodes(mark: str) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` of several nodes on this machine, whose processes have ``MARK=mark``."""
    from ray.cluster_utils import Cluster

    os.environ[MARK] = mark
    cluster = Cluster()
    try:
        for _ in range(_NODES):
            add_node(cluster)
        yield cluster
    finally:
        cluster.shutdown()
        del os.environ[MARK]


def add_node(cluster: Any) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == _ATTEMPTS - 1:
                raise


class Run:
    """A pipeline in a process of its own, which may be started again."""

    def __init__(self, command: Sequence[str], out: Path, number: int) -> None:
        self.command, self.out, self.number = [*command, "--out", str(out)], out, number
        self.log = out.with_suffix(".log")
        self.begun = time.perf_counter()
        self.seconds = 0.0
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def since(self) -> float:
        return time.perf_counter() - self.begun

    def disturb(
        self, kinds: Sequence[str], usual: float, cluster: Any, mark: str, rng: random.Random
    ) -> Iterator[Kill]:
        """Kills at random moments of the seconds that a run usually takes; until it has ended."""
        try:
            for moment, kind in zip(sorted(rng.uniform(0.05, 0.9) * usual for _ in kinds), kinds, strict=True):
                while not self.ended() and self.since() < moment:
                    time.sleep(0.05)
                if (kill := strike(kind, self, cluster, mark, rng)) is None:
                    break
                progress(f"run {kill.run}, {kill.seconds:.0f} s: {kill.kind} {kill.what}, stage {kill.stage}")
                yield kill
            self.wait()
        finally:
            self.kill()

    def wait(self) -> None:
        """Until the pipeline has ended; RuntimeError if it failed."""
        code = self.process.wait(_MOST)
        self.seconds = self.since()
        if code:
            text = self.log.read_text(errors="replace")
            raise RuntimeError(f"run {self.number} ended with {code}:\n{text[-3000:]}")

    def stage(self) -> str:
        """The stage that runs, by its hidden directory."""
        working = [path.name for path in self.out.glob(".*-*.work")]
        return working[0].strip(".").rpartition("-")[0] if working else ""

    def left(self) -> dict[str, str]:
        """The version of the artifact, and a hash of the policy in it."""
        summary = json.loads((self.out / "summary.json").read_text())
        policy = hashlib.sha256()
        for file in sorted((self.out / "artifact" / "policy").rglob("*")):
            if file.is_file():
                policy.update(file.read_bytes())
        return {"version": summary["stages"]["publish"]["version"], "policy": policy.hexdigest()[:16]}


def strike(kind: str, run: Run, cluster: Any, mark: str, rng: random.Random) -> Kill | None:
    """Kills one thing; None if the run ended before there was something to kill."""
    stage, since = run.stage(), run.since()
    if run.ended():
        return None
    if kind == DRIVER:
        run.kill()
        run.start()
        return Kill(run.number, since, kind, stage, "pygrade pipeline")
    if kind == NODE:
        node = rng.choice(sorted(cluster.worker_nodes, key=lambda node: node.node_id))
        cluster.remove_node(node, allow_graceful=False)
        time.sleep(rng.uniform(0.0, 5.0))
        add_node(cluster)
        return Kill(run.number, since, kind, stage, f"node of {node.node_id[:8]}")
    until = run.since() + _GRACE
    while run.since() < until and not run.ended():
        workers = sorted((int(folder.name), title) for folder, title in processes(mark) if title.startswith("ray::"))
        if busy := [worker for worker in workers if not worker[1].startswith(_NO_JOB)]:
            pid, title = rng.choice(busy)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return Kill(run.number, run.since(), kind, run.stage(), title[:60])
        time.sleep(0.02)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
