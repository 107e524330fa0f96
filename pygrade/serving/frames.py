"""Frames in, frames out: what a policy reads of a frame, and the frame with the places that a page gave its rows."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade._util.optional_imports import require
from pygrade.logs.candidates import Candidates, read_candidates
from pygrade.logs.table import library_of, to_arrow
from pygrade.policy import FusionPolicy

Names = tuple[str, str]  # of the new columns: place and score
OF_ROWS = ("mask", "boost_mul", "boost_add", "groups", "demoted")  # rules that have an entry for each row


def read_once(frame: Any) -> Any:
    """A frame whose rows stay in one order: a relation, a reader or a table on disk becomes an Arrow table."""
    if library_of(frame) == "polars" and hasattr(frame, "collect"):
        return frame.collect()
    as_it_is = isinstance(frame, Mapping) or library_of(frame) in ("pandas", "polars", "datasets")
    return frame if as_it_is or isinstance(frame, require("pyarrow").Table) else to_arrow(frame)


def read_frame(policy: FusionPolicy, frame: Any, names: Names) -> Candidates:
    """Read what a policy needs of a frame. ``ValueError``: columns that lack, or that a new one would replace."""
    if policy.history is not None:
        raise ValueError(
            "the policy reads what users saw before, which no frame of candidates holds; expected a log of it"
        )
    columns = {f"p_{task}": scale.column for task, scale in policy.scales.items() if scale.column} | {**policy.columns}
    read = {part for column in columns.values() for part in (column, *column.split("+"))}
    own = read.intersection(getattr(frame, "column_names", getattr(frame, "columns", frame)))
    if taken := [name for name in names if name in own]:
        wish = tuple(f"new_{name}" if name in own else name for name in names)
        raise ValueError(
            f"the frame has a column {taken[0]!r}, which the training read; expected others, as names={wish}"
        )
    needed = ["value"] * bool(policy.config.value_tasks)
    if policy.correction is not None and policy.correction.item_effects is not None:
        needed += ["item_id"]
    return read_candidates(frame, policy.tasks, policy.features, policy.items, columns, needed)


def add_columns(frame: Any, rank: NDArray[np.int64], score: NDArray[np.float32], names: Names, given: Any) -> Any:
    """The frame with each row's place, from 1 on, 0: none, and score, NaN: none; of the kind that was ``given``."""
    pa, none, library = require("pyarrow"), rank == 0, library_of(given)
    if isinstance(frame, Mapping):
        return {**frame, names[0]: rank, names[1]: score}
    if library == "pandas":
        places = importlib.import_module("pandas").arrays.IntegerArray(rank, none) if none.any() else rank
        return frame.assign(**{names[0]: places, names[1]: score})
    columns = {names[0]: pa.array(rank, mask=none), names[1]: pa.array(score, mask=none)}
    if library == "polars":
        frame = frame.with_columns(importlib.import_module("polars").from_arrow(pa.table(columns)))
        return frame.lazy() if hasattr(given, "collect") else frame
    replaced = [name for name in names if name in frame.column_names]
    if library == "datasets":
        frame = frame.remove_columns(replaced)
        for name, column in columns.items():
            frame = frame.add_column(name, column.to_pylist())
        return frame
    frame = frame.drop_columns(replaced)
    for name, column in columns.items():
        frame = frame.append_column(name, column)
    return importlib.import_module("duckdb").from_arrow(frame) if library == "duckdb" else frame


def place_rows(indices: Array, values: Array, offsets: Array, rows: Array) -> tuple[Array, Array]:
    """Place from 1 on [M], 0: none, and score of each row of the table, by a page [B, k] of requests with offsets."""
    rank, score = np.zeros(len(rows), np.int64), np.full(len(rows), np.nan, np.float32)
    filled = np.nonzero(indices >= 0)
    chosen = rows[offsets[filled[0]] + indices[filled]]
    rank[chosen], score[chosen] = filled[1] + 1, values[filled]
    return rank, score
