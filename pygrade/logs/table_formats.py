"""Tables that are more than files: Delta and Iceberg tables and DuckDB databases, each read by its own library.

A Delta or Iceberg table has a log of the files that belong to it; what else lies in its directory was removed, replaced
or never committed. So its Parquet files are never read alone.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require
from pygrade._util.sql import connect, quoted
from pygrade._util.text import one_line
from pygrade.storage import Folder, Place, download, is_url

DUCKDB = (".duckdb", ".ddb")
_VERSION = re.compile(r"(.+)@v(\d+)")
_DELTA_LOG, _METADATA, _METADATA_FILE = "_delta_log", "metadata", ".metadata.json"


def split_version(place: Place) -> tuple[Place, int | None]:
    """A place and its version, of ``DIR@v12``; None without one, and for a path that has this name.

    >>> split_version("s3://shop/log@v12"), split_version("s3://shop/log")
    (('s3://shop/log', 12), ('s3://shop/log', None))
    """
    match = _VERSION.fullmatch(str(place))
    if match is None or (not is_url(place) and Path(place).exists()):
        return place, None
    return (match[1] if is_url(place) else Path(match[1])), int(match[2])


def format_of(place: Place) -> str:
    """Delta, Iceberg or nothing, of a directory, or of the metadata file of an Iceberg table."""
    if str(place).endswith(_METADATA_FILE):
        return "Iceberg"
    if not is_url(place):
        path = Path(place)
        iceberg = any(path.joinpath(_METADATA).glob(f"*{_METADATA_FILE}"))
        return "Delta" if path.joinpath(_DELTA_LOG).is_dir() else "Iceberg" if iceberg else ""
    names = Folder.at(place).names()
    if any(name.startswith(f"{_DELTA_LOG}/") for name in names):
        return "Delta"
    return "Iceberg" if any(re.fullmatch(rf"{_METADATA}/[^/]*{_METADATA_FILE}", name) for name in names) else ""


def refuse_loose(path: Path) -> None:
    """ValueError if a local file or directory is, or is in, a Delta or Iceberg table, whose files alone are not what it
    holds.
    """
    path = path.absolute()
    for folder in (path, *path.parents):
        if kind := format_of(folder):
            article = "an" if kind == "Iceberg" else "a"
            what = f"is {article} {kind} table" if folder == path else f"is in the {kind} table {folder}"
            raise ValueError(f"{path} {what}, whose files alone are not its rows; `pygrade doctor {folder}` reads it")


def read_delta(place: Place, version: int | None = None) -> tuple[Any, int]:
    """The rows of a Delta table as Arrow, and the version that they are of: the latest, or the given one."""
    delta = require("deltalake", "delta")
    with _errors(place, delta.exceptions.DeltaError):
        table = delta.DeltaTable(str(download(place)))
        if version is not None:
            if version > table.version():
                raise ValueError(f"{place} has no version {version}; expected one up to {table.version()}")
            table.load_as_version(version)
        return delta_rows(table), int(table.version())


def delta_rows(table: Any) -> Any:
    """The rows of a `deltalake.DeltaTable` as Arrow, without those that a deletion vector removes."""
    one_partition = {"datafusion.execution.target_partitions": "1"}  # the order of the rows is always the same
    query = require("deltalake", "delta").QueryBuilder(one_partition).register("log", table)
    return plain_texts(require("pyarrow").table(query.execute("select * from log")))


def read_iceberg(place: Place, snapshot: int | None = None) -> tuple[Any, int]:
    """The rows of an Iceberg table as Arrow, and the snapshot that they are of: the current, or the given one.

    The table is a directory with ``metadata/``, or one of the files ``*.metadata.json`` in it.
    """
    tables = require("pyiceberg.table", "iceberg")
    file = place if str(place).endswith(_METADATA_FILE) else _current_metadata(place)
    settings = {
        "s3.endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        "s3.region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    }
    credentials = {
        name: [os.environ[v] for v in variables if os.environ.get(v)] for name, variables in settings.items()
    }
    with _errors(place, require("pyarrow").ArrowException, OSError, ValueError):
        location = str(file) if is_url(file) else str(Path(file).absolute())
        table = tables.StaticTable.from_metadata(
            location, {name: values[0] for name, values in credentials.items() if values}
        )
        current = table.current_snapshot()
        if current is None:
            raise ValueError("the table has no snapshot, so no rows")
        snapshots = [str(version.snapshot_id) for version in table.snapshots()]
        if snapshot is not None and str(snapshot) not in snapshots:
            raise ValueError(f"{place} has no snapshot {snapshot}; expected one of {', '.join(snapshots[-5:])}")
        return table.scan(snapshot_id=snapshot).to_arrow(), snapshot or int(current.snapshot_id)


def _current_metadata(place: Place) -> str:
    """The metadata file of the latest version: that of ``version-hint.text``, else the one with the highest number."""
    folder = Folder.at(place) / _METADATA
    names = folder.names(f"*{_METADATA_FILE}")
    numbers = {name: int(match[0]) if (match := re.search(r"\d+", name)) else -1 for name in names}
    last = max(numbers.values())
    if folder.has("version-hint.text"):
        hint = folder.read("version-hint.text").decode().strip()
        last = int(hint) if hint.isdigit() and int(hint) in numbers.values() else last
    latest = [name for name, number in numbers.items() if number == last]
    if len(latest) > 1:
        raise ValueError(
            f"{place} has {' and '.join(latest)} of one number; expected the path of the one that is committed"
        )
    return f"{folder}/{latest[0]}"


def is_duckdb(path: Path) -> bool:
    """True for a DuckDB database, by its name or its first bytes."""
    if path.suffix.lower() in DUCKDB:
        return True
    with path.open("rb") as file:
        return file.read(12)[8:] == b"DUCK"


def read_duckdb(path: Path, query: str = "") -> tuple[Any, str]:
    """Rows of a DuckDB database as Arrow, and what they are: the result of the query, or its only table or view."""
    duckdb = require("duckdb")
    with _errors(path, duckdb.Error), connect(str(path), read_only=True) as connection:
        listed = (
            "select table_schema, table_name from information_schema.tables where table_catalog = current_database()"
        )
        rows = sorted(connection.execute(listed).fetchall())
        names = [name if schema == "main" else f"{schema}.{name}" for schema, name in rows]
        if not query and len(names) != 1:
            has = f"the tables {', '.join(names)}" if names else "no table"
            raise ValueError(
                f"{path} has {has}; expected a query, e.g. --query 'select * from {(names or ['feed'])[0]}'"
            )
        what = "query" if query else f"table {names[0]}"
        relation = connection.sql(query or f"select * from {'.'.join(map(quoted, rows[0]))}")
        if relation is None:
            raise ValueError(f"{path}: query is {query!r}, which has no rows; expected a select")
        return relation.to_arrow_table(), f"{path.name}, {what}"


def kind_of(dtype: Any) -> str:
    """The kind of an Arrow type: number, integer, bool, text, time, vector (a list of decimals), list, struct, empty or
    other; of a dictionary that of its values.
    """
    types = require("pyarrow").types
    if types.is_dictionary(dtype):
        return kind_of(dtype.value_type)
    if types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype):
        return "vector" if types.is_floating(dtype.value_type) else "list"
    if types.is_temporal(dtype):
        return "other" if types.is_time(dtype) or types.is_duration(dtype) else "time"
    if types.is_decimal(dtype):
        return "number" if dtype.scale else "integer"
    kinds = {
        "bool": types.is_boolean,
        "integer": types.is_integer,
        "number": types.is_floating,
        "text": lambda t: types.is_string(t) or types.is_large_string(t) or types.is_string_view(t),
        "struct": types.is_struct,
        "empty": types.is_null,
    }
    return next((kind for kind, fits in kinds.items() if fits(dtype)), "other")


def plain_texts(arrow: Any) -> Any:
    """String views (of polars and DataFusion) as strings: pyarrow can neither take nor decode views."""
    pa = require("pyarrow")
    for number, field in enumerate(arrow.schema):
        kind, column = field.type, arrow.column(number)
        if pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type):
            kind = pa.dictionary(kind.index_type, pa.string())
            parts = [(chunk.indices, chunk.dictionary.cast(pa.string())) for chunk in column.chunks]
            column = pa.chunked_array([pa.DictionaryArray.from_arrays(*piece) for piece in parts], type=kind)
        elif pa.types.is_string_view(kind):
            column = column.cast(pa.string())
        if column.type != field.type:
            arrow = arrow.set_column(number, field.name, column)
    return arrow


@contextmanager
def _errors(place: Place, *kinds: type[Exception]) -> Iterator[None]:
    """Errors of a library with the table's name."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{place}: {one_line(error)}; the table names this file: was the table moved?") from error
    except kinds as error:
        text = one_line(error)
        raise ValueError(text if text.startswith(str(place)) else f"{place}: {text}") from error
