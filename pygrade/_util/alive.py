"""Signs of life of a command that takes a while, on standard error: what it does now.

On a terminal one line is written over at least each second; elsewhere a line follows at a new step, or after a while.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 0.9  # seconds between two signs
PLAIN = 5.0  # between two of the same step, if not on a terminal
_lock = threading.Lock()  # of standard error
_step = ""
_live = False  # a line stands on the terminal


def show_step(step: str) -> None:
    """Name what is done from now on, as `step_lines` shows it; without these, nothing is shown."""
    global _step
    _step = step


@contextmanager
def step_lines(command: str) -> Iterator[None]:
    """Show a first sign at once, and others until the block ends."""
    began, ended = time.monotonic(), threading.Event()

    def show() -> None:
        shown, last = "starting", began
        while not ended.wait(EVERY):
            step, now = _step, time.monotonic()
            if sys.stderr.isatty() or step != shown or now - last >= PLAIN:
                _write(f"{command}: {step}, {now - began:.0f} s")
                shown, last = step, now

    show_step("starting")
    _write(f"{command}: {_step}")
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with without_step_lines():
            pass


@contextmanager
def without_step_lines() -> Iterator[None]:
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
