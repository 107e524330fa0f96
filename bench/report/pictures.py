"""The pictures of docs/BENCH.md and the README, drawn from results."""

from collections.abc import Mapping
from typing import Any

from bench.cpu.harness import OURS, Report, Row, Timing
from bench.figures import BLUE, FAINT, GRAY, GREEN, INK, ORANGE, PURPLE, RED, SAND, TEAL, new_figure, to_png
from pygrade._util.optional_imports import require

ISA_NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "baseline": "SSE2"}
ISA_COLORS = {"avx512": BLUE, "avx2": TEAL, "baseline": GRAY}
COLORS = {
    OURS: BLUE,
    "numpy": ORANGE,
    "torch": RED,
    "torch.compile": SAND,
    "onnxruntime": PURPLE,
    "faiss": GREEN,
    "numba threshold": TEAL,
}
LIBRARIES = {"onnxruntime bound": "onnxruntime", "numpy float32": "numpy", "torch.distributions": "torch"}


def ratios(shown: Mapping[str, Mapping[str, tuple[float, float]]]) -> bytes:
    """Times faster than the best library peer: a bar to the worst shape, paler to the best.

    shown: instruction set → target → worst and best.
    """
    names = list(dict.fromkeys(name for judged in shown.values() for name in judged))
    figure, (axis,) = new_figure(1, 1, (8.6, 0.42 * len(names) + 1.3))
    height = 0.8 / max(len(shown), 1)
    for place, (isa, judged) in enumerate(shown.items()):
        for name, (low, high) in judged.items():
            y = names.index(name) + (place - (len(shown) - 1) / 2) * height
            color = ISA_COLORS[isa]
            axis.barh(y, low - 1.0, height * 0.82, left=1.0, color=color, label=ISA_NAMES[isa])
            axis.barh(y, high - low, height * 0.82, left=low, color=color, alpha=0.3)
            if low > 1.6:
                axis.text(0.97 * low, y, f"{low:.1f}", va="center", ha="right", fontsize=8, color="white")
            else:
                axis.text(1.03 * max(high, 1.0), y, f"{low:.1f}", va="center", fontsize=8, color=INK)
    values = [value for judged in shown.values() for ends in judged.values() for value in ends]
    axis.set_xscale("log")
    axis.set_xlim(min(0.9, 0.9 * min(values)), 1.2 * max(values))
    _ticks(axis.xaxis)
    axis.axvline(1, color=FAINT, linewidth=1)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("times faster than the best library peer, worst shape (number) to best (pale)")
    labels: dict[str, object] = {}
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        labels.setdefault(label, handle)
    figure.legend(list(labels.values()), list(labels), loc="outside upper center", ncols=len(labels))
    return to_png(figure)


def serving(report: Report) -> bytes:
    """Time of one request by contender: a row of dots per shape."""
    rows = [row for row in report.rows if row.op == "fuse_topk" and row.shape["T"] == 8]
    rows = [row for row in rows if row.shape["f"] in ("identity", "log")]
    figure, (axis,) = new_figure(1, 1, (8.6, 0.36 * len(rows) + 1.4))
    for y, row in enumerate(rows):
        times = _by_library(row.timings)
        ends = [pick(t.p50 for t in times.values()) for pick in (min, max)]
        axis.plot(ends, [y, y], color="#d5dce4", linewidth=1.2, zorder=1)
        for name, timing in times.items():
            size, order = (8, 3) if name == OURS else (6, 2)
            axis.plot(timing.p50, y, "o", color=COLORS[name], markersize=size, label=name, zorder=order)
    axis.set_xscale("log")
    axis.set_yticks(range(len(rows)), [_shape_name(row) for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("µs per request, one core, p50 with the Python call")
    _ticks(axis.xaxis)
    labels = {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(labels.values()), list(labels), loc="outside upper center", ncols=4)
    return to_png(figure)


TITLES = {
    "N": "Candidates N",
    "T": "Tasks T",
    "k": "List length k",
    "B": "Requests B, group top-k",
    "G": "Samples G, group top-k",
    "draws G": "Samples G, Dirichlet draws",
    "threads": "Threads, group top-k",
    "draws threads": "Threads, Dirichlet draws",
}


def scaling(report: Report) -> bytes:
    """Time against each size: a panel per axis, both scales logarithmic."""
    sizes_varied = [axis for axis in TITLES if any(row.shape["axis"] == axis for row in report.rows)]
    columns = 4
    rows_of_panels = -(-len(sizes_varied) // columns)
    figure, axes = new_figure(rows_of_panels, columns, (11.0, 2.7 * rows_of_panels + 0.5))
    handles: dict[str, object] = {}
    for panel in axes[len(sizes_varied) :]:
        panel.axis("off")
    for panel, axis in zip(axes, sizes_varied, strict=False):
        rows = [row for row in report.rows if row.shape["axis"] == axis]
        size = axis.split()[-1]
        series: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            for name, timing in _by_library(row.timings).items():
                series.setdefault(name, []).append((float(row.shape[size]), timing.p50))
        for name, points in series.items():
            width, order = (2.4, 3) if name == OURS else (1.3, 2)
            style = {"color": COLORS[name], "markersize": 3.5, "linewidth": width, "zorder": order}
            handles.setdefault(name, panel.plot(*zip(*points, strict=True), "o-", **style)[0])
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(TITLES[axis])
        _ticks(panel.yaxis)
        sizes = sorted({float(row.shape[size]) for row in rows})
        panel.set_xticks(sizes if len(sizes) < 6 else sizes[::2])
        panel.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
        panel.minorticks_off()
    for first in axes[::columns]:
        first.set_ylabel("µs")
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles))
    return to_png(figure)


def _ticks(axis: Any) -> None:
    """1, 2, 5, 10 … on a logarithmic scale, without powers."""
    axis.set_major_locator(require("matplotlib.ticker").LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _by_library(timings: Mapping[str, Timing]) -> dict[str, Timing]:
    """The fastest way of calling each library that has a color."""
    fastest: dict[str, Timing] = {}
    for name, timing in timings.items():
        library = LIBRARIES.get(name, name)
        if library in COLORS and (library not in fastest or timing.p50 < fastest[library].p50):
            fastest[library] = timing
    return fastest


def _shape_name(row: Row) -> str:
    text = f"N {row.shape['N']:,}, k {row.shape['k']}"
    return text if row.shape["f"] == "identity" else f"{text}, log"
