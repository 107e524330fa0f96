"""The weights that a policy serves, by group of requests, and how far they spread."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.files import atomic_file
from pygrade._util.serialization import read_json, to_builtins
from pygrade.console import plots
from pygrade.console.html import Cell, Column, Html, Section, shade, table
from pygrade.metrics import intervals

_GROUPS = 20  # of a kind that are shown, the largest


def record_weights(
    run_dir: Path,
    tasks: Sequence[str],
    weights: NDArray[np.float32],
    concentration: NDArray[np.float32],
    entropy: NDArray[np.float32],
    static: NDArray[np.float32],
    groups: Mapping[str, NDArray[Any]],
    users: NDArray[Any] | None = None,
) -> None:
    """Keep the served weights for the report: weights, concentration [R, T], entropy [R], static weights [T].

    groups: name → label of each request [R] (segment, scenario …). users [R]: whose requests depend on each other;
    None: none do.
    """
    cluster = np.arange(len(weights)) if users is None else users
    means, reaches, sizes = {}, {}, {}
    for kind, labels in groups.items():
        of_kind = {str(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
        found = {
            name: [intervals.mean(column, cluster[rows]) for column in weights[rows].T]
            for name, rows in of_kind.items()
        }
        means[kind] = {name: _by_task(tasks, [entry.value for entry in row]) for name, row in found.items()}
        reaches[kind] = {
            name: _by_task(tasks, [entry.high - entry.value for entry in row]) for name, row in found.items()
        }
        sizes[kind] = {name: len(rows) for name, rows in of_kind.items()}
    record = {
        "tasks": list(tasks),
        "static": _by_task(tasks, np.asarray(static, float).tolist()),
        "all": _by_task(tasks, weights.mean(0).astype(float).tolist()),
        "sd": _by_task(tasks, weights.std(0).astype(float).tolist()),
        "groups": means,
        "reaches": reaches,  # half of the 95 % interval of the mean
        "requests": sizes,
    }
    with atomic_file(run_dir / "weights.json") as partial:
        partial.write_text(json.dumps(to_builtins(record), indent=2) + "\n", encoding="utf-8")
    with atomic_file(run_dir / "weights.npz") as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, weights=weights, concentration=concentration, entropy=entropy)


def _by_task(tasks: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return dict(zip(tasks, map(float, values), strict=True))


def weight_sections(run: Path) -> list[Section]:
    """What `record_weights` kept; none without it."""
    if not (run / "weights.json").exists():
        return []
    record = read_json(run / "weights.json")
    sections = [_group_section(record, kind) for kind in record["groups"]]
    if (run / "weights.npz").exists():
        with np.load(run / "weights.npz") as arrays:
            picture = plots.concentration(
                arrays["concentration"], arrays["weights"], arrays["entropy"], record["tasks"]
            )
        text = (
            "Spread over requests: boxes are quartiles, whiskers the 5th and 95th percentile. A task's share of α is "
            "its weight; the sum of α sets how widely the policy explores when asked to."
        )
        sections.append(Section("Concentration", text, "concentration", picture))
    return sections


def _group_section(record: Mapping[str, Any], kind: str) -> Section:
    groups, static, tasks = record["groups"][kind], record["static"], record["tasks"]
    reaches, sizes = record.get("reaches", {}).get(kind, {}), record.get("requests", {}).get(kind, {})
    names = sorted(groups, key=lambda name: -sizes.get(name, 0))
    shown = names[:_GROUPS]
    distances = [abs(groups[name][task] - static[task]) for name in shown for task in tasks]
    reach = max(max(distances, default=0.0), 0.01)
    rows: list[list[Cell]] = []
    for name in shown:
        row: list[Cell] = [name, f"{sizes[name]:,}" if name in sizes else "n/a"]
        for task in tasks:
            width = reaches.get(name, {}).get(task)
            error = "" if width is None else f" <small>± {100 * width:.1f}</small>"
            color = shade((groups[name][task] - static[task]) / reach)
            row.append(
                Html(f'<span class="shade" style="background:{color}">{100 * groups[name][task]:.1f}{error}</span>')
            )
        rows.append(row)
    rows.append(["best static", "", *(f"{100 * static[task]:.1f}" for task in tasks)])
    left = f" The {_GROUPS} largest of {len(names)}." if len(names) > _GROUPS else ""
    unseen = " The policy is not told the segment; it infers it from noisy features." if kind == "segment" else ""
    text = (
        "Mean weight served, in per cent, ± 95 % clustered by user. The shade is the distance to the best static "
        f"weights in the last row: blue above, orange below, full at {100 * reach:.1f} points.{left}{unseen}"
    )
    return Section(
        f"Weights by {kind}", text, table=table([Column(kind, "text"), "requests", *tasks], rows, "best static")
    )
