"""Phases and progress of a call of the library: bars on a terminal, a cell of a notebook, plain lines elsewhere.

Something appears with the first phase, and changes at least each second, by a thread of its own.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html import escape
from importlib import import_module
from typing import Any

from pygrade._util import progress
from pygrade._util.interrupts import raise_pending

OnPhase = Callable[[str, int], None]
_TICK = 0.5  # seconds


class Counted(progress.Bar):
    """A bar that a screen draws."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self.label, self.total, self.done = label, total, done

    def advance(self, steps: int = 1, **figures: float | str) -> None:
        raise_pending()
        self.done += steps


class Screen:
    """The phases of one call, and the bars that are open; this one draws nothing."""

    on_terminal = False

    def __init__(self, phases: int, on_phase: OnPhase | None) -> None:
        self.phases, self._on_phase, self.name, self.number = phases, on_phase, "", 0
        self.bars, self.begun, self.lock = list[Counted](), time.monotonic(), threading.Lock()

    def begin(self, name: str) -> None:
        """The next phase."""
        with self.lock:
            self.name, self.number = name, self.number + 1
            self.draw()
        if self._on_phase is not None:
            self._on_phase(name, 0)

    @contextmanager
    def count(self, label: str, total: int, start: int) -> Iterator[Counted]:
        """A bar, as `progress.track` gives it."""
        self.bars.append(bar := Counted(label, total, start))
        try:
            yield bar
        finally:
            self.bars.remove(bar)

    def draw(self) -> None:
        """Show what is there now; called each half second, too."""

    def close(self, done: bool) -> None:
        """The call ended, well if it is done."""


class _Lines(Screen):
    """A line for each phase; below it dots, or steps of a bar, each second."""

    _said, _drawn, _open = 0, 0.0, False

    def draw(self) -> None:
        now, begins = time.monotonic(), self._said < self.number
        if not begins and now - self._drawn < 2 * _TICK - 0.05:
            return
        text = "".join(f" {bar.label} {bar.done}/{bar.total}" for bar in self.bars[-1:]) or "."
        if begins:
            text = "\n" * self._open + f"pygrade: {self.number} of {self.phases}, {self.name}\n"
        self._said, self._drawn, self._open = self.number, now, not begins
        print(text, end="", file=sys.stderr, flush=True)

    def close(self, done: bool) -> None:
        text = f"pygrade: done in {time.monotonic() - self.begun:.1f} s\n" if done else ""
        print("\n" * self._open + text, end="", file=sys.stderr, flush=True)


class _Terminal(Screen):
    """A row that counts phases, above the bars of `progress.track`."""

    on_terminal = True

    def __init__(self, phases: int, on_phase: OnPhase | None, view: Any) -> None:
        super().__init__(phases, on_phase)
        self._view, self._row = view, view.add_task("", total=phases, figures="")

    def draw(self) -> None:
        figures = f"{time.monotonic() - self.begun:.0f} s"
        self._view.update(self._row, description=self.name, completed=self.number - 1, figures=figures)

    def close(self, done: bool) -> None:
        self._view.update(self._row, completed=self.phases if done else self.number - 1)


class _Cell(Screen):
    """An output of a notebook that is replaced; it needs no widgets."""

    def __init__(self, phases: int, on_phase: OnPhase | None) -> None:
        super().__init__(phases, on_phase)
        self._notebook: Any = import_module("IPython.display")
        self._handle = self._notebook.display(self._notebook.HTML(""), display_id=True)
        self._begun: list[tuple[str, float]] = []

    def draw(self) -> None:
        now = time.monotonic()
        self._begun += [(self.name, now)] * (len(self._begun) < self.number)
        ends = [*(begun for _, begun in self._begun[1:]), now]
        lines = [f"{escape(name)}: {end - begun:.1f} s" for (name, begun), end in zip(self._begun, ends, strict=True)]
        lines += [f"{escape(bar.label)} <progress value={bar.done} max={bar.total}></progress>" for bar in self.bars]
        self._handle.update(self._notebook.HTML("<br>".join(lines)))

    def close(self, done: bool) -> None:
        self.draw()


@contextmanager
def show_progress(verbose: bool, phases: int, on_phase: OnPhase | None = None) -> Iterator[None]:
    """A screen for `progress.begin_phase` and `progress.track` inside the block, unless there is one."""
    if progress.screen_in_use is not None:
        yield
        return
    with ExitStack() as stack:
        screen = _screen_here(phases, on_phase, stack) if verbose else Screen(phases, on_phase)
        ended, done = threading.Event(), False
        thread = threading.Thread(target=_draw_until, args=(screen, ended), daemon=True)
        progress.screen_in_use = screen
        thread.start()
        try:
            yield
            done = True
        finally:
            progress.screen_in_use = None
            ended.set()
            thread.join()
            screen.close(done)


def _screen_here(phases: int, on_phase: OnPhase | None, stack: ExitStack) -> Screen:
    if progress.on_terminal():
        return _Terminal(phases, on_phase, stack.enter_context(progress.shared_view()))
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return (_Cell if type(shell).__name__ == "ZMQInteractiveShell" else _Lines)(phases, on_phase)


def _draw_until(screen: Screen, ended: threading.Event) -> None:
    while not ended.wait(_TICK):
        with screen.lock:
            if screen.number:
                screen.draw()
