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
_TICK = 0.4  # seconds


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
        self.phases, self._on_phase, self.bars = phases, on_phase, list[Counted]()
        self.begun, self.lock = list[tuple[str, float]](), threading.Lock()

    def begin(self, name: str) -> None:
        """The next phase."""
        with self.lock:
            self.begun.append((name, time.monotonic()))
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
        """Show what is there now."""

    def close(self, done: bool) -> None:
        """The call ended, well if it is done."""
        self.draw()


class _Lines(Screen):
    """A line for each phase; below it steps of a bar where they change, else dots, each second."""

    _phase, _drawn, _open, _steps = 0, 0.0, False, ""

    def draw(self) -> None:
        now, begins = time.monotonic(), self._phase < len(self.begun)
        if not begins and now - self._drawn < 1.9 * _TICK:
            return
        steps = "".join(f" {bar.label} {bar.done}/{bar.total}" for bar in self.bars[-1:])
        text = "." if steps in ("", self._steps) else steps
        if begins:
            text = "\n" * self._open + f"pygrade: {len(self.begun)} of {self.phases}, {self.begun[-1][0]}\n"
        self._phase, self._drawn, self._open, self._steps = len(self.begun), now, not begins, steps
        print(text, end="", file=sys.stderr, flush=True)

    def close(self, done: bool) -> None:
        text = f"pygrade: done in {time.monotonic() - self.begun[0][1]:.1f} s\n" if done else ""
        print("\n" * self._open + text, end="", file=sys.stderr, flush=True)


class _Terminal(Screen):
    """A row that counts phases, above the bars of `progress.track`."""

    on_terminal = True
    view: Any = None
    _row: Any = None

    def draw(self) -> None:
        if self._row is None:
            self._row = self.view.add_task("", total=self.phases, figures="")
        figures = f"{time.monotonic() - self.begun[0][1]:.0f} s"
        self.view.update(self._row, description=self.begun[-1][0], completed=len(self.begun), figures=figures)


class _Cell(Screen):
    """An output of a notebook that is replaced; it needs no widgets."""

    _handle: Any = None

    def draw(self) -> None:
        notebook: Any = import_module("IPython.display")
        ends = [*(begun for _, begun in self.begun[1:]), time.monotonic()]
        lines = [f"{escape(name)}: {end - begun:.1f} s" for (name, begun), end in zip(self.begun, ends, strict=True)]
        lines += [f"{escape(bar.label)} <progress value={bar.done} max={bar.total}></progress>" for bar in self.bars]
        self._handle = self._handle or notebook.display(notebook.HTML(""), display_id=True)
        self._handle.update(notebook.HTML("<br>".join(lines)))


@contextmanager
def show_progress(verbose: bool, phases: int, on_phase: OnPhase | None = None) -> Iterator[None]:
    """A screen for `progress.begin_phase` and `progress.track` inside the block, unless there is one."""
    if progress.screen_in_use is not None:
        yield
        return
    with ExitStack() as stack:
        screen = (_kind_here() if verbose else Screen)(phases, on_phase)
        if isinstance(screen, _Terminal):
            screen.view = stack.enter_context(progress.shared_view())
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
            if screen.begun:
                screen.close(done)


def _kind_here() -> type[Screen]:
    if progress.on_terminal():
        return _Terminal
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return _Cell if type(shell).__name__ == "ZMQInteractiveShell" else _Lines


def _draw_until(screen: Screen, ended: threading.Event) -> None:
    while not ended.wait(_TICK):
        with screen.lock:
            if screen.begun:
                screen.draw()
