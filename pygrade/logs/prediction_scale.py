"""Scales of predictions: what a table's column holds, and how it becomes the probabilities or amounts of a log.

A log and a policy keep the scale of each task, so that a service reads its callers' predictions as the table was read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pygrade import _core
from pygrade._typing import Array

Kind = Literal["probability", "percent", "logit", "log", "score"]
KINDS = get_args(Kind)
MARGIN = 1e-3  # rounding of a probability
LARGEST_LOG = 80.0  # logits and logarithms are cut to it


@dataclass(frozen=True)
class PredictionScale:
    """The scale on which the predictions v of one task are read.

    probability: v; percent: v / 100; logit: 1 / (1 + exp(-v)); log: exp(v); score: the log odds, of amounts the
    logarithm, by a piecewise linear map with knots x, y, both rising, whose first and last segment have no end.
    """

    kind: Kind = "probability"
    given: str | None = None  # task whose event it presumes, and whose prediction multiplies it
    amount: bool = False  # of feedback that is not 0 or 1: any number ≥ 0
    column: str = ""  # of the table, in which they went from low to high
    low: float = 0.0
    high: float = 0.0
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "PredictionScale":
        """The scale of ``percent``, ``given:click`` (a probability) or ``percent:given:click``."""
        name, _, parent = text.partition("given:")
        name = name.removesuffix(":") or "probability"
        for kind in KINDS:
            if kind == name and (parent or text == kind):
                return cls(kind, parent or None)
        raise ValueError(f"{text!r}; expected one of {', '.join(KINDS)}, or given:TASK")


def to_records(scales: Mapping[str, PredictionScale]) -> dict[str, dict[str, Any]]:
    """Task → scale as the JSON of policies and logs has it."""
    return {task: asdict(scale) for task, scale in scales.items()}


def from_records(records: Mapping[str, Mapping[str, Any]]) -> dict[str, PredictionScale]:
    """Inverse of `to_records`."""
    knots = {task: {axis: tuple(record[axis]) for axis in ("x", "y")} for task, record in records.items()}
    return {task: PredictionScale(**{**record, **knots[task]}) for task, record in records.items()}


def read_predictions(
    scales: Mapping[str, PredictionScale], tasks: Sequence[str], predictions: Array
) -> NDArray[np.float32]:
    """Predictions [..., T] as a table has them → as a log has them: probabilities and amounts, NaN where one is missing
    (NaN or infinite). Tasks without a scale stay as they are; see `pygrade.reference.read_predictions`.
    """
    rows = np.ascontiguousarray(predictions, np.float32).reshape(-1, len(tasks))
    result = np.empty_like(rows)
    _core.read_predictions(json.dumps(to_records(scales)), list(tasks), rows, result)
    return result.reshape(np.shape(predictions))


def parse_scales(scale: Mapping[str, str | PredictionScale] | None, tasks: Sequence[str]) -> dict[str, PredictionScale]:
    """Checked: task → scale. ValueError names an unknown task or scale."""
    result = {}
    for task, stated in (scale or {}).items():
        if task not in tasks:
            raise ValueError(f"scale names task {task!r}; expected one of {', '.join(tasks)}")
        try:
            result[task] = PredictionScale.parse(stated) if isinstance(stated, str) else stated
        except ValueError as error:
            raise ValueError(f"scale of {task!r} is {error}") from None
        if (parent := result[task].given) is not None and (parent not in tasks or parent == task):
            raise ValueError(f"scale of {task!r} is given {parent!r}; expected another one of {', '.join(tasks)}")
    return result


def parents_of(scales: Sequence[PredictionScale], tasks: Sequence[str]) -> tuple[int, ...]:
    """Return the place [T] of the task that each one is given, or -1."""
    return tuple(-1 if scale.given is None else tasks.index(scale.given) for scale in scales)


def is_binary(events: Array) -> bool:
    """Feedback is 0 or 1."""
    return set(np.unique(events)) <= {0.0, 1.0}


def complete_scales(
    scales: Mapping[str, PredictionScale], tasks: Sequence[str], predictions: Array, feedback: Array
) -> dict[str, PredictionScale]:
    """The scale of every task of a log with predictions and feedback [M, T]; of a task without one, that of the log's
    own column: probabilities, if predictions and feedback can be some, else amounts.
    """
    result = {}
    for t, task in enumerate(tasks):
        low, high = float(predictions[:, t].min()), float(predictions[:, t].max())
        amount = high > 1 + MARGIN or not is_binary(feedback[:, t])
        result[task] = scales.get(task) or PredictionScale(amount=amount, column=f"p_{task}", low=low, high=high)
    return result
