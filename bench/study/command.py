"""`python -m bench study`, which `pygrade reproduce` starts: the study of every finding, see docs/STUDY.md.

    python -m bench study --quick
    python -m bench study --full --jobs 2
    python -m bench study --arms static stage1 grade --world-seed 7 8 --world-set session=0.5

Each result is kept in --out once it is done; an interrupted study continues with the missing ones.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pygrade._util.files import directory_lock
from pygrade._util.interrupts import record_interrupts
from pygrade._util.serialization import to_builtins, write_bytes
from pygrade.cli import terminal
from pygrade.cli.options import workers_of
from pygrade.cli.run_directory import check_output
from pygrade.evaluation.arms import GRADE
from . import StudyConfig, reproduce, tables
from .settings import load_settings


def main(arguments: Sequence[str], program: str = "python -m bench study") -> int:
    """Runs the study by the words of a command line; returns the exit code: 0, 2 for bad input, 130 if interrupted."""
    parser = _parser(program)
    options = parser.parse_args(arguments)
    if options.cluster is not None and options.jobs is not None:
        parser.error("--jobs has no use with --cluster, which says how many work")
    try:
        config = StudyConfig(
            full=options.full,
            quick=options.quick,
            arms=_names(options.arms),
            regimes=_names(options.regimes),
            world_seed=tuple(options.world_seed),
            world_set=tuple(options.world_set),
            jobs=1 if options.jobs is None else options.jobs,
        )
        terminal.show_log(options.quiet)
        record_interrupts()
        _run(config, options)
    except KeyboardInterrupt:
        parser.exit(130, f"{program}: interrupted; the same command continues with the missing results\n")
    except (ValueError, TypeError, OSError, ImportError) as error:
        parser.exit(2, f"{program}: {error}\n")
    return 0


def _run(config: StudyConfig, options: argparse.Namespace) -> None:
    check_output(options.out, "reproduce")
    with workers_of(options.cluster, options.out) as workers, directory_lock(options.out, "reproduce"):
        record = reproduce(config, options.out, workers)
    if options.json:
        write_bytes(options.json, (json.dumps(to_builtins(record), allow_nan=False) + "\n").encode())
    for title, head, rows in tables(record, load_settings()):
        terminal.table(title, head, rows, GRADE)
    terminal.text(f"report: {options.out / 'RESULTS.md'}    results: {options.out / 'results.json'}")


def _names(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for entry in words for word in entry.split(","))


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--full", action="store_true", help="every regime, not main alone")
    add("--quick", action="store_true", help="two minutes on development worlds: shows that it runs, no evidence")
    add("--arms", nargs="*", default=(), help="only these arms")
    add("--regimes", nargs="*", default=(), help="only these regimes; without: main, with --full all")
    add("--world-seed", nargs="*", type=int, default=(), help="your own worlds instead of the judging worlds")
    add("--world-set", nargs="*", default=(), help="KEY=VALUE changes of the worlds' constants: session=0.5")
    add("--jobs", type=int, help="processes, one thread each")
    add("--cluster", help="local[:N] or the address of a Ray cluster, where the results are computed")
    add("--out", type=Path, default=Path("runs/study"), help="directory to write: report, summary and each result")
    add("--json", type=Path, help="also write the results to this file as one JSON object")
    add("--quiet", action="store_true", help="no progress on standard error")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
