"""Kills of Ray's processes."""

import os
import signal
import threading
import time
from pathlib import Path

NO_JOB = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")  # titles of Ray's other processes


class Killer:
    """While the block runs, kills the first of this process's Ray workers that is seen at a job, or at the one named,
    once there is also one at the job ``after``."""

    def __init__(self, title="ray::", after=""):
        self._title, self._after = title, after
        self.killed = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _watch(self):
        while not self._ended.is_set() and self.killed is None:
            titles = descendants(os.getpid())
            at_job = [(pid, title) for pid, title in titles if title.startswith(self._title)]
            if any(title.startswith(self._after) for _, title in titles):
                for pid, title in at_job:
                    if not title.startswith(NO_JOB):
                        os.kill(pid, signal.SIGKILL)
                        self.killed = title
                        break
            time.sleep(0.01)


def descendants(root):
    """Process id and title of all processes below one."""
    parents, titles = {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            titles[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
        except (OSError, ValueError):
            continue  # it has ended

    def below(pid):
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    return [(pid, titles[pid]) for pid in parents if pid != root and below(pid)]
