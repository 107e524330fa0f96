"""pygrade serve"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

from pygrade.cli.config_file import read_table
from pygrade.config.service import ServeOptions
from pygrade.config.shared import Output
from pygrade.service import program
from pygrade.serving.run_copy import check_log_folders, check_proven, following, policy_of
from pygrade.storage import is_url


def run(options: ServeOptions) -> dict[str, Any]:
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
        check_proven(policy_of(folder), bool(table.get("allow_unproven", False)))
        if not online and not is_url(options.run):
            program.execute(folder, table)
        with _learning(folder, table) if online else nullcontext():
            code = program.wait(program.start(folder, table))
    if code:
        raise SystemExit(code)
    return {"run": str(options.run)}


def table_of(options: ServeOptions) -> dict[str, Any]:
    """The options of the file with those of the command line."""
    table = {} if options.config is None else read_table(options.config, "serve")
    table.pop("run", None)  # which the command line has
    others = {field.name for field in fields(Output)} | {"run", "config", "print_config"}
    for name in sorted({field.name for field in fields(ServeOptions)} - others):
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
    allowed = bool(table.get("allow_unproven", False))
    service = OnlineService(run, exposures, [feedback], shares=shares_of(table), allow_unproven=allowed)
    thread = threading.Thread(target=service.serve, name="pygrade-online")
    with service.claim():
        thread.start()
        try:
            yield
        finally:
            service.ended.set()
            thread.join()
