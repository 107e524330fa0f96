"""Any table as Arrow, and its columns as numpy arrays with what is missing as NaN."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Floats
from pygrade._util.optional_imports import require
from pygrade._util.text import one_line
from pygrade.logs.arrays import count_distinct
from pygrade.logs.leaks import are_times
from pygrade.logs.problems import TableProblem, row_of
from pygrade.logs.roles import is_category
from pygrade.logs.table_formats import delta_rows, kind_of, plain_texts
from pygrade.logs.text_numbers import is_unknown, read_numbers
from pygrade.logs.text_times import are_time_texts

_LIBRARIES = ("pandas", "polars", "pyarrow", "duckdb", "datasets", "deltalake", "pyiceberg")
_NUMERIC = "numbers, or yes and no"
_NUMBERS, _WRONG, _WRONG_FEW = 20, 0.05, 0.01  # the largest share of texts among many distinct numbers, and among few


def is_table(value: Any) -> bool:
    """True for what `to_arrow` takes: a frame of a library, or a dict of columns."""
    return isinstance(value, Mapping) or hasattr(value, "__arrow_c_stream__") or library_of(value) in _LIBRARIES


def library_of(value: Any) -> str:
    """The package that the type of a value is of."""
    return type(value).__module__.partition(".")[0].lstrip("_")


def to_arrow(table: Any) -> Any:
    """A pyarrow Table of a polars or pandas frame, an Arrow table, dataset or reader, a DuckDB relation, a Delta or
    Iceberg table, a `datasets.Dataset`, a dict of columns, or whatever else offers the Arrow PyCapsule interface.
    """
    pa, table = require("pyarrow"), _rows_of(table)
    kind = f"{library_of(table)}.{type(table).__name__}"
    try:
        if isinstance(table, pa.Table):
            return plain_texts(table)
        if isinstance(table, Mapping):
            return plain_texts(_of_columns({str(name): values for name, values in table.items()}))
        if kind.startswith("pandas."):
            named = any(name is not None for name in table.index.names)  # the others number or count the rows
            return plain_texts(pa.Table.from_pandas(table.reset_index() if named else table, preserve_index=False))
        if hasattr(table, "__arrow_c_stream__") or hasattr(table, "__arrow_c_array__"):
            return plain_texts(pa.table(table))
    except pa.ArrowException as error:
        raise ValueError(f"the table does not become Arrow columns: {one_line(error)}") from error
    wanted = "a polars, pandas or Arrow table, a DuckDB relation (of con.sql), or a dict of columns"
    raise TypeError(f"table is a {kind.removeprefix('builtins.')}; expected {wanted}")


def is_tables(table: Any) -> bool:
    """True for a dict of tables, not of columns."""
    listed = list(table.values()) if isinstance(table, Mapping) else []
    kinds = (hasattr(type(value), "columns") or isinstance(value, Mapping) for value in listed)
    return bool(listed) and all(kinds)


def _of_columns(columns: Mapping[str, Any]) -> Any:
    pa, arrays = require("pyarrow"), dict[str, Any]()
    if not columns:
        raise ValueError("the table has no columns")
    for name, values in columns.items():
        array = values if isinstance(values, list | tuple | pa.Array | pa.ChunkedArray) else np.asarray(values)
        if getattr(array, "ndim", 1) != 1:
            raise ValueError(f"column {name!r} has shape {np.shape(array)}; expected one value per row")
        try:
            arrays[name] = array if isinstance(array, pa.Array | pa.ChunkedArray) else pa.array(array)
        except pa.ArrowException as error:
            raise ValueError(f"column {name!r}: {one_line(error)}") from error
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = {name: len(array) for name, array in arrays.items()}
        raise ValueError(f"the table's columns have {sizes} rows; expected as many in each")
    return pa.table(arrays)


def _rows_of(table: Any) -> Any:
    """The rows of a lazy table or a table on disk; other tables as they are."""
    name = f"{library_of(table)}.{type(table).__name__}"
    if name == "polars.LazyFrame":
        return table.collect()
    if name == "deltalake.DeltaTable":
        return delta_rows(table)
    if name.startswith("pyiceberg."):
        return (table.scan() if hasattr(table, "scan") else table).to_arrow()
    if name == "datasets.Dataset":
        return table.with_format("arrow")[:]
    if name in ("datasets.DatasetDict", "datasets.IterableDatasetDict"):
        raise TypeError(f"table is a {name} of {', '.join(map(repr, table))}; expected one of them")
    if name.startswith("pyarrow.") and hasattr(table, "to_table"):  # a dataset or a scanner of one
        return table.to_table()
    return table


def _row_name(where: str, rows: NDArray[np.int64], parents: NDArray[np.int64] | None, row: int) -> str:
    number = int(rows[row])
    if parents is None:
        return row_of(where, number)
    parent = int(parents[number])
    return row_of(where, parent, f" (candidate {number - int(np.searchsorted(parents, parent))})")


def _run_starts(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """First row of each run of equal codes."""
    return np.append(0, np.flatnonzero(np.diff(code)) + 1)


def check_names(arrow: Any, where: str) -> None:
    """ValueError if two columns have one name."""
    if twice := [name for name, count in Counter(arrow.column_names).items() if count > 1]:
        raise ValueError(f"{where}: column {twice[0]!r} is there more than once")


class Table:
    """An Arrow table whose rows belong to groups that are next to each other, once `grouped` was called.

    Args:
        rows: [M] the rows' numbers in the table that was given; not given: from 0 on.
        starts: first row of each group; not given: all are one.
        gaps: columns of numbers in whose text all else is missing.
        parents: of each row of the table that was given, the row with the list that it was in.
    """

    def __init__(
        self,
        arrow: Any,
        where: str,
        rows: NDArray[np.int64] | None = None,
        starts: Array | None = None,
        gaps: frozenset[str] = frozenset(),
        parents: NDArray[np.int64] | None = None,
    ):
        self.arrow, self.where, self.gaps, self.parents = arrow, where, gaps, parents
        self.rows: NDArray[np.int64] = np.arange(len(arrow)) if rows is None else rows
        self.starts: NDArray[np.int64] = np.zeros(1, np.int64) if starts is None else starts
        self.names: list[str] = list(arrow.column_names)
        self._parsed: dict[str, tuple[Floats, NDArray[np.bool_]] | None] = {}  # columns of text as numbers
        self._encoded: dict[str, tuple[NDArray[np.int32], Any]] = {}  # of columns of text, see `_encode`
        check_names(arrow, where)
        if not len(arrow):
            raise ValueError(f"{where}: no rows")

    def __len__(self) -> int:
        return len(self.arrow)

    def mended(self, keep: NDArray[np.bool_], gaps: Iterable[str]) -> "Table":
        """Some of the rows of a table that is not grouped yet, and further columns of numbers that have gaps."""
        arrow = self.arrow.filter(require("pyarrow").array(keep))
        return Table(arrow, self.where, self.rows[keep], None, self.gaps.union(gaps), self.parents)

    @property
    def row_name(self) -> Callable[[int], str]:
        """A row as users count it: its number in the table that they gave. The function does not keep the table."""
        return partial(_row_name, self.where, self.rows, self.parents)

    def problem(self, label: str, bad: NDArray[np.bool_], fact: str, wanted: str) -> TableProblem:
        """The problem of some rows [M]: ``label`` names the column, ``fact`` what is wrong in the first of them."""
        more = f" ({bad.sum():,} such rows)" if bad.sum() > 1 else ""
        row = self.row_name(int(np.argmax(bad)))
        return TableProblem(f"{self.where}: {label} {fact} in row {row}{more}; expected {wanted}", self.rows[bad])

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Return whether the row before is of the same group, bool, of shape [M]."""
        result = np.ones(len(self), bool)
        result[self.starts] = False
        return result

    @cached_property
    def group(self) -> NDArray[np.int64]:
        """Return the number of each row's group, of shape [M]."""
        return np.cumsum(~self.inside) - 1

    def grouped(self, code: NDArray[np.int64]) -> tuple["Table", int]:
        """The rows of one code next to each other, groups in the order of their first rows; how many were apart."""
        starts = _run_starts(code)
        if count_distinct(code[starts]) == len(starts):
            return Table(self.arrow, self.where, self.rows, starts, self.gaps, self.parents), 0
        order = np.argsort(code, kind="stable")  # codes are numbered by first appearance
        arrow, starts = self.arrow.take(order), _run_starts(code[order])
        grouped = Table(arrow, self.where, self.rows[order], starts, self.gaps, self.parents)
        return grouped, int((np.diff(order) != 1).sum())

    def kept(self, keep: NDArray[np.bool_]) -> "Table":
        """Some of the rows, at least one of each group."""
        arrow, starts = self.arrow.filter(require("pyarrow").array(keep)), _run_starts(self.group[keep])
        result = Table(arrow, self.where, self.rows[keep], starts, self.gaps, self.parents)
        for name, parsed in self._parsed.items():  # reading text takes long
            result._parsed[name] = None if parsed is None else (parsed[0][keep], parsed[1][keep])
        return result

    def type_of(self, name: str) -> Any:
        dtype = self.arrow.schema.field(name).type
        return dtype.value_type if require("pyarrow").types.is_dictionary(dtype) else dtype

    def kind(self, name: str) -> str:
        """See `kind_of`."""
        return kind_of(self.type_of(name))

    def column(self, name: str) -> Any:
        """The column without dictionary encoding; text as one type."""
        target = require("pyarrow").string() if self.kind(name) == "text" else self.type_of(name)
        column = self.arrow.column(name)
        return column if column.type == target else column.cast(target)

    def is_numeric(self, name: str) -> bool:
        """True for a column of numbers or of yes and no, also written as text, but for a few rows."""
        return self.kind(name) in ("number", "integer", "bool") or self._text_numbers(name) is not None

    def has_levels(self, name: str) -> bool:
        """True for text of categories: words, or codes by the name of the column, which are no amounts."""
        if self.kind(name) != "text" or self.is_flag(name):
            return False
        return is_category(name) or not self.is_numeric(name)

    def _text_numbers(self, name: str) -> tuple[Floats, NDArray[np.bool_]] | None:
        """Return numbers [M], NaN for null and blank, and which rows have another text; None if the column is no text,
        or has many such rows, or few numbers beside them.
        """
        if self.kind(name) != "text":
            return None
        if name not in self._parsed:
            self._parsed[name] = None
            codes = self.codes(name)
            if (read := read_numbers(self.levels(name))) is not None:
                numbers, wrong = np.array([*read[0], np.nan])[codes], np.array([*read[1], False])[codes]
                distinct = len(np.unique(numbers[~np.isnan(numbers)]))
                if wrong.sum() <= (_WRONG if distinct >= _NUMBERS else _WRONG_FEW) * (codes >= 0).sum():
                    self._parsed[name] = numbers, wrong
        return self._parsed[name]

    def numbers(self, name: str, gaps: bool = False) -> Floats:
        """Return numbers [M], NaN for null; of yes and no (bool or text) 1 and 0. ValueError if the type has no
        numbers, or a text is none and may not be missing (``gaps``).
        """
        pa, column = require("pyarrow"), self.column(name)
        if self.kind(name) == "text":
            return self._numbers_of_text(name, gaps or name in self.gaps)
        try:
            if self.kind(name) == "bool":
                column = column.cast(pa.int8())
            return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
        except pa.ArrowException as error:
            kind = self.type_of(name)
            raise ValueError(f"{self.where}: {name!r} has type {kind}, and not all of it are numbers") from error

    def _numbers_of_text(self, name: str, gaps: bool) -> Floats:
        parsed, codes = self._text_numbers(name), self.codes(name)
        if parsed is None:
            read = read_numbers(self.levels(name)) or ([], [not is_unknown(level) for level in self.levels(name)])
            wrong = np.append(read[1], False)[codes]
            if not wrong.any():
                return np.full(len(self), np.nan)
        else:
            numbers, wrong = parsed
            if gaps or not wrong.any():
                return numbers
        problem = self.problem(f"{name!r}", wrong, f"is {self.texts(name)[int(np.argmax(wrong))]!r}", _NUMERIC)
        problem.rows = None if parsed is None else problem.rows
        raise problem

    def whole(self, name: str, dtype: Any) -> Array:
        """Return values [M] of an integer type, 0 for null; ValueError if some are not."""
        pa, pc = require("pyarrow"), require("pyarrow.compute")
        try:
            column = self.column(name).cast(pa.from_numpy_dtype(np.dtype(dtype)))
        except pa.ArrowException as error:
            raise ValueError(f"{self.where}: {name!r} has values that are not of type {np.dtype(dtype)}") from error
        return np.asarray(pc.fill_null(column, 0).to_numpy(), dtype)

    def nulls(self, name: str) -> NDArray[np.bool_]:
        """Return whether each row [M] is null."""
        return np.asarray(self.arrow.column(name).is_null(nan_is_null=self.kind(name) == "number").to_numpy())

    def _encode(self, name: str) -> tuple[NDArray[np.int32], Any]:
        """Return the code [M] of each value, -1 for null, and the distinct values in the order of their first rows."""
        if name in self._encoded:
            return self._encoded[name]
        if self.kind(name) == "empty":
            return np.full(len(self), -1, np.int32), require("pyarrow").nulls(0)
        encoded = self.column(name).dictionary_encode().unify_dictionaries().combine_chunks()
        places = require("pyarrow.compute").fill_null(encoded.indices, -1).to_numpy()
        codes = np.asarray(places, np.int32), encoded.dictionary
        if self.kind(name) == "text":
            self._encoded[name] = codes
        return codes

    def levels(self, name: str) -> list[str]:
        """The distinct texts of a column, in the order of `codes`."""
        return [str(value) for value in self._encode(name)[1].to_pylist()]

    def is_time(self, name: str) -> bool:
        """True for a column of times, also as numbers, or by its first texts."""
        if self.is_numeric(name):
            return self.kind(name) != "bool" and are_times(self.numbers(name, gaps=True))
        texts = self.column(name).slice(0, 100).drop_null().combine_chunks() if self.kind(name) == "text" else ()
        return self.kind(name) == "time" or (len(texts) > 0 and are_time_texts(texts))

    def is_flag(self, name: str) -> bool:
        """Return whether all values are 0 and 1, or yes and no."""
        values = self.numbers(name, gaps=True) if self.is_numeric(name) else np.empty(0)
        return set(values[~np.isnan(values)]) == {0.0, 1.0}

    def has_kind(self, name: str, kinds: Sequence[str]) -> bool:
        """True for a column of one of these kinds, or of numbers written as text."""
        return self.kind(name) in kinds or ("number" in kinds and self.is_numeric(name))

    def codes(self, name: str) -> NDArray[np.int64]:
        """Return numbers [M] of the distinct values in the order of their first appearance, -1 for null."""
        return self._encode(name)[0].astype(np.int64)

    def distinct(self, name: str) -> int:
        """The number of distinct values of a column, null as one of them."""
        places, values = self._encode(name)
        return len(values) + bool((places < 0).any())

    def texts(self, name: str) -> Array:
        """Return an object array [M] of str, "" for null; each distinct value made once."""
        places, values = self._encode(name)
        texts = values.cast(require("pyarrow").string()).to_pylist()
        return np.array([*texts, ""], dtype=object)[places]

    def varies(self, name: str) -> NDArray[np.bool_]:
        """Return whether the value differs from that of the row before, which is of the same group, bool [M]."""
        if self.kind(name) in ("number", "integer", "bool"):
            values = self.numbers(name)
            changed = np.append(False, values[1:] != values[:-1])
            changed[1:] &= ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
        else:
            changed = np.append(False, np.diff(self.codes(name)) != 0)
        return changed & self.inside
