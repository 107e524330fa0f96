"""pygrade console"""

from dataclasses import dataclass
from typing import Annotated, Any

from pygrade.cli import console
from pygrade.cli.options import Output, part
from pygrade.config.console import ConsoleConfig
from pygrade.console.run_console import write_console
from pygrade.storage import Place, join_path, place_of, publishing

FILE = "console.html"


@dataclass(frozen=True, kw_only=True)
class Options(Output, ConsoleConfig):
    """Write the console of a run: one HTML file that needs no server and asks no other host for anything.

    It shows requests that the training did not see: the pages of production, expected value, best static weights and
    GRADE side by side, what moved and which task moved it, and sliders that rank again at once, with their replay
    value. It saves the sliders as a policy. `pygrade serve` shows the same file at /console, with the live state.

    Example: pygrade console runs/mine --data logs:runs/logs
    """

    run: Annotated[Place, "positional"]  # directory of pygrade train, demo or pipeline
    out: Place | None = None  # HTML file to write; none: console.html in the run
    data: str | None = None  # logs:DIR; none: the log that the run kept or names


def run(options: Options) -> dict[str, Any]:
    out = join_path(options.run, FILE) if options.out is None else options.out
    with publishing(place_of(str(out))) as path:
        write_console(options.run, path, options.data, part(ConsoleConfig, options))
        size = path.stat().st_size
    if not options.json:
        console.text(f"console: {out}")
    return {"run": str(options.run), "out": str(out), "bytes": size}
