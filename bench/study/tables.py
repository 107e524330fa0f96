"""Markdown tables of the study's pages."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from bench.study.findings import percent
from pygrade.metrics.intervals import Interval

Row = Sequence[str]


class Section(NamedTuple):
    """A part of a report: text, the names of its charts, and a table; each may be empty."""

    title: str
    text: str
    charts: Sequence[str] = ()
    head: Row = ()
    rows: Sequence[Row] = ()


def markdown(section: Section, folder: str, charts: Collection[str]) -> Iterator[str]:
    """The paragraphs of a section, with links to those of its charts that are in ``folder``."""
    if section.title:
        yield f"## {section.title}"
    if section.text:
        yield section.text
    if section.rows:
        yield table(section.head, section.rows)
    for name in section.charts:
        if name in charts:
            yield f"![{name}]({folder}/{name}.png)"


def table(head: Row, rows: Sequence[Row]) -> str:
    """A Markdown table with columns of numbers aligned right.

    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    | :-- | --: |
    | x | 1 |
    """
    columns = [[row[i] for row in rows] for i in range(len(head))]
    sides = ["--:" if any(column) and all(map(_is_number, column)) else ":--" for column in columns]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, sides, *rows])


def shown(interval: Interval) -> str:
    """`percent`, empty for what is not known."""
    return percent(interval) if math.isfinite(interval.value) else ""


def _is_number(cell: str) -> bool:
    return not cell or cell.lstrip("+-≥≤ ")[:1].isdigit()
