"""Options of a console."""

from dataclasses import dataclass

from pygrade.config.option import Options, Place, option, required
from pygrade.config.shared import Output


@dataclass(frozen=True)
class ConsoleConfig(Options):
    """Size of a console, and how its requests are judged."""

    requests: int = option(1000, "requests that it holds, evenly spaced over the held-out ones", ge=1)
    k: int = option(10, "ranks that count", ge=1)
    propensity: float | None = option(None, "exponent of the slots' propensity; default: estimate it from the log")


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Output, ConsoleConfig):
    """Write the console of a run: one HTML file that needs no server and asks no other host for anything.

    It shows requests that the training did not see: the pages of production, expected value, best static weights and
    GRADE side by side, and sliders that rank again at once, with their replay value. It saves the sliders as a policy.
    `pygrade serve` shows the same file at /console, with the live state.

    Example: pygrade report runs/mine --data logs:runs/logs
    """

    run: Place = required("directory of pygrade train, demo or pipeline", positional=True)
    out: Place | None = option(None, "HTML file to write; default: console.html in the run")
    data: str | None = option(None, "logs:DIR; default: the log that the run kept or names")
