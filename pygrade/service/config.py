"""Options of the service: those of the HTTP layer, and those that go to the core as they are."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

LOGS = ("all", "errors", "none")
MAX_BODY_BYTES = 1 << 20
# What the core is told beside `ServeConfig`, see <pygrade/service.hpp>: it checks them, and names one that it refuses.
CORE_KEYS = (
    "store",
    "deadline_ms",
    "max_k",
    "max_candidates",
    "max_events",
    "arms",
    "salt",
    "shadow",
    "max_explore",
    "exposures",
    "exposure_share",
    "file_seconds",
    "feedback",
    "seed",
)

OTHER_KEYS = ("connections",)  # of pygraded, which reads the same table


@dataclass(frozen=True)
class ServeConfig:
    """How the workers listen and answer."""

    host: str = "127.0.0.1"
    port: int = 8080  # 0: a free one
    workers: int = 1  # processes that share the port
    threads: int = 4  # of a worker, that make pages; 0: the event loop makes them itself
    max_body_bytes: int = MAX_BODY_BYTES  # of a request
    token_file: str | None = None  # a line for each token that clients may send as "Authorization: Bearer TOKEN"
    tls_cert: str | None = None  # PEM file of the certificate and its chain; none: no TLS
    tls_key: str | None = None  # PEM file of its key
    drain_seconds: float = 5.0  # after SIGTERM: /readyz is 503 and requests are still answered
    refresh_seconds: float = 1.0  # between looks at the artifact and the policies; SIGHUP looks at once
    log: str = "all"  # a JSON line for each request on standard error: all, errors or none
    console: str | None = None  # the page of /console; none: RUN/studio.html
    online: bool = False  # a process beside the workers learns from exposures and feedback, see pygrade online
    otel: bool = False  # traces by OpenTelemetry, with the exporter that its OTEL_ variables choose

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, kind = getattr(self, entry.name), entry.type
            if kind is float and isinstance(value, int):
                kind = int
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):  # type: ignore[arg-type]
                raise TypeError(f"{entry.name} is {value!r}; want {_KINDS.get(entry.type, 'a text')}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value:g}; want {low:g} to {high:g}")
        if self.log not in LOGS:
            raise ValueError(f"log is {self.log!r}; want one of {', '.join(LOGS)}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together; one of them is missing")
        for name in ("token_file", "tls_cert", "tls_key", "console"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise FileNotFoundError(f"{name} is {path}, which is no file")


_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("port", 0, 65535),
    ("workers", 1, 256),
    ("threads", 0, 256),
    ("max_body_bytes", 1024, 1 << 30),
    ("drain_seconds", 0, 3600),
    ("refresh_seconds", 0.05, 3600),
)


def read_table(path: Path) -> dict[str, Any]:
    """The table ``[serve]`` of a TOML file but its ``run``; {} if it has none."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    table = content.get("serve", {})
    if not isinstance(table, dict):
        raise ValueError(f"{path}: serve is {table!r}; want a table [serve]")
    return {name: value for name, value in table.items() if name != "run"}  # which the command line takes from it


def log_folder(run: Path, table: Mapping[str, Any], name: str) -> Path:
    """The directory of exposures or feedback, relative to the run as in the core; ValueError if there is none."""
    if not table.get(name):
        raise ValueError(f"{name} is not given; want the directory in which the service logs {name}")
    return run / str(table[name])


def split(table: Mapping[str, Any]) -> tuple[ServeConfig, str]:
    """The options of the HTTP layer, and the JSON that the core takes; ValueError for a name that neither knows."""
    own = {entry.name for entry in fields(ServeConfig)}
    unknown = sorted(set(table) - own - {*CORE_KEYS, *OTHER_KEYS})
    if unknown:
        raise ValueError(f"serve has no option {unknown[0]!r}; want one of {', '.join(sorted(own | set(CORE_KEYS)))}")
    config = ServeConfig(**{name: value for name, value in table.items() if name in own})
    core = {name: value for name, value in table.items() if name in CORE_KEYS and value is not None}
    return config, json.dumps(core | {"max_body_bytes": config.max_body_bytes})
