"""Lines over steps or against each other, as SVG that takes the page's colors."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.axis import Axis
from pygrade._util.html_table import escape

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 30, 40  # margins
_NAME = 90, 14  # room of a point's name
_STYLE = (  # of a file of its own
    "text{font:12px sans-serif;fill:#17202b}.grid{stroke:#dce1e8}.axis{stroke:#52606f}"
    "polyline{fill:none;stroke:#1f5fbf;stroke-width:1.8}.line-1{stroke:#98a5b3;stroke-dasharray:5 4}"
)
Line = tuple[Sequence[float], Sequence[float]]  # x, y


@dataclass(frozen=True)
class Chart:
    """Lines, and what helps to read them."""

    title: str
    label: str  # of the vertical axis
    lines: Mapping[str, Line]
    band: tuple[Sequence[float], Sequence[float]] | None = None  # lower and upper ends around the first line
    marks: Mapping[float, str] = field(default_factory=dict)  # x of vertical lines
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    across: str = "step"  # label of the horizontal axis
    faint: str = ""  # name of a line to compare others with
    smooth: bool = False  # pale: the values, strong: their moving mean


def draw(chart: Chart) -> str:
    """The chart as one <svg>; the classes of its lines are task-0, task-1 … as those of the page's tasks."""
    spots = list(chart.points.values())
    x = Axis.of(chain(*(line[0] for line in chart.lines.values()), (p[0] for p in spots)), _LEFT, _WIDTH - _RIGHT)
    heights = chain(*(line[1] for line in chart.lines.values()), *(chart.band or ()), (p[1] for p in spots))
    y = Axis.of(chain(heights, [0.0] * bool(chart.band)), _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<text class="name" x="0" y="14">{escape(chart.title)}</text>']
    for value in y.ticks():
        kind = "axis" if value == 0 else "grid"
        up = y.at(value)
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up}" y2="{up}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up + 4:g}" text-anchor="end">{_number(value)}</text>')
    for value in x.ticks():
        parts.append(f'<text x="{x.at(value)}" y="{_HEIGHT - 22}" text-anchor="middle">{_number(value)}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{escape(chart.across)} →</text>')
    parts.append(f'<text x="0" y="{_HEIGHT - 4}">↑ {escape(chart.label)}</text>')
    for value, name in chart.marks.items():
        parts.append(f'<line class="axis" x1="{x.at(value)}" x2="{x.at(value)}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{x.at(value) + 4}" y="{_TOP + 10}">{escape(name)}</text>')
    if chart.band is not None:
        steps = next(iter(chart.lines.values()))[0]
        edge = [*zip(steps, chart.band[0], strict=True), *reversed([*zip(steps, chart.band[1], strict=True)])]
        parts.append(f'<polygon class="band" points="{_points(x, y, edge)}"/>')
    for number, (name, (steps, values)) in enumerate(chart.lines.items()):
        if chart.smooth and len(values) >= 20:
            pale = _points(x, y, zip(steps, values, strict=True))
            parts.append(f'<polyline class="pale line-{number}" points="{pale}"/>')
            values = moving_mean(values).tolist()
        line = f'points="{_points(x, y, zip(steps, values, strict=True))}"'
        kind = f"{'pale ' * (name == chart.faint)}line-{number}"
        parts.append(f'<polyline class="{kind}" {line}><title>{escape(name)}</title></polyline>')
    named: list[tuple[float, float]] = []
    for name, point in chart.points.items():
        across, up = x.at(point[0]), y.at(point[1])
        parts.append(f'<circle cx="{across}" cy="{up}" r="4"/>')
        while any(abs(across - a) < _NAME[0] and abs(up - b) < _NAME[1] for a, b in named):
            up += 1
        named.append((across, up))
        side = f'x="{across - 7:g}" text-anchor="end"' if across > 0.8 * _WIDTH else f'x="{across + 7:g}"'
        parts.append(f'<text {side} y="{up - 5:g}">{escape(name)}</text>')
    label = escape(f"{chart.title}: {chart.label}")
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    return f"{head}{''.join(parts)}</svg>"


def moving_mean(values: Sequence[float]) -> NDArray[np.float64]:
    """Centered moving mean over about a tenth of the points, over fewer at the ends."""
    series = np.asarray(values, np.float64)
    kernel = np.ones(2 * (len(series) // 20) + 1)
    finite = np.isfinite(series)
    total = np.convolve(np.where(finite, series, 0.0), kernel, mode="same")
    count = np.convolve(finite.astype(np.float64), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _points(x: Axis, y: Axis, line: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x.at(a)},{y.at(b)}" for a, b in line if math.isfinite(a) and math.isfinite(b))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def plot_front(record: Mapping[str, Any]) -> str:
    """An SVG file with a chart per pair of tasks of `ParetoFront.to_dict`: events of both over production."""

    def lift(point: Mapping[str, Any], kind: str, task: str) -> float:
        lift_of_task = point[kind][task]
        return 100 * float((lift_of_task["value"] if kind == "events" else lift_of_task) or 0.0)

    charts = []
    for a, b, path in record["paths"]:
        lines = {
            name: ([lift(point, kind, a) for point in path], [lift(point, kind, b) for point in path])
            for name, kind in (("debiased", "events"), ("predicted", "predicted"))
        }
        marks = {name: (lift(point, "events", a), lift(point, "events", b)) for name, point in record["marks"].items()}
        points = {"production": (0.0, 0.0)} | marks
        charts.append(Chart(f"{a} and {b}", f"{b}, %", lines, points=points, across=f"{a}, % over production"))
    return picture(charts)


def picture(charts: Sequence[Chart]) -> str:
    """An SVG file of charts, one below the other."""
    parts = [f"<style>{_STYLE}</style>"]
    for number, chart in enumerate(charts):
        frame = f'x="10" y="{10 + number * (_HEIGHT + 20)}" width="{_WIDTH}" height="{_HEIGHT}"'
        parts.append(draw(chart).replace("<svg ", f"<svg {frame} ", 1))
    height = 10 + len(charts) * (_HEIGHT + 20)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 20}" height="{height}">'
    return f'{head}<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
