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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._typing import Ints
from pygrade._util.optional_imports import require
from pygrade.config.data import LogsEventConfig
from pygrade.data.columnar import RowGroups, read_batches, refuse_row, row_groups
from pygrade.data.event_checks import refuse_events
from pygrade.data.event_log import EventSource
from pygrade.data.event_writer import PIECE, EventWriter
from pygrade.data.import_shards import ShardWriter
from pygrade.logs.logs import FINER, MAX_SLOT, SECONDS
from pygrade.logs.parquet import LISTED, METADATA_KEY, header_of, open_parquet, parts_of
from pygrade.workers import Workers

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
    has_times = "timestamp" in names
    pieces = [piece for path in parts for piece in row_groups(path, PIECE * writer.rows)]
    first = [0] * len(pieces) if has_times else _first_requests(pieces, writer.workers)
    jobs = [
        _Piece(piece, columns, tasks, features, attributes, number) for piece, number in zip(pieces, first, strict=True)
    ]
    _check_units(directory, has_times, writer.read(_read, jobs, "logs: read"))
    writer.finish(source, _refuse_repeated_items)


@dataclass(frozen=True)
class _Piece:
    """A job."""

    groups: RowGroups
    columns: Mapping[str, str]  # column → kind
    tasks: tuple[str, ...]
    features: tuple[str, ...]
    items: Mapping[str, str]  # columns of items → names of attributes
    request: int  # the number of the first row's request in the log, if it has no timestamps

    @property
    def rows(self) -> int:
        return self.groups.rows

    def __str__(self) -> str:
        return str(self.groups)


@dataclass
class _Facts:
    """What the check of a whole log needs of a piece."""

    first_slot: int = MAX_SLOT
    all_seconds: bool = True
    zeros_hidden: bool = False


def _first_requests(pieces: Sequence[RowGroups], workers: Workers) -> list[int]:
    """The number, in the order of the rows of all pieces, of the request of each piece's first row."""
    numbers, number, last = [], -1, None
    for count, begins, ends in workers.map(_count_requests, pieces, "logs: count"):
        number += begins != last
        numbers.append(number)
        number, last = number + count - 1, ends
    return numbers


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


def _count_requests(piece: RowGroups) -> tuple[int, Any, Any]:
    """The number of requests; the first and the last."""
    count, begins, last = 0, None, None
    for _, frame in read_batches(piece.path, {"request_id": "id"}, piece=piece):
        request = frame["request_id"]
        new = request.ne_missing(request.shift(1))
        new[0] = count == 0 or request[0] != last
        begins = request[0] if count == 0 else begins
        count, last = count + int(new.sum()), request[-1]
    return count, begins, last


def _read(piece: _Piece, shard: ShardWriter) -> _Facts:
    reader = _Reader(shard, piece)
    for first, frame in read_batches(piece.groups.path, piece.columns, min(shard.rows, 100_000), piece.groups):
        reader.add(piece.groups.path, first, frame.rename({LISTED: "position"}, strict=False))
    return reader.facts


def _check_units(directory: Path, has_times: bool, facts: Sequence[_Facts]) -> None:
    """Raises ValueError if the slots count from 1, or the timestamps are seconds."""
    first_slot = min(fact.first_slot for fact in facts)
    if 0 < first_slot < MAX_SLOT:
        raise ValueError(
            f"{directory}: column 'position': {first_slot} is the first slot; want slots from 0 "
            "(no row has slot 0; counted from 1? subtract 1)"
        )
    if has_times and all(fact.all_seconds for fact in facts):
        raise ValueError(f"{directory}: column 'timestamp': want {_CLOCK} (these look like seconds)")
    if any(fact.zeros_hidden for fact in facts):
        logger.warning("%s: feedback is 0 where position is null: taken as not shown (null)", directory)


class _Reader:
    """Adds batches to the shard; numbers requests in the order of their rows if there are no timestamps."""

    def __init__(self, shard: ShardWriter, piece: _Piece) -> None:
        self.shard, self.tasks, self.features, self.items = shard, piece.tasks, piece.features, piece.items
        self.last_request: Any = None
        self.request = piece.request - 1
        self.facts = _Facts()

    def add(self, path: Path, first: int, frame: "pl.DataFrame") -> None:
        polars = require("polars", "pipeline")

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
            self.facts.zeros_hidden |= bool(((values == 0) & hidden).any())
        frame = frame.with_columns(polars.when(~hidden).then(polars.col(column)).alias(column) for column in feedback)
        same = ~frame["request_id"].ne_missing(frame["request_id"].shift(1))
        same[0] = False
        for feature in self.features:
            values = frame[f"x_{feature}"]
            refuse(f"x_{feature}", same & values.ne_missing(values.shift(1)), "one value a request")
        self.facts.first_slot = int(position.drop_nulls().to_numpy().min(initial=self.facts.first_slot))
        times = frame.get_column("timestamp", default=None)
        if times is None:
            times = polars.Series(self._count(frame["request_id"]))
        else:
            refuse("timestamp", times >= FINER, f"{_CLOCK} (this looks like microseconds or nanoseconds)")
            self.facts.all_seconds &= bool(times.is_between(*SECONDS, closed="left").all())
        ids = []
        for name in ("request_id", "user_id", "item_id"):
            whole = frame[name].dtype == polars.Int64
            ids.append(frame[name] if whole else self.shard.number(name.removesuffix("_id"), frame[name]).alias(name))
        if self.items:
            columns = [frame[c].cast(polars.Float32).fill_nan(None).alias(name) for c, name in self.items.items()]
            self.shard.add_attributes("item", polars.DataFrame([ids[2], *columns]), times)
        labels = identifiers(self.features)
        context = [polars.col(f"x_{feature}").alias(f"c_{label}") for feature, label in labels.items()]
        frame = frame.with_columns(*ids, times.alias("timestamp"), times.alias("event_time")).with_columns(context)
        read = [*(f"x_{feature}" for feature in self.features), *self.items]
        self.shard.add_events(frame.drop(read))

    def _count(self, request: "pl.Series") -> Ints:
        new = request.ne_missing(request.shift(1)).to_numpy().copy()
        new[0] = request[0] != self.last_request
        number: Ints = self.request + np.cumsum(new)
        self.last_request, self.request = request[-1], int(number[-1])
        return number


def _refuse_repeated_items(frame: "pl.DataFrame") -> "pl.DataFrame":
    """Whole requests, unchanged. ValueError names the first item that a request holds twice and not only in slots."""
    polars = require("polars", "pipeline")
    repeated = frame.select("request_id", "item_id").is_duplicated()
    if repeated.any():
        hidden = frame.select(polars.col("position").is_null().any().over("request_id", "item_id")).to_series()
        refuse_events(frame, repeated & hidden, "item_id", "each item once in a request, or each time in a slot")
    return frame


def _describe(path: Path) -> tuple[list[str], dict[str, Any]]:
    with open_parquet(path) as parquet:
        schema = parquet.schema_arrow
    return list(schema.names), header_of((schema.metadata or {}).get(METADATA_KEY, b"{}"), path)
