"""A call of the library shows its phases at once, and something each second, wherever it runs."""

import re
import sys
import time
from types import SimpleNamespace

import pytest

from pygrade._util.progress import begin_phase, track
from pygrade._util.screen import show_progress


def work(seconds=0.0):
    begin_phase("reading")
    time.sleep(seconds)
    begin_phase("learning")
    with track("steps", 3) as bar:
        for _ in range(3):
            time.sleep(seconds / 3)
            bar.advance()


def test_lines_of_phases_dots_and_steps(capsys):
    calls = []
    with show_progress(True, 2, lambda *call: calls.append(call)):
        begin_phase("first")
        assert capsys.readouterr().err == "pygrade: 1 of 2, first\n"  # at once
        work(1.4)
    *lines, steps, last = capsys.readouterr().err.splitlines()
    assert lines == ["pygrade: 2 of 2, reading", ".", "pygrade: 3 of 2, learning"]
    assert re.fullmatch(r" steps [0-2]/3\.*", steps) and last.startswith("pygrade: done in ")
    assert calls == [("first", 0), ("reading", 0), ("learning", 0)]


def test_nothing_is_shown_without_verbose_or_outside(capsys):
    calls = []
    with show_progress(False, 2, lambda *call: calls.append(call)):
        work(0.6)
    work()
    assert capsys.readouterr().err == "" and calls == [("reading", 0), ("learning", 0)]


def test_an_error_ends_the_screen_and_an_inner_call_has_none_of_its_own(capsys):
    with pytest.raises(KeyError), show_progress(True, 2):
        with show_progress(True, 9):
            begin_phase("inner")
        raise KeyError
    begin_phase("outside")
    assert capsys.readouterr().err == "pygrade: 1 of 2, inner\n"


def test_a_terminal_has_a_row_for_phases_above_the_bars(capsys, monkeypatch):
    console = pytest.importorskip("rich.console")
    monkeypatch.setattr("pygrade._util.progress.on_terminal", lambda: True)
    monkeypatch.setattr(console.Console, "is_terminal", True)
    with show_progress(True, 2):
        work(0.6)
    shown = capsys.readouterr().err
    assert all(text in shown for text in ("reading", "learning", "steps", "2/2"))


def test_a_notebook_has_one_output_that_is_replaced(monkeypatch):
    shown = []
    shell = type("ZMQInteractiveShell", (), {})()
    notebook = SimpleNamespace(HTML=str, display=lambda *_, **__: SimpleNamespace(update=shown.append))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    with show_progress(True, 2):
        work(1.2)
    assert any("steps <progress value=" in text and "max=3>" in text for text in shown)
    assert [line.partition(":")[0] for line in shown[-1].split("<br>")] == ["reading", "learning"]
