"""`pygraded`, the server in C++, started with its options as JSON on standard input: no file and no process list shows
them."""

import ctypes
import fcntl
import hashlib
import json
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pygrade import _core

logger = logging.getLogger("pygrade")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PARENT_DEATH = 1  # of prctl


def program() -> Path:
    """The server of this installation; FileNotFoundError if it was built without one."""
    path = Path(_core.__file__).resolve().parent / "bin" / "pygraded"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected pygrade built with its server (PYGRADE_BUILD_SERVER)")
    return path


def to_config(options: Mapping[str, Any]) -> str:
    """The JSON that `pygraded` reads; ValueError names an option that JSON can't say, such as a date."""
    for name, value in options.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is {value}; expected text, a number, true or false, a list or a table") from error
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


class AttachedServer:
    """A server that an earlier process started, as far as `wait` needs it."""

    def __init__(self, process: int) -> None:
        """ProcessLookupError if there is none."""
        self.descriptor, self.asked = os.pidfd_open(process), False

    def send_signal(self, number: int) -> None:
        self.asked |= number != signal.SIGHUP  # which asks for a new artifact
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)

    def wait(self) -> int:
        """Until it has ended: 0 if it was asked to."""
        ended = select.poll()
        ended.register(self.descriptor, select.POLLIN)
        ended.poll()
        os.close(self.descriptor)
        return 0 if self.asked else 1


def start_or_attach(run: Path, options: Mapping[str, Any], place: Path) -> "subprocess.Popen[bytes] | AttachedServer":
    """The server that an earlier process started with the same options, or else a new one; it serves on if this process
    is killed. place: a file that it holds locked while it lives. One with other options is drained first.
    """
    secrets = [os.environ.get(name) for name in ("PYGRADE_TOKEN", "PYGRADE_STORE")]
    same = f"{_core.__version__} {run} {to_config(options)} {secrets}"  # hashed, as options may have a password
    digest = hashlib.sha256(same.encode()).hexdigest()
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)  # of an earlier one, whose number another process may have
                break
            process, _, other = os.pread(descriptor, 100, 0).decode().partition(" ")
            with suppress(ProcessLookupError, ValueError):  # it has just ended, or has just begun
                server = AttachedServer(int(process))
                if other == digest:
                    logger.info("goes on with the pygraded that serves, process %s", process)
                    return server
                server.send_signal(signal.SIGTERM)
                server.wait()
            time.sleep(0.05)
        standard_input = _memory(to_config(options))

        def sign() -> None:
            os.pwrite(descriptor, f"{os.getpid():010} {digest}".encode(), 0)

        try:
            return subprocess.Popen(
                _command(run), stdin=standard_input, process_group=0, pass_fds=(descriptor,), preexec_fn=sign
            )
        finally:
            os.close(standard_input)
    finally:
        os.close(descriptor)


def wait(process: "subprocess.Popen[bytes] | AttachedServer") -> int:
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
