"""Tables on standard output for people; programs ask for --json."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pygrade._util.optional_imports import require

LABELS = {
    "value": "value/request", "orders": "orders/request", "opm": "OPM", "ctr": "CTR", "cvr": "CVR",
}  # fmt: skip
_PLAIN_WIDTH = 140  # columns where standard output is no terminal


def _console() -> Any:
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return require("rich.console").Console(width=width, highlight=False)


def text(line: str) -> None:
    """One line, as it is."""
    _console().print(line, markup=False, soft_wrap=True)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], strong: str = "") -> None:
    """A table whose first column is text and the others numbers; the row that begins with ``strong`` stands out."""
    view = require("rich.table").Table(
        title=title or None, title_justify="left", title_style="bold", box=require("rich.box").SIMPLE_HEAD
    )
    for index, name in enumerate(head):
        view.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        view.add_row(*row, style="bold" if strong and row[0] == strong else None)
    _console().print(view)


def lifts(title: str, lifts_by_arm: Mapping[str, Mapping[str, Any]], metrics: Sequence[str], strong: str = "") -> None:
    """Lift of each arm per metric in per cent, ± half of the 95 % interval; a missing lift is the baseline's own."""
    rows = [[arm, *(lift(own.get(metric)) for metric in metrics)] for arm, own in lifts_by_arm.items()]
    table(title, ["", *(LABELS.get(metric, metric) for metric in metrics)], rows, strong)


def page(record: Mapping[str, Any]) -> None:
    """A ranked page: the weights on top, then each item's score and what every task contributed to it."""
    head = ["slot", "item", "score", *record["tasks"]]
    weights = ["", "weight", "", *(f"{100 * weight:.1f} %" for weight in record["weights"])]
    names = [item.get("name", str(item["item_id"])) for item in record["items"]]
    rows = [
        [str(slot), name, f"{item['score']:+.3f}", *(f"{c:+.3f}" for c in item["contributions"])]
        for slot, (name, item) in enumerate(zip(names, record["items"], strict=True), 1)
    ]
    text(f"\n{record['title']}: {record['why']}")
    table("", head, [weights, *rows])


def lift(found: Mapping[str, Any] | None) -> str:
    """``+1.20 ± 0.30 %`` of a lift with its interval; None is the baseline's own.

    >>> lift({"value": 0.012, "low": 0.009, "high": 0.015})
    '+1.20 ± 0.30 %'
    """
    if found is None:
        return "baseline"
    value = found["value"]
    if value is None or not math.isfinite(value):
        return "n/a"
    if found["low"] is None or not math.isfinite(found["low"]):
        return f"{100 * value:+.2f} %"
    return f"{100 * value:+.2f} ± {50 * (found['high'] - found['low']):.2f} %"


def interval(record: Mapping[str, Any]) -> str:
    """``0.7123 ± 0.0045`` of an estimate with its interval."""
    value, low, high = record["value"], record["low"], record["high"]
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ± {(high - low) / 2:.4f}"
