"""Progress on standard error: a live bar on a terminal, a plain line every few seconds elsewhere, nothing when quiet.

Standard output stays free for results, so that ``--json`` prints one object and nothing else.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

LINE_SECONDS = 5.0  # between two plain lines of one task
_quiet = False


class Bar(Protocol):
    """What `track` yields."""

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        """Count ``steps`` more and show the latest ``figures`` (name=value) beside the bar."""


def set_quiet(quiet: bool) -> None:
    """Silence every later `track` and `say` of this process (True) or let them speak again (False)."""
    global _quiet
    _quiet = quiet


def show_log(quiet: bool) -> None:
    """Print what pygrade logs on standard error: warnings always, progress unless quiet."""
    logger = logging.getLogger("pygrade")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, _LogLines) for handler in logger.handlers):
        logger.addHandler(_LogLines())


class _LogLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(prefix + record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def hushed() -> Iterator[None]:
    """No progress inside the block: for work whose caller reports it."""
    before = _quiet
    set_quiet(True)
    try:
        yield
    finally:
        set_quiet(before)


def say(message: str) -> None:
    """One line on standard error, unless quiet."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


@contextmanager
def track(label: str, total: int, start: int = 0) -> Iterator[Bar]:
    """Show the progress of ``total`` steps, ``start`` of them done before (a resumed run).

    >>> with track("doctest", total=2) as bar:
    ...     bar.advance(1, loss=0.5)
    """
    if _quiet:
        yield _Silent()
    elif sys.stderr.isatty() and _has_rich():
        with _live(label, total, start) as bar:
            yield bar
    else:
        lines = _Lines(label, total, start)
        yield lines
        lines.finish()


def figures_text(figures: dict[str, float | str]) -> str:
    """``name value`` pairs, numbers with four significant digits.

    >>> figures_text({"loss": 0.123456, "device": "cpu"})
    'loss 0.1235  device cpu'
    """
    return "  ".join(f"{name} {value if isinstance(value, str) else f'{value:.4g}'}" for name, value in figures.items())


class _Silent:
    def advance(self, steps: int = 1, **figures: float | str) -> None:
        pass


class _Lines:
    """Plain lines: one at the start, one every LINE_SECONDS, one at the end."""

    def __init__(self, label: str, total: int, start: int) -> None:
        self.label, self.total, self.done, self.figures = label, total, start, dict[str, float | str]()
        self.begun = self.printed = time.monotonic()
        say(f"{label}: started" + (f" at {start} of {total}" if start else ""))

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        self.done += steps
        self.figures = figures or self.figures
        now = time.monotonic()
        if now - self.printed >= LINE_SECONDS:
            self.printed = now
            say(f"{self.label}: {self.done}/{self.total}  {figures_text(self.figures)}".rstrip())

    def finish(self) -> None:
        took = time.monotonic() - self.begun
        say(f"{self.label}: {self.done}/{self.total} in {took:.1f} s  {figures_text(self.figures)}".rstrip())


def _has_rich() -> bool:
    from importlib.util import find_spec

    return find_spec("rich") is not None


@contextmanager
def _live(label: str, total: int, start: int) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[figures]}"),
    ]
    with Progress(*columns, console=Console(stderr=True)) as view:
        task = view.add_task(label, total=total, completed=start, figures="")

        class Live:
            def advance(self, steps: int = 1, **figures: float | str) -> None:
                if figures:
                    view.update(task, advance=steps, figures=figures_text(figures))
                else:
                    view.advance(task, steps)

        yield Live()
