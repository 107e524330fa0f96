"""The study's charts: rows of lifts with intervals, and lifts by the number of logged requests."""

import math
from collections.abc import Mapping, Sequence

from bench.figures import BLUE, CYCLE, FAINT, GRAY, INK, new_figure, to_png
from bench.study.findings import RIVALS, SERVED
from bench.study.fresh_worlds import CELLS, GATED
from bench.study.settings import MAIN, Regime, Settings
from bench.study.stats import Results
from pygrade.metrics.intervals import Interval

Rows = Mapping[str, tuple[Interval, Sequence[float]]]  # label → mean with interval, one faint point per world or seed


def draw_charts(results: Results, settings: Settings) -> dict[str, bytes]:
    """Name → PNG of the charts that the results suffice for: every arm of the main part, and the correction."""
    charts = {}
    title = {name: arm.title for name, arm in settings.arms.items()}
    if results.has(MAIN, "grade", "production", "static"):
        panels = {
            "Value over expected value": ("ev",),
            "Value over best static, z-log": ("static",),
            "Orders over production": ("production", "orders"),
        }
        rows = {
            name: {
                title[arm]: (results.lift(MAIN, arm, *over), list(results.lifts(MAIN, arm, *over).values()))
                for arm in results.arms(MAIN)
            }
            for name, over in panels.items()
            if results.has(MAIN, over[0])
        }
        charts["main"] = dots("Lift of each arm; faint: single worlds", rows, [title["grade"], title[SERVED]])
    fresh = {name: [r for r in settings.regimes.values() if r.group == name] for name in CELLS}
    if by_size := _sizes(results, settings, fresh, (*RIVALS, "grade", GATED)):
        charts["correction"] = sizes("Fresh worlds: lift over expected value", by_size)
    return charts


def _sizes(
    results: Results, settings: Settings, families: Mapping[str, Sequence[Regime]], names: Sequence[str]
) -> dict[str, Mapping[str, Sequence[tuple[int, Interval]]]]:
    """World → arm → its lift over expected value by the number of logged requests."""
    panels: dict[str, Mapping[str, Sequence[tuple[int, Interval]]]] = {}
    for family, regimes in families.items():
        arms = {}
        for arm in names:
            points = [
                (regime.requests, results.lift(regime.name, arm, "ev", regime.judge))
                for regime in regimes
                if results.has(regime.name, arm, "ev")
            ]
            if len(points) > 1:
                arms[settings.arms[arm].title] = points
        if arms:
            panels[family] = arms
    return panels


def sizes(title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[int, Interval]]]]) -> bytes:
    """A line per arm over the number of logged requests, with 95 % intervals; one panel per world."""
    columns = min(3, len(panels))
    figure, axes = new_figure(
        -(-len(panels) // columns), columns, (3.7 * columns, 2.6 * -(-len(panels) // columns) + 0.8)
    )
    every = list(dict.fromkeys(name for arms in panels.values() for name in arms))  # an arm has one color in all panels
    for axis, (heading, arms) in zip(axes, panels.items(), strict=False):
        axis.axhline(0, color=INK, linewidth=1)
        for number, (color, name) in enumerate(zip(CYCLE, every, strict=False)):
            points = arms.get(name)
            if points is None:
                continue
            places, lifts = zip(*points, strict=True)
            across = [place * 1.03 ** (number - 2) for place in places]  # side by side
            axis.plot(
                across, [lift.value for lift in lifts], "o-", color=color, markersize=4, linewidth=1.8, label=name
            )
            for place, lift in zip(across, lifts, strict=True):
                if math.isfinite(lift.low):
                    axis.plot([place] * 2, [lift.low, lift.high], color=color, linewidth=1.4, alpha=0.5)
        values = [0.0, *(lift.value for points in arms.values() for _, lift in points)]
        margin = 0.15 * (max(values) - min(values)) + 0.05
        axis.set_ylim(min(values) - margin, max(values) + margin)  # intervals over two worlds are cut off
        axis.set_xscale("log")
        ticks = sorted({place for points in arms.values() for place, _ in points})
        axis.set_xticks(ticks, [f"{place // 1000}k" for place in ticks], minor=False)
        axis.minorticks_off()
        axis.set_title(heading)
        axis.set_xlabel("logged requests")
        axis.set_ylabel("%")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title, x=0.005, ha="left", fontsize=11, fontweight="bold")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(CYCLE), labelcolor=INK)
    return to_png(figure)


def dots(title: str, panels: Mapping[str, Rows], highlight: Sequence[str]) -> bytes:
    """Panels with the same rows: mean and 95 % interval of each row, with the single values faint."""
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    size = (3.4 * len(panels) + 2.6, 0.3 * len(names) + 1.4)
    figure, axes = new_figure(1, len(panels), size, sharey=True)
    for axis, (heading, rows) in zip(axes, panels.items(), strict=True):
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
        axis.set_xlabel("%")
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.08)
    axes[0].set_yticks(range(len(names)), names)
    for axis in axes:
        for tick, name in zip(axis.get_yticklabels(), names, strict=False):
            tick.set_fontweight("bold" if name in highlight else "normal")
    figure.suptitle(title, x=0.005, ha="left", fontsize=11, fontweight="bold")
    return to_png(figure)
