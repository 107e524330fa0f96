"""Logs in pygrade's own contract (`pygrade.logs`) as raw events; whose they are decides the license.

Read: request_id, user_id, item_id (integers, or strings, which are numbered), position, y_<task>, and where they are
there scenario, timestamp and the context x_<feature>, which becomes c_<feature>. Predictions p_, weights w_,
concentrations a_ and value are not read. ``event_time`` is the request's time: the contract knows no other. A log
without timestamps counts its requests in their order instead, one ms each. Feedback must be 0 or 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.data.columnar import read_batches, refuse_row
from pygrade.data.event_log import EventSource
from pygrade.data.event_writer import EventWriter
from pygrade.logs.parquet import METADATA_KEY, header_of, parts_of

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class LogsEventConfig:
    """What the contract leaves open."""

    task_values: Mapping[str, float] | None = None
    """Business value of one event of each kind of feedback; None: what the log says, else 1."""
    funnel: tuple[tuple[str, ...], ...] = ()
    """Chains of tasks, each possible only after the one before it, as (("click", "order"),)."""


def import_logs(
    directory: Path,
    writer: EventWriter,
    config: LogsEventConfig | None = None,
    log: Callable[[str], None] | None = None,
) -> None:
    """Writes the events of a log. Errors name file, row and column."""
    config = config or LogsEventConfig()
    parts = parts_of(directory)
    names, header = _describe(parts[0])
    tasks = tuple(header.get("tasks") or (n.removeprefix("y_") for n in names if n.startswith("y_")))
    features = tuple(header.get("features") or (n.removeprefix("x_") for n in names if n.startswith("x_")))
    if not tasks:
        raise ValueError(f"{parts[0]}: no feedback column y_<task>")
    for task in config.task_values or ():
        if task not in tasks:
            raise ValueError(f"task_values names {task!r}; want some of the log's tasks, {', '.join(tasks)}")
    columns = {"request_id": "id", "user_id": "id", "item_id": "id", "position": "int?"}
    columns |= {name: kind for name, kind in (("scenario", "text?"), ("timestamp", "int")) if name in names}
    columns |= {f"x_{feature}": "float?" for feature in features} | {f"y_{task}": "binary?" for task in tasks}
    counter = _Counter()
    for path in parts:
        if log:
            log(f"logs: reading {path.name}")
        for first, frame in read_batches(path, columns, min(writer.rows, 100_000)):
            _add(path, first, frame, writer, counter, tasks, features)
    if log:
        log("logs: sorting by time")
    stated = header.get("task_values") or (1.0,) * len(tasks)
    values = dict(zip(tasks, stated, strict=True)) | dict(config.task_values or {})
    writer.finish(
        EventSource(
            name=f"logs in {directory.name}",
            license="the log's owner decides",
            tasks=tasks,
            task_values=tuple(float(values[task]) for task in tasks),
            funnel=config.funnel,
            context={feature: "dense" for feature in features},
        )
    )


class _Counter:
    """Numbers requests in the order of their rows, over batches and parts."""

    def __init__(self) -> None:
        self.last: Any = None
        self.count = -1

    def of(self, request: "pl.Series") -> NDArray[np.int64]:
        new = request.ne_missing(request.shift(1)).to_numpy().copy()
        new[0] = request[0] != self.last
        place: NDArray[np.int64] = self.count + np.cumsum(new)
        self.last, self.count = request[-1], int(place[-1])
        return place


def _describe(path: Path) -> tuple[list[str], dict[str, Any]]:
    try:
        schema = require("pyarrow.parquet", "pipeline").read_schema(path)
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise ValueError(f"{path}: not a complete Parquet file ({error})") from error
    return list(schema.names), header_of((schema.metadata or {}).get(METADATA_KEY, b"{}"), path)


def _add(
    path: Path,
    first: int,
    frame: "pl.DataFrame",
    writer: EventWriter,
    counter: _Counter,
    tasks: tuple[str, ...],
    features: tuple[str, ...],
) -> None:
    polars = require("polars", "pipeline")
    position = frame["position"]
    refuse_row(
        path, first, "position", position, (position < 0).fill_null(False).to_numpy(), "a slot from 0 on, or null"
    )
    hidden = position.is_null()
    for task in tasks:
        values = frame[f"y_{task}"]
        lost = (values.is_null() & ~hidden).to_numpy()
        refuse_row(path, first, f"y_{task}", values, lost, "0 or 1 for a shown candidate")
        stray = (values.is_not_null() & hidden).to_numpy()
        refuse_row(path, first, f"y_{task}", values, stray, "null where position is null (feedback without position)")
    for feature in features:
        values = frame[f"x_{feature}"]
        apart = frame["request_id"].ne_missing(frame["request_id"].shift(1)) | values.eq_missing(values.shift(1))
        apart[0] = True
        refuse_row(path, first, f"x_{feature}", values, (~apart).to_numpy(), "one value a request")
    times = frame["timestamp"] if "timestamp" in frame.columns else polars.Series(counter.of(frame["request_id"]))
    ids = []
    for name in ("request_id", "user_id", "item_id"):
        whole = frame[name].dtype == polars.Int64
        ids.append(frame[name] if whole else writer.number(name.removesuffix("_id"), frame[name]).alias(name))
    context = [polars.col(f"x_{feature}").alias(f"c_{feature}") for feature in features]
    frame = frame.with_columns(*ids, times.alias("timestamp"), times.alias("event_time")).with_columns(context)
    writer.add_events(frame.drop(f"x_{feature}" for feature in features))
