"""Small pictures in table cells, as SVG that takes the page's colors: intervals on a common scale, and bars."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pygrade.console.html import escape

Json = Mapping[str, Any]
_WIDTH, _HEIGHT, _EDGE = 130, 18, 6


@dataclass(frozen=True)
class Scale:
    """The numbers that a column of marks spans; the vertical line is at ``origin``."""

    low: float
    high: float
    origin: float = 0.0
    percent: bool = False

    @classmethod
    def of(cls, entries: Iterable[Json], origin: float = 0.0, percent: bool = False) -> "Scale":
        """A scale that holds the origin, all known values and the ends of their intervals."""
        ends = [
            float(entry[name])
            for entry in entries
            for name in ("value", "low", "high")
            if entry.get(name) is not None and math.isfinite(entry[name])
        ]
        low, high = min([origin, *ends]), max([origin, *ends])
        if low == high:
            return cls(low - 0.01, high + 0.01, origin, percent)
        margin = 0.04 * (high - low)
        return cls(low - margin * (low < origin), high + margin * (high > origin), origin, percent)

    def place(self, value: float) -> float:
        """x of a value in the picture."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(_EDGE + share * (_WIDTH - 2 * _EDGE), 1)

    def label(self, value: float) -> str:
        if value == 0:
            return "0"
        return f"{100 * value:+.1f} %" if self.percent else f"{value:.3g}"

    @property
    def axis(self) -> str:
        """The head of the column: the ends of the scale, and its origin."""
        ends = self.label(self.low), self.label(self.origin), self.label(self.high)
        place = self.place(self.origin)
        middle = "" if min(place, _WIDTH - place) < 56 else f'<text x="{place}" y="13" class="mid">{ends[1]}</text>'
        says = f"from {ends[0]} to {ends[2]}"
        return (
            f'<svg class="mark" width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{says}">'
            f'<text x="0" y="13">{ends[0]}</text>{middle}<text x="{_WIDTH}" y="13" class="end">{ends[2]}</text></svg>'
        )


def whisker(scale: Scale, *entries: Json, strong: bool = False, says: str = "") -> str:
    """A dot with its 95 % interval for each entry, the first in the strong color if asked, and a line at the origin."""
    step = _HEIGHT / (len(entries) + 1)
    parts = []
    for number, entry in enumerate(entries):
        if entry.get("value") is None:
            continue
        y, kind = round(step * (number + 1), 1), ("own" if strong else "other") if number == 0 else "second"
        if entry.get("low") is not None and entry.get("high") is not None:
            ends = scale.place(entry["low"]), scale.place(entry["high"])
            parts.append(f'<line class="{kind}" x1="{ends[0]}" x2="{ends[1]}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="{kind}" cx="{scale.place(entry["value"])}" cy="{y}" r="3.4"/>')
    return _picture(f"{_origin(scale)}{''.join(parts)}", says)


def bars(scale: Scale, *values: float | None, mark: float | None = None, says: str = "") -> str:
    """A bar from the origin for each value, the first in the strong color, and a tick at ``mark``."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    height = 12 / max(len(values), 1)
    parts = []
    for number, value in enumerate(known):
        start, end = sorted((scale.place(scale.origin), scale.place(value)))
        y, kind = round(3 + number * height, 1), "own" if number == 0 else "second"
        parts.append(
            f'<rect class="{kind}" x="{start}" y="{y}" width="{round(end - start, 1)}" height="{height - 1:g}"/>'
        )
    if mark is not None:
        x = scale.place(mark)
        parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="2" y2="{_HEIGHT - 2}"/>')
    return _picture(f"{_origin(scale)}{''.join(parts)}", says)


def _origin(scale: Scale) -> str:
    x = scale.place(scale.origin)
    return f'<line class="origin" x1="{x}" x2="{x}" y1="0" y2="{_HEIGHT}"/>'


def _picture(inner: str, says: str) -> str:
    title = f"<title>{escape(says)}</title>" if says else ""
    return (
        f'<svg class="mark" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'aria-hidden="true">{title}{inner}</svg>'
    )
