"""The processes of a run, and the largest memory of one of them.

They are those that inherit the environment variable `MARK`, Ray's among them: Ray's workers are no children of the
program that starts them for long.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "PYGRADE_BENCH_RUN"
_EVERY = 0.2  # s between samples


def processes(mark: str) -> Iterator[tuple[Path, str]]:
    """The folder in /proc and the command line, or title, of each process with ``MARK=mark``."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield folder, (folder / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")


@contextmanager
def largest_memory(mark: str) -> Iterator[list[float]]:
    """A list whose entry becomes the largest memory of one of the processes, in MiB without shared pages."""
    largest, ended = [0.0], threading.Event()

    def sample() -> None:
        while not ended.wait(_EVERY):
            for folder, _ in processes(mark):
                with suppress(OSError):
                    if found := re.search(r"RssAnon:\s+(\d+)", (folder / "status").read_text()):
                        largest[0] = max(largest[0], int(found[1]) / 1024)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield largest
    finally:
        ended.set()
        thread.join()
