"""Strict reading of Parquet and Feather files: columns by name and kind, errors that name the file, the row and the
column. The counterpart of `tables` for delimited text.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade._util.text import one_line

if TYPE_CHECKING:
    import polars as pl

WANTED = {
    "int": "a whole number",
    "binary": "0 or 1",
    "float": "a finite number",
    "text": "a string",
    "bool": "true or false",
    "time": "a date and time",
    "ints": "a list of whole numbers",
    "texts": "a list of strings",
    "times": "a list of dates and times",
    "floats": "a list of numbers",
    "id": "a whole number or a string",
}
"""Kinds of columns; with a question mark appended, values may be missing (null, or NaN for a number)."""


def column_names(path: Path) -> list[str]:
    """Columns of a Parquet or Feather file; ValueError if it is neither, or cut off."""
    return list(_schema(path).names)


@dataclass(frozen=True)
class RowGroups:
    """A piece of a Parquet file, for a job."""

    path: Path
    start: int  # row groups start ≤ … < stop
    stop: int
    first: int  # the first row
    rows: int

    def __str__(self) -> str:
        return f"{self.path}, rows {self.first} to {self.first + self.rows}"


def row_groups(path: Path, rows: int) -> list[RowGroups]:
    """Pieces of at least ``rows`` rows, the last aside; ValueError names a file that isn't a whole Parquet file."""
    _schema(path)
    with require("pyarrow.parquet", "pipeline").ParquetFile(path) as parquet:
        counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.metadata.num_row_groups)]
    pieces, start, first = [], 0, 0
    for group, count in enumerate(accumulate(counts)):
        if count - first >= rows or group == len(counts) - 1:
            pieces.append(RowGroups(path, start, group + 1, first, count - first))
            start, first = group + 1, count
    return pieces or [RowGroups(path, 0, 0, 0, 0)]


def read_batches(
    path: Path, columns: Mapping[str, str], rows: int = 100_000, piece: RowGroups | None = None
) -> "Iterator[tuple[int, pl.DataFrame]]":
    """The named columns of a Parquet (.parquet) or Feather file, a bounded number of rows at a time.

    ``piece``: only these row groups. Yields the number (from 0) of the first row, and the rows: int64, float64, str,
    bool, times as int64 ms since 1970, lists of these. ValueError names the file, the column and the row of a missing
    column, a missing or foreign value; TypeError a column of another type.
    """
    polars, pa = require("polars", "pipeline"), require("pyarrow", "pipeline")
    schema = _schema(path)
    for name, kind in columns.items():
        if name not in schema.names:
            raise ValueError(f"{path}: column {name!r} is missing; the file has {', '.join(schema.names)}")
        if not _fits(schema.field(name).type, kind.rstrip("?")):
            wanted = WANTED[kind.rstrip("?")]
            raise TypeError(f"{path}: column {name!r} has type {schema.field(name).type}; want {wanted}")
    first = 0 if piece is None else piece.first
    try:
        for batch in _batches(path, list(columns), rows, piece):
            table = pa.Table.from_batches([batch])
            raw = {name: polars.from_arrow(table.column(name)) for name in columns}
            frame = polars.DataFrame([_typed(path, first, n, raw[n], k).alias(n) for n, k in columns.items()])
            yield first, frame
            first += len(frame)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: corrupt after row {first} ({one_line(error)})") from error
    if first == 0:
        raise ValueError(f"{path}: the file has no rows")
    if piece is not None and first != piece.first + piece.rows:
        raise ValueError(f"{path}: {first - piece.first} rows from {piece.first} on; there were {piece.rows} before")


def refuse_row(path: Path, first: int, column: str, values: "pl.Series", bad: NDArray[np.bool_], want: str) -> None:
    """Raises ValueError that names the first bad value's file, row and column; ``first`` is the first value's row."""
    if bad.any():
        row = int(np.argmax(bad))
        value = values.slice(row, 1).to_list()[0]
        raise ValueError(f"{path}: row {first + row}, column {column!r} is {value}; want {want}")


def _batches(path: Path, columns: list[str], rows: int, piece: RowGroups | None) -> Iterator[Any]:
    if path.suffix == ".parquet":
        with require("pyarrow.parquet", "pipeline").ParquetFile(path) as parquet:
            groups = None if piece is None else list(range(piece.start, piece.stop))
            yield from parquet.iter_batches(rows, row_groups=groups, columns=columns)
        return
    pa = require("pyarrow", "pipeline")
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=_places(path, columns)))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            for at in range(0, batch.num_rows, rows):
                yield batch.slice(at, rows)


def _places(path: Path, columns: list[str]) -> list[int]:
    names = _schema(path).names
    return [names.index(name) for name in columns]


def _schema(path: Path) -> Any:
    pa = require("pyarrow", "pipeline")
    try:
        if path.suffix == ".parquet":
            return require("pyarrow.parquet", "pipeline").read_schema(path)
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_file(file).schema
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a complete {path.suffix[1:]} file ({one_line(error)})") from error


def _fits(dtype: Any, kind: str) -> bool:
    types = require("pyarrow", "pipeline").types
    if kind in ("ints", "texts", "times", "floats"):
        if not (types.is_list(dtype) or types.is_large_list(dtype)):
            return False
        return types.is_null(dtype.value_type) or _fits(dtype.value_type, kind.rstrip("s"))
    if types.is_null(dtype):
        return True
    if types.is_dictionary(dtype):
        dtype = dtype.value_type
    number = types.is_integer(dtype) or types.is_floating(dtype) or types.is_boolean(dtype)
    text = types.is_string(dtype) or types.is_large_string(dtype)
    fits = {"text": text, "bool": number, "time": types.is_timestamp(dtype), "id": types.is_integer(dtype) or text}
    return bool(fits.get(kind, number))


def _typed(path: Path, first: int, name: str, values: "pl.Series", kind: str) -> "pl.Series":
    polars, plain, wanted = require("polars", "pipeline"), kind.rstrip("?"), WANTED[kind.rstrip("?")]
    typed: pl.Series
    if values.dtype.is_float():
        values = values.fill_nan(None)
    if not kind.endswith("?"):
        refuse_row(path, first, name, values, values.is_null().to_numpy(), wanted)
    if plain in ("int", "binary"):
        typed = values.cast(polars.Int64, strict=False)
        refuse_row(path, first, name, values, (typed != values).fill_null(False).to_numpy(), wanted)
        if plain == "binary":
            refuse_row(path, first, name, values, (~typed.is_in([0, 1])).fill_null(False).to_numpy(), wanted)
    elif plain == "float":
        typed = values.cast(polars.Float64)
        refuse_row(path, first, name, values, typed.is_infinite().fill_null(False).to_numpy(), wanted)
    elif plain == "time":
        typed = values.cast(polars.Datetime("ms")).cast(polars.Int64)
    elif plain == "times":
        typed = values.cast(polars.List(polars.Datetime("ms"))).cast(polars.List(polars.Int64))
    elif plain == "id":
        typed = values.cast(polars.Int64) if values.dtype.is_integer() else values.cast(polars.String)
    else:
        element = {"text": polars.String, "texts": polars.String, "bool": polars.Boolean, "ints": polars.Int64}
        inner = element.get(plain, polars.Float64)
        typed = values.cast(polars.List(inner) if plain.endswith("s") else inner)
    return typed
