"""pygrade reproduce"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pygrade._util.files import directory_lock
from pygrade.cli import console
from pygrade.cli.ignored import refuse
from pygrade.cli.options import Cluster, part, workers_of
from pygrade.cli.run_directory import recorded
from pygrade.evaluation.arms import GRADE
from pygrade.study import StudyConfig, reproduce, tables


@dataclass(frozen=True, kw_only=True)
class Options(Cluster, StudyConfig):
    """The study: every arm and finding on held-out worlds, with tables, pictures and verdicts (see docs/PROTOCOL.md).

    Each result is kept in --out once it is done; an interrupted study continues with the missing ones.

    Example: pygrade reproduce --quick
    Example: pygrade reproduce --full --jobs 2 --docs docs --json out.json
    Example: pygrade reproduce --arms static,stage1,grade --world-seed 7 8 --world-set session=0.5
    """

    out: Path = Path("runs/study")  # directory to write: results.json, RESULTS.md, pictures, and each result
    docs: Path | None = None  # also write RESULTS.md and pictures here, from every frozen result in --out
    json: Path | None = None  # also write the results to this file as one JSON object; -: to standard output
    quiet: bool = False  # no progress on standard error
    traceback: bool = False  # show the Python traceback of an error


def run(options: Options) -> dict[str, Any]:
    config = part(StudyConfig, options)
    arms, regimes = (
        tuple(word for entry in names for word in entry.split(",")) for names in (config.arms, config.regimes)
    )
    if options.cluster is not None:
        refuse(options, ("jobs",), "no --cluster")
    with (
        workers_of(options.cluster, options.out) as workers,
        directory_lock(options.out, "reproduce"),
        recorded(options, "reproduce", options.out),
    ):
        record = reproduce(replace(config, arms=arms, regimes=regimes), options.out, options.docs, workers)
    if options.json != Path("-"):
        for title, head, rows in tables(record):
            console.table(title, head, rows, GRADE)
        console.text(f"report: {options.out / 'RESULTS.md'}    results: {options.out / 'results.json'}")
    return record
