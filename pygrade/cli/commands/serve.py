"""pygrade serve"""

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require
from pygrade._util.storage import Place
from pygrade.cli import console
from pygrade.cli.options import Output
from pygrade.service.config import read_table, split


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Serve a pipeline over HTTP: POST /v1/rank, /v1/update and /v1/explain, GET /v1/status, /metrics, /livez, /readyz,
    /console and /docs.

    Options come from the table [serve] of --config, which also has arms, shadow policies, salt and caps; those given
    here take their place. SIGTERM drains, SIGHUP looks for a new artifact at once.

    Example: pygrade serve --run runs/kuairand --workers 2
    """

    run: Place  # directory of pygrade pipeline
    config: Path | None = None  # a pygrade.toml
    host: str | None = None  # address to listen at; none: 127.0.0.1
    port: int | None = None  # none: 8080; 0: a free one
    workers: int | None = None  # processes that share the port; none: 1
    threads: int | None = None  # of a worker, that make pages; 0: its event loop makes them; none: 4
    store: str | None = None  # address of the store; none: the one that the pipeline filled
    deadline_ms: float | None = None  # of a page, after which it is made without the user's features; none: no limit
    exposures: Place | None = None  # directory for the log of served pages
    exposure_share: float | None = None  # of the requests, logged with all candidates, as training wants; none: 0.05
    feedback: Place | None = None  # directory for the log of feedback events
    max_body_bytes: int | None = None  # of a request; none: 1 MiB
    token_file: Path | None = None  # a line for each token that clients may send; none: everybody may ask
    tls_cert: Path | None = None  # PEM file of the certificate and its chain
    tls_key: Path | None = None  # PEM file of its key
    refresh_seconds: float | None = None  # between looks at the artifact and the policies; none: 1
    drain_seconds: float | None = None  # after SIGTERM, while /readyz is 503; none: 5
    log: str | None = None  # a JSON line for each request: all, errors or none; none: all
    console: Path | None = None  # the page of /console; none: studio.html in the run
    online: bool = False  # also learn from exposures and feedback, see pygrade online
    otel: bool = False  # OpenTelemetry traces


def run(options: Options) -> dict[str, Any]:
    for module in ("fastapi", "uvicorn"):
        require(module, "serve")
    from pygrade.service import supervisor
    from pygrade.serving.run_copy import check_log_folders, following

    table = table_of(options)
    config, _ = split(table)  # a bad option is named before the port is taken

    def ready(address: str) -> None:
        if not options.json:
            console.text(f"{options.run}: {address}")

    check_log_folders(table)
    with following(options.run, config.refresh_seconds, table.get("store")) as followed:
        folder = followed.resolve()
        if not (folder / "artifact").exists():
            raise FileNotFoundError(f"{options.run} has no artifact; want a directory of pygrade pipeline")
        supervisor.serve(folder, table, ready, functools.partial(console.show_log, options.quiet))
    return {"run": str(options.run)}


def table_of(options: Options) -> dict[str, Any]:
    """The options of the file with those of the command line."""
    table = {} if options.config is None else read_table(options.config)
    own = {entry.name for entry in fields(Options)} - {entry.name for entry in fields(Output)} - {"run", "config"}
    for name in sorted(own):
        value = getattr(options, name)
        if value is not None and value is not False:
            table[name] = str(value.resolve()) if isinstance(value, Path) else value
    return table
