"""Options that several commands share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pygrade.config.option import Options, option, required


def check_finite(values: Mapping[str, float]) -> None:
    """``ValueError`` names a value of events that is no number."""
    for task, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"values has {task}={value}; expected finite numbers, e.g. click=1,buy=20")


@dataclass(frozen=True, kw_only=True)
class Output(Options):
    """Options of every command."""

    json: bool = option(False, "print one JSON object on standard output instead of tables")
    quiet: bool = option(False, "no progress on standard error")
    traceback: bool = option(False, "show the Python traceback of an error")


@dataclass(frozen=True, kw_only=True)
class Cluster(Options):
    """The machines that run a command's work."""

    cluster: str | None = option(
        None,
        "local[:N]: Ray on this machine, N processes (default: one per core); or a Ray cluster: auto, HOST:PORT, "
        "ray://HOST:PORT. The result is the same as in one process, which is the default.",
    )


@dataclass(frozen=True, kw_only=True)
class Tracking(Options):
    """The tracker that a run is reported to."""

    track: str | None = option(
        None,
        "mlflow:URI, or mlflow:URI#NAME of the experiment and the model: report options, metrics and "
        "files there, and register what to serve, whose newest version has the alias newest.",
    )


@dataclass(frozen=True, kw_only=True)
class Unproven(Options):
    """Policies that may be served."""

    allow_unproven: bool = option(False, "also serve a policy that is not shown to be as good as what you have")


@dataclass(frozen=True, kw_only=True)
class LogOptions(Options):
    """The source of requests, and the worth of events."""

    data: str = required("logs:DIR or logs:URL, e.g. logs:runs/demo/logs")
    values: dict[str, float] = option(
        {},
        "What one event of a task is worth, e.g. click=1,buy=20; negative for harm. Other tasks: as the policy "
        "was trained for, if one is judged, else as the log says.",
    )
    value_tasks: tuple[str, ...] = option((), "tasks whose event value is multiplied by the item's price")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(self.values)
