"""The schema: the features of a system, the tables of the past that they need, and checks of data against it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
from numpy.typing import NDArray

from pygrade import _core
from pygrade._util.files import atomic_file
from pygrade.features.feature import HISTORY, TIMES, Feature, SchemaError
from pygrade.features.values import kind_of


class RawEvents(Protocol):
    """The part of an event log that a schema and materialization use (see `pygrade.data.events.EventLog`)."""

    @property
    def tasks(self) -> tuple[str, ...]: ...
    def scan(self) -> Any: ...
    def users(self) -> Any | None: ...
    def items(self) -> Any | None: ...
    def chunks(self, rows: int = 200_000) -> Iterator[Any]: ...


class OtherChunks:
    """Base of a log whose chunks are made of those of another one."""

    def __init__(self, log: RawEvents) -> None:
        self.log, self.tasks = log, log.tasks

    def scan(self) -> Any:
        return self.log.scan()

    def users(self) -> Any | None:
        return self.log.users()

    def items(self) -> Any | None:
        return self.log.items()


@dataclass(frozen=True)
class FeatureSchema:
    """The features of a system, the outcomes of its log, and the types of the columns they are made of."""

    features: tuple[Feature, ...]
    tasks: tuple[str, ...]
    # Type of each source column: "events.c_x", "users.x", "items.x" → float, int, str, or list[…] of one of them.
    dtypes: Mapping[str, str] = field(default_factory=dict)
    utc_offset_hours: float = 0.0  # added to the time before hours and weekdays are taken from it

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "utc_offset_hours", float(self.utc_offset_hours))
        _ = self._derived  # checks all of it

    @cached_property
    def _derived(self) -> dict[str, Any]:
        """The core's reading of the schema: plain values, which pickle."""
        return _core.read_schema(self.to_json())

    @staticmethod
    def column_of(feature: Feature) -> str | None:
        """The column whose type matters to the feature; None for ids, the time, the scenario and outcomes."""
        if feature.kind in (*HISTORY, "sequence") or feature.source in (*TIMES, "user_id", "item_id", "scenario"):
            return None
        if feature.source.startswith("time:"):
            raise SchemaError(
                f"feature {feature.name!r}: source is {feature.source!r}; expected one of {', '.join(TIMES)}"
            )
        return {"user": "users.", "item": "items.", "context": "events."}[feature.entity] + feature.source

    @classmethod
    def of(cls, features: Iterable[Feature], event_log: RawEvents, utc_offset_hours: float = 0.0) -> "FeatureSchema":
        """A schema of these features over a log, with the log's tasks and the types of its columns."""
        tables = {"users": event_log.users(), "items": event_log.items()}
        columns = {name: {} if frame is None else dict(frame.schema) for name, frame in tables.items()}
        columns["events"] = {n: t for n, t in event_log.scan().collect_schema().items() if n.startswith("c_")}
        types = {f"{table}.{name}": kind_of(t) for table, kinds in columns.items() for name, t in kinds.items()}
        listed = tuple(features)
        read = {cls.column_of(f) for f in listed}
        read |= {part.replace(".", "s.", 1) for f in listed for part in f.key if "." in part}
        for column in sorted(name for name in read if name is not None and name not in types):
            raise SchemaError(f"the log has no {column}, which a feature reads; it has {', '.join(types)}")
        kept = {name: kind for name, kind in types.items() if name in read}
        return cls(listed, event_log.tasks, kept, utc_offset_hours)

    # ---- names of the columns of a FeatureBatch

    def _names(self, chosen: Iterable[Feature]) -> tuple[str, ...]:
        return tuple(name for feature in chosen for name in feature.columns)

    def group(self, name: str) -> tuple[Feature, ...]:
        """Features of one array of a batch: sequences, or {request, item, cross}_{dense, ids}."""
        return self._groups.get(name, ())

    def slices(self, name: str) -> Iterator[tuple[Feature, slice]]:
        """Features of such an array, each with its columns in it."""
        at = 0
        for feature in self.group(name):
            yield feature, slice(at, at := at + len(feature.columns))

    @cached_property
    def _groups(self) -> dict[str, tuple[Feature, ...]]:
        groups: dict[str, tuple[Feature, ...]] = {}
        for f in self.features:
            owner = "request" if f.per_request else f.entity
            name = "sequences" if f.kind == "sequence" else f"{owner}_{'ids' if f.is_id else 'dense'}"
            groups[name] = (*groups.get(name, ()), f)
        return groups

    @cached_property
    def request_features(self) -> tuple[str, ...]:
        """Names of request_dense [R, Du]: the context a policy sees."""
        return self._names(self.group("request_dense"))

    @cached_property
    def request_id_features(self) -> tuple[str, ...]:
        """Names of request_ids [R, Fu]."""
        return self._names(self.group("request_ids"))

    @cached_property
    def item_features(self) -> tuple[str, ...]:
        """Names of item_dense [n, Di]."""
        return self._names(self.group("item_dense"))

    @cached_property
    def item_id_features(self) -> tuple[str, ...]:
        """Names of item_ids [n, Fi]."""
        return self._names(self.group("item_ids"))

    @cached_property
    def cross_features(self) -> tuple[str, ...]:
        """Names of cross_dense [n, Dx]."""
        return self._names(self.group("cross_dense"))

    # ---- tables and columns

    @property
    def tables(self) -> dict[str, NDArray[np.int64]]:
        """The tables of records that the features read, each with the record of a key without events."""
        return dict(self._derived["tables"])

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        """The columns of the outcomes that some table keeps: y_TASK, m_MEASURE."""
        return tuple(self._derived["outcome_columns"])

    @property
    def key_parts(self) -> tuple[str, ...]:
        """Columns that events are counted over, e.g. user_id, item.author."""
        return tuple(self._derived["key_parts"])

    def attributes(self, entity: str) -> tuple[tuple[str, str, int], ...]:
        """(column, "float" | "code" | "codes" | "floats", length) of each attribute of users or items that something
        reads."""
        return tuple(self._derived[entity])

    @cached_property
    def context(self) -> dict[str, str]:
        """Context columns that features read and whether each is ``float`` or ``str``."""
        named = {f.source: self.dtypes[f"events.{f.source}"] for f in self.features if f.source.startswith("c_")}
        return dict(sorted(named.items()))

    @cached_property
    def needs_scenario(self) -> bool:
        """Some feature or key reads the scenario."""
        return "scenario" in self.key_parts or any(f.source == "scenario" for f in self.features)

    # ---- checks against data

    def validate(self, events: RawEvents) -> None:
        """`SchemaError` if the log lacks a table or column that a feature reads, or has it in another type."""
        missing = [task for task in self.tasks if task not in events.tasks]
        if missing:
            raise SchemaError(f"the log has no task {missing[0]!r}; it has {', '.join(events.tasks)}")
        users, items = events.users(), events.items()
        self.validate_columns("events", dict(events.scan().collect_schema()))
        self.validate_columns("users", None if users is None else dict(users.schema))
        self.validate_columns("items", None if items is None else dict(items.schema))

    def validate_columns(self, table: str, columns: Mapping[str, Any] | None) -> None:
        """`validate` for "events", "users" or "items", given its columns with their polars types."""
        wanted = {column: f"feature {f.name!r}" for f in self.features if (column := self.column_of(f)) is not None}
        for part in self.key_parts:
            if part.startswith(("user.", "item.")):
                wanted.setdefault(part.replace(".", "s.", 1), f"key {part!r}")
        if table == "events":
            wanted |= {f"events.{column}": f"history of {column}" for column in self.outcome_columns}
            if self.needs_scenario:
                wanted["events.scenario"] = "feature or key 'scenario'"
        for column, who in wanted.items():
            owner, name = column.split(".", 1)
            if owner != table:
                continue
            if columns is None:
                raise SchemaError(f"{who} reads {column}, but there is no table {table}")
            if name not in columns:
                raise SchemaError(f"{who} reads {column}, which is missing; {table} has {', '.join(columns)}")
            present, fitted = kind_of(columns[name]), self.dtypes.get(column)
            if fitted is not None and present != fitted:
                raise SchemaError(f"{who} reads {column} as {fitted}; it now is {columns[name]} (type drift)")

    def validate_feedback(self, columns: Mapping[str, Any]) -> None:
        """`SchemaError` if feedback for a server lacks a column or has it in another type; columns: polars types."""
        wanted = {"user_id": "int", "item_id": "int", "event_time": "int"} | dict.fromkeys(
            self.outcome_columns, "number"
        )
        if "scenario" in self.key_parts:
            wanted["scenario"] = "str"
        for column, kind in wanted.items():
            if column not in columns:
                raise SchemaError(f"feedback lacks {column}; it has {', '.join(columns)}")
            present = kind_of(columns[column])
            fits = columns[column].is_integer() if kind == "int" else present == kind
            if not fits and not (kind == "number" and present in ("int", "float")):
                raise SchemaError(f"feedback {column} is {columns[column]}; expected {kind} (type drift)")

    # ---- JSON

    def to_json(self) -> str:
        """The schema as JSON: each feature with the fields that differ from their defaults."""
        record = {
            "tasks": self.tasks,
            "utc_offset_hours": self.utc_offset_hours,
            "dtypes": dict(sorted(self.dtypes.items())),
            "features": [feature.record for feature in self.features],
        }
        return json.dumps(record, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "FeatureSchema":
        """Reads what `to_json` wrote; `SchemaError` if it is no schema."""
        try:
            record = json.loads(text)
            features = tuple(Feature(**f) for f in record["features"])
            return cls(features, tuple(record["tasks"]), dict(record["dtypes"]), float(record["utc_offset_hours"]))
        except SchemaError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SchemaError(f"not a feature schema: {type(error).__name__}: {error}") from error

    @property
    def hash(self) -> str:
        """16 hex digits that change with anything in the schema."""
        return str(self._derived["hash"])

    def save(self, path: Path) -> None:
        """Writes the JSON, whole or not at all."""
        with atomic_file(path) as partial:
            partial.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "FeatureSchema":
        """Reads the JSON; `SchemaError` naming the file if it is no schema, FileNotFoundError if it is missing."""
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; expected the JSON of a feature schema")
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (SchemaError, UnicodeDecodeError) as error:
            raise SchemaError(f"{path}: {error}") from error


def read_tensors(path: Path, schema_hash: str | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file. `SchemaError` if it is damaged, or was written for another schema than this."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            stated = (file.metadata() or {}).get("schema")
            if schema_hash is not None and stated != schema_hash:
                raise SchemaError(f"{path} is of schema {stated}; expected {schema_hash}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise SchemaError(f"{path} is truncated or corrupt: {error}") from error
