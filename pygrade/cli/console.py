"""Tables on standard output for people, log lines on standard error; programs ask for --json."""

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pygrade._util.optional_imports import require
from pygrade._util.text import printable

LABELS = {"value": "value/request", "orders": "orders/request", "opm": "OPM", "ctr": "CTR", "cvr": "CVR"}
_PLAIN_WIDTH = 140  # columns unless standard output is a terminal


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
    return require("rich.console").Console(width=width, highlight=False)


def text(line: str) -> None:
    """One line, as it is."""
    print(printable(line))


def table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    strong: str = "",
    caption: str = "",
    left: bool = False,
) -> None:
    """A table whose first column is text and the others numbers, or text that may take several lines (``left``); the
    row that begins with ``strong`` is bold.
    """
    literal = require("rich.text").Text  # not markup: names may hold [ and ]
    view = require("rich.table").Table(box=require("rich.box").SIMPLE_HEAD)
    for index, name in enumerate(head):
        view.add_column(literal(printable(name)), justify="right" if index and not left else "left", no_wrap=not left)
    for row in rows:
        cells = [literal(printable(cell)) for cell in row]
        view.add_row(*cells, style="bold" if strong and row[0] == strong else None)
    out = _console()
    if title:
        out.print(literal(printable(title)), style="bold", soft_wrap=True)
    out.print(view)
    if caption:
        out.print(literal(printable(caption)), style="dim", soft_wrap=True)


def lifts(
    title: str,
    lifts_by_arm: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[str] = tuple(LABELS),
    strong: str = "",
) -> None:
    """Lift of each arm per metric in percent, ± half of the 95 % interval; the baseline has none."""
    rows = [[arm, *(lift(entry.get(metric)) for metric in metrics)] for arm, entry in lifts_by_arm.items()]
    table(title, ["", *(LABELS.get(metric, metric) for metric in metrics)], rows, strong)


def page(record: Mapping[str, Any]) -> None:
    """A ranked page: the weights on top, then each item's score and what every task, or the baseline, contributed."""
    mixed = record["trust"] < 1.0
    head = ["slot", "item", "score", *record["tasks"], *([record["baseline"]] if mixed else [])]
    weights = ["", "weight", "", *(f"{100 * weight:.1f} %" for weight in record["weights"]), *([""] if mixed else [])]
    names = [item.get("name", str(item["item_id"])) for item in record["items"]]
    parts = [
        [item["score"], *item["contributions"], *([item["baseline"]] if mixed else [])] for item in record["items"]
    ]
    rows = [
        [str(slot), name, *(f"{number:+.3f}" for number in part)]
        for slot, (name, part) in enumerate(zip(names, parts, strict=True), 1)
    ]
    text("")
    text(f"{record['title']}: {record['why']}")
    table("", head, [weights, *rows])


def lift(entry: Mapping[str, Any] | None) -> str:
    """``+1.20 ± 0.30 %`` of a lift with its interval; None is the baseline's own.

    >>> lift({"value": 0.012, "low": 0.009, "high": 0.015})
    '+1.20 ± 0.30 %'
    """
    if entry is None:
        return "baseline"
    value = entry["value"]
    if value is None or not math.isfinite(value):
        return "n/a"
    if entry["low"] is None or not math.isfinite(entry["low"]):
        return f"{100 * value:+.2f} %"
    return f"{100 * value:+.2f} ± {50 * (entry['high'] - entry['low']):.2f} %"


def interval(record: Mapping[str, Any]) -> str:
    """``0.7123 ± 0.0045`` of an estimate with its interval."""
    value, low, high = record["value"], record["low"], record["high"]
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ± {(high - low) / 2:.4f}"
