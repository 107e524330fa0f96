"""pygrade serve"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygrade.cli.config_file import Setting, build, read_table
from pygrade.config.ignored import refuse
from pygrade.config.service import ServeOptions, TestConfig
from pygrade.config.shared import Output
from pygrade.service import program
from pygrade.serving.run_copy import check_log_folders, check_proven, following, policy_of
from pygrade.storage import Place, is_url

if TYPE_CHECKING:
    from pygrade.service.online import OnlineService
    from pygrade.service.testing import TestReader


def run(options: ServeOptions) -> dict[str, Any]:
    if options.store is not None and "://" in options.store and "@" in options.store:
        raise ValueError("store has a password, which other users can see; expected it in --config or PYGRADE_STORE")
    table = table_of(options)
    online = table.pop("online", False)
    for place in (table, *table.get("runs", {}).values()):
        check_log_folders(place)
    config = _test_config(options, table, online)
    if config is not None:
        from pygrade.service import testing

        table = testing.fill_table(Path(options.run).resolve(), table, config)
    if options.print_config:
        print(program.to_config(table))
        return {"config": table}
    with ExitStack() as stack:

        def follow(run: Place, store: str | None) -> Path:
            return stack.enter_context(following(run, float(table.get("refresh_seconds", 1.0)), store)).resolve()

        folder = follow(options.run, table.get("store"))
        followed = is_url(options.run)
        for own in table.get("runs", {}).values():  # what can't be served of them, the server says
            followed |= is_url(own["run"])
            own["run"] = str(follow(own["run"], own.get("store")))
        if not table.get("allow_unproven"):  # else the server warns
            check_proven(policy_of(folder), False)
        if config is not None:
            reader = testing.TestReader(folder, table, config)
            with _beside(reader):
                code = program.wait(program.start_or_attach(folder, table, reader.folder / testing.SERVER))
        elif not online and not followed:
            program.execute(folder, table)
        else:
            with _beside(_learner(folder, table)) if online else nullcontext():
                code = program.wait(program.start(folder, table))
    if code:
        raise SystemExit(code)
    return {"run": str(options.run)}


def table_of(options: ServeOptions) -> dict[str, Any]:
    """The options of the file with those of the command line."""
    table = {} if options.config is None else read_table(options.config, "serve")
    table.pop("run", None)  # which the command line has
    others = {field.name for field in fields(Output)} | {"run", "config", "print_config", "test", "interval_seconds"}
    for name in sorted({field.name for field in fields(ServeOptions)} - others):
        value = getattr(options, name)
        if value is not None and value is not False:
            table[name] = str(value.resolve()) if isinstance(value, Path) else value
    runs = table.get("runs", {})
    if not isinstance(runs, dict) or not all(isinstance(own, dict) for own in runs.values()):
        raise ValueError(f"config {options.config}: [serve] runs is {runs}; expected tables [serve.runs.NAME] with run")
    if wrong := [name for name, own in runs.items() if not isinstance(own.get("run"), str)]:
        raise ValueError(f"runs.{wrong[0]} lacks run; expected the directory of a run")
    return table


def _test_config(options: ServeOptions, table: dict[str, Any], online: bool) -> TestConfig | None:
    """The options of --test, taken out of [serve.test]; None if there is none. ValueError for options that would be
    ignored.
    """
    if not options.test:
        refuse(options, ("interval_seconds",), "--test")
        return None
    if online or is_url(options.run):
        wrong = "online is true" if online else f"run is {options.run}"
        raise ValueError(f"{wrong}; expected a directory whose policy stays as it is with --test")
    given = dict(found) if isinstance(found := table.pop("test", None), dict) else {}
    given |= {} if options.interval_seconds is None else {"interval_seconds": options.interval_seconds}
    where, names = f"config {options.config}: [serve.test] ", [field.name for field in fields(TestConfig)]
    for name in given:
        if name not in names or name in table or ("arms" in table and name in ("share", "control")):
            wish = f"some of {', '.join(names)}" if name not in names else "no [[serve.arms]] with it"
            wish = f"{name} in [serve] alone" if name in table else wish
            raise ValueError(f"{where}has {name}; expected {wish}")
    config: TestConfig = build(TestConfig, {name: Setting(value, where) for name, value in given.items()})
    return config


def _learner(run: Path, table: Mapping[str, Any]) -> "OnlineService":
    """The learner from the logs of the service."""
    from pygrade.service.online import OnlineService, first_policy, log_folder, shares_of

    exposures, feedback = (log_folder(run, table, name) for name in ("exposures", "feedback"))
    for folder in (exposures, feedback):
        folder.mkdir(parents=True, exist_ok=True)
    first_policy(run)
    allowed = bool(table.get("allow_unproven", False))
    return OnlineService(run, exposures, [feedback], shares=shares_of(table), allow_unproven=allowed)


@contextmanager
def _beside(service: "OnlineService | TestReader") -> Iterator[None]:
    """Follows the logs of the service while the block runs."""
    thread = threading.Thread(target=service.serve, name="pygrade-logs")
    with service.claim():
        thread.start()
        try:
            yield
        finally:
            service.ended.set()
            thread.join()
