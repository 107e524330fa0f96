"""Pictures of the stages, PNG bytes out; the palette is that of `plots`."""

from collections.abc import Mapping, Sequence
from typing import Any

from pygrade.reports.plots import BLUE, CYCLE, FAINT, GRAY, INK, ORANGE, new_figure, to_png

Json = Mapping[str, Any]


def recall(lengths: Sequence[Json]) -> bytes:
    """Bars of recall by the length of the list: the two towers beside popularity, with 95 % intervals."""
    figure, (axis,) = new_figure(1, 1, (6.6, 2.8))
    for place, (label, key, color) in enumerate(
        (("most popular items", "popularity_recall", GRAY), ("two towers", "recall", BLUE))
    ):
        left = [i - 0.2 + 0.4 * place for i in range(len(lengths))]
        values = [_number(entry[key]["value"]) for entry in lengths]
        spread = [
            [_number(entry[key]["value"]) - _number(entry[key]["low"]) for entry in lengths],
            [_number(entry[key]["high"]) - _number(entry[key]["value"]) for entry in lengths],
        ]
        bars = axis.bar(left, values, 0.36, color=color, label=label, yerr=spread, ecolor=FAINT)
        axis.bar_label(bars, fmt="%.3f", padding=2, fontsize=8.5, color=INK)
    axis.set_xticks(range(len(lengths)), [f"recall@{entry['n']}" for entry in lengths])
    axis.set_title("Later positives among the candidates")
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.15)
    axis.legend(loc="upper left")
    return to_png(figure)


def predictions(tasks: Mapping[str, Json]) -> bytes:
    """Order (AUC, GAUC) and calibration error of predictions, task by task."""
    names = list(tasks)
    figure, (left, right) = new_figure(1, 2, (11.0, 0.42 * len(names) + 1.5), sharey=True)
    rows = range(len(names))
    for key, label, color in (("auc", "AUC", BLUE), ("gauc", "GAUC, within a user", ORANGE)):
        left.plot([_number(tasks[name][key]) for name in names], rows, "o", color=color, label=label)
    left.axvline(0.5, color=FAINT, linewidth=1)
    left.set_title("Order of the predictions")
    for key, label, color, offset in (
        ("ece_before", "as the network says", GRAY, -0.17),
        ("ece", "calibrated", BLUE, 0.17),
    ):
        values = [_number(tasks[name][key]) for name in names]
        right.barh([row + offset for row in rows], values, 0.3, color=color, label=label)
    right.set_title("Calibration error (ECE)")
    left.set_yticks(list(rows), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    for axis in (left, right):
        axis.grid(axis="y", visible=False)
        axis.legend(loc="best")
    return to_png(figure)


def lifts(groups: Mapping[str, Mapping[str, Json]], metric: str, baseline: str, highlight: str) -> bytes:
    """Lift of each arm with its 95 % interval, a panel for each group of requests: group → arm → metric."""
    arms = list(dict.fromkeys(arm for entry in groups.values() for arm in entry))
    figure, axes = new_figure(1, len(groups), (2.9 * len(groups) + 1.2, 0.42 * len(arms) + 1.5), sharey=True)
    for axis, (title, entry) in zip(axes, groups.items(), strict=True):
        axis.axvline(0, color=FAINT, linewidth=1)
        for row, arm in enumerate(arms):
            lift = entry.get(arm, {}).get(metric)
            if not lift or lift["value"] is None:
                continue
            color = BLUE if arm == highlight else GRAY
            if lift["low"] is not None:
                axis.plot([100 * lift["low"], 100 * lift["high"]], [row, row], color=color, linewidth=2)
            axis.plot([100 * lift["value"]], [row], "o", color=color)
        axis.set_title(title)
        axis.set_xlabel("lift, %")
        axis.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].set_ylim(len(arms) - 0.4, -0.6)
    name = {"ndcg": "NDCG"}.get(metric, metric)
    figure.suptitle(f"{name} on the logged pages against {baseline}", x=0.005, ha="left", fontweight="bold")
    return to_png(figure)


def latencies(steps: Mapping[str, Json]) -> bytes:
    """Where the time of a request goes: p50 as a bar, p99 as a mark, milliseconds."""
    names = list(steps)
    figure, (axis,) = new_figure(1, 1, (7.6, 0.42 * len(names) + 1.4))
    for row, (name, color) in enumerate(zip(names, CYCLE * 2, strict=False)):
        entry = steps[name]
        axis.barh([row], [entry["p50_ms"]], 0.5, color=color, alpha=0.75)
        axis.plot([entry["p99_ms"]], [row], "|", color=INK, markersize=14)
        axis.text(entry["p99_ms"], row, f"  {entry['p50_ms']:.2f} / {entry['p99_ms']:.2f}", va="center", fontsize=8.5)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("milliseconds (bar: p50, mark: p99)")
    axis.margins(x=0.2)
    axis.grid(axis="y", visible=False)
    return to_png(figure)


def seconds(stages: Sequence[tuple[str, float]]) -> bytes:
    """How long each stage took."""
    figure, (axis,) = new_figure(1, 1, (7.6, 0.38 * len(stages) + 1.3))
    bars = axis.barh([name for name, _ in stages], [value for _, value in stages], 0.6, color=BLUE, alpha=0.75)
    axis.bar_label(bars, fmt=" %.1f s", fontsize=8.5, color=INK)
    axis.invert_yaxis()
    axis.set_xlabel("seconds")
    axis.margins(x=0.12)
    axis.grid(axis="y", visible=False)
    return to_png(figure)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
