"""Options that several commands share."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from pygrade.data.events import parse_spec
from pygrade.logs import Logs, read_logs
from pygrade.logs.log_parts import LogParts, rows_of
from pygrade.storage import Place
from pygrade.workers import LOCAL, Workers

Config = TypeVar("Config")
Log = TypeVar("Log", Logs, LogParts)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of every command."""

    json: bool = False  # print one JSON object on standard output instead of tables
    quiet: bool = False  # no progress on standard error
    traceback: bool = False  # show the Python traceback of an error


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the work of a command runs."""

    # local[:N]: Ray on this machine, N processes (none: one a core); or a Ray cluster: auto, HOST:PORT, ray://HOST:PORT.
    # The result is the same as in one process, which is the default.
    cluster: str | None = None


@contextmanager
def workers_of(cluster: str | None, *paths: Place) -> Iterator[Workers]:
    """The workers that --cluster asks for; paths: local ones that all nodes must see."""
    if cluster is None:
        yield LOCAL
        return
    from pygrade.cluster import connect

    with connect(cluster, paths) as workers:
        yield workers


class Values(dict[str, float]):
    """Task → what one event is worth."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where requests come from, and what events are worth."""

    data: str  # logs:DIR or logs:URL, e.g. logs:runs/demo/logs
    # What one event of a task is worth, e.g. click=1,buy=20; negative for harm. Other tasks: as the policy was trained
    # for, if one is judged, else as the log says.
    values: Values = field(default_factory=Values)
    value_tasks: tuple[str, ...] = ()  # tasks whose events are worth that times the item's value (its price)

    @property
    def directory(self) -> Place:
        return parse_spec(self.data, ["logs"])[1]

    def read(self) -> Logs:
        """The logs in DIR as they are, without requests that list only a part of their candidates."""
        return read_logs(self.directory).complete()

    def load(self) -> Logs:
        """The logs in DIR with the values of the options."""
        return self.valued(self.read())

    def open(self, limit: int) -> Logs | LogParts:
        """As `load`; a log of more requests than the limit is not read yet."""
        if rows_of(self.directory) <= limit:  # and so the requests
            return self.load()
        parts = LogParts.open(self.directory).complete()
        return self.load() if parts.num_requests <= limit else self.valued(parts)

    def valued(self, logs: Log) -> Log:
        """Logs with the values of the options; ``ValueError`` names a task that they lack."""
        for option, names in (("values", self.values), ("value-tasks", self.value_tasks)):
            if unknown := [name for name in names if name not in logs.tasks]:
                raise ValueError(f"{option} names task {unknown[0]!r}; want one of {', '.join(logs.tasks)}")
        worth = {**dict(zip(logs.tasks, logs.task_values, strict=True)), **self.values}
        if self.values and not any(worth.values()):
            raise ValueError(
                f"values make every event worth 0 ({', '.join(logs.tasks)}); want at least one other value"
            )
        return logs.valued(tuple(worth.values()), self.value_tasks)


def parse_values(words: Sequence[str]) -> Values:
    """The values of ``click=1,buy=20``, which may be several words; ``ValueError`` names a bad entry."""
    result = Values()
    for entry in filter(None, ",".join(words).split(",")):
        task, _, number = entry.partition("=")
        try:
            result[task] = float(number)
        except ValueError:
            raise ValueError(f"{entry!r} is not TASK=NUMBER, e.g. click=1,buy=20") from None
        if not task or not math.isfinite(result[task]):
            raise ValueError(f"{entry!r} wants a task and a finite number, e.g. click=1,buy=20")
    return result


def part(kind: type[Config], options: Any) -> Config:
    """The config whose fields the command's options repeat."""
    return kind(**{entry.name: getattr(options, entry.name) for entry in fields(kind)})  # type: ignore[arg-type]
