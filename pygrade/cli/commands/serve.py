"""pygrade serve"""

import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require
from pygrade._util.storage import Place, is_url
from pygrade.cli import console
from pygrade.cli.options import Output
from pygrade.service.config import read_table, split


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Serve a pipeline over HTTP: POST /v1/rank, /v1/update and /v1/explain, GET /v1/status, /metrics, /livez, /readyz,
    /console and /docs. With --cluster, in replicas on Ray Serve.

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
    exposures: Place | None = None  # directory for the log of served pages; a URL on a cluster alone
    exposure_share: float | None = None  # of the requests, logged with all candidates, as training wants; none: 0.05
    feedback: Place | None = None  # directory for the log of feedback events; a URL on a cluster alone
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
    cluster: str | None = None  # serve on Ray: local, local:N or the address of a cluster; none: in processes here
    replicas: int | None = None  # on a cluster; none: 1, or as max_replicas says
    min_replicas: int | None = None  # of autoscaling on a cluster; none: 1
    max_replicas: int | None = None  # of autoscaling on a cluster; none: no autoscaling
    target_ongoing_requests: float | None = None  # of a replica at once, for autoscaling; none: 16


_PLACED = ("cluster", "replicas", "min_replicas", "max_replicas", "target_ongoing_requests")


def run(options: Options) -> dict[str, Any]:
    for module in ("fastapi", "uvicorn"):
        require(module, "serve")
    from pygrade.service import supervisor
    from pygrade.serving.run_copy import following

    table = table_of(options)
    placed = {name: table.pop(name) for name in _PLACED if name in table}
    cluster = placed.pop("cluster", None)
    for name, value in placed.items():
        if cluster is None:
            raise ValueError(f"{name} is {value}; want it with --cluster alone")
    config, _ = split(table)  # a bad option is named before the port is taken

    def ready(address: str) -> None:
        if not options.json:
            console.text(f"{options.run}: {address}")

    if cluster is not None:
        from pygrade.cluster.scale import Replicas
        from pygrade.cluster.serve import serve

        run = str(options.run) if is_url(options.run) else str(Path(options.run).resolve())
        serve(run, table, Replicas(**placed), str(cluster), ready)
        return {"run": str(options.run)}
    for name in ("exposures", "feedback"):
        if is_url(table.get(name)):
            raise ValueError(f"{name} is {table[name]}; want a directory, or this URL with --cluster")
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
