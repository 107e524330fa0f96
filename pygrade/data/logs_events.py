"""Logs in pygrade's own contract (`pygrade.logs`) as raw events; the license is that of the log's owner.

The context x_<feature> becomes c_<feature> (x_device=app: c_device_app). Item columns i_<name> that have one
value for each item, or that `LogsEventConfig.attributes` names, and the price ``value`` become attributes of the item,
with their values at its first request; others, such as columns of history, stay columns i_<name> of the rows.
Predictions p_<task> may be missing; the pipeline fuses them if it is told to (`PipelineConfig.predictions`).
``event_time`` is the request's time: the contract has no other. A log without timestamps counts its requests in their
order instead, one ms each. Feedback is 0 or 1.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._util.optional_imports import require
from pygrade.config.data import LogsEventConfig
from pygrade.data.event_log import EventSource
from pygrade.data.event_writer import EventWriter
from pygrade.logs.logs import Logs, validate
from pygrade.logs.parquet import ParquetParts, open_parquet, parts_of

logger = logging.getLogger("pygrade")


def import_logs(directory: Path, writer: EventWriter, config: LogsEventConfig | None = None) -> None:
    """Writes the events of a log; memory for one of its files. Errors name file, row and column."""
    config, source, requests, notes, delays = config or LogsEventConfig(), None, 0, dict[str, None](), set[int]()
    files = parts_of(directory)
    of_item = _item_columns(files)
    if unknown := sorted({*(config.attributes or ())} - {*of_item}):
        raise ValueError(f"attributes names {unknown[0]!r}; expected item columns: {', '.join(of_item) or 'none'}")
    if config.attributes is not None:
        of_item = {name: name in config.attributes for name in of_item}
    if of_rows := [name for name, is_attribute in of_item.items() if not is_attribute]:
        notes[f"{', '.join(of_rows)}: of a row, not of its item; kept, but no feature reads them"] = None
    for path in files:
        with ParquetParts(path) as parts:
            logs = Logs(**parts.read(predicted=False)).with_items(tuple(of_item))
            validate(logs, str(path), parts.row_name)
            notes |= dict.fromkeys(parts.notes)
            predicted = [task for task in logs.tasks if f"p_{task}" in parts.names]
        source = source or _source(logs, directory, predicted, config)
        _add(logs, writer, source, of_item, requests, str(path))
        requests += logs.num_requests
        delays.update(logs.feedback_delays)
    for note in notes:
        logger.warning("%s: %s", directory, note)
    assert source is not None  # there is a file
    writer.finish(replace(source, feedback_delays=tuple(sorted(delays))))


def _item_columns(files: Sequence[Path]) -> dict[str, bool]:
    """The item columns of a log, each with whether no item has two values in it."""
    polars, frames = require("polars"), []
    for file in files:
        with open_parquet(file) as parquet:
            names = parquet.schema_arrow.names
        if (columns := [name for name in names if name.startswith("i_")]) and "item_id" in names:
            frames.append(polars.scan_parquet(file).select("item_id", polars.col(columns).cast(polars.Float32)))
    if not frames:
        return {}
    values = polars.all().fill_nan(None).drop_nulls().n_unique() <= 1
    of_item = polars.concat(frames, how="diagonal_relaxed").group_by("item_id").agg(values).select("^i_.*$")
    return {name[2:]: value for name, value in of_item.select(polars.all().all()).collect().row(0, named=True).items()}


def _source(logs: Logs, directory: Path, predicted: Sequence[str], config: LogsEventConfig) -> EventSource:
    for task in config.task_values or ():
        if task not in logs.tasks:
            raise ValueError(f"task_values names {task!r}; expected some of the log's tasks, {', '.join(logs.tasks)}")
    values = dict(zip(logs.tasks, logs.task_values, strict=True)) | dict(config.task_values or {})
    price = None if logs.value is None else "price" if "price" not in identifiers(logs.items).values() else "price_"
    return EventSource(
        name=f"logs in {directory.name}",
        license="the log's owner decides",
        tasks=logs.tasks,
        task_values=tuple(float(values[task]) for task in logs.tasks),
        funnel=config.funnel,
        items={} if price is None else {price: "dense"},
        context=dict.fromkeys(identifiers(logs.features).values(), "dense"),
        price=price,
        value_tasks=() if price is None else logs.value_tasks,
        predictions=tuple(predicted),
        slots_known=logs.slots_known,
    )


def _add(
    logs: Logs, writer: EventWriter, source: EventSource, of_item: Mapping[str, bool], first: int, origin: str
) -> None:
    """Adds the rows; requests without times are numbered from ``first`` on."""
    polars, request, shown = require("polars"), logs.row_request, logs.shown
    times = first + np.arange(logs.num_requests) if logs.timestamp is None else logs.timestamp
    columns: dict[str, Any] = {"timestamp": times[request], "event_time": times[request]}
    for kind, rows in (("request", request), ("user", request), ("item", slice(None))):
        ids = getattr(logs, f"{kind}_id")
        if ids.dtype != np.int64:
            ids = writer.number(kind, polars.Series(ids.tolist(), dtype=polars.String)).to_numpy()
        columns[f"{kind}_id"] = ids[rows]
    if logs.scenario is not None:
        columns["scenario"] = polars.Series(logs.scenario[request].tolist(), dtype=polars.String).replace("", None)
    for column, label in zip(logs.context.T, identifiers(logs.features).values(), strict=True):
        columns[f"c_{label}"] = polars.Series(column[request].astype(np.float64)).fill_nan(None)
    attributes: dict[str, Any] = {}
    for column, (name, label) in zip(logs.item_columns.T, identifiers(logs.items).items(), strict=True):
        if of_item[name]:
            attributes[label] = column
        else:
            columns[f"i_{label}"] = polars.Series(np.ascontiguousarray(column)).fill_nan(None)
    for t, task in enumerate(logs.tasks):
        if task in source.predictions:
            columns[f"p_{task}"] = logs.predictions[:, t]
    hidden = {"position": logs.position} | {f"y_{task}": logs.feedback[:, t] for t, task in enumerate(logs.tasks)}
    frame = polars.DataFrame(columns | hidden)
    frame = frame.with_columns(polars.when(polars.Series(shown)).then(polars.col(name)).alias(name) for name in hidden)
    writer.add_events(frame, origin)
    if source.price is not None:
        attributes[source.price] = logs.value
    if attributes:
        values = [polars.Series(name, np.ascontiguousarray(v)).fill_nan(None) for name, v in attributes.items()]
        writer.add_attributes("item", polars.DataFrame([frame["item_id"], *values]), frame["timestamp"], origin)


def identifiers(features: Sequence[str]) -> dict[str, str]:
    """Feature → its name with letters, digits and _ alone, each another one.

    >>> identifiers(["hour", "device=app", "device-app"])
    {'hour': 'hour', 'device=app': 'device_app', 'device-app': 'device_app_2'}
    """
    result: dict[str, str] = {}
    for feature in features:
        label = re.sub(r"\W", "_", feature)
        taken = {*result.values(), *(other for other in features if other != feature)}
        numbers = (f"{label}_{number}" for number in range(2, len(features) + 2))
        result[feature] = next(name for name in (label, *numbers) if name not in taken)
    return result
