"""CSV and JSON lines, read by pyarrow: every row of the file, or an error that names the line."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require
from pygrade._util.text import shortened

_DELIMITERS = (",", ";", "\t", "|")
_NULLS = ["", "NULL", "null", "NA", "NaN", "nan", "None"]
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # how UTF-16 begins
_BLOCK = (1 << 31) - 1


def read_csv(path: Path) -> Any:
    """The Arrow table of a file with a line of names; ValueError names the line that cannot be read."""
    pa, csv = require("pyarrow"), require("pyarrow.csv")
    with pa.input_stream(str(path)) as stream:
        start = stream.read(1 << 16)
    encoding = "utf-16" if start[:2] in _WIDE else "utf8"
    first = start.decode("utf-8-sig" if encoding == "utf8" else encoding, "replace").splitlines()[0]
    delimiter = max(_DELIMITERS, key=first.count)
    options: dict[str, Any] = {
        "parse_options": csv.ParseOptions(delimiter=delimiter),
        "convert_options": csv.ConvertOptions(strings_can_be_null=True, null_values=_NULLS),
    }
    try:
        table = csv.read_csv(path, read_options=csv.ReadOptions(encoding=encoding), **options)
    except pa.ArrowInvalid as error:
        if "conversion error" not in str(error):
            _refuse_line(path, encoding, options)
            raise
        # types are taken from the first block: now it is the file
        table = csv.read_csv(path, read_options=csv.ReadOptions(block_size=_BLOCK, encoding=encoding), **options)
    try:
        _check_names(path, table.column_names)
    except UnicodeDecodeError:
        _refuse_bytes(path)
        raise
    if any(pa.types.is_binary(kind) for kind in table.schema.types):
        _refuse_bytes(path)
    _check_quotes(path, table, delimiter)
    return table


def read_json(path: Path) -> Any:
    """The Arrow table of a file with an object a line, or of one list of objects."""
    pa = require("pyarrow")
    with pa.input_stream(str(path)) as stream:
        begin = stream.read(64).lstrip()[:1]
    if begin == b"[":
        with pa.input_stream(str(path)) as stream:
            return pa.Table.from_pylist(json.loads(stream.read()))
    try:
        table = require("pyarrow.json").read_json(path)
        table.validate(full=True)  # else text of another encoding fails later
    except pa.ArrowInvalid:
        _refuse_object(path)
        raise
    return table


def _check_names(path: Path, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"{path}, line 1: column {twice[0]!r} is there more than once; want a name of its own for each"
        )
    if all(re.fullmatch(r"[-+.\d]*", name) for name in names):
        raise ValueError(
            f"{path}, line 1: {shortened(', '.join(names))!r} are no names of columns; want a line of names"
        )


def _refuse_line(path: Path, encoding: str, options: dict[str, Any]) -> None:
    """ValueError with the number of the first line that has more or fewer columns than the first."""
    csv, found = require("pyarrow.csv"), []

    def keep(row: Any) -> str:
        found.append(row)
        return "error"

    parse = csv.ParseOptions(delimiter=options["parse_options"].delimiter, invalid_row_handler=keep)
    try:
        read = csv.ReadOptions(use_threads=False, encoding=encoding)
        csv.read_csv(path, read_options=read, **{**options, "parse_options": parse})
    except require("pyarrow").ArrowInvalid:
        if not found:
            return
        row = found[0]
        many = "is a text with the delimiter not quoted?"
        why = many if row.actual_columns > row.expected_columns else "is the file cut off?"
        why = "a quote is opened and not closed" if "\n" in row.text else why
        raise ValueError(
            f"{path}, line {_line_of(path, row.number, row.text)}: {row.actual_columns} columns, want "
            f"{row.expected_columns} as in line 1: {shortened(row.text)!r} ({why})"
        ) from None


def _check_quotes(path: Path, table: Any, delimiter: str) -> None:
    """ValueError if a quote that is opened and not closed has made one cell of several lines.

    Such a cell holds the ends of its first line, the whole lines between, and the beginning of its last: as many
    delimiters as so many lines have.
    """
    pa, pc = require("pyarrow"), require("pyarrow.compute")
    for name in table.column_names:
        if not pa.types.is_string(table.schema.field(name).type):
            continue
        column = pc.utf8_rtrim(table.column(name), "\n")  # a quote may be open up to the end of the file
        breaks = pc.count_substring(column, "\n")
        needed = pc.multiply(breaks, table.num_columns - 1)
        swallowed = pc.and_(pc.greater(breaks, 0), pc.equal(pc.count_substring(column, delimiter), needed))
        row = pc.index(pc.fill_null(swallowed, False), True).as_py()
        if row >= 0:
            text, count = column[row].as_py(), breaks[row].as_py()
            raise ValueError(
                f"{path}, line {_line_of(path, row + 2, text)}: a quote is opened at {shortened(text)!r} and closed "
                f"{count:,} lines below, which would be one row; want quotes in a text doubled, or removed"
            )


def _line_of(path: Path, row: int, text: str) -> int:
    """The number of the line with the beginning of a text: at or below that of its row, as lines may be blank."""
    start = text.split("\n")[0].encode()
    return next((number for number, line in _lines(path) if number >= row and start in line), row)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with require("pyarrow").input_stream(str(path)) as stream:
        rest, number = b"", 0
        while block := stream.read(1 << 20):
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                number += 1
                yield number, line
        if rest:
            yield number + 1, rest


def _refuse_bytes(path: Path) -> None:
    """ValueError with the first line that is no UTF-8."""
    for number, line in _lines(path):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: byte 0x{line[error.start]:02x} after "
                f"{shortened(line[: error.start].decode()[-20:])!r} is no UTF-8; save the file as UTF-8 "
                "(iconv -f WINDOWS-1252 -t UTF-8, if Windows wrote it)"
            ) from None


def _refuse_object(path: Path) -> None:
    """ValueError with the first line that is no object, or whose values have another type than those before."""
    _refuse_bytes(path)
    kinds: dict[str, str] = {}
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {shortened(line.decode())!r} is no JSON ({error})") from None
        if not isinstance(found, dict):
            raise ValueError(f"{path}, line {number}: {shortened(line.decode())!r}; want an object with names")
        for name, value in found.items():
            kind = "number" if type(value) in (int, float) else type(value).__name__
            if value is not None and kinds.setdefault(name, kind) != kind:
                raise ValueError(f"{path}, line {number}: {name!r} is a {kind}, and a {kinds[name]} in lines before")
