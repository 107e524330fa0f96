"""DuckDB, and names and texts of its SQL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require


def connect(path: str = "", read_only: bool = False, files: Sequence[Path] = (), folders: Sequence[Path] = ()) -> Any:
    """A connection to a database, by default a new one in memory, that prints nothing.

    Whatever its SQL says, or a view of the database, it reads nothing but the database, ``files``, and what is in
    ``folders``, the first of which also takes what does not fit into memory: no other file, no URL, no extension.
    """
    connection = require("duckdb").connect(path or ":memory:", read_only=read_only)
    for name, places in (("paths", [str(file) for file in files]), ("directories", [f"{place}/" for place in folders])):
        connection.execute(f"set allowed_{name} = [{', '.join(map(text, places))}]")
    if folders:
        connection.execute(f"set temp_directory = {text(str(folders[0] / 'sort'))}")
    connection.execute("set enable_progress_bar = false; set enable_external_access = false")
    return connection


def quoted(name: str) -> str:
    """A name of SQL.

    >>> quoted("play ms")
    '"play ms"'
    """
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text of SQL.

    >>> text("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"
