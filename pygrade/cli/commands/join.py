"""pygrade join"""

from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_file
from pygrade._util.optional_imports import require
from pygrade.cli import terminal
from pygrade.cli.config_file import read_table
from pygrade.cli.options import sub_config
from pygrade.config.service import JoinConfig, JoinOptions
from pygrade.logs import read_logs
from pygrade.service.experiment import Experiment, user_table
from pygrade.service.join import STATE, join_logs
from pygrade.storage import Folder, download_directory, is_url

_FOREVER = 1 << 62


def run(options: JoinOptions) -> dict[str, Any]:
    if options.final and options.until is not None:
        raise ValueError("--final and --until both say which pages wait no more; want one of them")
    if (options.users is None) != (options.experiment is None):
        raise ValueError("--users and --experiment belong together: the table, and the file that describes it")
    if options.users is not None and options.users.suffix not in (".csv", ".parquet"):
        raise ValueError(f"users is {options.users}; want a name that ends with .csv or .parquet")
    experiment = None if options.experiment is None else _experiment(options.experiment)
    until = _FOREVER if options.final else options.until
    # Of URLs, mirrors: files that were read before are not copied again.
    exposures, feedback = (
        download_directory(options.exposures),
        [download_directory(place) for place in options.feedback],
    )
    out = download_directory(options.out)
    record = join_logs(exposures, feedback, out, sub_config(JoinConfig, options), until)
    if is_url(options.out):
        Folder.at(options.out).publish(out, hidden=(STATE,))
    if experiment is not None and options.users is not None and record["requests"]:
        record |= _write_users(out, experiment, options.users)
    if not options.json:
        rows = [[text, f"{record[name]:,}"] for name, text in _ROWS.items()]
        terminal.table(f"{options.out}", ["", "in all"], rows)
        if "users" in record:
            left = f"{record['late_users']:,} users who came after the first week of their cohort are left out"
            left += f", and {record['outside']:,} requests outside the experiment"
            terminal.text(f"{options.users}: {record['users']:,} users of {experiment and experiment.name}; {left}")
        wait = f"no page is complete yet: each waits {options.feedback_delay_ms / 60_000:g} minutes for its feedback"
        wait += "; --final waits for none, where the logs have ended"
        terminal.text(f"train on it: pygrade train --data logs:{options.out} --out RUN" if record["requests"] else wait)
    return record


def _experiment(config: Path) -> Experiment:
    table = read_table(config, "serve").get("experiment")
    if not isinstance(table, dict):
        raise ValueError(f"{config} has no table [serve.experiment]; want the file that pygrade serve --config reads")
    return Experiment.of_options(table)


def _write_users(logs: Path, experiment: Experiment, file: Path) -> dict[str, Any]:
    arrow = require("pyarrow")
    found = user_table(read_logs(logs), experiment)
    with atomic_file(file) as path:
        if file.suffix == ".csv":
            require("pyarrow.csv").write_csv(arrow.table(found.columns), path)
        else:
            require("pyarrow.parquet").write_table(arrow.table(found.columns), path)
    users = len(next(iter(found.columns.values())))
    return {"users": users, "late_users": found.late, "outside": found.outside}


_ROWS = {
    "requests": "pages with complete feedback",
    "open": "open pages: their feedback may still come",
    "repeated_pages": "pages left out: their request was served before",
    "joined": "events joined",
    "late": "events too late",
    "repeated": "events received again",
    "not_on_page": "events of items that their page did not show",
    "unknown": "events of unknown requests",
    "other": "events without a task, or with one that the pages do not have",
    "waiting": "events that wait",
    "malformed": "events malformed",
}
