"""Pictures of a `TrainingResult` by matplotlib, of the extra ``plots``."""

from collections.abc import Iterable
from textwrap import fill
from typing import Any

import numpy as np

from pygrade._util.optional_imports import require
from pygrade._util.serialization import read_json
from pygrade.console.weights import FILE
from pygrade.evaluation.verdict import plain_name
from pygrade.metrics.picture import COLORS, kind_of
from pygrade.metrics.texts import bounds_text, known_numbers


def plot_verdict(trained: Any, ax: Any = None) -> Any:
    """Lifts of the new ranking over what you have, with 95 % intervals."""
    control, rows = trained.lifts
    lifts = {name: lift for name, lift in rows if known_numbers(lift)[0] is not None}
    if not lifts:
        raise ValueError(f"the training has no lift to plot: {trained.verdict}")
    ax = _axes(ax, 1.6 + 0.5 * len(lifts), str(trained.verdict), lifts)
    said = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "bbox": {"color": "white", "pad": 0.5}}
    for place, lift in enumerate(lifts.values()):
        value, low, high = (np.nan if number is None else 100 * number for number in known_numbers(lift))
        ends = [[value - low], [high - value]]
        ax.errorbar([value], [place], xerr=ends, fmt="o", color=COLORS[kind_of(lift)], capsize=4, linewidth=2.5)
        ax.annotate(bounds_text(lift, None), (value, place), (0, 7), **said)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.margins(x=0.15)
    ax.set_xlabel(f"lift of the value over {plain_name(control)}, % (95 % interval)")
    return ax


def plot_weights(trained: Any, ax: Any = None) -> Any:
    """Weights of the tasks over the later requests: median, quartiles, 5th to 95th percentile; and the static ones."""
    if not (path := trained.directory / FILE).exists():
        raise ValueError("no later requests were judged, and their weights are plotted; expected a holdout above 0")
    record, mixture = read_json(path), trained.policy.mixture
    spread = {name: 100 * np.array(column) for name, column in record["spread"].items()}
    unused = "" if mixture is None or mixture.uses_network else "; what is served does not rank by them"
    title = f"Weights of the policy over {trained.heldout.num_requests:,} later requests{unused}"
    ax, places = _axes(ax, 1.6 + 0.45 * len(record["tasks"]), title, record["tasks"]), range(len(record["tasks"]))
    ax.hlines(places, spread["5th"], spread["95th"], color="#7a828c", linewidth=1.5, label="5th to 95th percentile")
    ax.hlines(places, spread["25th"], spread["75th"], color="#1f5fbf", linewidth=7, label="quartiles")
    ax.plot(spread["50th"], places, "o", color="white", markeredgecolor="#1f5fbf", label="median")
    ax.plot(100 * np.array(record["static"]), places, "x", color="#c0362c", markersize=8, label="best static weights")
    ax.set_xlabel("weight of the task, %")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return ax


def _axes(ax: Any, height: float, title: str, rows: Iterable[str]) -> Any:
    """The axes given, or those of a new figure of this height in inches, with a title and named rows."""
    pyplot, names = require("matplotlib.pyplot", "plots"), [fill(name, 28) for name in rows]
    ax = pyplot.subplots(figsize=(7.5, height), layout="constrained")[1] if ax is None else ax
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.6)
    ax.set_title(fill(title, 70), fontsize=10, loc="left")
    return ax
