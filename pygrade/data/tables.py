"""Strict reading of files with known columns: Parquet, Feather and delimited text, by name and kind, with errors that
name the file, the row (of text the line) and the column.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade._util.text import one_line
from pygrade.logs.table_files import PARQUET
from pygrade.logs.text_files import TextTable

if TYPE_CHECKING:
    import polars as pl

_KINDS = {  # kind → type of polars, and what it is
    "int": ("Int64", "a whole number of 64 bits"),
    "binary": ("Int64", "0 or 1"),
    "float": ("Float64", "a finite number"),
    "text": ("String", "a string"),
    "bool": ("Boolean", "true or false"),
    "time": ("Datetime", "a date and time"),
}
_TEXT = (".csv", ".tsv")


def by_kind(columns: Mapping[str, str]) -> dict[str, str]:
    """Kind → names with spaces between them, as column → kind."""
    return {name: kind for kind, names in columns.items() for name in names.split()}


def column_names(path: Path) -> list[str]:
    """Columns of a file; ValueError if it has none, or is cut off."""
    return _text(path).names if path.suffix in _TEXT else list(_schema(path).names)


def read_batches(path: Path, columns: Mapping[str, str], rows: int = 100_000) -> "Iterator[tuple[int, pl.DataFrame]]":
    """The named columns of a .parquet, .feather, .csv or .tsv file, a bounded number of rows at a time.

    Kinds of columns are int, binary, float, text, bool and time; with an s (ints) a list of such, with a question mark
    appended, values may be missing (null, NaN, of text nothing). Fields between commas may be quoted; between tabs a
    quote is an ordinary character. Every line is a row.

    Yields the number (from 0) of the first row, and the rows: int64, float64, str, bool, times as int64 ms since 1970,
    lists of these. ValueError names the file, the column and the row of a missing column, a missing or foreign value,
    and the line of text that cannot be read; TypeError a column of another type.
    """
    polars, pa = require("polars"), require("pyarrow")
    names, first = column_names(path), 0
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"{path}: column {missing[0]!r} is missing; the file has {', '.join(names)}")
    is_text = path.suffix in _TEXT
    try:
        for batch in _text(path).batches(list(columns), rows) if is_text else file_batches(path, rows, list(columns)):
            raw = {name: polars.from_arrow(batch.column(name)) for name in columns}
            frame = polars.DataFrame([_cast(path, first, n, raw[n], k).alias(n) for n, k in columns.items()])
            yield first, frame
            first += len(frame)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: corrupt after row {first} ({one_line(error)})") from error
    if first == 0:
        raise ValueError(f"{path}: the file has no rows")


def file_batches(path: Path, rows: int, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Arrow batches of at most so many rows of a Parquet or Arrow IPC file."""
    pa = require("pyarrow")
    if path.suffix.lower() in PARQUET:
        with require("pyarrow.parquet").ParquetFile(path) as parquet:
            yield from parquet.iter_batches(rows, columns=columns)
        return
    names = _schema(path).names
    options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns or names])
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file, options=options)
        for batch in map(reader.get_batch, range(reader.num_record_batches)):
            yield from (batch.slice(at, rows) for at in range(0, batch.num_rows, rows))


def refuse_row(path: Path, first: int, column: str, values: "pl.Series", bad: NDArray[np.bool_], want: str) -> None:
    """Raises ValueError that names the first bad value's file, row and column; ``first`` is the first value's row."""
    if bad.any():
        row = int(np.argmax(bad))
        value = values.slice(row, 1).to_list()[0]
        where = f"line {first + row + 2}" if path.suffix in _TEXT else f"row {first + row}"
        shown = repr(value) if isinstance(value, str) and value else "empty" if value == "" else value
        raise ValueError(f"{path}: {where}, column {column!r} is {shown}; expected {want}")


def _text(path: Path) -> TextTable:
    return TextTable.open(path, "\t" if path.suffix == ".tsv" else ",", quotes=path.suffix == ".csv")


def _schema(path: Path) -> Any:
    pa = require("pyarrow")
    try:
        if path.suffix.lower() in PARQUET:
            return require("pyarrow.parquet").read_schema(path)
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_file(file).schema
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a complete {path.suffix[1:]} file ({one_line(error)})") from error


def _cast(path: Path, first: int, name: str, values: "pl.Series", kind: str) -> "pl.Series":
    """The values in the type of their kind; refused where they have none."""
    polars, plain = require("polars"), kind.removesuffix("?")
    type_name, wanted = _KINDS[plain.removesuffix("s")]
    wanted = f"a list with {wanted} each" if plain.endswith("s") else wanted
    inner = polars.Datetime("ms") if type_name == "Datetime" else getattr(polars, type_name)
    is_list, own = isinstance(values.dtype, polars.List), getattr(values.dtype, "inner", values.dtype)
    right = is_list == plain.endswith("s") and ((own.is_temporal() == (type_name == "Datetime")) or own == polars.Null)
    if not right or (own == polars.String) > (type_name == "String" or path.suffix in _TEXT):
        raise TypeError(f"{path}: column {name!r} has type {values.dtype}; expected {wanted}")
    plain_values = values
    if path.suffix in _TEXT and kind != "text":  # of text, nothing is missing
        plain_values = (values if plain == "text" else values.str.strip_chars()).replace("", None)
    if own.is_float() and not is_list:
        plain_values = plain_values.fill_nan(None)
    typed: pl.Series = plain_values.cast(polars.List(inner) if is_list else inner, strict=False)
    bad = typed.is_null() & plain_values.is_not_null()
    if type_name == "Int64" and own.is_float() and not is_list:
        bad = bad | (typed != plain_values).fill_null(False)
    if not kind.endswith("?"):
        bad = bad | plain_values.is_null()
    if plain == "binary":
        bad = bad | ~typed.is_in([0, 1]).fill_null(True)
    if plain == "float":
        bad = bad | ~typed.is_finite().fill_null(True)
    refuse_row(path, first, name, values, bad.to_numpy(), wanted)
    if type_name == "Datetime":
        typed = typed.cast(polars.List(polars.Int64) if is_list else polars.Int64)
    return typed
