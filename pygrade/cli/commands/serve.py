"""pygrade serve"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pygrade.cli.config_file import read_table
from pygrade.cli.options import Output
from pygrade.service import program
from pygrade.serving.run_copy import check_log_folders, following, policy_of
from pygrade.storage import Place, is_url

ESSENTIAL = ("run", "config", "host", "port", "token_file", "exposures", "exposure_share", "feedback", "online")


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Serve what pygrade train or pygrade pipeline wrote over HTTP: POST /v1/rank, /v1/weights, /v1/update and
    /v1/explain, GET /v1/status, /metrics, /livez, /readyz, /console and /docs.

    It runs pygraded, the server in C++. Options come from the table [serve] of --config, which also has arms, shadow
    policies and exploration; those given here win. SIGTERM drains, SIGHUP looks for a new artifact at once.

    Example: pygrade serve --run runs/demo
    """

    run: Place  # directory of pygrade train, demo or pipeline, or of a policy; a URL is followed
    config: Path | None = None  # a pygrade.toml
    host: str | None = None  # address to listen at; none: 127.0.0.1. Others want a token, or --public
    port: int | None = None  # none: 8080; 0: a free one
    public: bool = False  # everybody who can reach the address may ask: no token is needed
    token_file: Path | None = None  # a line for each token that clients may send; none: the variable PYGRADE_TOKEN
    tls_cert: Path | None = None  # PEM file of the certificate and its chain
    tls_key: Path | None = None  # PEM file of its key
    threads: int | None = None  # that make pages; none: as many as cores, at most 8
    connections: int | None = None  # open at once; none: 512
    max_requests: int | None = None  # in progress; more are answered with 503; none: from the measured rate
    max_body_bytes: int | None = None  # of a request; none: 1 MiB
    store: str | None = None  # address of the store; none: PYGRADE_STORE, else the one that the pipeline filled
    deadline_ms: float | None = None  # of a page, after which it is made without the user's features; none: no limit
    max_k: int | None = None  # items of a page; none: 1,000
    max_candidates: int | None = None  # of a request; none: 10,000
    max_events: int | None = None  # of an update; none: 10,000
    max_ids: int | None = None  # items in seen, and in eligible; none: 200,000
    max_batch: int | None = None  # requests in one body; none: 100
    max_amount: float | None = None  # of an event; none: 1,000,000
    unknown_items: str | None = None  # feedback on items that the catalog lacks: refuse or count; none: refuse
    require_store: bool = False  # /readyz is 503 while the store does not answer; else pages are degraded
    strict: bool = False  # refuse unknown keys of requests; else they are ignored and counted
    max_explore: float | None = None  # share of all pages that may explore, whatever is asked; none: 0.1
    salt: str | None = None  # of the hash that gives users to arms; another one deals them anew
    seed: int | None = None  # of exploration; none: the system's
    exposures: Place | None = None  # directory for the log of served pages
    exposure_share: float | None = None  # of the requests, logged with all candidates, as training wants; none: 0.05
    feedback: Place | None = None  # directory for the log of feedback events
    file_seconds: float | None = None  # after which a file of a log is complete; none: 300
    refresh_seconds: float | None = None  # between looks at the artifact and the policies; none: 1
    drain_seconds: float | None = None  # after SIGTERM, while /readyz is 503; none: 5
    log: str | None = None  # a JSON line for each request: all, errors or none; none: all
    console: Path | None = None  # the page of /console; none: report.html in the run
    online: bool = False  # also learn from exposures and feedback, see pygrade online
    print_config: bool = False  # print pygraded's options as JSON and end


def run(options: Options) -> dict[str, Any]:
    if options.store is not None and "://" in options.store and "@" in options.store:
        raise ValueError("store has a password, which other users can see; want it in --config or PYGRADE_STORE")
    table = table_of(options)
    online = table.pop("online", False)
    check_log_folders(table)
    if options.print_config:
        print(program.to_config(table))
        return {"config": table}
    with following(options.run, float(table.get("refresh_seconds", 1.0)), table.get("store")) as followed:
        folder = followed.resolve()
        policy_of(folder)
        if not online and not is_url(options.run):
            program.execute(folder, table)
        with _learning(folder, table) if online else nullcontext():
            code = program.wait(program.start(folder, table))
    if code:
        raise SystemExit(code)
    return {"run": str(options.run)}


def table_of(options: Options) -> dict[str, Any]:
    """The options of the file with those of the command line."""
    table = {} if options.config is None else read_table(options.config, "serve")
    table.pop("run", None)  # which the command line has
    others = {entry.name for entry in fields(Output)} | {"run", "config", "print_config"}
    for name in sorted({entry.name for entry in fields(Options)} - others):
        value = getattr(options, name)
        if value is not None and value is not False:
            table[name] = str(value.resolve()) if isinstance(value, Path) else value
    return table


@contextmanager
def _learning(run: Path, table: Mapping[str, Any]) -> Iterator[None]:
    """Learns from the logs of the service while the block runs."""
    from pygrade.service.online import OnlineService, first_policy, log_folder, shares_of

    exposures, feedback = (log_folder(run, table, name) for name in ("exposures", "feedback"))
    for folder in (exposures, feedback):
        folder.mkdir(parents=True, exist_ok=True)
    first_policy(run)
    service = OnlineService(run, exposures, [feedback], shares=shares_of(table))
    thread = threading.Thread(target=service.serve, name="pygrade-online")
    with service.claim():
        thread.start()
        try:
            yield
        finally:
            service.ended.set()
            thread.join()
