"""Rows on disk, added in any order, that come back sorted: DuckDB sorts them within bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._util.optional_imports import require
from pygrade._util.sql import connect, quoted, text

if TYPE_CHECKING:
    import polars as pl

_LEAST_MEMORY, _ROW_BYTES = 200, 1000  # MiB that DuckDB may take before it uses the disk, and bytes a row


class Spill:
    """Rows of one table in Parquet files under ``directory``, which is created at the first row.

    Memory: ``rows`` rows that wait to be written, and as much as DuckDB needs to sort as many.
    """

    def __init__(self, directory: Path, rows: int) -> None:
        self.directory, self.rows, self.count = directory, rows, 0
        self.schema: dict[str, Any] = {}  # column → polars type
        self.origins: list[str] = []  # where the rows of each file are from
        self.widths: dict[str, int] = {}  # of embeddings, see `event_writer.with_embeddings`
        self._waiting: list[pl.DataFrame] = []
        self._origin = ""

    def add(self, frame: "pl.DataFrame", origin: str = "") -> None:
        """Adds rows. ValueError names the origin of rows with other columns than the first ones."""
        self.schema = self.schema or dict(frame.schema)
        if list(frame.schema.items()) != list(self.schema.items()):
            have, want = (", ".join(f"{n} {t}" for n, t in s.items()) for s in (frame.schema, self.schema))
            raise ValueError(f"{origin} has the columns {have}; others have {want}")
        if origin != self._origin:
            self.flush()
        self._origin = origin
        self._waiting.append(frame)
        self.count += len(frame)
        if sum(map(len, self._waiting)) >= self.rows:
            self.flush()

    def flush(self) -> None:
        """Puts all rows into files."""
        if self._waiting:
            self.directory.mkdir(parents=True, exist_ok=True)
            frame = require("polars").concat(self._waiting)
            frame.write_parquet(self._file(len(self.origins)), compression="lz4")
            self.origins.append(self._origin)
            self._waiting = []

    def _file(self, number: int) -> Path:
        return self.directory / f"{number:06d}.parquet"

    @property
    def table(self) -> str:
        """All rows as a table of SQL, with the file of each row as ``filename``."""
        self.flush()
        files = ", ".join(text(str(self._file(number))) for number in range(len(self.origins)))
        return f"read_parquet([{files}], filename = true)"

    def connect(self, *others: "Spill") -> Any:
        """A connection of DuckDB that reads these rows and others', and puts into ``directory`` what does not fit into
        memory.
        """
        connection = connect(folders=[spill.directory for spill in (self, *others)])
        limit = max(_LEAST_MEMORY, self.rows * _ROW_BYTES >> 20)
        connection.execute(f"set memory_limit = '{limit}MiB'; set preserve_insertion_order = false")
        return connection

    def frames(self, order: Sequence[str], key: str, among: "pl.Series | None" = None) -> "Iterator[pl.DataFrame]":
        """The rows in order of some columns, then of all others, nulls last: frames of about ``rows`` rows, each with
        whole runs of a ``key``. The order, so the result, depends on the rows alone.

        among: values of the key; only their rows.
        """
        if not self.count:
            return
        columns = [*order, *(name for name in self.schema if name not in order)]
        sort = ", ".join(f"{quoted(name)} nulls last" for name in columns)
        named = ", ".join(map(quoted, self.schema))
        where = "" if among is None else f"where {quoted(key)} in (select value from among)"
        with self.connect() as connection:
            if among is not None:
                connection.register("among", among.rename("value").to_frame().to_arrow())
            query = f"select {named} from {self.table} {where} order by {sort}"
            reader = connection.sql(query).to_arrow_reader(min(self.rows, 100_000))
            yield from whole_runs(reader, key, self.rows, self.schema)

    def rows_of(self, query: str) -> list[tuple[Any, ...]]:
        """The few rows of a query, in which ``{table}`` stands for the rows."""
        with self.connect() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(query.format(table=self.table)).fetchall()
            return rows


def whole_runs(batches: Any, key: str, rows: int, schema: dict[str, Any]) -> "Iterator[pl.DataFrame]":
    """Frames of at least ``rows`` rows of Arrow batches, the last aside, each with whole runs of a key."""
    polars, held = require("polars"), list[Any]()
    for batch in batches:
        held.append(polars.from_arrow(batch).cast(schema))
        if sum(map(len, held)) < rows:
            continue
        frame = polars.concat(held)
        last = frame[key].ne_missing(frame[key].shift(1)).to_numpy().copy()
        last[0] = True
        cut = int(np.flatnonzero(last)[-1])
        if cut:
            yield frame[:cut]
        held = [frame[cut:]]
    if held:
        yield polars.concat(held)
