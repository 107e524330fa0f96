"""DuckDB, and names and texts of its SQL."""

from typing import Any

from pygrade._util.optional_imports import require


def connect(path: str = "", read_only: bool = False) -> Any:
    """A connection to a database, by default a new one in memory, that prints nothing."""
    connection = require("duckdb").connect(path or ":memory:", read_only=read_only)
    connection.execute("set enable_progress_bar = false")
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
