"""Tables on standard output for people, log lines on standard error; programs ask for --json."""

import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pygrade._util.html_table import Html
from pygrade._util.optional_imports import require
from pygrade._util.text import printable
from pygrade.console.html import Section
from pygrade.serving.page_table import page_table

_PLAIN_WIDTH = 100  # columns unless standard output is a terminal
_NUMBER = re.compile(r"[-+]?\d[\d.,]*%?")
_LONGEST = 20  # digits of a number that is kept in one line
_GAP, _MARGIN = 3, 4  # between columns, and at both ends of a row together


class LogLines(logging.Handler):
    """Each record as a line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(prefix + printable(record.getMessage()), file=sys.stderr, flush=True)


def show_log(quiet: bool) -> None:
    """Print what pygrade logs: warnings always, progress unless quiet."""
    logger = logging.getLogger("pygrade")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    if not any(isinstance(handler, LogLines) for handler in logger.handlers):
        logger.addHandler(LogLines())


def _console() -> Any:
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    out = require("rich.console").Console(width=width, highlight=False)
    out.on_broken_pipe = _reader_left  # rich would end the program with 1
    return out


def _reader_left() -> None:
    raise BrokenPipeError


def text(line: str) -> None:
    """One line, as it is, at once: a program that reads it may wait for it."""
    print(printable(line), flush=True)


def table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str | Html]],
    strong: str = "",
    caption: str = "",
    texts: int = 1,
    left: bool = False,
) -> None:
    """A table whose first ``texts`` columns are text and the others numbers, or text that may take several lines
    (``left``); the row that begins with ``strong`` is bold. Numbers that are wider than the screen go into further
    tables with the same texts; columns of pictures (`Html`) are left out.
    """
    kept = [i for i in range(len(head)) if not any(isinstance(row[i], Html) for row in rows)]
    cells = [[printable(str(row[i])) for i in kept] for row in (head, *rows)]
    literal = require("rich.text").Text  # not markup: names may hold [ and ]
    out = _console()
    if title:
        out.print(literal(printable(title)), style="bold", soft_wrap=True)
    for columns in [list(range(len(kept)))] if left else _that_fit(cells, texts, out.width):
        view = require("rich.table").Table(box=require("rich.box").SIMPLE_HEAD)
        for index in columns:
            text_column = left or index < texts
            side = "left" if text_column else "right"
            longest = max((len(word) for row in cells for word in _NUMBER.findall(row[index])), default=0)
            view.add_column(
                literal(cells[0][index]),
                justify=side,
                no_wrap=not text_column,
                overflow="fold",
                min_width=min(longest, _LONGEST),  # a number stays in one line
            )
        for row in cells[1:]:
            style = "bold" if strong and row[0] == printable(strong) else None
            view.add_row(*(literal(row[index]) for index in columns), style=style)
        out.print(view)
    if caption:
        out.print(literal(printable(caption)), style="dim", soft_wrap=True)


def sections(parts: Iterable[Section], heading: str = "") -> None:
    """Sections of a report, without what a page alone has; ``heading`` before their titles."""
    for section in parts:
        title = f"{heading}{section.title}"
        for shown in section.tables:
            caption = section.text if shown is section.tables[-1] else ""
            left = shown.texts == len(shown.head)
            table(title, shown.head, shown.rows, shown.strong, caption, shown.texts, left)
            title = ""
        for line in section.notes if section.tables else (f"{title}: {section.text}", *section.notes):
            text(line)


def _that_fit(cells: Sequence[Sequence[str]], texts: int, width: int) -> list[list[int]]:
    """The columns in groups that fit beside the first ``texts`` of them, each with these."""
    length = require("rich.cells").cell_len
    sizes = [max(length(cell) for cell in column) + _GAP for column in zip(*cells, strict=True)]
    first, free = list(range(min(texts, len(sizes)))), width - _MARGIN + _GAP
    groups: list[list[int]] = []
    used = width
    for index in range(len(first), len(sizes)):
        if used + sizes[index] > free:
            groups.append([*first])
            used = sum(sizes[number] for number in first)
        groups[-1].append(index)
        used += sizes[index]
    return groups or [first]


def page(record: Mapping[str, Any]) -> None:
    """A ranked page: the weights on top, if they rank, then each item's score and what every task, or the baseline,
    contributed; and what history did to items.
    """
    shown = page_table(record)
    text("")
    text(f"{record['title']}: {record['why']}")
    table("", shown.head, shown.texts(), texts=2)
    for note in shown.notes:
        text(note)
