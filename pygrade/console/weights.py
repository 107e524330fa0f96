"""The weights that a policy serves, by group of requests, and how far they spread."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.html_table import Html, Table
from pygrade._util.serialization import read_json, write_json
from pygrade.console.html import Section
from pygrade.metrics import intervals
from pygrade.metrics.texts import value_text

FILE = "weights.json"
_GROUPS = 20  # of a kind that are shown, the largest
_SPREAD = (5, 25, 50, 75, 95)  # percentiles over requests


def record_weights(
    run_dir: Path,
    tasks: Sequence[str],
    weights: NDArray[np.float32],
    concentration: NDArray[np.float32],
    static: NDArray[np.float32],
    groups: Mapping[str, NDArray[Any]],
    users: NDArray[Any] | None = None,
) -> None:
    """Keep the served weights for the report: weights and their concentration [R, T], static weights [T].

    groups: name → label of each request [R] (segment, scenario …). users [R]: whose requests depend on each other;
    None: none do.
    """
    cluster = np.arange(len(weights)) if users is None else users
    record: dict[str, Any] = {
        "tasks": list(tasks),
        "static": np.asarray(static, float).tolist(),
        "all": [intervals.mean(column, cluster).to_dict() for column in weights.T],
        "spread": _spread(weights),
        "concentration": _spread(concentration),
        "groups": {},
    }
    for kind, labels in groups.items():
        names, counts = np.unique(labels, return_counts=True)
        record["groups"][kind] = {
            str(names[i]): {
                "requests": int(counts[i]),
                "means": [
                    intervals.mean(column[labels == names[i]], cluster[labels == names[i]]).to_dict()
                    for column in weights.T
                ],
            }
            for i in np.argsort(-counts, kind="stable")
        }
    write_json(run_dir / FILE, record)


def _spread(values: NDArray[np.float32]) -> dict[str, list[float]]:
    """Percentiles over requests [T]."""
    return {f"{q}th": np.percentile(values.astype(np.float64), q, axis=0).tolist() for q in _SPREAD}


def weight_sections(run: Path) -> list[Section]:
    """Sections of the weights kept by `record_weights`; none without them."""
    if not (run / FILE).exists():
        return []
    record = read_json(run / FILE)
    head = ["requests", "number", *record["tasks"]]
    rows: list[list[str | Html]] = [["all", "", *_means(record["all"])]]
    left = ""
    for kind, groups in record["groups"].items():
        for name, group in [*groups.items()][:_GROUPS]:
            rows.append([f"{kind} {name}", f"{group['requests']:,}", *_means(group["means"])])
        left += f" The {_GROUPS} largest of {len(groups)}: {kind}." if len(groups) > _GROUPS else ""
    rows.append(["best static weights", "", *(f"{100 * weight:.1f}" for weight in record["static"])])
    spread = [
        [f"{what}, {at} percentile of requests", *(f"{scale * number:.1f}" for number in row)]
        for what, scale in (("weight", 100.0), ("concentration α", 1.0))
        for at, row in record["spread" if what == "weight" else "concentration"].items()
    ]
    text = (
        f"Mean weight served, in per cent, ± 95 % clustered by user.{left} Below, how far weights spread over requests "
        "and the Dirichlet's concentration: the larger its sum, the less the policy explores when asked to."
    )
    tables = [Table(head, rows, "best static weights"), Table(["spread", *record["tasks"]], spread)]
    return [Section("Weights served", text, tables)]


def _means(estimates: Sequence[Mapping[str, Any]]) -> list[str]:
    shares = [{name: number and 100 * number for name, number in estimate.items()} for estimate in estimates]
    return [value_text(share, 1) for share in shares]
