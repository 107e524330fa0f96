"""The study's charts: rows of lifts with intervals, two lifts against each other, lines over time."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from bench.figures import BLUE, CYCLE, FAINT, GRAY, INK, new_figure, to_png
from bench.study.findings import CONSTRAINED, RIVALS, SERVED
from bench.study.fresh_worlds import CELLS, GATED
from bench.study.settings import MAIN, STABILITY, Regime, Settings
from bench.study.stats import Results, over_worlds, production_lift
from pygrade.metrics.intervals import Interval

_ABLATIONS = (
    *("no-prior", "no-posterior", "no-format", "no-kl", "no-stage1", "group-std", "component-std"),
    *("leave-one-out", "gaussian", "clipped", "ppo"),
)
_SLICES = ("rarest tenth of users", "other users", "scenario feed", "scenario category", "scenario search")
_PANEL = "20,000 logged requests"
Rows = Mapping[str, tuple[Interval, Sequence[float]]]  # label → mean with interval, one faint point per world or seed


def draw_charts(results: Results, settings: Settings) -> dict[str, bytes]:
    """Name → PNG of every chart that the results suffice for."""
    charts = {}
    title = {name: arm.title for name, arm in settings.arms.items()}

    def row(regime: str, arm: str, base: str, *metric: str) -> tuple[Interval, list[float]]:
        lifts = list(results.lifts(regime, arm, base, *metric).values())
        return over_worlds(lifts), lifts

    arms = results.arms(MAIN)
    if results.has(MAIN, "grade", "production", "static"):
        panels = {
            "Value over expected value": ("ev",),
            "Value over best static, z-log": ("static",),
            "Orders over production": ("production", "orders"),
        }
        panels = {name: over for name, over in panels.items() if results.has(MAIN, over[0])}
        rows = {name: {title[arm]: row(MAIN, arm, *over) for arm in arms} for name, over in panels.items()}
        charts["main"] = dots("Lift of each arm; faint: single worlds", "%", rows, [title["grade"], title[SERVED]])
        slices = {name: row(MAIN, "grade", "static", name, "slices") for name in _SLICES}
        charts["users"] = dots("Gain of GRADE by user and scenario", "value, % over best static", {"GRADE": slices})
    if changed := {title[arm]: row(MAIN, arm, "grade") for arm in _ABLATIONS if results.has(MAIN, arm, "grade")}:
        charts["ablations"] = dots("Effect of each change to GRADE", "value, % over GRADE", {_PANEL: changed})
    base = "ev" if results.has(MAIN, "ev") else "static"
    regimes = {
        f"{regime.title} ({regime.judge})" if regime.judge != "value" else regime.title: {
            title[arm]: row(name, arm, base, regime.judge)
            for arm in regime.arms
            if results.has(name, arm, base) and arm != base
        }
        for name, regime in settings.regimes.items()
        if results.has(name, "grade", base) and name not in ("constraint", "drift") and not regime.sized
    }
    if len(regimes) > 1:
        runs = Counter(name for rows in regimes.values() for name in rows)
        shared = {label: {n: row for n, row in rows.items() if runs[n] > 1} for label, rows in regimes.items()}
        charts["regimes"] = dots(
            f"Lift over {title[base]} in each regime", "%", shared, [title["grade"], title[SERVED]]
        )
    if by_size := _sizes(results, settings, settings.families, ("static", *RIVALS, "grade", SERVED)):
        charts["sizes"] = sizes("Lift over expected value", by_size)
    fresh = {name: [r for r in settings.regimes.values() if r.group == name] for name in CELLS}
    if by_size := _sizes(results, settings, fresh, (*RIVALS, "grade", GATED)):
        charts["correction"] = sizes("Fresh worlds: lift over expected value", by_size)
    traps = {
        settings.regimes[name].title: {
            title[arm]: (results.lift(name, arm, "stage1", "predicted"), results.lift(name, arm, "stage1"))
            for arm in ("no-posterior", "grade", "no-prior", "static", "oracle")
            if results.has(name, arm, "stage1")
        }
        for name in (MAIN, "hype")
        if results.has(name, "grade", "stage1")
    }
    if traps:
        charts["hacking"] = hacking(traps, title["stage1"])
    if results.has("drift", "online", "stage1"):
        figures = [record["figures"] for record in results.records("drift", "online")]
        names = sorted(name for name in figures[0] if name.startswith("lift_"))
        heading = "Online learning in a world that drifts in the first half"
        values = [[entry[name] for name in names] for entry in figures]
        charts["drift"] = lines(heading, "interval of 1,000 requests", "value, % over stage 1", values)
    constrained = [arm for arm in ("stage1", "grade", *CONSTRAINED) if results.has("constraint", arm, "production")]
    if set(constrained) & set(CONSTRAINED):
        both = {
            title[arm]: (
                results.lift("constraint", arm, "production", "cart", "events"),
                results.lift("constraint", arm, "production"),
            )
            for arm in constrained
        }
        charts["constraint"] = front(
            "Effect of a constraint on carts",
            "carts, % over production (dashed: wanted by the constraint)",
            "value, % over production",
            both,
            {title[arm]: CONSTRAINED[arm] for arm in constrained if arm in CONSTRAINED},
        )
    stable = {}
    for arm in results.arms(STABILITY):
        lifts = [production_lift(record) for record in results.records(STABILITY, arm)]
        stable[title[arm]] = results.mean(STABILITY, arm, production_lift), lifts
    if stable:
        heading = "Trainings without stage 1; faint: each training"
        charts["stability"] = dots(heading, "value, % over production", {_PANEL: stable})
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


def dots(title: str, label: str, panels: Mapping[str, Rows], highlight: Sequence[str] = (), columns: int = 3) -> bytes:
    """Panels with the same rows: mean and 95 % interval of each row, with the single values faint."""
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
    """Lift over ``base`` of predicted value (x) and true value (y) of each arm; hacking is right and down."""
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
    """Two lifts of each arm with their intervals; dashed: the wanted value of the first."""
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
