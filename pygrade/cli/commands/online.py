"""pygrade online"""

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pygrade._util.serialization import read_json
from pygrade.cli import console
from pygrade.cli.options import Output, Values, part
from pygrade.config.service import ServiceConfig
from pygrade.service.online import ARMS, FOLDER, STATUS, OnlineService


@dataclass(frozen=True, kw_only=True)
class Options(Output, ServiceConfig):
    """Learn from the exposures and feedback of a service while it serves: RUN/online/policy is a link to the newest
    policy that was published, which an arm of the service may name; RUN/online/status.json says what was published,
    refused and rolled back, RUN/arms.json has the lifts of the arms with intervals that hold at any time.

    It runs until SIGTERM, and continues where it was. pygrade serve --online starts it, too.

    Example: pygrade online --run runs/kuairand --exposures logs/exposures --feedback logs/feedback
    """

    run: Path  # directory of pygrade pipeline
    exposures: Path  # directory of Parquet files that the service writes
    feedback: tuple[Path, ...]  # directories of JSON lines that the service writes
    arms: Values = field(
        default_factory=Values
    )  # planned shares of the service's arms, the control first; none: one arm, main
    once: bool = False  # look once and end


def run(options: Options) -> dict[str, Any]:
    folder = options.run.resolve()
    service = OnlineService(folder, options.exposures, options.feedback, part(ServiceConfig, options), options.arms)
    if options.once:
        service.once()
    else:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: service.ended.set())
        with service.claim():
            service.serve()
    status = read_json(folder / FOLDER / STATUS)
    if not options.json:
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(status["counters"].items()))
        console.text(f"version {status['version']} is served; {status['requests']:,} requests to learn from; {counts}")
    return {"status": status, "arms": read_json(folder / ARMS)}
