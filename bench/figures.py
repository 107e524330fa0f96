"""Figures of docs/BENCH.md: one palette and one look, PNG bytes out."""

import io
import warnings
from typing import Any

from pygrade._util.optional_imports import require

BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, SAND, GRAY = (
    *("#2b6cb0", "#dd7a34", "#3b9a6d", "#8560b3"),
    *("#c54b5a", "#2e9aa8", "#c9a02c", "#7b8592"),
)
INK, FAINT, GRID = "#1f2933", "#667380", "#e3e8ee"
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
