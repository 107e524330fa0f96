"""Markdown tables of the study's pages."""

import math
from collections.abc import Sequence

from bench.study.findings import percent
from pygrade.metrics.intervals import Interval

Row = Sequence[str]


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
