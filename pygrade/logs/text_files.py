"""Delimited text, read by DuckDB, and JSON lines, by pyarrow: every row of a file, or an error that names the line."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require
from pygrade._util.sql import connect, quoted
from pygrade._util.sql import text as sql_text
from pygrade._util.text import one_line, shortened
from pygrade.logs.packed_files import check_text
from pygrade.logs.roles import ENCODING

_DELIMITERS = (",", ";", "\t", "|")
_NULLS = ("", "NULL", "null", "NA", "NaN", "nan", "None", "\\N")
_ENCODINGS = ("utf-8", "latin-1", "utf-16")
_OR_SAY = ", or name its encoding: --map encoding=latin-1"
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # how UTF-16 begins
_WHOLE = r"[+-]?(0|[1-9]\d{0,17})"  # a leading zero makes a code of it: 07 and 7 are two
_DECIMAL = r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?"
_FORMS = {"bigint": _WHOLE, "double": f"(?i){_DECIMAL}"}  # type → form of its values, the narrowest first
_SAMPLE = 20_000  # rows that rule types out
_FAULT = re.compile(
    r"CSV Error on Line: (\d+)\n(?:Original Line: (.*?)\n)?(Expected|Value|Invalid|Maximum)([^\n]*)", re.S
)


@dataclass(frozen=True)
class TextTable:
    """A file of delimited text with a line of names; ``quotes``: fields may be quoted."""

    path: Path
    names: list[str]
    delimiter: str
    encoding: str
    quotes: bool = True

    @classmethod
    def open(
        cls, path: Path, delimiter: str = "", quotes: bool = True, stated_roles: Mapping[str, str] | None = None
    ) -> "TextTable":
        """The table of a file; not given, the delimiter is the most frequent of the first line. ValueError if the file
        has no names of columns, or one twice, unless ``stated_roles`` name each by its place, as score:1 and score:2.
        """
        check_text(path)
        with require("pyarrow").input_stream(str(path)) as stream:
            start = stream.read(1 << 16)
        encoding = (stated_roles or {}).get(ENCODING, "utf-16" if start[:2] in _WIDE else "utf-8")
        if encoding not in _ENCODINGS:
            raise ValueError(f"encoding is {encoding!r}; expected one of {', '.join(_ENCODINGS)}")
        head = next(iter(start.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace").splitlines()), "")
        delimiter = delimiter or max(_DELIMITERS, key=head.count)
        names = next(csv.reader([head], delimiter=delimiter), [])
        if not names:
            raise ValueError(f"{path}: the file is empty; expected a header line that names the columns")
        if "\ufffd" in head:
            _refuse_bytes(path, _OR_SAY)
        if twice := {name for name, count in Counter(names).items() if count > 1}:
            own = [f"{name}:{names[: place + 1].count(name)}" for place, name in enumerate(names)]
            places = [place for place, name in zip(own, names, strict=True) if name in twice]
            words = {word for column in (stated_roles or {}).values() for word in (column, *column.split("+"))}
            if not words >= {*places}:
                raise ValueError(
                    f"{path}, line 1: column {places[0].rpartition(':')[0]!r} is there more than once; expected a name "
                    f"for each, or {' and '.join(places)} by place, e.g. p_TASK={places[0]}"
                )
            names = [place if name in twice else name for place, name in zip(own, names, strict=True)]
        if all(re.fullmatch(r"[-+.\d]*", name) for name in names):
            line = shortened(", ".join(names))
            raise ValueError(f"{path}, line 1: {line!r} are no names of columns; expected a line of names")
        return cls(path, names, delimiter, encoding, quotes)

    @property
    def source(self) -> str:
        """All columns as text, as a table of SQL."""
        columns = ", ".join(f"{sql_text(name)}: 'VARCHAR'" for name in self.names)
        quote = sql_text('"' if self.quotes else "")
        options = f"columns = {{{columns}}}, delim = {sql_text(self.delimiter)}, quote = {quote}, escape = {quote}"
        more = "auto_detect = false, header = true, strict_mode = true, null_padding = false, max_line_size = 100000000"
        return f"read_csv({sql_text(str(self.path))}, {options}, encoding = '{self.encoding}', {more})"

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Any]:
        """Some columns as text, "" where they are empty, as Arrow batches."""
        named = (f"coalesce({quoted(name)}, '') as {quoted(name)}" for name in self.names)
        for batch in self._checked(f"select {', '.join(named)} from {self.source}", rows):
            yield batch.select(columns)

    def typed_batches(self, rows: int) -> Iterator[Any]:
        """All columns, integers and decimals where all values of the file are some, as Arrow batches."""
        return self._checked(self._typed(), rows)

    def _checked(self, query: str, rows: int) -> Iterator[Any]:
        """ValueError names a line that cannot be read, and one of several that a quote made one."""
        first = 0
        for batch in self._read(query, rows):
            self._check_quotes(batch, first)
            yield batch
            first += batch.num_rows

    def empty(self) -> Any:
        """An Arrow table with the columns of `typed_batches`, and no row."""
        pa = require("pyarrow")
        with connect(files=[self.path]) as connection:
            return pa.table(connection.sql(f"select * from ({self._typed()}) limit 0").to_arrow_table())

    def _typed(self) -> str:
        nulls = ", ".join(map(sql_text, _NULLS))
        filled = {name: f"case when {quoted(name)} not in ({nulls}) then {quoted(name)} end" for name in self.names}

        def fits(tests: Sequence[tuple[str, str]], source: str) -> list[bool | None]:
            """The tests, each of a column and a type, that all values pass; None if there is no value."""
            matches = (f"bool_and(regexp_full_match({filled[name]}, {sql_text(_FORMS[t])}))" for name, t in tests)
            (batch,) = self._read(f"select [{', '.join(matches)}] from {source}", 1)
            result: list[bool | None] = batch.column(0)[0].as_py()
            return result

        tests = [(name, t) for name in self.names for t in _FORMS]
        of_sample = dict(zip(tests, fits(tests, f"(select * from {self.source} limit {_SAMPLE})"), strict=True))
        possible = {name: [t for t in _FORMS if of_sample[name, t] is not False] for name in self.names}
        types = dict.fromkeys(self.names, "varchar")
        while tests := [(name, left.pop(0)) for name, left in possible.items() if left and types[name] == "varchar"]:
            types |= {name: t for (name, t), fit in zip(tests, fits(tests, self.source), strict=True) if fit}
        casts = [f"({value})::{types[name]} as {quoted(name)}" for name, value in filled.items()]
        return f"select {', '.join(casts)} from {self.source}"

    def _read(self, query: str, rows: int) -> Iterator[Any]:
        duckdb = require("duckdb")
        try:
            with connect(files=[self.path]) as connection:
                yield from connection.sql(query).to_arrow_reader(rows)
        except (duckdb.Error, OSError) as error:
            raise self._named(error) from None

    def _named(self, error: Exception) -> ValueError:
        match = _FAULT.search(str(error))
        if match is None:
            return ValueError(f"{self.path} is not a complete {self.path.suffix} file: {one_line(error)}")
        if match[3] == "Invalid":
            _refuse_bytes(self.path, _OR_SAY)
        text = f"{match[3]}{match[4]}".rstrip(". ").lower()
        if "unterminated quote" in text:
            text = "a quote is opened and not closed"
        if cut := re.search(r"columns: (\d+) found: (\d+)", text):
            why = "is a text with the delimiter not quoted?" if int(cut[2]) > int(cut[1]) else "is the file cut off?"
            text = f"{cut[2]} columns, expected {cut[1]} as in line 1 ({why})"
        line = f": {shortened(match[2].strip())!r}" if match[2] else ""
        return ValueError(f"{self.path}, line {match[1]}: {text}{line}")

    def _check_quotes(self, batch: Any, first: int) -> None:
        """ValueError if a quote that is opened and not closed has made one cell of several lines.

        Such a cell holds the ends of its first line, the whole lines between, and the beginning of its last: as many
        delimiters as so many lines have.
        """
        pa, pc = require("pyarrow"), require("pyarrow.compute")
        for column in batch.columns:
            if not pa.types.is_string(column.type):
                continue
            breaks = pc.count_substring(column, "\n")
            needed = pc.multiply(breaks, len(self.names) - 1)
            swallowed = pc.and_(pc.greater(breaks, 0), pc.equal(pc.count_substring(column, self.delimiter), needed))
            row = pc.index(pc.fill_null(swallowed, False), True).as_py()
            if row >= 0:
                text, count = column[row].as_py(), breaks[row].as_py()
                start = text.split("\n")[0].encode()
                lines = (number for number, line in _lines(self.path) if number >= first + row + 2 and start in line)
                raise ValueError(
                    f"{self.path}, line {next(lines, first + row + 2)}: a quote is opened at {shortened(text)!r} and "
                    f"closed {count:,} lines below, all as one row; expected quotes in a text doubled or removed"
                )


def read_csv(path: Path, stated_roles: Mapping[str, str] | None = None) -> Any:
    """The Arrow table of a file with a line of names; ValueError names the line that cannot be read."""
    pa = require("pyarrow")
    text = TextTable.open(path, stated_roles=stated_roles)
    if not (batches := list(text.typed_batches(1 << 16))):
        return pa.table({name: pa.nulls(0) for name in text.names})
    table = pa.Table.from_batches(batches)
    for number, column in enumerate(table.columns):
        if column.null_count == len(column):  # of any type in other files
            table = table.set_column(number, table.column_names[number], pa.nulls(len(column)))
    return table


def read_json(path: Path) -> Any:
    """The Arrow table of a file with an object a line, or of one list of objects."""
    pa = require("pyarrow")
    check_text(path)
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


def _refuse_bytes(path: Path, more: str = "") -> None:
    """ValueError with the first line that is no UTF-8."""
    for number, line in _lines(path):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: byte 0x{line[error.start]:02x} after "
                f"{shortened(line[: error.start].decode()[-20:])!r} is no UTF-8; save the file as UTF-8 "
                f"(iconv -f WINDOWS-1252 -t UTF-8, if Windows wrote it){more}"
            ) from None


def _refuse_object(path: Path) -> None:
    """ValueError with the first line that is no object, or whose values have another type than those before."""
    _refuse_bytes(path)
    kinds: dict[str, str] = {}
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {shortened(line.decode())!r} is no JSON ({error})") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: {shortened(line.decode())!r}; expected an object with names")
        for name, value in record.items():
            kind = "number" if type(value) in (int, float) else type(value).__name__
            if value is not None and kinds.setdefault(name, kind) != kind:
                raise ValueError(f"{path}, line {number}: {name!r} is a {kind}, and a {kinds[name]} in lines before")
