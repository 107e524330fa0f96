"""Sources of a training: a log, its files, files of other programs, or a table in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pygrade.logs import Logs
from pygrade.logs.column_map import parse_map
from pygrade.logs.import_table import Columns
from pygrade.logs.log_parts import LogParts, wrote_log
from pygrade.logs.table_files import read_pages

Log = TypeVar("Log", Logs, LogParts, Logs | LogParts)


def open_source(
    source: Any,
    columns: Columns | None,
    values: Mapping[str, float],
    value_tasks: Sequence[str],
    whole: bool = False,
    **table: Any,
) -> tuple[Logs | LogParts, str]:
    """The log of a source with values of its own, and a name for it; see `pygrade.train`, and `complete` for ``whole``.

    A log that pygrade wrote is taken as it is, and read later; with ``columns`` or other options of a table it is a
    table as every other.
    """
    given = [*(["map"] if columns is not None else []), *table]
    if isinstance(source, Logs | LogParts):
        if given:
            raise ValueError(f"{given[0]} is of tables, and logs is a log; expected one or the other")
        return with_values(complete(source, whole), values, value_tasks), "a log in memory"
    if isinstance(source, list | tuple) and not source:
        raise ValueError("logs is an empty list; expected paths of a log or of files")
    places = _places(source)
    if places and not given and wrote_log(places):
        return with_values(complete(LogParts.open(places), whole), values, value_tasks), ", ".join(map(str, places))
    rows, where = read_pages(places, stated_roles=parse_map(columns)) if places else (source, "the table")
    return Logs.from_table(rows, columns, values=values, value_tasks=value_tasks, where=where, **table), where


def complete(log: Log, whole: bool) -> Log:
    """The requests that list all of their candidates. whole: ``ValueError`` if there are others, as a history has to
    count all that users were shown.
    """
    kept: Log = log.complete()
    if whole and kept.num_requests < log.num_requests:
        rest = f"{log.num_requests - kept.num_requests} of {log.num_requests} requests list the shown rows alone"
        raise ValueError(
            f"history.enabled counts all that was shown, and {rest}; expected all in full (exposure_share = 1)"
        )
    return kept


def with_values(log: Log, values: Mapping[str, float], value_tasks: Sequence[str] = ()) -> Log:
    """The log with other values of events; ``ValueError`` names a task that it lacks."""
    for option, names in (("values", values), ("value-tasks", value_tasks)):
        if unknown := [name for name in names if name not in log.tasks]:
            raise ValueError(f"{option} names task {unknown[0]!r}; expected one of {', '.join(log.tasks)}")
    worth = {**dict(zip(log.tasks, log.task_values, strict=True)), **values}
    if values and not any(worth.values()):
        raise ValueError(f"values make every event worth 0 ({', '.join(log.tasks)}); expected at least one other value")
    return log.with_values(tuple(map(float, worth.values())), tuple(value_tasks))


def _places(source: Any) -> list[Any]:
    """The files that are meant; none of a table in memory."""
    if isinstance(source, str | Path):
        return [source]
    several = isinstance(source, list | tuple) and all(isinstance(place, str | Path) for place in source)
    return list(source) if several else []
