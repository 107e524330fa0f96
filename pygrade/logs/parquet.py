"""The Parquet side of `logs`: columns in, columns out. Reads one column at a time, so memory stays near the result."""

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade._util.files import atomic_directory
from pygrade._util.optional_imports import require
from pygrade._util.text import one_line
from pygrade.logs.arrays import numbered
from pygrade.logs.columns import COLUMNS, Column
from pygrade.logs.embeddings import EmbeddingError, join_tables, read_lists, write_lists
from pygrade.logs.prediction_scale import from_records, to_records
from pygrade.logs.table_formats import kind_of, refuse_loose

RowName = Callable[[int], str]
Facts = tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...], tuple[str, ...], tuple[str, ...]]

METADATA_KEY = b"pygrade"
FORMAT_VERSION = 1
LISTED = "listed"  # in the place of `position`, so that no program takes the order of a list for slots
_OPTIONS = "options.toml"  # of the command that wrote a log, beside its parts
_KINDS = {  # what is wanted, and kinds of Arrow types that are it
    "number": ("a number", "number", "integer", "bool"),
    "integer": ("an integer", "integer"),
    "id": ("an integer or a string", "integer", "text"),
    "text": ("a string", "text"),
    "vector": ("a list of numbers", "vector", "list"),
}
_STATED = ("tasks", "features", "items", "task_values", "value_tasks")  # in the metadata of every file
_OF_ARMS = ("slot_", "share_")  # prefixes of the columns of arms, which come and go between files
_SINGLE = {name: column for name, column in COLUMNS.items() if not column.labels}
_OPTIONAL = [f"{c.prefix}<{c.labels[:-1]}>" if c.labels else n for n, c in COLUMNS.items() if c.optional]
_CONTRACT = (
    "a log has a row per candidate, with request_id, user_id, item_id, position (slot from 0, null: not shown; slots "
    "unknown: listed, the place in the list) and for each task p_<task> (prediction) and y_<task> (feedback, null: not "
    f"shown); optional: x_<feature>, {', '.join(_OPTIONAL)}; `pygrade doctor FILE` makes one of a table with other "
    "names"
)


class ParquetParts:
    """Open Parquet parts of one log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pa, self.pc = require("pyarrow"), require("pyarrow.compute")
        self.files = parts_of(path)
        self.parts: list[Any] = []
        self.notes: list[str] = []  # unusual things that `read` accepted
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self.parts += map(open_parquet, self.files)
        self.part_rows = [int(part.metadata.num_rows) for part in self.parts]
        self.starts = np.concatenate([[0], np.cumsum(self.part_rows)])
        self.num_rows = int(self.starts[-1])
        if self.num_rows == 0:
            raise ValueError(f"{self.path}: no rows")
        metadata = self.parts[0].schema_arrow.metadata or {}
        self.header: dict[str, Any] = header_of(metadata.get(METADATA_KEY, b"{}"), self.files[0])
        wanted = self.header.get("parts", len(self.files))
        if self.path.is_dir() and wanted != len(self.files):
            raise ValueError(f"{self.path}: {len(self.files)} parts; {self.files[0].name} says the log has {wanted}")
        self.names = list(self.parts[0].schema_arrow.names)
        every = dict.fromkeys(name for part in self.parts for name in part.schema_arrow.names)
        self.names += [name for name in every if name.startswith(_OF_ARMS) and name not in self.names]

    def __enter__(self) -> "ParquetParts":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def row_name(self, row: int) -> str:
        """A row of the log as users see it: its number within its file."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{row - int(self.starts[number])} of {self.files[number].name}"

    def fail(self, column: str, row: int, reason: str) -> ValueError:
        return ValueError(f"{self.path}: column '{column}', row {self.row_name(row)}: {reason}")

    def column(self, name: str, kind: str) -> Any:
        """The column over all parts as an Arrow chunked array; `kind` is number, integer, id, text or vector."""
        chunks = []
        for file, part in zip(self.files, self.parts, strict=True):
            schema = part.schema_arrow
            if name.startswith(_OF_ARMS) and name not in schema.names:  # a file from before the arm
                chunks.append(self.pa.table({name: self.pa.nulls(part.metadata.num_rows)}))
                continue
            if schema.names.count(name) != 1:
                problem = "missing" if name not in schema.names else "present more than once"
                hint = (
                    "" if self.header else f"; it is no log yet: pygrade doctor {self.path} --out DIR makes one of it"
                )
                raise ValueError(f"{file}: column '{name}' is {problem}{hint}")
            dtype = schema.field(name).type
            own, (wanted, *allowed) = kind_of(dtype), _KINDS[kind]
            if own not in allowed and (own != "empty" or kind == "id"):
                text = own == "text" and name[:2] in ("x_", "i_")
                hint = " (pygrade doctor makes 0/1 columns of text)" if text else ""
                raise TypeError(f"{file}: column '{name}' has type {dtype}; expected {wanted}{hint}")
            try:
                table = part.read(columns=[name])
            except (self.pa.ArrowException, OSError) as error:
                raise ValueError(f"{file}: column '{name}' is corrupt ({one_line(error)})") from error
            if self.pa.types.is_dictionary(dtype):
                table = table.cast(self.pa.schema([(name, dtype.value_type)]))
            chunks.append(table)
        try:
            return self.pa.concat_tables(chunks, promote_options="permissive").column(0)
        except self.pa.ArrowException as error:
            raise TypeError(f"{self.path}: column '{name}' changes its type between parts") from error

    def numbers(self, name: str) -> NDArray[np.float32]:
        """Return values [M], NaN for null."""
        return np.asarray(self.column(name, "number").cast(self.pa.float32(), safe=False).to_numpy(), np.float32)

    def integers(self, name: str, missing: int, dtype: Any) -> Array:
        column = self.column(name, "integer")
        info = np.iinfo(dtype)
        target = self.pa.from_numpy_dtype(np.dtype(dtype))
        try:
            return np.asarray(self.pc.fill_null(column.cast(target), missing).to_numpy(), dtype)
        except self.pa.ArrowException as error:
            wanted = f"expected {info.min} to {info.max}"
            raise ValueError(f"{self.path}: column '{name}': {one_line(error)}; {wanted}") from error

    def ids(self, name: str) -> Array:
        column = self.column(name, "id")
        if column.null_count:
            row = int(np.argmax(np.asarray(column.is_null().to_numpy())))
            raise self.fail(name, row, "null; expected an id")
        if self.pa.types.is_integer(column.type):
            return np.asarray(column.cast(self.pa.int64()).to_numpy(), np.int64)
        return _strings(column)

    def text(self, name: str) -> Array:
        column = self.column(name, "text")
        return _strings(self.pc.fill_null(column.cast(self.pa.string()), ""))

    def vectors(self, name: str, item: Array) -> tuple[Array, Array]:
        """Places [M] and vectors [E, d] of the items, see `embeddings.read_lists`; each file on its own."""
        number = numbered(item)
        parts = []
        column = self.column(name, "vector")
        for start, rows in zip(self.starts[:-1].tolist(), self.part_rows, strict=True):
            try:
                parts.append(read_lists(column.slice(start, rows), number[start : start + rows]))
            except EmbeddingError as error:
                raise self.fail(name, start + error.row, error.reason) from error
        return join_tables(parts)

    def _check_columns(self, labels: dict[str, tuple[str, ...]], wanted_of_tasks: Sequence[str]) -> None:
        """ValueError names the columns that are missing; those that are not read are noted."""
        tasks = labels["tasks"]
        required = [name for name, column in _SINGLE.items() if not column.optional]
        missing = [name for name in required if self._column_of(name) not in self.names]
        missing += [] if tasks else [f"{wanted_of_tasks[0]}<task>"]
        every = dict.fromkeys((*tasks, *self._labels("", "y_")))
        wanted = [f"{prefix}{task}" for task in every for prefix in wanted_of_tasks]
        wanted += [f"x_{feature}" for feature in labels["features"]] + [f"i_{item}" for item in labels["items"]]
        missing += [name for name in wanted if name not in self.names]
        if missing:
            present = ", ".join(self.names)
            raise ValueError(f"{self.files[0]}: no column {', '.join(missing)}; it has {present}; {_CONTRACT}")
        if not labels["features"] and "p_" in wanted_of_tasks:
            self.notes.append("no feature column x_<feature>: the policy sees the predictions alone")
        read = {*map(self._column_of, _SINGLE), "share"}
        for column in COLUMNS.values():
            read |= {column.prefix + label for label in labels.get(column.labels, ())}
        if strange := [name for name in self.names if name not in read]:
            self.notes.append(f"not read: column {', '.join(strange)}")

    def read(self, predicted: bool = True) -> dict[str, Any]:
        """The arguments of `Logs`; ``predicted``: refuse a log without predictions, which else are 0."""
        wanted = ("p_", "y_") if predicted else ("y_",)
        labels = {"tasks": self._labels("tasks", wanted[0]), "features": self._labels("features", "x_")}
        labels["items"], labels["arms"] = self._labels("items", "i_"), self._arms()
        self._check_columns(labels, wanted)
        starts = self._starts(self.ids("request_id"))
        result: dict[str, Any] = {**labels, "offsets": np.append(starts, self.num_rows).astype(np.int64)}
        result["task_values"] = tuple(float(v) for v in self.header.get("task_values", ()))
        result["value_tasks"] = tuple(str(task) for task in self.header.get("value_tasks", ()))
        result["slots_known"] = self.slots_known
        result["feedback_delays"] = tuple(int(delay) for delay in self.header.get("feedback_delays", ()))
        result["scales"] = from_records(self.header.get("scales", {}))
        result["columns"] = self.header.get("columns", {})
        inside = np.ones(self.num_rows, bool)
        inside[starts] = False  # rows whose predecessor belongs to the same request

        def values_of(name: str, column: Column) -> Array:
            values = self._values(self._column_of(name), column.kind)
            if not column.by_request:
                return values
            changed = values[1:] != values[:-1]
            if values.dtype.kind == "f":
                changed &= ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
            changed &= inside[1:]
            if bool(changed.any()):
                row = int(np.argmax(changed)) + 1
                before = f"{values[row - 1]} in the row before"
                raise self.fail(name, row, f"{values[row]}, but {before}; expected one value a request")
            return values[starts]

        for field, column in COLUMNS.items():
            names = [column.prefix + label for label in labels[column.labels]] if column.labels else [field]
            if column.optional and not any(name in self.names for name in names):
                continue
            if field == "embedding":
                result[field], result["embeddings"] = self.vectors(field, result["item_id"])
                continue
            if not column.labels:
                result[field] = values_of(field, column)
                continue
            length = len(starts) if column.by_request else self.num_rows
            result[field] = np.zeros((length, len(names)), column.kind)
            for number, name in enumerate(names):
                if predicted or name in self.names:
                    result[field][:, number] = values_of(name, column)
        for name in ("value", "production_score"):  # callers of a service need not send them if its arm reads none
            if name in result and bool(np.logical_and.reduceat(np.isnan(result[name]), starts).any()):
                del result[name]
                self.notes.append(f"not read: column {name}, which some requests lack")
        feedback, hidden = result["feedback"], (result["position"] < 0)[:, None]
        if bool((hidden & (feedback == 0)).any()):
            self.notes.append("feedback is 0 where position is null: taken as not shown (null)")
        feedback[np.isnan(feedback) & hidden] = 0.0
        return result

    def _values(self, name: str, kind: str) -> Array:
        """Return a column of the file, of shape [M]."""
        if kind == "float32":
            return self.numbers(name)
        if kind in ("id", "str"):
            return self.ids(name) if kind == "id" else self.text(name)
        slot = name in ("position", LISTED) or name.startswith("slot_")
        return self.integers(name, -1 if slot else 0, np.dtype(kind))

    @property
    def slots_known(self) -> bool:
        """The log has slots, or neither them nor the order of the list."""
        return "position" in self.names or LISTED not in self.names

    def _column_of(self, name: str) -> str:
        """The column of the files that has a field's values."""
        return LISTED if name == "position" and not self.slots_known else name

    def _starts(self, request_id: Array) -> NDArray[np.int64]:
        """The first row of each request."""
        return np.flatnonzero(np.concatenate([[True], request_id[1:] != request_id[:-1]]))

    def request_ids(self) -> Array:
        """Return the values [R] by request."""
        ids = self.ids("request_id")
        return ids[self._starts(ids)]

    def of_requests(self, name: str) -> NDArray[np.int64]:
        """Return an integer column, by the first row of each request, of shape [R]."""
        return np.asarray(self.integers(name, 0, np.int64)[self._starts(self.ids("request_id"))])

    def lists_all(self) -> NDArray[np.bool_]:
        """Return whether the request has a row for all of its candidates, bool, of shape [R]."""
        starts = self._starts(self.ids("request_id"))
        if "candidates" not in self.names:
            return np.ones(len(starts), bool)
        return np.diff(np.append(starts, self.num_rows)) >= self.integers("candidates", 0, np.int64)[starts]

    def facts(self) -> Facts:
        """Tasks, features, values of events, tasks worth an item's value, and item columns."""
        tasks, features = self._labels("tasks", "p_"), self._labels("features", "x_")
        values = tuple(float(value) for value in self.header.get("task_values", ())) or (1.0,) * len(tasks)
        priced = tuple(str(task) for task in self.header.get("value_tasks", ()))
        return tasks, features, values, priced, self._labels("items", "i_")

    def _arms(self) -> tuple[str, ...]:
        """The arms of all files."""
        return tuple(name.removeprefix("slot_") for name in self.names if name.startswith("slot_"))

    def _labels(self, key: str, prefix: str) -> tuple[str, ...]:
        """Labels of the metadata, else of the columns with this prefix."""
        columns = [name.removeprefix(prefix) for name in self.names if name.startswith(prefix)]
        return tuple(str(label) for label in self.header.get(key, columns))


def write(columns: dict[str, Any], path: Path, rows_per_file: int) -> None:
    """Writes checked columns (the fields of `Logs`) as parts of whole requests; replaces an earlier log at `path`."""
    parquet = require("pyarrow.parquet")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; expected a directory, or a path that does not exist")
    if path.is_dir():
        refuse_foreign_files(str(path), [child.name for child in path.iterdir()])
    offsets = columns["offsets"]
    part_of_request = offsets[:-1] // rows_per_file
    cuts = np.flatnonzero(np.concatenate([[True], part_of_request[1:] != part_of_request[:-1]]))[: len(offsets) - 1]
    if len(offsets) == 1:
        raise ValueError(f"{path}: the log has no requests; expected at least one")
    bounds = np.append(cuts, len(offsets) - 1)
    header = _header(columns) | {"parts": len(cuts)}
    with atomic_directory(path) as directory, ThreadPoolExecutor(2) as pool:  # two parts at a time

        def write_numbered(number: int) -> None:
            table = _table(columns, int(bounds[number]), int(bounds[number + 1]), header)
            parquet.write_table(table, directory / f"part-{number:05d}.parquet", compression="zstd")

        list(pool.map(write_numbered, range(len(cuts))))


def refuse_foreign_files(place: str, names: Iterable[str]) -> None:
    """ValueError if a directory to be replaced by a log holds files that are not those of a log."""
    strangers = sorted(name for name in names if not name.endswith(".parquet") and name != _OPTIONS)
    if strangers:
        raise ValueError(f"{place} holds {strangers[0]}, which is not part of a log; expected a separate directory")


def write_part(columns: dict[str, Any], file: Path) -> None:
    """Writes checked columns (the fields of `Logs`) as one file of a log that other files may be added to."""
    table = _table(columns, 0, len(columns["offsets"]) - 1, _header(columns))
    require("pyarrow.parquet").write_table(table, file, compression="zstd")


def _header(columns: dict[str, Any]) -> dict[str, Any]:
    stated = {name: columns[name] for name in _STATED}
    if delays := columns["feedback_delays"]:
        stated["feedback_delays"] = delays
    if roles := columns["columns"]:
        stated["columns"] = dict(roles)
    return {"format_version": FORMAT_VERSION, **stated, "scales": to_records(columns["scales"])}


def _table(columns: dict[str, Any], start: int, stop: int, header: dict[str, Any]) -> Any:
    pa = require("pyarrow")
    offsets = columns["offsets"]
    rows, sizes = slice(offsets[start], offsets[stop]), np.diff(offsets[start : stop + 1])
    hidden, request = columns["position"][rows] < 0, np.repeat(np.arange(stop - start), sizes)

    table: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        if columns[name] is None:
            continue
        if name == "embedding":
            table[name] = write_lists(columns[name][rows], columns["embeddings"], numbered(columns["item_id"][rows]))
            continue
        mask = hidden if name in ("position", "feedback") else None
        for number, label in enumerate(columns[column.labels] if column.labels else ("",)):
            values = columns[name][:, number] if column.labels else columns[name]
            mask = values[rows] < 0 if name == "slots" else mask
            array = pa.array(np.ascontiguousarray(values[start:stop] if column.by_request else values[rows]), mask=mask)
            title = LISTED if name == "position" and not columns["slots_known"] else name
            table[column.prefix + label or title] = array.take(request) if column.by_request else array
    return pa.table(table).replace_schema_metadata({METADATA_KEY: json.dumps(header).encode()})


def open_parquet(file: Path) -> Any:
    """The pyarrow ParquetFile; ValueError names a file that is none, or cut off."""
    try:
        return require("pyarrow.parquet").ParquetFile(file)
    except (require("pyarrow").ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a complete Parquet file ({one_line(error)})") from error


def parts_of(path: Path) -> list[Path]:
    """The Parquet file, or the parts in a directory in the order of their names."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a Parquet file or a directory of Parquet parts")
    refuse_loose(path)
    if path.is_file():
        return [path]
    files = sorted(child for child in path.glob("*.parquet") if not child.name.startswith((".", "_")))
    if not files:
        raise ValueError(f"{path} holds no *.parquet file")
    return files


def header_of(text: bytes, file: Path) -> dict[str, Any]:
    """The log's tasks, features, task_values and parts in a file's metadata; empty if another program wrote it."""
    header: Any = None
    with contextlib.suppress(ValueError):
        header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError(f"{file}: the '{METADATA_KEY.decode()}' metadata is not a JSON object")
    version = header.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise ValueError(f"{file}: log format version {version}; this pygrade reads version {FORMAT_VERSION}")
    return header


def _strings(column: Any) -> Array:
    """Object array of str: decoded once per distinct value, and a long one does not widen the others."""
    encoded = column.dictionary_encode().combine_chunks()
    words = np.array([*encoded.dictionary.to_pylist(), None], dtype=object)  # None: keeps numpy from making a matrix
    return np.asarray(words[encoded.indices.to_numpy()])
