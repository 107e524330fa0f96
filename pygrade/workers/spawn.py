"""Processes that are spawned without running the script of this one again."""

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess

_LOCK = threading.Lock()


@contextmanager
def without_script() -> Iterator[None]:
    """Processes that `multiprocessing` spawns inside do not run the script of this process again.

    It does so by default, in order to find functions of the script there. A script without ``if __name__ ==
    "__main__":`` would start over in each of them, and one from standard input can't be found. Work of the package
    itself needs none of it. What tells multiprocessing where the script is, is absent inside.
    """
    module = vars(sys.modules["__main__"])
    with _LOCK:
        kept: dict[str, object] = {name: module.pop(name) for name in ("__file__", "__spec__") if name in module}
        module["__spec__"] = None
        try:
            yield
        finally:
            del module["__spec__"]
            module.update(kept)


class _Process(SpawnProcess):
    def start(self) -> None:
        with without_script():
            super().start()


class NoMainScript(SpawnContext):
    """Starts processes without the script."""

    Process = _Process


def needs_script(work: bytes, jobs: Iterable[object]) -> bool:
    """Return whether pickled work or a job is defined in the script."""
    return b"__main__" in work or any(type(job).__module__ == "__main__" for job in jobs)
