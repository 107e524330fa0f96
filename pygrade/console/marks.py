"""Small pictures in tables: lifts with their intervals around 0, and bars. web/charts.js draws the same."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pygrade._util.html_table import Html, escape
from pygrade.metrics.texts import lift_text

Json = Mapping[str, Any]
_REACHES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def reach_of(lifts: Iterable[Json]) -> float:
    """The largest |value or bound| of lifts, rounded up: one scale for a column."""
    ends = [abs(lift[name]) for lift in lifts for name in ("value", "low", "high") if _is_known(lift, name)]
    most = max(ends, default=0.0)
    return next((reach for reach in _REACHES if reach >= most), most)


def interval_mark(lift: Json, reach: float, name: str = "") -> Html:
    """A dot at the lift, a band over its interval, and a line at 0; it says whether the interval leaves 0 out."""
    label = escape(f"{name} {lift_text(lift)}".strip())
    if not _is_known(lift, "value"):
        return Html(f'<div class="interval undecided" role="img" aria-label="{label}"><i class="zero"></i></div>')
    kind, band = "undecided", ""
    if _is_known(lift, "low") and _is_known(lift, "high"):
        kind = "better" if lift["low"] > 0 else "worse" if lift["high"] < 0 else kind
        left, right = _place(lift["low"], reach), _place(lift["high"], reach)
        band = f'<i class="band" style="left:{left:.4g}%;width:{max(right - left, 0.5):.4g}%"></i>'
    dot = f'<i class="dot" style="left:{_place(lift["value"], reach):.4g}%"></i>'
    return Html(f'<div class="interval {kind}" role="img" aria-label="{label}"><i class="zero"></i>{band}{dot}</div>')


def bar(value: float, most: float) -> Html:
    """A bar of a number from 0 to ``most``."""
    return Html(f'<div class="share"><i class="task-0" style="width:{100 * value / (most or 1.0):.4g}%"></i></div>')


def _place(value: float, reach: float) -> float:
    return 50 + 50 * max(-1.0, min(1.0, value / reach))


def _is_known(lift: Json, name: str) -> bool:
    return lift.get(name) is not None and math.isfinite(lift[name])
