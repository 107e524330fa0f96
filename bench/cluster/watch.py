"""The largest memory of a run's processes, over time.

They are those that inherit the environment variable `MARK`, Ray's among them: Ray's workers are no children of the
program that starts them for long.
"""

import os
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType

MARK = "PYGRADE_BENCH_RUN"
_EVERY = 0.2  # s between samples
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


class Watch:
    """Samples the processes with ``MARK=mark`` from entry to exit.

    ``own_mib``: kind of process (driver, worker, ray, helper) → the largest memory of one without shared pages.
    """

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.own_mib: dict[str, float] = {}
        self._kinds: dict[int, str] = {}
        self._strangers: Counter[int] = Counter()  # how often a process without the mark was seen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_EVERY):
            for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
                if self._strangers[pid] > 2:  # before its exec a process of ours has its parent's environment
                    continue
                try:
                    self._look(pid)
                except (OSError, ValueError, IndexError):  # it has ended, or is another user's
                    continue

    def _look(self, pid: int) -> None:
        root = Path("/proc") / str(pid)
        mark = f"{MARK}={self.mark}".encode()
        if pid not in self._kinds and mark not in (root / "environ").read_bytes().split(b"\0"):
            self._strangers[pid] += 1
            return
        command = (root / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        kind = self._kinds[pid] = kind_of(command, self._kinds.get(pid, "helper"))
        for line in (root / "status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                self.own_mib[kind] = max(self.own_mib.get(kind, 0.0), int(line.split()[1]) / 1024)


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
