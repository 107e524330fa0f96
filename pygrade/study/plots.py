"""The study's pictures: rows of lifts with intervals, and predicted against true value."""

import math
from collections.abc import Mapping, Sequence

from pygrade.metrics.intervals import Interval
from pygrade.reports.plots import BLUE, CYCLE, FAINT, GRAY, INK, new_figure, to_png

Rows = Mapping[str, tuple[Interval, Sequence[float]]]  # label → mean with interval, one faint point per world or seed


def dots(title: str, label: str, panels: Mapping[str, Rows], highlight: Sequence[str] = (), columns: int = 3) -> bytes:
    """Panels side by side that share their rows: mean and 95 % interval of each row, the single values behind."""
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    size = (3.4 * columns + 2.6, lines * (0.3 * len(names) + 1.1) + 0.3)
    figure, axes = new_figure(lines, columns, size, sharey=True)
    for axis, (heading, rows) in zip(axes, panels.items(), strict=False):
        axis.axvline(0, color=FAINT, linewidth=1)
        for place, name in enumerate(names):
            if name not in rows:
                continue
            interval, points = rows[name]
            color = BLUE if name in highlight else GRAY
            axis.plot(points, [place] * len(points), "o", color=color, alpha=0.28, markersize=4, markeredgewidth=0)
            if math.isfinite(interval.low):
                axis.plot([interval.low, interval.high], [place, place], color=color, linewidth=2.4)
            axis.plot([interval.value], [place], "o", color=color, markersize=6, markeredgecolor="white")
        axis.set_title(heading)
        axis.set_xlabel(label)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.08)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    axes[0].set_yticks(range(len(names)), names)
    for axis in axes:
        for tick, name in zip(axis.get_yticklabels(), names, strict=False):
            tick.set_fontweight("bold" if name in highlight else "normal")
    figure.suptitle(title, x=0.005, ha="left", fontsize=11, fontweight="bold")
    return to_png(figure)


def hacking(panels: Mapping[str, Mapping[str, tuple[Interval, Interval]]], base: str) -> bytes:
    """Lift over ``base`` of predicted value (across) and true value (up) for each arm: right and down is hacking."""
    figure, axes = new_figure(1, len(panels), (4.2 * len(panels) + 2.8, 3.7))
    for axis, (heading, arms) in zip(axes, panels.items(), strict=True):
        axis.axhline(0, color=FAINT, linewidth=1)
        axis.axvline(0, color=FAINT, linewidth=1)
        for color, (name, (predicted, true)) in zip(CYCLE, arms.items(), strict=False):
            if math.isfinite(true.low):
                axis.plot([predicted.value] * 2, [true.low, true.high], color=color, linewidth=2)
                axis.plot([predicted.low, predicted.high], [true.value] * 2, color=color, linewidth=2)
            axis.plot([predicted.value], [true.value], "o", color=color, markersize=7, label=name)
        axis.set_title(heading)
        axis.set_xlabel(f"predicted value, % over {base}")
        axis.set_ylabel(f"true value, % over {base}")
        axis.margins(0.15)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", labelcolor=INK)
    return to_png(figure)


def front(
    title: str, across: str, up: str, arms: Mapping[str, tuple[Interval, Interval]], wanted: Mapping[str, float]
) -> bytes:
    """Two lifts of each arm with their intervals; a dashed line where a constraint wanted the first to be."""
    figure, axes = new_figure(1, 1, (7.6, 3.8))
    axis = axes[0]
    for color, (name, both) in zip(CYCLE, arms.items(), strict=False):
        x, y = both
        if math.isfinite(y.low):
            axis.plot([x.low, x.high], [y.value] * 2, color=color, linewidth=2)
            axis.plot([x.value] * 2, [y.low, y.high], color=color, linewidth=2)
        axis.plot([x.value], [y.value], "o", color=color, markersize=7, label=name)
        if name in wanted:
            axis.axvline(wanted[name], color=color, linewidth=1, linestyle="--")
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.set_title(title)
    axis.margins(0.12)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", labelcolor=INK)
    return to_png(figure)


def lines(title: str, across: str, up: str, single: Sequence[Sequence[float]]) -> bytes:
    """Faint lines and their mean."""
    figure, axes = new_figure(1, 1, (7.0, 3.2))
    axes[0].axhline(0, color=FAINT, linewidth=1)
    for values in single:
        axes[0].plot(range(1, len(values) + 1), values, color=GRAY, alpha=0.4, linewidth=1)
    mean = [sum(values) / len(values) for values in zip(*single, strict=True)]
    axes[0].plot(range(1, len(mean) + 1), mean, color=BLUE, linewidth=2.2)
    axes[0].set_xlabel(across)
    axes[0].set_ylabel(up)
    axes[0].set_title(title)
    axes[0].locator_params(axis="x", integer=True)
    return to_png(figure)
