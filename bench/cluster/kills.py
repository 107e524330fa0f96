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

from bench.cluster.nodes import add, nodes, workers_of
from bench.cluster.synthetic import World, write_log
from bench.cluster.throughput import machine, progress
from bench.report.results import FULL, write_json

WORKER, NODE, DRIVER = "worker", "node", "driver"
# Of the pipeline, a small system: what counts is that its stages run.
OPTIONS = shlex.split(
    """
    --min-events 2 --recall-at 10 50 --policy-requests 1000 --evaluate-requests 1000 --candidates 5 --leak-rows 5000
    --prerank.epochs 2 --prerank.width 8 --prerank.hidden 16 --mtl.epochs 1 --mtl.expert-hidden 16
    --train.static.iterations 3 --train.trust.folds 2 --train.stage1.steps 40 --train.stage2.steps 40
    --train.checkpoint-every 10 --train.no-tensorboard --quiet
    """
)
_CPUS = (1, 1, 1)
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
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="kills-") as folder:
        place = Path(folder)
        write_log(place / "log", options.rows, World(users=500, items=1_000))
        command = [sys.executable, "-m", "pygrade", "pipeline", "--data", f"logs:{place / 'log'}", *OPTIONS]
        alone = Run([*command, "--out", str(place / "alone")], place / "alone", 0)
        alone.wait()
        expected = alone.left()
        progress(f"one process: {alone.seconds:.0f} s, artifact {expected['version']}")
        runs: list[dict[str, Any]] = []
        kills: list[Kill] = []
        with nodes(_CPUS, mark=mark) as cluster:
            command += ["--cluster", cluster.address]
            while not runs or len(kills) < options.kills:
                out = place / f"run-{len(runs)}"
                run = Run([*command, "--out", str(out)], out, len(runs))
                kinds = _kinds(rng, options.kills - len(kills)) if runs else []  # the first run is undisturbed
                usual = runs[0]["seconds"] if runs else 0.0
                moments = sorted(rng.uniform(0.05, 0.9) * usual for _ in kinds)
                with run.alive():
                    for moment, kind in zip(moments, kinds, strict=True):
                        run.sleep_until(moment)
                        kill = strike(kind, run, cluster, mark, rng)
                        if kill is None:
                            break  # the run has ended
                        kills.append(kill)
                        progress(f"run {kill.run}, {kill.seconds:.0f} s: {kill.kind} {kill.what}, stage {kill.stage}")
                    run.wait()
                left = run.left()
                runs.append({"seconds": round(run.seconds, 1), "same": left == expected, **left})
                progress(f"run {len(runs) - 1}: {run.seconds:.0f} s, {'the same' if left == expected else 'DIFFERENT'}")
                shutil.rmtree(out)
    same = all(run["same"] for run in runs)
    record = {
        "machine": machine(),
        "rows": options.rows,
        "nodes": len(_CPUS),
        "expected": expected,
        "kills": [asdict(kill) for kill in kills],
        "killed": Counter(kill.kind for kill in kills),
        "runs": runs,
        "all_same": same,
    }
    write_json(options.out, record)
    print(f"{len(kills)} kills in {len(runs) - 1} runs; {'the same artifact each time' if same else 'DIFFERENT'}")
    return 0 if same else 1


class Run:
    """A pipeline in a process of its own, which may be started again."""

    def __init__(self, command: Sequence[str], out: Path, number: int) -> None:
        self.command, self.out, self.number = list(command), out, number
        self.log = out.with_suffix(".log")
        self.begun = time.perf_counter()
        self.seconds = 0.0
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Ends the process if the block fails."""
        try:
            yield
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def sleep_until(self, moment: float) -> None:
        while not self.ended() and time.perf_counter() - self.begun < moment:
            time.sleep(0.05)

    def restart(self) -> None:
        self.process.kill()
        self.process.wait()
        self._start()

    def wait(self) -> None:
        """Until the pipeline has ended; RuntimeError if it failed."""
        code = self.process.wait(_MOST)
        self.seconds = time.perf_counter() - self.begun
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


def _kinds(rng: random.Random, most: int) -> list[str]:
    kinds = list(_PER_RUN)
    rng.shuffle(kinds)
    return kinds[:most]


def strike(kind: str, run: Run, cluster: Any, mark: str, rng: random.Random) -> Kill | None:
    """Kills one thing; None if the run ended before there was something to kill."""
    stage = run.stage()
    since = time.perf_counter() - run.begun
    if run.ended():
        return None
    if kind == DRIVER:
        run.restart()
        return Kill(run.number, since, kind, stage, "pygrade pipeline")
    if kind == NODE:
        node = rng.choice(sorted(cluster.worker_nodes, key=lambda node: node.node_id))
        cluster.remove_node(node, allow_graceful=False)
        time.sleep(rng.uniform(0.0, 5.0))
        add(cluster, rng.randrange(2, 1000), 1)
        return Kill(run.number, since, kind, stage, f"node of {node.node_id[:8]}")
    until = time.perf_counter() + _GRACE
    while time.perf_counter() < until and not run.ended():
        busy = [(pid, title) for pid, title in workers_of(mark) if title.startswith("ray::")]
        busy = [(pid, title) for pid, title in busy if not title.startswith(_NO_JOB)]
        if busy:
            pid, title = rng.choice(sorted(busy))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return Kill(run.number, time.perf_counter() - run.begun, kind, run.stage(), title[:60])
        time.sleep(0.02)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
