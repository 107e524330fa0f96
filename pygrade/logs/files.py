"""Logs in Parquet files, and several logs as one."""

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from pygrade.logs import parquet
from pygrade.logs.columns import COLUMNS
from pygrade.logs.embeddings import join_tables
from pygrade.logs.logs import Logs, validate
from pygrade.storage import Folder, Place, download, is_url, publishing

logger = logging.getLogger("pygrade")


def read_logs(path: Place) -> Logs:
    """Reads a Parquet file, or a directory of Parquet parts in the order of their names; at a URL, a local copy of it.

    Errors (ValueError, TypeError) name the file, column, row and reason: a corrupt or partial file, a missing or
    mistyped column, a missing value, a request whose rows are apart or disagree, and all that `validate` refuses.
    Warnings go to the logger "pygrade".
    """
    with parquet.ParquetParts(download(path)) as source:
        logs = Logs(**source.read())
        validate(logs, str(path), source.row_name)
        for note in source.notes:
            logger.warning("%s: %s", path, note)
    columns = [("x_", logs.features, logs.context), ("i_", logs.items, logs.item_columns)]
    for prefix, names, values in columns:
        for i, name in enumerate(names):
            if bool(np.isnan(values[:, i]).all()):
                logger.warning("%s: column '%s%s' has no value: the policy cannot use it", path, prefix, name)
    return logs


def write_logs(logs: Logs, path: Place, rows_per_file: int = 1_000_000, *, check: bool = True) -> None:
    """Writes a directory of Parquet parts of about `rows_per_file` rows (whole requests), zstd compressed.

    The directory, local or at a URL, appears complete in one step; it replaces an earlier log there, never anything
    else. ``check``: `validate` first; False for a log that was just made by a reader.
    """
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file is {rows_per_file}; expected at least 1")
    if check:
        validate(logs)
    columns = {field.name: getattr(logs, field.name) for field in fields(logs)}
    if is_url(path):
        parquet.refuse_foreign_files(str(path), Folder.at(path).names())
    with publishing(path) as folder:
        parquet.write(columns, folder, rows_per_file)


def concatenate(parts: Sequence[Logs]) -> Logs:
    """One log of several with the same tasks, features and values; optional columns that all have are kept, and the
    item columns and the arms of each, which are unknown in the others."""
    if not parts:
        raise ValueError("parts is empty; expected at least one log")
    if any(part.items != parts[0].items for part in parts):
        every = tuple(dict.fromkeys(name for part in parts for name in part.items))
        parts = [part.with_items(every) for part in parts]
    if any(part.arms != parts[0].arms for part in parts):
        arms = tuple(dict.fromkeys(arm for part in parts for arm in part.arms))
        parts = [part.with_arms(arms) for part in parts]
    first = parts[0]
    for part in parts[1:]:
        for name in ("tasks", "features", "task_values", "value_tasks", "slots_known"):
            if getattr(part, name) != getattr(first, name):
                raise ValueError(f"parts differ in {name}: {getattr(first, name)} and {getattr(part, name)}")
        for name in ("request_id", "user_id", "item_id"):  # numpy would turn the integers into text
            if (getattr(part, name).dtype == np.int64) != (getattr(first, name).dtype == np.int64):
                raise ValueError(f"parts differ in {name}: integers and strings; expected one kind")
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    changes: dict[str, Any] = {"offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)}
    changes["scales"] = {task: scale for part in parts for task, scale in part.scales.items()}  # the last one's
    changes["feedback_delays"] = tuple(sorted({delay for part in parts for delay in part.feedback_delays}))
    embeddings = [(part.embedding, part.embeddings) for part in parts]
    tables = [
        (vector_index, vectors)
        for vector_index, vectors in embeddings
        if vector_index is not None and vectors is not None
    ]
    if len(tables) == len(parts):
        changes["embedding"], changes["embeddings"] = join_tables(tables)
    else:
        changes["embedding"] = changes["embeddings"] = None
    for name in COLUMNS.keys() - changes.keys():
        arrays = [getattr(part, name) for part in parts]
        whole = all(array is not None for array in arrays)
        changes[name] = np.concatenate(arrays) if whole else None
    return replace(first, **changes)
