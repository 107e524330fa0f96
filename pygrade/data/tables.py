"""Strict reading of files with known columns: Parquet, Feather and delimited text, by name and kind, with errors that
name the file, the row (of text the line) and the column.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade._util.text import one_line
from pygrade.logs.text_files import TextTable

if TYPE_CHECKING:
    import polars as pl

WANTED = {
    "int": "a whole number of 64 bits",
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
"""Kinds of columns; with a question mark appended, values may be missing (null, NaN, of text nothing)."""

_TEXT = (".csv", ".tsv")


def by_kind(columns: Mapping[str, str]) -> dict[str, str]:
    """Kind → names with spaces between them, as column → kind."""
    return {name: kind for kind, names in columns.items() for name in names.split()}


def column_names(path: Path) -> list[str]:
    """Columns of a file; ValueError if it has none, or is cut off."""
    return _text(path).names if path.suffix in _TEXT else list(_schema(path).names)


def read_batches(path: Path, columns: Mapping[str, str], rows: int = 100_000) -> "Iterator[tuple[int, pl.DataFrame]]":
    """The named columns of a .parquet, .feather, .csv or .tsv file, a bounded number of rows at a time.

    Fields between commas may be quoted; between tabs a quote is an ordinary character. Every line is a row.

    Yields the number (from 0) of the first row, and the rows: int64, float64, str, bool, times as int64 ms since 1970,
    lists of these; ids int64 or str. ValueError names the file, the column and the row of a missing column, a missing
    or foreign value, and the line of text that cannot be read; TypeError a column of another type.
    """
    polars, pa = require("polars"), require("pyarrow")
    names, first = column_names(path), 0
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"{path}: column {missing[0]!r} is missing; the file has {', '.join(names)}")
    if path.suffix not in _TEXT:
        _check_types(path, columns)
    try:
        for batch in _batches(path, columns, rows):
            raw = {name: polars.from_arrow(batch.column(name)) for name in columns}
            read = _typed_text if path.suffix in _TEXT else _typed
            frame = polars.DataFrame([read(path, first, n, raw[n], k).alias(n) for n, k in columns.items()])
            yield first, frame
            first += len(frame)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: corrupt after row {first} ({one_line(error)})") from error
    if first == 0:
        raise ValueError(f"{path}: the file has no rows")


def refuse_row(path: Path, first: int, column: str, values: "pl.Series", bad: NDArray[np.bool_], want: str) -> None:
    """Raises ValueError that names the first bad value's file, row and column; ``first`` is the first value's row."""
    if bad.any():
        row = int(np.argmax(bad))
        value = values.slice(row, 1).to_list()[0]
        where = f"line {first + row + 2}" if path.suffix in _TEXT else f"row {first + row}"
        shown = repr(value) if isinstance(value, str) and value else "empty" if value == "" else value
        raise ValueError(f"{path}: {where}, column {column!r} is {shown}; want {want}")


def _text(path: Path) -> TextTable:
    return TextTable.open(path, "\t" if path.suffix == ".tsv" else ",", quotes=path.suffix == ".csv")


def _batches(path: Path, columns: Mapping[str, str], rows: int) -> Iterator[Any]:
    pa = require("pyarrow")
    if path.suffix == ".parquet":
        with require("pyarrow.parquet").ParquetFile(path) as parquet:
            yield from parquet.iter_batches(rows, columns=list(columns))
    elif path.suffix in _TEXT:
        yield from _text(path).batches(list(columns), rows)
    else:
        names = _schema(path).names
        options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns])
        with pa.OSFile(str(path)) as file:
            reader = pa.ipc.open_file(file, options=options)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                for at in range(0, batch.num_rows, rows):
                    yield batch.slice(at, rows)


def _schema(path: Path) -> Any:
    pa = require("pyarrow")
    try:
        if path.suffix == ".parquet":
            return require("pyarrow.parquet").read_schema(path)
        with pa.OSFile(str(path)) as file:
            return pa.ipc.open_file(file).schema
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a complete {path.suffix[1:]} file ({one_line(error)})") from error


def _check_types(path: Path, columns: Mapping[str, str]) -> None:
    schema = _schema(path)
    for name, kind in columns.items():
        if not _fits(schema.field(name).type, kind.rstrip("?")):
            wanted = WANTED[kind.rstrip("?")]
            raise TypeError(f"{path}: column {name!r} has type {schema.field(name).type}; want {wanted}")


def _fits(dtype: Any, kind: str) -> bool:
    types = require("pyarrow").types
    if kind in ("ints", "texts", "times", "floats"):
        if not (types.is_list(dtype) or types.is_large_list(dtype)):
            return False
        return types.is_null(dtype.value_type) or _fits(dtype.value_type, kind.rstrip("s"))
    if types.is_null(dtype):
        return True
    if types.is_dictionary(dtype):
        dtype = dtype.value_type
    number = types.is_integer(dtype) or types.is_floating(dtype) or types.is_boolean(dtype)
    text = types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype)
    fits = {"text": text, "bool": number, "time": types.is_timestamp(dtype), "id": types.is_integer(dtype) or text}
    return bool(fits.get(kind, number))


def _typed_text(path: Path, first: int, name: str, texts: "pl.Series", kind: str) -> "pl.Series":
    """A column of delimited text."""
    polars, plain = require("polars"), kind.rstrip("?")
    if plain == "text":
        swallowed = texts.str.contains("\n", literal=True).to_numpy()
        refuse_row(path, first, name, texts, swallowed, "a quote that is closed in its line")
        return texts.replace("", None) if kind.endswith("?") else texts
    bare = texts.str.strip_chars()
    found = bare.cast(polars.Float64 if plain == "float" else polars.Int64, strict=False)
    bad = found.is_null()
    if plain == "float":
        bad = bad | found.is_infinite() | found.is_nan()
    elif plain == "binary":
        bad = bad | ~found.is_in([0, 1])
    if kind.endswith("?"):
        bad = bad & (bare != "")
    refuse_row(path, first, name, texts, bad.fill_null(True).to_numpy(), WANTED[plain])
    typed: pl.Series = found
    return typed


def _typed(path: Path, first: int, name: str, values: "pl.Series", kind: str) -> "pl.Series":
    polars, plain, wanted = require("polars"), kind.rstrip("?"), WANTED[kind.rstrip("?")]
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
