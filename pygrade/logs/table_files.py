"""Tables in files: Parquet, CSV, JSON lines and Arrow IPC, read by pyarrow; and those of `table_formats`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pygrade._util.alive import show_step
from pygrade._util.optional_imports import require
from pygrade._util.text import one_line, printable
from pygrade.logs import conversion, table_formats
from pygrade.logs.conversion import ImportNotes
from pygrade.logs.feedback_tables import find_showing, same_table, table_name
from pygrade.logs.nested import flat
from pygrade.logs.packed_files import PACKED, check_parquet
from pygrade.logs.problems import Source
from pygrade.logs.table import Table
from pygrade.logs.text_files import read_csv, read_json
from pygrade.logs.text_times import are_time_texts
from pygrade.storage import Place, download, visible_files

PARQUET, CSV = (".parquet", ".pq"), (".csv", ".tsv", ".txt")
JSON, ARROW = (".jsonl", ".ndjson", ".json"), (".arrow", ".feather", ".ipc")


class FileTable(NamedTuple):
    """The rows of a file."""

    rows: Any  # Arrow
    name: str  # of the path that was given
    file: str  # of the file, in that path


def read_table(paths: Sequence[Place], query: str = "") -> tuple[Any, str]:
    """One Arrow table of all that is there, with columns by name (null where a file lacks one), and a name for it.

    Args:
        paths: files; directories, which stand for the files in and below them, and whose names ``day=2026-03-01`` are a
            column; Delta and Iceberg tables, at a version as ``DIR@v12``; DuckDB databases. Of a URL the local copy is
            read.
        query: SQL select on a DuckDB database, the only path; not given: its only table.

    ValueError names a file that cannot be read, and why.
    """
    return _one_table(_read_files(paths, query, {}))


def read_pages(
    paths: Sequence[Place], query: str = "", stated_roles: Mapping[str, str] | None = None
) -> tuple[Any, str]:
    """`read_table`, or name → Arrow table of several, of which one is what was shown and others are feedback
    (`join_feedback`); and a name for it. ``stated_roles``: role → column, see `parse_map`.
    """
    stated_roles = stated_roles or {}
    files = _read_files(paths, query, stated_roles)
    columns = {n: flat(table.rows.schema.empty_table()).column_names for n, table in enumerate(files)}
    named, first = dict[str, list[FileTable]](), dict[str, tuple[str, list[str]]]()
    for number, table in ((number, table) for number, table in enumerate(files) if columns[number]):
        own = (table.file if len(paths) == 1 else table.name), columns[number]
        name = next((name for name, other in first.items() if same_table(own, other, stated_roles)), table_name(own[0]))
        named.setdefault(name, []).append(table)
        first.setdefault(name, own)
    if not (showing := find_showing({name: names for name, (_, names) in first.items()}, stated_roles)):
        return _one_table(files)
    tables = {name: _one_table(group) for name, group in named.items()}
    notes = [note for _, where in tables.values() for note in getattr(where, "notes", ())]
    shown = [(table.file, len(table.rows)) for table in named[showing] if len(table.rows)]
    name = shown[0][0] if len(shown) == 1 else f"{showing} in {named[showing][0].name}"
    return {name: table for name, (table, _) in tables.items()}, Source(name, shown, notes)


def _one_table(named_tables: Sequence[FileTable]) -> tuple[Any, str]:
    names = list(dict.fromkeys(table.name for table in named_tables))
    name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    if len(named_tables) == 1:
        return named_tables[0].rows, name
    notes = [f"{table.file}: no rows, left out" for table in named_tables if not len(table.rows)]
    filled = [table for table in named_tables if len(table.rows)] or list(named_tables[:1])
    table = joined([table.rows for table in filled], [table.file for table in filled], notes)
    return table, Source(name, [(table.file, len(table.rows)) for table in filled], notes)


def _read_files(paths: Sequence[Place], query: str, stated_roles: Mapping[str, str]) -> list[FileTable]:
    if not (files := [table for path in paths for table in _tables(path, query, len(paths) == 1, stated_roles)]):
        raise ValueError("files is empty; expected at least one file")
    require("pyarrow").default_memory_pool().release_unused()  # of decompression
    return files


def joined(tables: Sequence[Any], files: Sequence[str], notes: list[str]) -> Any:
    """The rows of the tables of ``files``; integers in some and text (but times) in others become text, with a note.

    ValueError names two files in which a column has types that are not one.
    """
    pa, tables = require("pyarrow"), list(tables)
    for name in dict.fromkeys(name for table in tables for name in table.column_names):
        held = [number for number, table in enumerate(tables) if name in table.column_names]
        kinds = {number: table_formats.kind_of(tables[number].schema.field(name).type) for number in held}
        texts = [tables[number].column(name).slice(0, 100).drop_null() for number in held if kinds[number] == "text"]
        times = any(are_time_texts(column.cast(pa.string()).combine_chunks()) for column in texts if len(column))
        if _set_clock(tables, files, kinds, name, notes):
            continue
        if {*kinds.values()} - {"empty"} == {"integer", "text"} and not times:
            for number in (number for number in held if kinds[number] == "integer"):
                column = tables[number].column(name).cast(pa.string())
                tables[number] = tables[number].set_column(tables[number].column_names.index(name), name, column)
            notes.append(f"{name!r}: integers in some files and text in others, now text")
        schema = pa.schema([])
        for number in held:
            try:
                field = tables[number].schema.field(name)
                schema = pa.unify_schemas([schema, pa.schema([field])], promote_options="permissive")
            except pa.ArrowException:
                raise ValueError(
                    f"{files[number]}: {name!r} has type {field.type}, and {schema.field(name).type} in "
                    f"{files[held[0]]}; expected one type in all files: save them with one, or leave a file out"
                ) from None
    return pa.concat_tables(tables, promote_options="permissive")


def _set_clock(tables: list[Any], files: Sequence[str], kinds: Mapping[int, str], name: str, notes: list[str]) -> bool:
    """True if a column of times has several units, or numbers and dates, of which each file has one: now it is in
    milliseconds, with a note. ``kinds``: that of the column in each table that has it.
    """
    units = dict[int, str]()
    for number in kinds if {*kinds.values()} & {"integer", "number"} else ():
        if (clock := _clock(tables[number], name)) == "none":
            return False
        units |= {number: clock} if clock else {}
    if len({*units.values()}) < 2:
        return False
    for number in kinds:
        table = tables[number]
        millis = conversion.row_times(Table(table.select([name]), files[number]), name, ImportNotes())
        column = require("pyarrow").array(millis, mask=millis == conversion.NEVER)
        tables[number] = table.set_column(table.column_names.index(name), name, column)
    said = ", ".join(f"{clock} in {files[number]}" for number, clock in units.items())
    notes.append(f"{name!r}: {said}; now milliseconds since 1970")
    return True


def _clock(table: Any, name: str) -> str:
    """The unit of a column's times by its first values; nothing of an empty one, "none" if they are no times."""
    column = table.column(name).slice(0, 100).drop_null()
    if not len(column):
        return ""
    head = Table(require("pyarrow").table({name: column}), "")
    if not head.is_time(name):
        return "none"
    if not head.is_numeric(name):
        return "dates"
    thousands = int(np.log10(np.nanmedian(head.numbers(name)))) // 3
    return ("seconds", "milliseconds", "microseconds", "nanoseconds")[thousands - 3]


def _tables(place: Place, query: str, alone: bool, stated_roles: Mapping[str, str]) -> list[FileTable]:
    """The Arrow tables of one path, the name of what they are, and that of the file of each."""
    base, version = table_formats.split_version(place)
    kind = table_formats.format_of(base)
    if kind:
        read = table_formats.read_delta if kind == "Delta" else table_formats.read_iceberg
        table, version = read(base, version)
        named_tables = [FileTable(table, *2 * (f"{Path(base).name}@v{version}",))]
    elif version is not None:
        raise ValueError(f"{base} is no Delta or Iceberg table; expected one, as @v{version} is a version of it")
    else:
        path = download(place)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; expected a file or a directory of files")
        table_formats.refuse_loose(path)
        if path.is_file() and table_formats.is_duckdb(path):
            if query and not alone:
                raise ValueError(f"query is {query!r} on several files; expected one DuckDB database")
            table, name = table_formats.read_duckdb(path, query)
            return [FileTable(table, name, name)]
        own = path.name or str(path)
        named_tables = [FileTable(table, own, file) for table, file in _directory_or_file(path, stated_roles)]
    if query:
        raise ValueError(f"query is {query!r}, but {place} is not a DuckDB database; expected one, such as shop.duckdb")
    return named_tables


def _directory_or_file(path: Path, stated_roles: Mapping[str, str]) -> list[tuple[Any, str]]:
    """The tables and names of a file, or of the files in and below a directory, with the columns that its directories
    name.
    """
    if path.is_file():
        return [(_read(path, stated_roles), path.name)]
    suffixes = [*PARQUET, *CSV, *JSON, *ARROW]
    files = [path / name for name in visible_files(path) if not any(part[0] == "_" for part in Path(name).parts)]
    files = [file for file in files if _kind(file) in suffixes]
    if not files:
        raise ValueError(f"{path} holds no file of a kind that is read: {', '.join(suffixes)}")
    for folder in {parent for file in files for parent in file.relative_to(path).parents} - {Path()}:
        if kind := table_formats.format_of(path / folder):
            raise ValueError(f"{path} holds the {kind} table {path / folder}; expected its own path")
    empty = require("pyarrow").table({})
    tables = [_read(file, stated_roles) if len(files) == 1 or file.stat().st_size else empty for file in files]
    inner = [file.relative_to(path) for file in files]
    return list(zip(_partitioned(tables, [file.parent for file in inner]), map(str, inner), strict=True))


def _partitioned(tables: list[Any], folders: list[Path]) -> list[Any]:
    """The tables with a column for each ``name=value`` of their folders: of integers if all values are."""
    pa, ds = require("pyarrow"), require("pyarrow.dataset")
    keys = list(dict.fromkeys(part.partition("=")[0] for folder in folders for part in folder.parts if "=" in part))
    if not keys:
        return tables
    scheme = ds.HivePartitioning(pa.schema([(key, pa.string()) for key in keys]))
    folder_keys = [ds.get_partition_keys(scheme.parse(f"{folder.as_posix()}/")) for folder in folders]
    for key in keys:
        values = pa.array([values.get(key) for values in folder_keys], pa.string())
        with suppress(pa.ArrowInvalid):
            values = values.cast(pa.int64())
        for number, table in enumerate(tables):
            if key not in table.column_names:
                column = pa.repeat(values[number], len(table))
                tables[number] = table.append_column(
                    key, column.dictionary_encode() if pa.types.is_string(column.type) else column
                )
    return tables


def _kind(path: Path) -> str:
    """The suffix that names the format."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in PACKED]
    return suffixes[-1] if suffixes else ""


def _read(path: Path, stated_roles: Mapping[str, str]) -> Any:
    show_step(f"reading {printable(path.name)}")
    pa, kind = require("pyarrow"), _kind(path)
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    try:
        if kind in PARQUET:
            with require("pyarrow.parquet").ParquetFile(path) as file:
                check_parquet(path, file.metadata)
                return file.read()
        if kind in CSV:
            return read_csv(path, stated_roles)
        if kind in JSON:
            return read_json(path)
        if kind in ARROW:
            return require("pyarrow.feather").read_table(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        if str(error).startswith((f"{path}, line ", f"{path} unpacks")):
            raise
        raise ValueError(f"{path} is not a complete {kind} file: {one_line(error)}") from error
    suffixes = ", ".join((*PARQUET, *CSV, *JSON, *ARROW, *table_formats.DUCKDB))
    raise ValueError(
        f"{path}: expected a file ending in {suffixes}, or a directory of such, a Delta or an Iceberg table"
    )
