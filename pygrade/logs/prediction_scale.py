"""Predictions as probabilities or amounts: what scale a column is in, if only one reading fits."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Floats
from pygrade.logs.conversion import ImportNotes, refuse
from pygrade.logs.table import Table

SCALES = ("probability", "percent", "logit", "log")
_MARGIN = 1e-3  # rounding of a probability
_CLEAR = 2.0  # a conversion is clear if it brings the mean within this factor of the event's rate


def predictions(
    table: Table,
    column: str,
    task: str,
    events: Array,
    shown: NDArray[np.bool_],
    notes: ImportNotes,
    scale: str | None = None,
) -> NDArray[np.float32]:
    """[M] probabilities of an event that is 0 or 1, or amounts; events [M] is the feedback of the task."""
    label = f"{column!r} (prediction of {task!r})"
    values = table.numbers(column)
    refuse(table, label, np.isnan(values), values, "a prediction for every candidate", "is empty or NaN")
    refuse(table, label, np.isinf(values), values, "finite predictions")
    binary = set(np.unique(events[shown])) <= {0.0, 1.0}
    if scale is None:
        scale = _scale_of(table, label, task, values, events, shown, binary)
    if scale == "percent":
        notes.changed.append(f"{label}: percentages, now probabilities")
        values = values / 100
    elif scale == "logit":
        notes.changed.append(f"{label}: logits, now probabilities (sigmoid)")
        values = 1 / (1 + np.exp(-np.clip(values, -80, 80)))
    elif scale == "log":
        notes.changed.append(f"{label}: logarithms, now probabilities (exp)")
        values = np.exp(np.minimum(values, 80))
    wanted = "predictions ≥ 0"
    refuse(table, label, values < 0, values, wanted)
    if binary:
        refuse(table, label, values > 1 + _MARGIN, values, "probabilities, as feedback is 0 or 1")
    return values.astype(np.float32)


def _scale_of(
    table: Table, label: str, task: str, values: Floats, events: Array, shown: NDArray[np.bool_], binary: bool
) -> str:
    """The scale that the values are in, if only one fits; ValueError asks if none is clear."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and (high <= 1 + _MARGIN or not binary):
        return "probability"
    if not binary:
        raise ValueError(
            f"{table.where}: {label} goes down to {low:.4g}; want predictions ≥ 0 of an amount, or their scale: "
            f"{task}=log if these are logarithms"
        )
    candidates = {"logit": 1 / (1 + np.exp(-np.clip(values, -80, 80)))}
    if low >= 0 and high <= 100:
        candidates["percent"] = values / 100
    if high <= 0:
        candidates["log"] = np.exp(values)
    rate = max(float(events[shown].mean()), 1e-9)
    fit = {name: abs(np.log(max(float(p[shown].mean()), 1e-9) / rate)) for name, p in candidates.items()}
    near = sorted((distance, name) for name, distance in fit.items() if distance <= np.log(_CLEAR))
    if len(near) == 1:
        return near[0][1]
    means = ", ".join(f"{name}: {float(p[shown].mean()):.2%}" for name, p in candidates.items())
    raise ValueError(
        f"{table.where}: {label} goes from {low:.4g} to {high:.4g}, which are no probabilities, and what they are is "
        f"not clear (mean over shown rows as {means}; events: {rate:.2%}); say their scale, e.g. {task}=logit"
    )


def scales_of(scale: Mapping[str, str] | None, tasks: tuple[str, ...]) -> dict[str, str]:
    """Checked: task → one of SCALES."""
    result = dict(scale or {})
    for task, name in result.items():
        if task not in tasks:
            raise ValueError(f"scale names task {task!r}; want one of {', '.join(tasks)}")
        if name not in SCALES:
            raise ValueError(f"scale of {task!r} is {name!r}; want one of {', '.join(SCALES)}")
    return result
