"""Progress of long work through the logger "pygrade": a live bar on a terminal, a line every few seconds elsewhere.

Nothing is shown unless the logger takes INFO, as the command line sets it. Bars that are open at the same time share
one view of the terminal.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from pygrade._util.interrupts import raise_pending

LINE_SECONDS = 5.0  # between two lines of one task
logger = logging.getLogger("pygrade")
_bars = True
_said = time.monotonic()  # of `show_line`
_view: Any = None  # the rich Progress that is on the terminal
screen_in_use: Any = None  # the `Screen` of a call of the library


@contextmanager
def progress_disabled() -> Iterator[None]:
    """Only warnings inside the block: for work whose caller reports it."""
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def without_progress() -> Iterator[None]:
    """No progress inside the block: for a worker, whose driver shows it."""
    global _bars
    before, _bars = _bars, False
    try:
        yield
    finally:
        _bars = before


class Bar:
    """Progress of one task, which `track` yields; this one shows nothing."""

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        """Count ``steps`` more and show the latest ``figures`` (name=value) beside the bar. `KeyboardInterrupt` if an
        interrupt got lost before."""
        raise_pending()


@contextmanager
def track(label: str, total: int, start: int = 0) -> Iterator[Bar]:
    """Show the progress of ``total`` steps, ``start`` of them done before (a resumed run).

    >>> with track("doctest", total=2) as bar:
    ...     bar.advance(1, loss=0.5)
    """
    if not _shown():
        yield Bar()
    elif screen_in_use is not None and not screen_in_use.on_terminal:
        with screen_in_use.count(label, total, start) as counted:
            yield counted
    elif on_terminal():
        with shared_view() as view:
            inner = any(not task.finished for task in view.tasks)  # of a job, which ends with the job of another bar
            row = _Row(view, view.add_task(label, total=total, completed=start, figures=""))
            yield row
            if inner:
                view.remove_task(row.task)
    else:
        lines = _Lines(label, total, start)
        yield lines
        lines.finish()


@contextmanager
def screen() -> Iterator[None]:
    """One live view of all bars inside, on a terminal: the finished ones stay above those that run."""
    with shared_view() if _shown() and on_terminal() else nullcontext():
        yield


def show_line(text: str) -> None:
    """A line of a loop, if the last one is LINE_SECONDS ago."""
    global _said
    if time.monotonic() - _said >= LINE_SECONDS:
        _said = time.monotonic()
        logger.info(text)


def figures_text(figures: dict[str, float | str]) -> str:
    """``name value`` pairs, numbers with four significant digits.

    >>> figures_text({"loss": 0.123456, "device": "cpu"})
    'loss 0.1235  device cpu'
    """
    return "  ".join(f"{name} {value if isinstance(value, str) else f'{value:.4g}'}" for name, value in figures.items())


class _Lines(Bar):
    """A line every LINE_SECONDS, one at the end of a task that took as long, one at the start of a resumed one."""

    def __init__(self, label: str, total: int, start: int) -> None:
        self.label, self.total, self.done, self.figures = label, total, start, dict[str, float | str]()
        self.begun = self.printed = time.monotonic()
        if start:
            logger.info("%s: started at %d of %d", label, start, total)

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        raise_pending()
        self.done += steps
        self.figures = figures or self.figures
        if time.monotonic() - self.printed >= LINE_SECONDS:
            self.printed = time.monotonic()
            self._print("")

    def finish(self) -> None:
        if (took := time.monotonic() - self.begun) >= LINE_SECONDS:
            self._print(f" in {took:.1f} s")

    def _print(self, took: str) -> None:
        logger.info(f"{self.label}: {self.done}/{self.total}{took}  {figures_text(self.figures)}".rstrip())


class _Row(Bar):
    """A row of the live view."""

    def __init__(self, view: Any, task: Any) -> None:
        self.view, self.task = view, task

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        raise_pending()
        self.view.update(self.task, advance=steps, **({"figures": figures_text(figures)} if figures else {}))


def begin_phase(name: str) -> None:
    """Show the name of what begins on the screen of a call of the library; the command line prints lines of its own."""
    if screen_in_use is not None and _bars:
        screen_in_use.begin(name)


def _shown() -> bool:
    return _bars and (logger.isEnabledFor(logging.INFO) or screen_in_use is not None)


def on_terminal() -> bool:
    """Standard error is a terminal that can be drawn on."""
    return sys.stderr.isatty() and find_spec("rich") is not None


@contextmanager
def shared_view() -> Iterator[Any]:
    """The view that is there, else a new one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    global _view
    if _view is not None:
        yield _view
        return
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[figures]}", style="dim", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as _view:
        try:
            yield _view
        finally:
            _view = None
