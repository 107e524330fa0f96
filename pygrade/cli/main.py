"""The ``pygrade`` command: finds the subcommand, turns errors into one line, keeps standard output for results.

Exit codes: 0 done, 1 a fault of pygrade's own, 2 bad input, 130 interrupted.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from pygrade._util.alive import step_lines
from pygrade._util.interrupts import record_interrupts
from pygrade._util.text import printable
from pygrade.cli import completion
from pygrade.cli.help import help_text
from pygrade.cli.option_list import COMMANDS, typed
from pygrade.cli.parse import parse
from pygrade.config.option import Place

STUDY = "reproduce"  # no part of the package: bench/study of a clone
_TRACEBACK = "--traceback"
_BAD_INPUT = (ValueError, TypeError, OSError, ImportError, FloatingPointError, MemoryError)
_INTERRUPTED = "interrupted; what was written is whole. The same command resumes from the last checkpoint"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (``sys.argv`` by default); returns the exit code."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    if "-".join(args[:2]) in COMMANDS:  # pygrade test plan
        args = ["-".join(args[:2]), *args[2:]]
    wants_traceback = _TRACEBACK in args or os.environ.get("PYGRADE_TRACEBACK", "") not in ("", "0")
    try:
        if (text := _answer(args)) is not None:
            print(text)
            return 0 if args else 2
        if args[0] == STUDY:
            return _reproduce(args[1:])
        if args[0] == "bench":  # a process of its own: libraries read its environment at import
            return subprocess.call([sys.executable, "-m", "pygrade.bench", *args[1:]])
        if args[0] not in COMMANDS:
            return _fail(
                f"{args[0]!r} is not a command; expected one of {', '.join(map(typed, COMMANDS))} (pygrade --help)",
                2,
            )
        record_interrupts()
        _run(args[0], args[1:])
    except KeyboardInterrupt:
        return _fail(_INTERRUPTED, 130)
    except BrokenPipeError:  # the reader of the output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Ctrl-C met a clean-up, which then failed
            return _fail(_INTERRUPTED, 130)
        if wants_traceback:
            traceback.print_exc()
        if isinstance(error, _BAD_INPUT) or "StoreError" in {kind.__name__ for kind in type(error).__mro__}:
            return _fail(_one_line(error), 2)
        hint = "" if wants_traceback else f"; run again with {_TRACEBACK} to see where"
        return _fail(f"{type(error).__name__}: {_one_line(error)}{hint}", 1)
    return 0


def _answer(args: list[str]) -> str | None:
    """The text of what needs no command: help, versions, a path, completion; None: a command runs."""
    if not args or args[0] in ("-h", "--help"):
        return usage()
    if args[0] == "--version":
        from pygrade import __version__

        if "--verbose" not in args:
            return __version__
        from pygrade.cli.versions import versions_text

        return versions_text(as_json="--json" in args)
    if args[0] == "--cmake-dir":
        from pygrade import cmake_dir

        return cmake_dir()
    if args[0] == completion.ASK:
        line = os.environ.get("COMP_LINE", "")
        line = line[: int(os.environ.get("COMP_POINT", len(line)))]
        return "\n".join(completion.complete_line(line, args[2] if len(args) > 2 else None))
    if args[0] == "--print-completion":
        return completion.script(args[1] if len(args) > 1 else "")
    if args[0] in COMMANDS and not {"-h", "--help", "--help-all"}.isdisjoint(args):
        return help_text(args[0], full="--help-all" in args)
    return None


def _run(name: str, arguments: list[str]) -> None:
    """Parse the options of a command and run it; the result goes to standard output."""
    options = parse(name, arguments)
    for file in getattr(options, "files", ()) if name == "doctor" else ():  # before a second of imports
        _check_file(file)
    if name == "doctor":  # its matrices are small: threads of BLAS would wait for each other
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with step_lines(name) if name == "doctor" and not options.quiet else nullcontext():
        command = importlib.import_module(f"pygrade.cli.commands.{name.replace('-', '_')}")
        from pygrade._util.serialization import to_builtins
        from pygrade.cli.terminal import show_log

        show_log(options.quiet)
        text = json.dumps(to_builtins(command.run(options)), allow_nan=False)
    if options.json:
        print(text)
    sys.stdout.flush()


def _check_file(place: Place) -> None:
    """FileNotFoundError if a table is not there, at a version of it or as it is; a URL is looked up when it is read."""
    text = str(place)
    if "://" not in text and not Path(text).exists() and not Path(re.sub(r"@v\d+$", "", text)).exists():
        raise FileNotFoundError(f"{text} does not exist; expected a file or a directory of files")


def _reproduce(arguments: list[str]) -> int:
    """The study's own program, where a clone is: around the package, or in the current directory."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / "bench" / "study" / "command.py").is_file():
            paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
            command = [sys.executable, "-m", "bench", "study", *arguments]
            return subprocess.call(command, env={**os.environ, "PYTHONPATH": paths})
    return _fail(f"the study is in bench/study of a clone of the repository; run pygrade {STUDY} from there", 2)


def usage() -> str:
    """The text of ``pygrade --help``."""
    others = {STUDY: ("", "the study of every finding on held-out worlds: tables, verdicts; in a clone")}
    others["bench"] = ("", "time the ops on this CPU or GPU beside other libraries; share of the machine's limits")
    rows = "\n".join(f"  {typed(name):<13} {text}" for name, (_, text) in (COMMANDS | others).items())
    return (
        "usage: pygrade COMMAND [options]\n\n"
        "Learns from logs how to rank by several predictions, and serves the pages (GRADE, arXiv 2510.07919).\n\n"
        f"commands:\n{rows}\n\n"
        "Data is named SCHEME:PATH: logs:DIR (Parquet logs); pipeline also reads kuairand:, recflow: and ebnerd:DIR.\n"
        "It may be at a URL: logs:s3://BUCKET/PATH; so may all that --help calls PATH|URL.\n"
        "'pygrade COMMAND --help' has the options of a command that matter most, --help-all every one. --config FILE\n"
        "reads them from a TOML file: a table per command, [train], [train.reward], and [defaults] for several.\n"
        "'pygrade --version --verbose' prints versions, device, instruction set, and which backends work.\n"
        "C++ projects find the library by cmake -Dpygrade_DIR=$(pygrade --cmake-dir). Tab completes after\n"
        'eval "$(pygrade --print-completion bash)" (zsh, too), in fish pygrade --print-completion fish | source\n'
        "Results go to standard output, progress to standard error; --json prints one JSON object instead of tables."
    )


def _one_line(error: BaseException) -> str:
    """The message and its notes: which stage, which job."""
    notes = [f"({note})" for note in getattr(error, "__notes__", ())]
    return printable(" ".join(" ".join([str(error) or type(error).__name__, *notes]).split()))


def _fail(message: str, code: int) -> int:
    print(f"pygrade: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
