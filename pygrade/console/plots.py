"""The report's pictures: one function a picture, one palette, PNG bytes out."""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade._util.text import shortened
from pygrade.console.html import Picture
from pygrade.console.style import COLORS

BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, SAND, GRAY = CYCLE = tuple(
    COLORS[name][0] for name in ("blue", "orange", "green", "purple", "red", "teal", "sand", "gray")
)
INK, FAINT, GRID = (COLORS[name][0] for name in ("ink", "faint", "grid"))
METRIC_NAMES = {
    "value": "Business value\nper request",
    "orders": "Orders\nper request",
    "opm": "OPM, orders per\n1,000 impressions",
    "ctr": "CTR, clicks\nper impression",
    "cvr": "CVR, orders\nper click",
}
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # names may hold a $
}

Interval = Mapping[str, float | None]  # value, low, high
Lifts = Mapping[str, Mapping[str, Interval]]  # arm → metric → interval


def lifts(expected: Lifts, sampled: Lifts, baseline: str, highlight: str) -> bytes:
    """Lift of each arm over the baseline, a panel per metric: expectation as a dot, the simulated test behind it."""
    figure, axes = new_figure(1, len(METRIC_NAMES), (11.0, 0.45 * len(expected) + 1.7), sharey=True)
    arms = list(expected)
    for axis, (metric, label) in zip(axes, METRIC_NAMES.items(), strict=True):
        axis.axvline(0, color=FAINT, linewidth=1)
        for row, arm in enumerate(arms):
            color = BLUE if arm == highlight else GRAY
            drawn = sampled.get(arm, {}).get(metric)
            if drawn is not None and drawn["low"] is not None:
                line = _percent(drawn, "low", "high")
                axis.plot(line, [row, row], color=color, alpha=0.22, linewidth=7, solid_capstyle="round")
            exact = expected[arm][metric]
            if exact["low"] is not None:
                axis.plot(_percent(exact, "low", "high"), [row, row], color=color, linewidth=2)
            axis.plot(_percent(exact, "value"), [row], "o", color=color, markersize=6)
        axis.set_title(label, fontsize=9.5)
        axis.set_xlabel("lift, %")
        axis.set_ylim(len(arms) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.12)
    axes[0].set_yticks(range(len(arms)), labels(arms))
    for tick, arm in zip(axes[0].get_yticklabels(), arms, strict=True):
        tick.set_fontweight("bold" if arm == highlight else "normal")
    figure.suptitle(f"Lift over {baseline}, with 95 % intervals", x=0.005, ha="left", fontsize=11, fontweight="bold")
    return to_png(figure)


Line = tuple[Sequence[float], Sequence[float]]  # steps, values


@dataclass(frozen=True)
class Panel:
    """Lines over steps. band: steps, lower and upper ends of intervals; marks: steps with a vertical line."""

    title: str
    label: str
    lines: Mapping[str, Line]
    band: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None
    marks: Mapping[float, str] = field(default_factory=dict)
    smooth: bool = True  # the raw values faint, their moving mean in front


def curves(panels: Sequence[Panel], size: tuple[float, float] = (3.9, 2.6)) -> Picture:
    """A picture of panels, three beside each other at most."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, (size[0] * columns, size[1] * rows))
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    parts = []
    for panel in panels:
        alone, (axis,) = new_figure(1, 1, size)
        _draw(axis, panel)
        parts.append(to_svg(alone))
    return Picture(to_png(figure), tuple(parts))


def _draw(axis: Any, panel: Panel) -> None:
    if panel.band is not None:
        steps, low, high = panel.band
        axis.axhline(0, color=FAINT, linewidth=1)
        axis.fill_between(steps, low, high, color=BLUE, alpha=0.2, linewidth=0)
    for color, (name, (steps, values)) in zip(CYCLE, panel.lines.items(), strict=False):
        smooth = panel.smooth and len(values) >= 20
        if smooth:
            axis.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
        axis.plot(steps, _smooth(values) if smooth else values, color=color, label=shortened(name))
    for step, name in panel.marks.items():
        axis.axvline(step, color=FAINT, linewidth=1, linestyle=":")
        axis.annotate(name, (step, 0.02), xycoords=("data", "axes fraction"), xytext=(4, 0), textcoords="offset points")
    axis.set_title(shortened(panel.title))
    axis.set_xlabel("step")
    axis.set_ylabel(panel.label)
    axis.margins(x=0.02)
    if len(panel.lines) > 1:
        axis.legend(loc="best")


def concentration(alpha: NDArray[Any], weights: NDArray[Any], entropy: NDArray[Any], tasks: Sequence[str]) -> Picture:
    """How the policy spreads over requests: α per task, weights served per task, entropy of the Dirichlet."""
    drawings: list[Callable[[Any], None]] = [
        lambda axis: _boxes(axis, alpha, tasks, "Concentration of the exploration", "α of the task"),
        lambda axis: _boxes(axis, 100 * weights, tasks, "Weight served", "weight, %"),
        lambda axis: _histogram(axis, entropy),
    ]
    figure, axes = new_figure(1, 3, (11.0, 3.1), width_ratios=(1.15, 1.15, 0.9))
    parts = []
    for axis, draw in zip(axes, drawings, strict=True):
        draw(axis)
        alone, (one,) = new_figure(1, 1, (3.9, 3.0))
        draw(one)
        parts.append(to_svg(alone))
    return Picture(to_png(figure), tuple(parts))


def _boxes(axis: Any, values: NDArray[Any], tasks: Sequence[str], title: str, label: str) -> None:
    look = {"showfliers": False, "patch_artist": True, "widths": 0.6, "medianprops": {"color": INK}}
    parts = axis.boxplot(values, whis=(5, 95), **look)
    for part in ("whiskers", "caps"):
        for line in parts[part]:
            line.set_color(FAINT)
    for box, color in zip(parts["boxes"], CYCLE * 8, strict=False):
        box.set(facecolor=color, alpha=0.55, edgecolor=color)
    axis.set_xticks(range(1, len(tasks) + 1), labels(tasks), **_turned(tasks))
    axis.set_title(title)
    axis.set_ylabel(label)
    axis.set_ylim(bottom=0)
    axis.grid(axis="x", visible=False)


def _histogram(axis: Any, entropy: NDArray[Any]) -> None:
    axis.hist(entropy, bins=40, color=BLUE, alpha=0.75)
    axis.set_title("Entropy of the Dirichlet")
    axis.set_xlabel("nats (higher: wider exploration)")
    axis.set_ylabel("requests")


def front(record: Mapping[str, Any]) -> bytes:
    """A panel per pair of tasks of `Front.to_dict`: events of one against the other, in per cent over production."""
    paths = record["paths"]
    columns = min(len(paths), 3)
    rows = -(-len(paths) // columns)
    figure, axes = new_figure(rows, columns, (3.9 * columns, 3.3 * rows))
    for axis, (a, b, points) in zip(axes, paths, strict=False):
        for color, kind, style in ((GRAY, "predicted", "--"), (BLUE, "events", "-")):
            x, y = ([_lift_of(point, kind, task) for point in points] for task in (a, b))
            axis.plot(x, y, style, color=color, label=f"policy, {'debiased' if kind == 'events' else kind}")
        for point in points:
            across, up = ([_lift_of(point, "events", task)] * 2 for task in (a, b))
            axis.plot(_percent(point["events"][a], "low", "high"), up, color=BLUE, alpha=0.25)
            axis.plot(across, _percent(point["events"][b], "low", "high"), color=BLUE, alpha=0.25)
        axis.plot([0], [0], "D", color=INK, markersize=6, label="production")
        for color, marker, (name, point) in zip((ORANGE, BLUE, GREEN), "so^", record["marks"].items(), strict=False):
            x, y = ([_lift_of(point, "events", task)] for task in (a, b))
            axis.plot(x, y, marker, color=color, markersize=7, label=shortened(name))
        axis.set_xlabel(f"{shortened(a)}, % over production")
        axis.set_ylabel(f"{shortened(b)}, %")
    axes[0].legend(loc="best", fontsize=8)
    for axis in axes[len(paths) :]:
        axis.set_visible(False)
    return to_png(figure)


def _lift_of(point: Mapping[str, Any], kind: str, task: str) -> float:
    entry = point[kind][task]
    return 100 * float((entry["value"] if kind == "events" else entry) or 0.0)


def labels(names: Sequence[str]) -> list[str]:
    """Names of the user's as tick labels."""
    return [shortened(name, 30) for name in names]


def _turned(names: Sequence[str], start: str = "right") -> dict[str, Any]:
    """Tick labels are level if they fit, else slanted from the tick."""
    slant = sum(map(len, labels(names))) > 36
    return {"rotation": 30, "ha": start, "rotation_mode": "anchor"} if slant else {}


def new_figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, list[Any]]:
    matplotlib = require("matplotlib")
    matplotlib.use("Agg", force=True)
    pyplot = require("matplotlib.pyplot")
    pyplot.rcdefaults()
    pyplot.rcParams.update(_STYLE)
    if "width_ratios" in options:
        options["gridspec_kw"] = {"width_ratios": options.pop("width_ratios")}
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, **options)
    return figure, list(axes.ravel())


def to_png(figure: Any) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks
        figure.savefig(stream, dpi=150, metadata={"Software": None})
    require("matplotlib.pyplot").close(figure)
    return stream.getvalue()


_HEX = {light: name for name, (light, _) in COLORS.items()}
_NOISE = re.compile(r' id="[^"]*_[0-9]+"| xmlns(:xlink)?="[^"]*"|<!--.*?-->|<metadata>.*?</metadata>', re.DOTALL)


def to_svg(figure: Any) -> str:
    """The figure for a page: text as text, and colors by the page's names, so that it is light or dark as the page."""
    stream = io.StringIO()
    with (
        warnings.catch_warnings(),
        require("matplotlib").rc_context({"svg.fonttype": "none", "svg.hashsalt": "pygrade"}),
    ):
        warnings.filterwarnings("ignore", "Glyph")
        facts = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=facts)
    require("matplotlib.pyplot").close(figure)
    text = stream.getvalue()
    text = _NOISE.sub("", text[text.index("<svg") :]).replace("xlink:href", "href").replace("'DejaVu Sans'", "inherit")
    return re.sub("#[0-9a-f]{6}", lambda found: f"var(--{_HEX[found[0]]})" if found[0] in _HEX else found[0], text)


def _percent(interval: Interval, *names: str) -> list[float]:
    return [100 * float(interval[name] or 0.0) for name in names]


def _smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """Centered moving mean over about a tenth of the points, over fewer at the ends."""
    series = np.asarray(values, np.float64)
    if len(series) < 20:
        return series
    kernel = np.ones(2 * (len(series) // 20) + 1)
    known = np.isfinite(series)
    total = np.convolve(np.where(known, series, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(np.float64), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
