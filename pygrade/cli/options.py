"""Options that several commands share."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pygrade.data.events import parse_spec
from pygrade.logs import Logs, read_logs

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Output:
    """Options of every command."""

    json: bool = False  # print one JSON object on standard output instead of tables
    quiet: bool = False  # no progress on standard error
    traceback: bool = False  # show the Python traceback of an error


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where requests come from."""

    data: str  # logs:DIR, e.g. logs:runs/demo/logs

    @property
    def directory(self) -> Path:
        return parse_spec(self.data, ["logs"])[1]

    def load(self) -> Logs:
        """The logs in DIR."""
        return read_logs(self.directory)


def part(kind: type[Config], options: Any) -> Config:
    """The config whose fields the command's options repeat."""
    return kind(**{entry.name: getattr(options, entry.name) for entry in fields(kind)})  # type: ignore[arg-type]
