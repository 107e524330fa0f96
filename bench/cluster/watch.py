"""What a run costs: memory, processor time and bytes of all its processes, and the size of its folders, over time.

The processes of a run, Ray's among them, are those that inherit the environment variable `MARK`: Ray's workers are no
children of the program that starts them for long.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

MARK = "PYGRADE_BENCH_RUN"
_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY = 0.2  # s between samples
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@dataclass
class Process:
    """What is known of one process when it was last seen."""

    kind: str  # driver, worker (of Ray: it runs jobs), ray (its other processes), helper
    peak_mib: float = 0.0  # VmHWM: the largest memory, with the pages of shared memory that it touched
    own_mib: float = 0.0  # largest memory without shared pages, in the samples
    cpu_seconds: float = 0.0
    read_bytes: int = 0  # through system calls, from files and sockets
    written_bytes: int = 0


@dataclass
class Costs:
    """Of a stage, or a whole run."""

    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)  # by kind of process
    read_bytes: dict[str, int] = field(default_factory=dict)
    written_bytes: dict[str, int] = field(default_factory=dict)
    own_mib: dict[str, float] = field(default_factory=dict)  # the largest of one process of a kind, in the samples
    folder_bytes: dict[str, int] = field(default_factory=dict)  # the largest size in the samples


class Watch:
    """Samples the processes with ``MARK=mark`` and the folders from entry to exit.

    ``stage``: a file that holds the name of the stage that runs now; `stages` has its costs.
    """

    def __init__(self, mark: str, stage: Path, folders: Mapping[str, Path]) -> None:
        self.mark, self.stage, self.folders = mark, stage, dict(folders)
        self.processes: dict[int, Process] = {}
        self.stages: dict[str, Costs] = {}
        self._strangers: Counter[int] = Counter()  # how often a process without the mark was seen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._last = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def record(self) -> dict[str, Any]:
        """Costs by stage, and of each kind of process the largest memory of one."""
        memory: dict[str, dict[str, float]] = {"peak_mib": {}, "own_mib": {}}
        for process in self.processes.values():
            for name, peaks in memory.items():
                peaks[process.kind] = max(peaks.get(process.kind, 0.0), getattr(process, name))
        return {**memory, "stages": {name: asdict(costs) for name, costs in self.stages.items()}}

    def _run(self) -> None:
        while not self._ended.wait(_EVERY):
            self._sample()
        self._sample()

    def _sample(self) -> None:
        name = self.stage.read_text() if self.stage.is_file() else ""
        costs = self.stages.setdefault(name or "start", Costs())
        now = time.perf_counter()
        costs.seconds += now - self._last
        self._last = now
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            if self._strangers[pid] > 2:  # before its exec a process of ours has its parent's environment
                continue
            try:
                self._look(pid, costs)
            except (OSError, ValueError, IndexError):  # it has ended, or is another user's
                continue
        for folder, path in self.folders.items():
            costs.folder_bytes[folder] = max(costs.folder_bytes.get(folder, 0), size_of(path))

    def _look(self, pid: int, costs: Costs) -> None:
        root = Path("/proc") / str(pid)
        if pid not in self.processes:
            if f"{MARK}={self.mark}".encode() not in (root / "environ").read_bytes().split(b"\0"):
                self._strangers[pid] += 1
                return
            self.processes[pid] = Process("helper")
        seen = self.processes[pid]
        seen.kind = kind_of((root / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"), seen.kind)
        status = dict(line.split(":", 1) for line in (root / "status").read_text().splitlines() if ":" in line)
        memory = {name: int(status[name].split()[0]) / 1024 for name in ("VmHWM", "RssAnon") if name in status}
        if not memory:
            return  # it is ending
        seen.peak_mib = max(seen.peak_mib, memory["VmHWM"])
        seen.own_mib = max(seen.own_mib, memory["RssAnon"])
        costs.own_mib[seen.kind] = max(costs.own_mib.get(seen.kind, 0.0), memory["RssAnon"])
        fields = (root / "stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        io = dict(line.split(": ") for line in (root / "io").read_text().splitlines())
        read, written = int(io["rchar"]), int(io["wchar"])
        for entry, new, old in (
            (costs.cpu_seconds, cpu, seen.cpu_seconds),
            (costs.read_bytes, read, seen.read_bytes),
            (costs.written_bytes, written, seen.written_bytes),
        ):
            entry[seen.kind] = entry.get(seen.kind, 0) + new - old  # type: ignore[assignment]
        seen.cpu_seconds, seen.read_bytes, seen.written_bytes = cpu, read, written


def kind_of(command: str, before: str) -> str:
    """The kind of a process by its command line; one that has ended has none, and keeps the kind that it had."""
    if command.startswith(_AGENTS):
        return "ray"
    if command.startswith("ray::") or "default_worker.py" in command:
        return "worker"
    if "bench.cluster.contender" in command:
        return "driver"
    if any(name in command for name in ("raylet", "gcs_server", "/ray/", "plasma", "log_monitor")):
        return "ray"
    return before


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder that may change meanwhile."""
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(path, file)).st_size
            except OSError:
                continue
    return total
