"""Progress and warnings go to standard error."""

import io
import logging
import sys

import pytest

from pygrade.cli import terminal
from pygrade.cli.terminal import show_log


@pytest.mark.parametrize(
    ("quiet", "expected"), [(False, "reading a\nwarning: b is odd\n"), (True, "warning: b is odd\n")]
)
def test_the_log_is_shown_once_and_quiet_keeps_warnings(capsys, quiet, expected):
    logger = logging.getLogger("pygrade")
    for _ in range(2):
        show_log(quiet)
    logger.info("reading %s", "a")
    logger.warning("%s is odd", "b")
    assert capsys.readouterr().err == expected


def printed(capsys, *arguments, **options):
    terminal.table(*arguments, **options)
    return capsys.readouterr().out.splitlines()


def test_a_wide_table_becomes_several_with_the_same_first_columns(capsys):
    head = ["slot", "item", *(f"task {place}" for place in range(12))]
    rows = [[str(row), f"item {row}", *(f"+0.{row}{place:02d} ± 0.001" for place in range(12))] for row in range(3)]
    lines = printed(capsys, "Contributions", head, rows, texts=2)
    assert max(map(len, lines)) <= 100
    for row in range(3):
        assert sum(f"item {row} " in line for line in lines) == 3
    assert all(any(cell in line for line in lines) for row in rows for cell in row)
    whole = printed(capsys, "", head[:5], [row[:5] for row in rows], texts=2)
    assert sum("item 0 " in line for line in whole) == 1


def test_a_number_stays_in_one_line(capsys):
    long = ["letters" * 40] * 11
    lines = printed(capsys, "", [*"abcdefghijk", "who"], [[*long, "640,000 users"]], left=True)
    assert max(map(len, lines)) <= 100
    assert any("640,000" in line for line in lines)


def test_a_long_name_is_folded_and_not_cut(capsys):
    name = "a name " * 30
    lines = printed(capsys, "", ["", "n"], [[name, "12345"]])
    assert max(map(len, lines)) <= 100
    assert sum(line.count("a name") for line in lines) >= 25 and any("12345" in line for line in lines)


def test_a_reader_that_leaves_is_no_exit_of_rich(monkeypatch):
    """`main` then ends the command with 0; rich itself would end it with 1."""

    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        terminal.table("", ["a", "b"], [["c", "d"]])
