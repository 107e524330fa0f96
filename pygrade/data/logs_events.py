"""Logs in pygrade's own contract (`pygrade.logs`) as raw events; the license is that of the log's owner.

Read: request_id, user_id, item_id (integers, or strings, which are numbered), position or listed, y_<task>, and if
present scenario, timestamp, the context x_<feature>, which becomes c_<feature> (x_device=app: c_device_app), and
predictions p_<task>, which the pipeline fuses if it is told to (`PipelineConfig.predictions`). Item columns i_<name>
and the price ``value`` become attributes of the item, with their values at its first request. Other columns (weights
w_, concentrations a_ …) are not read, and a warning names them. ``event_time`` is the request's time: the contract
knows no other. A log without timestamps counts its requests in their order instead, one ms each. Feedback must be 0 or
1, each item comes once in a request or each time in a slot, slots count from 0.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._typing import Ints
from pygrade._util.optional_imports import require
from pygrade.config.data import LogsEventConfig
from pygrade.data.event_checks import refuse_events
from pygrade.data.event_log import EventSource
from pygrade.data.event_writer import EventWriter
from pygrade.data.tables import read_batches, refuse_row
from pygrade.logs.logs import FINER, MAX_SLOT, SECONDS
from pygrade.logs.parquet import LISTED, METADATA_KEY, header_of, open_parquet, parts_of

if TYPE_CHECKING:
    import polars as pl


logger = logging.getLogger("pygrade")

_CLOCK = "milliseconds since 1970"


def import_logs(directory: Path, writer: EventWriter, config: LogsEventConfig | None = None) -> None:
    """Writes the events of a log. Errors name file, row and column."""
    config = config or LogsEventConfig()
    parts = parts_of(directory)
    names, header = _describe(parts[0])
    tasks = tuple(header.get("tasks") or (n.removeprefix("y_") for n in names if n.startswith("y_")))
    features = tuple(header.get("features") or (n.removeprefix("x_") for n in names if n.startswith("x_")))
    items = tuple(header.get("items") or (n.removeprefix("i_") for n in names if n.startswith("i_")))
    if not tasks:
        raise ValueError(f"{parts[0]}: no feedback column y_<task>")
    for task in config.task_values or ():
        if task not in tasks:
            raise ValueError(f"task_values names {task!r}; want some of the log's tasks, {', '.join(tasks)}")
    slot = LISTED if LISTED in names and "position" not in names else "position"
    columns = {"request_id": "id", "user_id": "id", "item_id": "id", slot: "int?"}
    columns |= {name: kind for name, kind in (("scenario", "text?"), ("timestamp", "int")) if name in names}
    columns |= {f"x_{feature}": "float?" for feature in features} | {f"y_{task}": "binary?" for task in tasks}
    columns |= {f"i_{item}": "float?" for item in items}
    attributes = {f"i_{item}": label for item, label in identifiers(items).items()}
    price = None
    if "value" in names:
        columns["value"] = "float?"
        price = attributes["value"] = next(name for name in ("price", "price_") if name not in attributes.values())
    predicted = tuple(task for task in tasks if f"p_{task}" in names)
    columns |= {f"p_{task}": "float?" for task in predicted}
    if unread := [name for name in names if name not in columns]:
        logger.warning("%s: not read: column %s", directory, ", ".join(unread))
    stated = header.get("task_values") or (1.0,) * len(tasks)
    values = dict(zip(tasks, stated, strict=True)) | dict(config.task_values or {})
    source = EventSource(
        name=f"logs in {directory.name}",
        license="the log's owner decides",
        tasks=tasks,
        task_values=tuple(float(values[task]) for task in tasks),
        funnel=config.funnel,
        items={} if price is None else {price: "dense"},
        context=dict.fromkeys(identifiers(features).values(), "dense"),
        price=price,
        value_tasks=() if price is None else tuple(header.get("value_tasks") or ()),
        predictions=predicted,
        slots_known=slot != LISTED,
    )
    reader = _Reader(writer, tasks, features, attributes)
    for path in parts:
        for first, frame in read_batches(path, columns, min(writer.rows, 100_000)):
            reader.add(path, first, frame.rename({LISTED: "position"}, strict=False))
    reader.check(directory)
    writer.finish(source, _refuse_repeated_items)


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


class _Reader:
    """Adds batches to the log; numbers requests in the order of their rows if there are no timestamps."""

    def __init__(
        self, writer: EventWriter, tasks: Sequence[str], features: Sequence[str], items: Mapping[str, str]
    ) -> None:
        self.writer, self.tasks, self.features, self.items = writer, tasks, features, items
        self.last_request: Any = None
        self.request = -1  # numbers of those without timestamps
        self.first_slot, self.all_seconds, self.zeros_hidden = MAX_SLOT, True, False

    def add(self, path: Path, first: int, frame: "pl.DataFrame") -> None:
        polars = require("polars")

        def refuse(column: str, bad: "pl.Series", want: str) -> None:
            refuse_row(path, first, column, frame[column], bad.fill_null(False).to_numpy(), want)

        position = frame["position"]
        refuse("position", position < 0, "a slot from 0 on, or null if not shown")
        refuse("position", position >= MAX_SLOT, f"a slot below {MAX_SLOT:,}")
        hidden = position.is_null()
        feedback = [f"y_{task}" for task in self.tasks]
        for column in feedback:
            values = frame[column]
            refuse(column, values.is_null() & ~hidden, "0 or 1 for a shown candidate")
            refuse(column, (values != 0) & hidden, "null where position is null, as nobody saw the item")
            self.zeros_hidden |= bool(((values == 0) & hidden).any())
        frame = frame.with_columns(polars.when(~hidden).then(polars.col(column)).alias(column) for column in feedback)
        same = ~frame["request_id"].ne_missing(frame["request_id"].shift(1))
        same[0] = False
        for feature in self.features:
            values = frame[f"x_{feature}"]
            refuse(f"x_{feature}", same & values.ne_missing(values.shift(1)), "one value a request")
        self.first_slot = int(position.drop_nulls().to_numpy().min(initial=self.first_slot))
        times = frame.get_column("timestamp", default=None)
        if times is None:
            self.all_seconds, times = False, polars.Series(self._count(frame["request_id"]))
        else:
            refuse("timestamp", times >= FINER, f"{_CLOCK} (this looks like microseconds or nanoseconds)")
            self.all_seconds &= bool(times.is_between(*SECONDS, closed="left").all())
        ids = []
        for name in ("request_id", "user_id", "item_id"):
            whole = frame[name].dtype == polars.Int64
            ids.append(frame[name] if whole else self.writer.number(name.removesuffix("_id"), frame[name]).alias(name))
        if self.items:
            columns = [frame[c].cast(polars.Float32).fill_nan(None).alias(name) for c, name in self.items.items()]
            self.writer.add_attributes("item", polars.DataFrame([ids[2], *columns]), times, str(path))
        labels = identifiers(self.features)
        context = [polars.col(f"x_{feature}").alias(f"c_{label}") for feature, label in labels.items()]
        frame = frame.with_columns(*ids, times.alias("timestamp"), times.alias("event_time")).with_columns(context)
        read = [*(f"x_{feature}" for feature in self.features), *self.items]
        self.writer.add_events(frame.drop(read), str(path))

    def _count(self, request: "pl.Series") -> Ints:
        new = request.ne_missing(request.shift(1)).to_numpy().copy()
        new[0] = request[0] != self.last_request
        number: Ints = self.request + np.cumsum(new)
        self.last_request, self.request = request[-1], int(number[-1])
        return number

    def check(self, directory: Path) -> None:
        """Raises ValueError if the slots of the whole log count from 1, or the timestamps are seconds."""
        if 0 < self.first_slot < MAX_SLOT:
            raise ValueError(
                f"{directory}: column 'position': {self.first_slot} is the first slot; want slots from 0 "
                "(no row has slot 0; counted from 1? subtract 1)"
            )
        if self.all_seconds:
            raise ValueError(f"{directory}: column 'timestamp': want {_CLOCK} (these look like seconds)")
        if self.zeros_hidden:
            logger.warning("%s: feedback is 0 where position is null: taken as not shown (null)", directory)


def _refuse_repeated_items(frame: "pl.DataFrame") -> "pl.DataFrame":
    """Whole requests, unchanged. ValueError names the first item that a request holds twice and not only in slots."""
    polars = require("polars")
    repeated = frame.select("request_id", "item_id").is_duplicated()
    if repeated.any():
        hidden = frame.select(polars.col("position").is_null().any().over("request_id", "item_id")).to_series()
        refuse_events(frame, repeated & hidden, "item_id", "each item once in a request, or each time in a slot")
    return frame


def _describe(path: Path) -> tuple[list[str], dict[str, Any]]:
    with open_parquet(path) as parquet:
        schema = parquet.schema_arrow
    return list(schema.names), header_of((schema.metadata or {}).get(METADATA_KEY, b"{}"), path)
