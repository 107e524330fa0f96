"""pygrade online"""

import signal
from typing import Any

from pygrade._util.serialization import read_json
from pygrade.cli import terminal
from pygrade.cli.options import sub_config
from pygrade.config.service import OnlineOptions, ServiceConfig
from pygrade.service.online import ARMS, FOLDER, STATUS, OnlineService


def run(options: OnlineOptions) -> dict[str, Any]:
    folder = options.run.resolve()
    service = OnlineService(
        folder,
        options.exposures,
        options.feedback,
        sub_config(ServiceConfig, options),
        options.arms,
        options.allow_unproven,
    )
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
        terminal.text(f"version {status['version']} is served; {status['requests']:,} requests to learn from; {counts}")
    return {"status": status, "arms": read_json(folder / ARMS)}
