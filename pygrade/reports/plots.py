"""The report's pictures: one function a picture, one palette, PNG bytes out."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade._util.text import shortened

BLUE, ORANGE, GREEN, PURPLE = "#2b6cb0", "#dd7a34", "#3b9a6d", "#8560b3"
RED, TEAL, SAND, GRAY = "#c54b5a", "#2e9aa8", "#c9a02c", "#7b8592"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, SAND, GRAY)
INK, FAINT, GRID = "#1f2933", "#667380", "#e3e8ee"
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


def intervals(rows: Mapping[str, Interval], baseline: str, highlight: str, title: str) -> bytes:
    """A dot with its interval for each row, in per cent over the baseline."""
    figure, (axis,) = new_figure(1, 1, (8.0, 0.3 * len(rows) + 1.4))
    axis.axvline(0, color=FAINT, linewidth=1)
    for place, (name, entry) in enumerate(rows.items()):
        color = BLUE if name == highlight else GRAY
        if entry["low"] is not None:
            axis.plot(_percent(entry, "low", "high"), [place, place], color=color, linewidth=2)
        if entry["value"] is not None:
            axis.plot(_percent(entry, "value"), [place], "o", color=color, markersize=6)
    axis.set_yticks(range(len(rows)), [shortened(name, 60) for name in rows])
    for tick, name in zip(axis.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if name == highlight else "normal")
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(f"lift over {baseline}, %")
    axis.set_title(title)
    return to_png(figure)


def curves(panels: Sequence[tuple[str, str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]]) -> bytes:
    """Line panels of (title, y label, {name: (steps, values)}): the raw values faint, their moving mean in front."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, (3.7 * columns, 2.5 * rows))
    for axis, (title, label, lines) in zip(axes, panels, strict=False):
        for color, (name, (steps, values)) in zip(CYCLE, lines.items(), strict=False):
            if len(values) >= 20:
                axis.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
            axis.plot(steps, _smooth(values), color=color, label=shortened(name))
        axis.set_title(shortened(title))
        axis.set_xlabel("step")
        axis.set_ylabel(label)
        axis.margins(x=0.02)
        if len(lines) > 1:
            axis.legend(loc="best")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return to_png(figure)


def weight_table(means: Mapping[str, Mapping[str, float]], static: Mapping[str, float], static_name: str) -> bytes:
    """Mean weight by group (rows) and task (columns): the number is the weight, the color its distance to static."""
    groups, tasks = list(means), list(static)
    values = np.array([[means[g][t] for t in tasks] for g in groups] + [[static[t] for t in tasks]])
    difference = values - values[-1]
    reach = max(float(np.abs(difference).max()), 0.01)
    figure, (axis,) = new_figure(1, 1, (1.05 * len(tasks) + 2.6, 0.4 * len(values) + 1.3))
    picture = axis.imshow(100 * difference, cmap=_diverging(), vmin=-100 * reach, vmax=100 * reach, aspect="auto")
    for row, column in np.ndindex(*values.shape):
        axis.text(column, row, f"{100 * values[row, column]:.1f}", ha="center", va="center", color=INK)
    axis.set_xticks(range(len(tasks)), labels(tasks), **_turned(tasks, start="left"))
    axis.set_yticks(range(len(values)), labels([*groups, static_name]))
    axis.get_yticklabels()[-1].set_fontstyle("italic")
    axis.axhline(len(groups) - 0.5, color="white", linewidth=4)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axis, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(f"points from {static_name}")
    axis.set_title("Mean weight served, %")
    return to_png(figure)


def concentration(alpha: NDArray[Any], weights: NDArray[Any], entropy: NDArray[Any], tasks: Sequence[str]) -> bytes:
    """How the policy spreads over requests: α per task, weights served per task, entropy of the Dirichlet."""
    figure, axes = new_figure(1, 3, (11.0, 3.1), width_ratios=(1.15, 1.15, 0.9))
    for axis, values, title, label in (
        (axes[0], alpha, "Concentration of the exploration", "α of the task"),
        (axes[1], 100 * weights, "Weight served", "weight, %"),
    ):
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
    axes[2].hist(entropy, bins=40, color=BLUE, alpha=0.75)
    axes[2].set_title("Entropy of the Dirichlet")
    axes[2].set_xlabel("nats (higher: wider exploration)")
    axes[2].set_ylabel("requests")
    return to_png(figure)


def served(gains: Mapping[str, Mapping[str, float]], reference: str) -> bytes:
    """Bars of what each policy's served weights earn on the log, per reward component, in per cent over a reference."""
    arms, parts = list(gains), list(next(iter(gains.values())))
    figure, (axis,) = new_figure(1, 1, (6.6, 2.7))
    width = 0.8 / len(arms)
    for offset, (color, arm) in enumerate(zip((GRAY, BLUE, *CYCLE[1:]), arms, strict=False)):
        left = [i - 0.4 + width * (offset + 0.5) for i in range(len(parts))]
        bars = axis.bar(left, [100 * gains[arm][part] for part in parts], 0.9 * width, color=color, label=arm)
        axis.bar_label(bars, fmt="%+.2f", padding=2, fontsize=8.5, color=INK)
    axis.axhline(0, color=FAINT, linewidth=1)
    axis.set_xticks(range(len(parts)), parts)
    axis.set_ylabel(f"% over {reference}")
    axis.set_title("Reward of the weights served")
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.2)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return to_png(figure)


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
        for color, marker, (name, point) in zip((ORANGE, BLUE), "so", record["marks"].items(), strict=True):
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
    return [shortened(name, 24) for name in names]


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


def _diverging() -> Any:
    colors = require("matplotlib.colors")
    return colors.LinearSegmentedColormap.from_list("orange-blue", ["#e8a06b", "#f7f8fa", "#7eaadb"])
