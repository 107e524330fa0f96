"""Options that several commands share: the log, its values, the workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

from pygrade.config.option import Place
from pygrade.config.shared import LogOptions
from pygrade.data.events import parse_spec
from pygrade.logs import Logs, read_logs
from pygrade.logs.log_parts import LogParts
from pygrade.runs.source import complete, with_values
from pygrade.workers import LOCAL, Workers

Config = TypeVar("Config")


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
    """The log's address."""
    return parse_spec(options.data, ["logs"])[1]


def read_log(options: LogOptions) -> Logs:
    """The log as it is, without requests that list only a part of their candidates."""
    return read_logs(log_directory(options)).complete()


def load_log(options: LogOptions) -> Logs:
    """The log with the values of the options."""
    return with_values(read_log(options), options.values, options.value_tasks)


def open_log(options: LogOptions, whole: bool = False) -> LogParts:
    """The log of `load_log`, not read yet; see `source.complete` for ``whole``."""
    log = complete(LogParts.open(log_directory(options)), whole)
    return with_values(log, options.values, options.value_tasks)


def sub_config(kind: type[Config], options: Any) -> Config:
    """The config whose fields the command's options repeat."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})  # type: ignore[arg-type]
