"""Reads the Parquet files in which a service logs what it showed, and the marks of users that it removed."""

import json
import tempfile
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require
from pygrade.logs import Logs, read_logs
from pygrade.service.feedback_log import SUFFIX, lines_of, log_files

_MARKS = ("request_id", "timestamp", "seed", "policy_version", "arm")  # a page differs from the one before in one


def exposure_files(directory: Path) -> list[Path]:
    """The complete files, the oldest first; their names begin with the time."""
    return log_files(directory, ".parquet", "that of a service's exposures")


def removal_files(directory: Path) -> list[Path]:
    """The files in which a service marks the users that it was asked to remove."""
    folder = directory / "removed"
    return log_files(folder, SUFFIX, "that of a service's removals") if folder.is_dir() else []


def read_removals(directory: Path) -> dict[str, int]:
    """The users to remove, as exposures name them → the time (ms) up to which their pages go."""
    times: dict[str, int] = {}
    for line, _ in (line for file in removal_files(directory) for line in lines_of(file)):
        mark = json.loads(line)
        times[mark["user"]] = max(mark["timestamp"], times.get(mark["user"], 0))
    return times


def read_exposures(file: Path) -> tuple[Logs, int]:
    """The pages of a file, and how many were left out as their request_id is that of an earlier one.

    A client that asks again with the same id, say after a time-out, is served again; the first page counts.
    """
    keep, repeated = _first_pages(file)
    if keep.all():
        return read_logs(file), 0
    parquet = require("pyarrow.parquet")
    with tempfile.TemporaryDirectory(prefix="pygrade-") as scratch:
        cleaned = Path(scratch) / file.name
        parquet.write_table(parquet.read_table(file).filter(keep.to_arrow()), cleaned)
        return read_logs(cleaned), repeated


def _first_pages(file: Path) -> tuple[Any, int]:
    """A mask of the rows of each request_id's first page, and the number of other pages."""
    pl, parquet = require("polars"), require("pyarrow.parquet")
    marks = [name for name in _MARKS if name in parquet.read_schema(file).names]
    table = parquet.read_table(file, columns=[*marks, "item_id"])
    rows = pl.from_arrow(table).with_columns(page=pl.struct(marks).rle_id())
    pages = rows.unique("page", keep="first", maintain_order=True)
    pages = pages.select("page", first=pl.col("request_id").is_first_distinct())
    # The same page twice in a row differs in nothing: its items begin again.
    fresh = rows.select(pl.struct("page", "item_id").is_first_distinct()).to_series()
    again = rows.filter(~fresh)["page"].n_unique()
    return fresh & pages["first"].gather(rows["page"]), int((~pages["first"]).sum()) + again
