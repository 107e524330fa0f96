"""Reads the Parquet files in which a service logs what it showed."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.logs import Logs, read_logs
from pygrade.service.feedback_log import log_files

_MARKS = ("request_id", "timestamp", "seed", "policy_version", "arm")  # a page differs from the one before in one


def exposure_files(directory: Path) -> list[Path]:
    """The complete files, the oldest first; their names begin with the time."""
    return log_files(directory, ".parquet", "that of a service's exposures")


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
        parquet.write_table(parquet.read_table(file).filter(require("pyarrow").array(keep)), cleaned)
        return read_logs(cleaned), repeated


def _first_pages(file: Path) -> tuple[NDArray[np.bool_], int]:
    """Which rows are of the first page of their request_id, and how many pages are not."""
    parquet, compute = require("pyarrow.parquet"), require("pyarrow.compute")
    names = parquet.read_schema(file).names
    table = parquet.read_table(file, columns=[name for name in (*_MARKS, "item_id") if name in names])
    count = table.num_rows
    codes = {name: _codes(compute, table.column(name)) for name in table.column_names}
    starts = np.zeros(count, bool)
    starts[:1] = True
    for name in _MARKS:
        if name in codes:
            starts[1:] |= codes[name][1:] != codes[name][:-1]
    group = np.cumsum(starts) - 1
    # The same page twice in a row differs in nothing: its items begin again.
    _, first = np.unique(group * (int(codes["item_id"].max(initial=0)) + 1) + codes["item_id"], return_index=True)
    fresh = np.zeros(count, bool)
    fresh[first] = True
    again = len(np.unique(group[~fresh]))
    requests = codes["request_id"][starts]
    _, first = np.unique(requests, return_index=True)
    chosen = np.zeros(len(requests), bool)
    chosen[first] = True
    return fresh & chosen[group], int((~chosen).sum()) + again


def _codes(compute: Any, column: Any) -> NDArray[np.int64]:
    """A number for each distinct value of a column."""
    indices = compute.dictionary_encode(column, null_encoding="encode").combine_chunks().indices
    return np.asarray(indices.to_numpy(zero_copy_only=False), np.int64)
