"""Tables of any format in batches, and their values as a schema needs them: ids, times, numbers, attributes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade._util.text import one_line
from pygrade.data.event_schema import Attribute, AttributeTable, EventSchema, EventTable, column_uses
from pygrade.data.event_writer import EventWriter
from pygrade.data.tables import file_batches
from pygrade.logs import conversion
from pygrade.logs.conversion import ImportNotes
from pygrade.logs.expressions import missing_column, parse_expression
from pygrade.logs.nested import flat, unnested
from pygrade.logs.table import Table
from pygrade.logs.table_files import CSV, PARQUET, read_table
from pygrade.logs.table_formats import format_of, kind_of, refuse_loose, split_version
from pygrade.logs.text_files import TextTable
from pygrade.logs.text_times import read_times
from pygrade.storage import Place, download, is_url

if TYPE_CHECKING:
    import polars as pl

BATCH_ROWS = 100_000
WHOLE = r"^-?(0|[1-9]\d{0,17})$"  # a text that is a whole number, and the only one that is
_SEPARATORS = r"[,;|]"


# ---- batches ---------------------------------------------------------------------------------------------------------
def streamed_files(place: Place) -> list[Path]:
    """The files of a place that are read piece by piece, Parquet or text; none of one that is read whole.

    FileNotFoundError if nothing is there; ValueError names a file that is in a Delta or Iceberg table.
    """
    base, version = split_version(place)
    if version is not None or format_of(base):
        return []
    path = download(place) if is_url(place) else Path(place)
    if not path.exists():
        raise FileNotFoundError(f"{place} does not exist; expected a file or a directory of files")
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    if not all(file.is_file() and file.suffix.lower() in (*PARQUET, *CSV) for file in inside):
        return []
    refuse_loose(path)
    return inside


def read_batches(place: Place, item: str = "") -> Iterator["Batch"]:
    """The rows of a file, directory or table, a bounded number at a time (of others than Parquet and text, all are read
    first).

    Fields of structures are columns; where ``item`` is a column of lists, each item is a row.
    """
    pa = require("pyarrow")
    if not (files := streamed_files(place)):
        arrow, where = read_table([place])
        for first in range(0, len(arrow), BATCH_ROWS):
            yield _batch(arrow.slice(first, BATCH_ROWS), where, first, item)
    for path in files:
        first = 0
        try:
            is_text = path.suffix.lower() in CSV
            for batch in TextTable.open(path).typed_batches(BATCH_ROWS) if is_text else file_batches(path, BATCH_ROWS):
                if batch.num_rows:
                    yield _batch(pa.Table.from_batches([batch]), path.name, first, item)
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: corrupt after row {first} ({one_line(error)})") from error


def _batch(arrow: Any, where: str, first: int, item: str) -> "Batch":
    arrow = flat(arrow)
    if item not in arrow.column_names or not require("pyarrow").types.is_nested(arrow.schema.field(item).type):
        at = np.arange(len(arrow))
        return Batch(Table(arrow, where, first + at, at))
    arrow, _, parents = unnested(arrow, where, {"item_id": item})
    return Batch(Table(arrow, where, None, np.arange(len(arrow)), parents=None if parents is None else first + parents))


def schema_of(place: Place) -> Any:
    """The Arrow schema of a place; of others than Parquet after reading it."""
    if (files := streamed_files(place)) and files[0].suffix.lower() in PARQUET:
        return flat(require("pyarrow.parquet").read_schema(files[0]).empty_table()).schema
    return flat(TextTable.open(files[0]).empty() if files else read_table([place])[0]).schema


def file_names(table: EventTable | AttributeTable) -> str:
    """The names of a table's files, for people."""
    return ", ".join(Path(file).name for file in table.files)


def left_out(table: EventTable | AttributeTable, rows: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each reason that some rows of a table have."""
    return (f"{file_names(table)}: {count:,} rows {reason}" for reason, count in rows.items() if count)


# ---- values ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Values:
    """Rules to read columns: values that mean nothing, hours of clocks without a zone, kinds of ids that are text."""

    unknown: tuple[Any, ...] = ()
    utc_offset_hours: float = 0.0
    named: frozenset[str] = frozenset()


def text_ids(schema: EventSchema) -> frozenset[str]:
    """The kinds of ids (user, item, request) that are text in some table.

    ValueError names every file that is missing, and every column that its files lack.
    """
    problems, named = list[str](), set[str]()
    listed = [("events", t) for t in schema.events] + [("users", t) for t in schema.users]
    for name, table in [*listed, *(("items", t) for t in schema.items)]:
        for file in table.files:
            try:
                arrow = schema_of(schema.place(file))
            except FileNotFoundError as error:
                problems.append(f"[[{name}]] files: {error}")
                continue
            for key, column in column_uses(table):
                try:
                    if column not in arrow.names:
                        _check_parts(column, key, arrow.names, file)
                except ValueError as error:
                    problems.append(f"[[{name}]] {key}: {error}")
            named |= {kind for kind, column in _id_columns(name, table) if _is_text(arrow, column)}
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))
    return frozenset(named)


def _check_parts(column: str, key: str, names: Sequence[str], where: str) -> None:
    if key in ("user", "item", "request", "id", "time", "kind", "scenario", "slot"):
        missing = [name for name in column.split("+") if name not in names]
        if missing or key in ("time", "kind", "scenario", "slot"):
            raise missing_column((missing or [column])[0], names, where)
        return
    parse_expression(column, names, where)


def _id_columns(name: str, table: EventTable | AttributeTable) -> list[tuple[str, str]]:
    if isinstance(table, AttributeTable):
        return [(name.removesuffix("s"), table.id)]
    listed = [("user", table.user), ("item", table.item), ("request", table.request or "")]
    return [(kind, column) for kind, column in listed if column]


def _is_text(arrow: Any, column: str) -> bool:
    if column not in arrow.names:
        return "+" in column
    dtype = arrow.field(column).type
    dtype = dtype.value_type if kind_of(dtype) in ("list", "vector") else dtype
    return kind_of(dtype) not in ("integer", "number", "empty")


class Batch:
    """Some rows of a table."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def take(self, keep: NDArray[np.bool_]) -> "Batch":
        """Some of the rows, at least one."""
        return self if keep.all() else Batch(self.table.kept(keep))

    def present(self, column: str, values: Values) -> NDArray[np.bool_]:
        """Return whether an id or time is there, and all of several columns joined by +, bool, of shape [M]."""
        table = self.table
        if column not in table.names and "+" in column:
            parts: NDArray[np.bool_] = np.all([self.present(name, values) for name in column.split("+")], axis=0)
            return parts
        there = ~table.nulls(self.checked(column))
        if table.kind(column) == "text":
            filled = np.array([bool(level.strip()) and level not in values.unknown for level in table.levels(column)])
            there &= np.append(filled, False)[table.codes(column)]
        elif values.unknown and table.kind(column) in ("integer", "number"):
            there &= ~np.isin(table.numbers(column), _numbers_of(values.unknown))
        return there

    def checked(self, column: str) -> str:
        """The column; ValueError if the table lacks it."""
        if column not in self.table.names:
            raise missing_column(column, self.table.names, self.table.where)
        return column

    def ids(self, column: str, kind: str, values: Values, writer: EventWriter) -> "pl.Series":
        """int64 of a column without holes: the numbers, or those of the names if ids of this kind are text."""
        polars = require("polars")
        keys = conversion.ids(self.table, column, kind)
        if kind not in values.named:
            if keys.dtype.kind == "i":
                return series_of(keys)
            texts = polars.Series(keys.tolist(), dtype=polars.String)
            if bool((~texts.str.contains(WHOLE)).any()):
                row = int((~texts.str.contains(WHOLE)).arg_max() or 0)
                raise ValueError(
                    f"{self.table.where}: {column!r} ({kind}) is {keys[row]!r} in row {self.table.row_name(row)}, and "
                    f"a number elsewhere; expected numbers, or text in every file"
                )
            return series_of(texts.cast(polars.Int64))
        whole = keys.dtype.kind == "i"
        series = polars.Series(keys) if whole else polars.Series(keys.tolist(), dtype=polars.String)
        return writer.number(kind, series.cast(polars.String))

    def times(self, column: str, values: Values) -> NDArray[np.int64]:
        """Return ms [M] since 1970 of a column without holes; those without a zone are of the users' clocks."""
        millis: NDArray[np.int64] = self.optional_times(column, values).to_numpy()
        return millis

    def optional_times(self, column: str, values: Values) -> "pl.Series":
        """Return ms [M], null where the column is empty; also of an expression of ms."""
        polars, table = require("polars"), self.table
        if column not in table.names:
            return self.number(column, values, times=True).round().cast(polars.Int64)
        there = self.present(column, values)
        if not there.all():  # what stands for nothing is no time
            millis = np.full(len(table), conversion.NEVER)
            if there.any():
                parsed = self.take(there).optional_times(column, values)
                millis[there] = parsed.fill_null(conversion.NEVER).to_numpy()
            return where(millis != conversion.NEVER, series_of(millis))
        millis = conversion.row_times(table, column, ImportNotes())
        timed = millis != conversion.NEVER
        local = np.zeros(len(table), bool)
        if table.kind(column) == "time":
            local[:] = getattr(table.type_of(column), "tz", None) is None
        elif table.kind(column) == "text" and not table.is_numeric(column):
            levels = read_times(require("pyarrow").array(table.levels(column)))
            local = np.append(levels.local, False)[table.codes(column)]
        millis = millis - np.where(local, round(values.utc_offset_hours * 3_600_000), 0)
        return where(timed, series_of(millis))

    def number(self, text: str, values: Values, times: bool = False) -> "pl.Series":
        """Return float64 [M] of a column or of an expression over columns, null where unknown."""
        polars = require("polars")
        if text in self.table.names:
            return self._plain(text, values)
        expression, columns = parse_expression(text, self.table.names, self.table.where)
        frame = polars.DataFrame({name: self._operand(name, values, times) for name in columns})
        try:
            numbers = frame.select(expression.cast(polars.Float64)).to_series()
        except polars.exceptions.PolarsError as error:
            raise ValueError(f"{self.table.where}: {text!r}: {one_line(error)}") from error
        return series_of(numbers.fill_nan(None))

    def _plain(self, column: str, values: Values) -> "pl.Series":
        polars = require("polars")
        numbers = np.asarray(self.table.numbers(column), np.float64)
        bad = ~np.isfinite(numbers)
        if values.unknown:
            bad |= np.isin(numbers, _numbers_of(values.unknown))
        return where(~bad, polars.Series(numbers))

    def _operand(self, column: str, values: Values, times: bool) -> "pl.Series":
        polars, kind = require("polars"), self.table.kind(column)
        if kind == "time" or (times and kind == "text" and not self.table.is_numeric(column)):
            return self.optional_times(column, values).cast(polars.Float64)
        return self._plain(column, values) if self.table.is_numeric(column) else self.text(column, values)

    def text(self, column: str, values: Values) -> "pl.Series":
        """Return texts [M], null where empty: whole numbers without a fraction, yes and no as in the table."""
        polars = require("polars")
        texts = polars.from_arrow(self.table.column(self.checked(column)))
        return series_of(_or_null(texts.cast(polars.String), values.unknown))

    def attribute(self, attribute: Attribute, values: Values) -> "pl.Series":
        """Return the values [M]: float32, text, lists of text, int64 ms, or lists of float32; null if unknown."""
        polars = require("polars")
        if attribute.kind == "dense":
            return self.number(attribute.column, values).cast(polars.Float32).alias(attribute.name)
        if attribute.kind == "time":
            return self.optional_times(attribute.column, values).alias(attribute.name)
        if attribute.column not in self.table.names:
            series = self.number(attribute.column, values).cast(polars.String)
            return series_of(_or_null(series, ())).alias(attribute.name)
        series = polars.from_arrow(self.table.arrow.column(attribute.column))
        is_list = isinstance(series.dtype, polars.List | polars.Array)
        if attribute.kind == "embedding":
            if not is_list:
                raise ValueError(
                    f"{self.table.where}: {attribute.column!r} is no list of numbers; expected an embedding"
                )
            return series_of(series.cast(polars.List(polars.Float32))).alias(attribute.name)
        if attribute.kind == "list" or attribute.first:
            series = series.cast(polars.List(polars.String)) if is_list else _split(series, values.unknown)
            words = series.list.eval(_or_null(polars.element().str.strip_chars(), values.unknown).drop_nulls())
            words = where(words.list.len().fill_null(0).to_numpy() > 0, words)
            return series_of(words.list.first() if attribute.first else words).alias(attribute.name)
        if is_list:
            raise ValueError(f"{self.table.where}: {attribute.column!r} has lists; expected kind list, or first = true")
        return self.text(attribute.column, values).alias(attribute.name)


def _or_null(text: Any, unknown: Sequence[Any]) -> Any:
    """A series or expression of texts, stripped; null where they are empty or unknown; 9.0 is 9."""
    polars = require("polars")
    words = {"", *(_word(value) for value in unknown)}
    text = text.str.replace(r"^(-?\d+)\.0+$", "$1")
    if isinstance(text, polars.Series):
        return where(~text.str.strip_chars().is_in(list(words)).fill_null(True).to_numpy(), text)
    return polars.when(~text.is_in(list(words))).then(text)


def series_of(values: Any) -> "pl.Series":
    """A polars series of an array or series."""
    series: pl.Series = require("polars").Series(values)
    return series


def nothing(rows: int, dtype: str = "Int64") -> "pl.Series":
    """Nulls of a type of polars."""
    polars = require("polars")
    return series_of(polars.Series([None], dtype=getattr(polars, dtype)).new_from_index(0, rows))


def where(keep: NDArray[np.bool_], values: "pl.Series") -> "pl.Series":
    """The values that are kept, null elsewhere."""
    polars = require("polars")
    kept: pl.Series = polars.select(polars.when(polars.Series(keep)).then(values).alias(values.name)).to_series()
    return kept


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, int | float) and value == int(value) else str(value)


def _split(texts: "pl.Series", unknown: Sequence[Any]) -> "pl.Series":
    """Texts of words with commas, semicolons or bars between them, as lists."""
    whole = series_of(_or_null(texts.cast(require("polars").String), unknown))
    return whole.str.replace_all(_SEPARATORS, ",").str.strip_chars("[](){} ").str.split(",")


def _numbers_of(unknown: Sequence[Any]) -> list[float]:
    return [float(value) for value in unknown if isinstance(value, int | float)]
