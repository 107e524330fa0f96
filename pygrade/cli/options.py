"""Options that several commands share: the log, its values, the workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

from pygrade.config.option import Place
from pygrade.config.shared import LogOptions
from pygrade.data.events import parse_spec
from pygrade.logs import Logs, read_logs
from pygrade.logs.log_parts import LogParts, rows_of
from pygrade.workers import LOCAL, Workers

Config = TypeVar("Config")
Log = TypeVar("Log", Logs, LogParts)


@contextmanager
def workers_of(cluster: str | None, *paths: Place) -> Iterator[Workers]:
    """The workers that --cluster asks for; paths: local ones that all nodes must see."""
    if cluster is None:
        yield LOCAL
        return
    from pygrade.cluster import connect

    with connect(cluster, paths) as workers:
        yield workers


def log_directory(options: LogOptions) -> Place:
    """Where the log is."""
    return parse_spec(options.data, ["logs"])[1]


def read_log(options: LogOptions) -> Logs:
    """The log as it is, without requests that list only a part of their candidates."""
    return read_logs(log_directory(options)).complete()


def load_log(options: LogOptions) -> Logs:
    """The log with the values of the options."""
    return with_values(read_log(options), options)


def open_log(options: LogOptions, limit: int) -> Logs | LogParts:
    """As `load_log`; a log of more requests than the limit is not read yet."""
    directory = log_directory(options)
    if rows_of(directory) <= limit:  # and so the requests
        return load_log(options)
    parts = LogParts.open(directory).complete()
    return load_log(options) if parts.num_requests <= limit else with_values(parts, options)


def with_values(logs: Log, options: LogOptions) -> Log:
    """Logs with the values of the options; ``ValueError`` names a task that they lack."""
    for option, names in (("values", options.values), ("value-tasks", options.value_tasks)):
        if unknown := [name for name in names if name not in logs.tasks]:
            raise ValueError(f"{option} names task {unknown[0]!r}; want one of {', '.join(logs.tasks)}")
    worth = {**dict(zip(logs.tasks, logs.task_values, strict=True)), **options.values}
    if options.values and not any(worth.values()):
        raise ValueError(f"values make every event worth 0 ({', '.join(logs.tasks)}); want at least one other value")
    return logs.valued(tuple(worth.values()), options.value_tasks)


def sub_config(kind: type[Config], options: Any) -> Config:
    """The config whose fields the command's options repeat."""
    return kind(**{entry.name: getattr(options, entry.name) for entry in fields(kind)})  # type: ignore[arg-type]
