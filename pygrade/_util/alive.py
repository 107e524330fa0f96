"""Signs of life of a command that takes a while: what it does now, at once and at least each second, on standard error.

On a terminal one line is written over and over, elsewhere one below the other.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 0.9  # seconds between two signs
_lock = threading.Lock()  # of standard error
_step = ""
_live = False  # a line stands on the terminal


def doing(step: str) -> None:
    """Name what is done from now on, as `signs_of_life` shows it; without these, nothing is shown."""
    global _step
    _step = step


@contextmanager
def signs_of_life(command: str) -> Iterator[None]:
    """Show a first sign at once, and others until the block ends."""
    began, ended = time.monotonic(), threading.Event()

    def show() -> None:
        while not ended.wait(EVERY):
            _write(f"{command}: {_step}, {time.monotonic() - began:.0f} s")

    doing("starting")
    _write(f"{command}: {_step}")
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with no_signs():
            pass


@contextmanager
def no_signs() -> Iterator[None]:
    """A block that prints results, among which no sign is written."""
    global _live
    with _lock:
        if _live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
        _live = False
        yield


def _write(text: str) -> None:
    global _live
    with _lock:
        _live = sys.stderr.isatty()
        print(f"\r\x1b[2K{text}" if _live else text, end="" if _live else "\n", file=sys.stderr, flush=True)
