"""Strict reading of delimited text: columns by name and kind, errors that name the file, the line and the column."""

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade._util.optional_imports import require

Table = dict[str, Array]

WANTED = {
    "int": "a whole number of 64 bits",
    "binary": "0 or 1",
    "float": "a finite number",
    "float?": "a finite number or nothing",
}
"""Kinds of columns: int64; int8, 0 or 1; float64, finite; float64, NaN where empty. Beside these there is text: str."""

_BLOCK_BYTES = 1 << 20  # pyarrow reads up to 32 blocks ahead


def by_kind(columns: Mapping[str, str]) -> dict[str, str]:
    """Kind → names with spaces between them, as column → kind."""
    return {name: kind for kind, names in columns.items() for name in names.split()}


def read_header(path: Path, delimiter: str = ",") -> list[str]:
    """Column names of the first line. Raises ValueError if the file is empty or names a column twice."""
    names = next((fields for _, fields in _lines(path, delimiter)), [])
    if not names:
        raise ValueError(f"{path}: the file is empty; want a header line that names the columns")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: line 1 names column {twice[0]!r} more than once")
    return names


@dataclass(frozen=True)
class Lines:
    """A piece of a file, for a job."""

    path: Path
    start: int  # bytes start ≤ … < stop
    stop: int
    first: int  # the number of the first line
    count: int

    def __str__(self) -> str:
        return f"{self.path}, lines {self.first} to {self.first + self.count - 1}"


def whole_lines(path: Path, size: int | None = None) -> list[Lines]:
    """Pieces of about ``size`` bytes (default: one) of the lines below the header."""
    pieces = []
    with path.open("rb") as file:
        start = position = len(file.readline())
        line, count = 2, 0
        while block := file.read(_BLOCK_BYTES):
            if size is not None and position + len(block) - start >= size:
                block += file.readline()
            count += block.count(b"\n") + (not block.endswith(b"\n") and not file.peek(1))
            position += len(block)
            if size is not None and position - start >= size:
                pieces.append(Lines(path, start, position, line, count))
                start, line, count = position, line + count, 0
    if count or not pieces:
        pieces.append(Lines(path, start, position, line, count))
    return pieces


def read_blocks(
    path: Path,
    columns: Mapping[str, str],
    *,
    delimiter: str = ",",
    check: Callable[[Path, Table, int], None] | None = None,
    keep: Callable[[Table], NDArray[np.bool_]] | None = None,
    piece: Lines | None = None,
) -> Iterator[tuple[int, Table]]:
    """Reads the named columns of one file, in blocks of a bounded size, each with the line of its first row.

    ``piece``: only these lines.

    ``columns`` maps a name to a kind, one of `WANTED` or text; other columns of the file are skipped. Fields between
    commas may be quoted; with another delimiter a quote is an ordinary character. ``check`` gets the path, each block
    and the line of its first row, and may raise; ``keep`` returns a bool mask of a block's rows.

    Every line is one row. ValueError names the file, the line (the header is line 1) and the column of a missing
    column, a short or long line, an open quote, an empty or unreadable value, a binary that is neither 0 nor 1.
    """
    pa = require("pyarrow")
    pa_csv, compute = require("pyarrow.csv"), require("pyarrow.compute")
    header = read_header(path, delimiter)
    missing = [name for name in columns if name not in header]
    if missing:
        raise ValueError(f"{path}: column {missing[0]!r} is missing; the file has {', '.join(header)}")
    piece = piece or whole_lines(path)[0]
    if not piece.count:
        raise ValueError(f"{path}: the file has a header and no rows")
    types = {"int": pa.int64(), "binary": pa.int64(), "text": pa.string()}
    line = piece.first
    try:
        reader = pa_csv.open_csv(
            pa.OSFile(str(path)).get_stream(piece.start, piece.stop - piece.start),
            read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=header),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, quote_char=delimiter == "," and '"', ignore_empty_lines=False
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(columns),
                column_types={name: types.get(kind, pa.float64()) for name, kind in columns.items()},
                null_values=[""],
                strings_can_be_null=False,
            ),
        )
        for batch in reader:
            texts = [batch.column(name) for name, kind in columns.items() if kind == "text"]
            if any(compute.any(compute.match_substring(text, "\n")).as_py() for text in texts):
                raise pa.ArrowInvalid("a text holds a line feed")
            block = {name: _checked(path, name, kind, batch.column(name), line) for name, kind in columns.items()}
            if check is not None:
                check(path, block, line)
            if keep is not None:
                mask = keep(block)
                block = {name: values[mask] for name, values in block.items()}
            yield line, block
            line += batch.num_rows
    except pa.ArrowInvalid as error:
        _diagnose(path, header, columns, delimiter)
        raise ValueError(f"{path}: {error}") from error
    if line - piece.first != piece.count:  # pyarrow drops what an open quote swallows
        _diagnose(path, header, columns, delimiter)
        raise ValueError(
            f"{path}: {line - piece.first} rows were read from {piece.count} lines; want a header and one row a line"
        )


def refuse(path: Path, line: int, column: str, values: Array, bad: NDArray[np.bool_], want: str) -> None:
    """Raises ValueError that names the first bad value's file, line and column; ``line`` is the first value's."""
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{path}: line {line + row}, column {column!r} is {values[row]}; want {want}")


def _checked(path: Path, name: str, kind: str, column: Any, line: int) -> Array:
    if column.null_count and kind in ("int", "binary", "float"):
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{path}: line {line + row}, column {name!r} is empty; want {WANTED[kind]}")
    values: Array = column.to_numpy(zero_copy_only=False)
    if kind == "binary":
        refuse(path, line, name, values, (values != 0) & (values != 1), WANTED[kind])
        return values.astype(np.int8)
    if kind == "float":
        refuse(path, line, name, values, ~np.isfinite(values), WANTED[kind])
    elif kind == "float?":
        refuse(path, line, name, values, np.isinf(values), WANTED[kind])
    return values


def _lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line, parsed by itself. ValueError names a line that can't be parsed."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, next(csv.reader([text], delimiter=delimiter, quoting=quoting, strict=True), [])
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: line {number} is not UTF-8 text ({error.reason})") from error
            except csv.Error as error:
                reason = "a quote is not closed" if "unexpected end" in str(error) else error
                raise ValueError(f"{path}: line {number} is not readable as delimited text ({reason})") from error


def _diagnose(path: Path, header: list[str], columns: Mapping[str, str], delimiter: str) -> None:
    """Reads again, slowly, and raises ValueError that names the first line and column that the block reader refused."""
    places = [(header.index(name), name, kind) for name, kind in columns.items() if kind != "text"]
    for number, fields in _lines(path, delimiter):
        where = f"{path}: line {number}"
        if number == 1:
            continue
        if len(fields) > 1 and len(fields) != len(header):
            raise ValueError(f"{where} has {len(fields)} fields; the header names {len(header)} (a cut-off file?)")
        for place, name, kind in places:
            text = fields[place].strip() if place < len(fields) else ""
            if text == "":
                if kind == "float?":
                    continue
                raise ValueError(f"{where}, column {name!r} is empty; want {WANTED[kind]}")
            try:
                value = float(text) if kind.startswith("float") else int(text)
                good = value in (0, 1) if kind == "binary" else kind != "int" or -(2**63) <= value < 2**63
            except ValueError:
                good = False
            if not good:
                raise ValueError(f"{where}, column {name!r} is {text!r}; want {WANTED[kind]}")
