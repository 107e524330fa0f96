"""Strict reading of delimited text: columns by name and kind, errors that name the file, the line and the column."""

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require

Table = dict[str, NDArray[Any]]

KINDS = ("int", "binary", "float", "float?", "text")
"""int64; int8 that must be 0 or 1; float64, finite; float64 with NaN where empty; str."""

_BLOCK_BYTES = 1 << 20  # pyarrow reads up to 32 blocks ahead


def read_header(path: Path, delimiter: str = ",") -> list[str]:
    """Column names of the first line. Raises ValueError where the file is empty or names a column twice."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            names = next(csv.reader(file, delimiter=delimiter), [])
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: line 1 is not UTF-8 text ({error.reason})") from error
    if not names:
        raise ValueError(f"{path}: the file is empty; want a header line that names the columns")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: line 1 names column {twice[0]!r} more than once")
    return names


def read_table(
    path: Path,
    columns: Mapping[str, str],
    *,
    delimiter: str = ",",
    check: Callable[[Path, Table, int], None] | None = None,
    keep: Callable[[Table], NDArray[np.bool_]] | None = None,
) -> Table:
    """The blocks of `read_blocks` as one table; memory follows what ``keep`` lets through."""
    blocks = read_blocks(path, columns, delimiter=delimiter, check=check, keep=keep)
    return concat_tables([block for _, block in blocks])


def read_blocks(
    path: Path,
    columns: Mapping[str, str],
    *,
    delimiter: str = ",",
    check: Callable[[Path, Table, int], None] | None = None,
    keep: Callable[[Table], NDArray[np.bool_]] | None = None,
) -> Iterator[tuple[int, Table]]:
    """Reads the named columns of one file, in blocks of a bounded size, each with the line of its first row.

    ``columns`` maps a name to one of `KINDS`; other columns of the file are skipped. ``check`` gets the path, each
    block and the line of its first row, to raise what it must; ``keep`` returns a bool mask of a block's rows. Raises
    ValueError naming the file, the line (the header is line 1) and the column for a missing column, a short or long
    line, an empty or unreadable value, a binary that is neither 0 nor 1.
    """
    pa = require("pyarrow")
    pa_csv = require("pyarrow.csv")
    header = read_header(path, delimiter)
    missing = [name for name in columns if name not in header]
    if missing:
        raise ValueError(f"{path}: column {missing[0]!r} is missing; the file has {', '.join(header)}")
    types = {"int": pa.int64(), "binary": pa.int64(), "text": pa.string()}
    line = 2
    try:
        reader = pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(columns),
                column_types={name: types.get(kind, pa.float64()) for name, kind in columns.items()},
                null_values=[""],
                strings_can_be_null=False,
            ),
        )
        for batch in reader:
            block = {name: _checked(path, name, kind, batch.column(name), line) for name, kind in columns.items()}
            if check is not None:
                check(path, block, line)
            if keep is not None:
                mask = keep(block)
                block = {name: values[mask] for name, values in block.items()}
            yield line, block
            line += batch.num_rows
    except pa.ArrowInvalid as error:
        raise ValueError(_diagnose(path, header, columns, delimiter) or f"{path}: {error}") from error
    if line == 2:
        raise ValueError(f"{path}: the file has a header and no rows")


def refuse(path: Path, line: int, column: str, values: NDArray[Any], bad: NDArray[np.bool_], want: str) -> None:
    """Raises ValueError that names the first bad value's file, line and column; ``line`` is the first value's."""
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{path}: line {line + row}, column {column!r} is {values[row]}; want {want}")


def concat_tables(tables: list[Table]) -> Table:
    """The rows of several tables with the same columns, one after another."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _checked(path: Path, name: str, kind: str, column: Any, line: int) -> NDArray[Any]:
    if column.null_count and kind in ("int", "binary", "float"):
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{path}: line {line + row}, column {name!r} is empty; want {_wanted(kind)}")
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    bad = np.zeros(0, dtype=np.int64)
    if kind == "binary":
        bad = np.flatnonzero((values != 0) & (values != 1))
    elif kind == "float":
        bad = np.flatnonzero(~np.isfinite(values))
    elif kind == "float?":
        bad = np.flatnonzero(np.isinf(values))
    if bad.size:
        row = int(bad[0])
        raise ValueError(f"{path}: line {line + row}, column {name!r} is {values[row]}; want {_wanted(kind)}")
    return values.astype(np.int8) if kind == "binary" else values


def _wanted(kind: str) -> str:
    wanted = {"int": "a whole number", "binary": "0 or 1", "float": "a finite number"}
    return wanted.get(kind, "a finite number or nothing")


def _diagnose(path: Path, header: list[str], columns: Mapping[str, str], delimiter: str) -> str | None:
    """Reads again, slowly, to name the first line and column that the block reader refused."""
    places = [(header.index(name), name, kind) for name, kind in columns.items() if kind != "text"]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter)
            next(rows)
            for fields in rows:
                where = f"{path}: line {rows.line_num}"
                if len(fields) != len(header):
                    return f"{where} has {len(fields)} fields; the header names {len(header)} (a cut-off file?)"
                for place, name, kind in places:
                    text = fields[place].strip()
                    if text == "":
                        if kind != "float?":
                            return f"{where}, column {name!r} is empty; want {_wanted(kind)}"
                        continue
                    try:
                        number = float(text) if kind.startswith("float") else int(text)
                    except ValueError:
                        return f"{where}, column {name!r} is {text!r}; want {_wanted(kind)}"
                    if kind == "binary" and number not in (0, 1):
                        return f"{where}, column {name!r} is {text}; want {_wanted(kind)}"
    except (UnicodeDecodeError, csv.Error) as error:
        return f"{path}: not readable as delimited text ({error})"
    return None
