"""`pygraded`, the server in C++, started with its options as JSON on standard input: no file and no process list shows
them."""

import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pygrade import _core

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PARENT_DEATH = 1  # of prctl


def program() -> Path:
    """The server of this installation; FileNotFoundError if it was built without one."""
    path = Path(_core.__file__).resolve().parent / "bin" / "pygraded"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; want pygrade built with its server (PYGRADE_BUILD_SERVER)")
    return path


def to_config(options: Mapping[str, Any]) -> str:
    """The JSON that `pygraded` reads; ValueError names an option that JSON can't say, such as a date."""
    for name, value in options.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is {value}; want text, a number, true or false, a list or a table") from error
    return json.dumps(options)


def execute(run: Path, options: Mapping[str, Any]) -> NoReturn:
    """The server in place of this process."""
    command, standard_input = _command(run), _memory(to_config(options))
    os.dup2(standard_input, 0)
    os.execv(command[0], command)


def start(run: Path, options: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
    """The server as a process that drains if this one dies; Ctrl-C in a terminal does not reach it."""
    standard_input = _memory(to_config(options))
    libc = ctypes.CDLL(None)

    def drain_with_parent() -> None:
        libc.prctl(_PARENT_DEATH, signal.SIGTERM)

    try:
        return subprocess.Popen(_command(run), stdin=standard_input, process_group=0, preexec_fn=drain_with_parent)
    finally:
        os.close(standard_input)


def wait(process: "subprocess.Popen[bytes]") -> int:
    """Passes SIGTERM, SIGINT and SIGHUP on until the server has ended; its exit code."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(run: Path) -> list[str]:
    return [str(program()), "--run", str(run), "--config", "-"]


def _memory(text: str) -> int:
    """A file that has no name, at its start."""
    number = os.memfd_create("pygrade-options")
    with open(number, "wb", closefd=False) as stream:
        stream.write(text.encode())
    os.lseek(number, 0, os.SEEK_SET)
    return number
