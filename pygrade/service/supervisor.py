"""Workers that share a port: processes that one process starts, watches and ends."""

import logging
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any

from pygrade.service.config import ServeConfig, log_folder, split

logger = logging.getLogger("pygrade")
_BACKLOG = 2048  # connections that wait for a worker
_YOUNG = 5.0  # seconds: a worker that ends earlier did not start
_MAX_YOUNG = 3  # such ends in a row until the service gives up
_KILL_AFTER = 15.0  # seconds after the drain


def serve(
    run: Path, table: dict[str, Any], ready: Callable[[str], Any], prepare: Callable[[], Any] = lambda: None
) -> None:
    """Serves a run until SIGTERM or SIGINT. table: of ``[serve]``.

    ready: called with the address before the workers load; prepare: called first in each worker that is a process of
    its own, so it must be a function of a module.
    """
    config, _ = split(table)
    listener = bind(config.host, config.port)
    scheme = "http" if config.tls_cert is None else "https"
    host, port = listener.getsockname()[:2]
    with listener:
        ready(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        if config.workers == 1 and not config.online:
            work(run, table, listener, 0)
        else:
            _Supervisor(run, table, config, listener, prepare).run()


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens: what is asked before a worker is ready waits. OSError if the address is taken."""
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(kind, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"host {host} and port {port}: {error.strerror}") from error
    return listener


def work(run: Path, table: dict[str, Any], listener: socket.socket, number: int) -> None:
    """One worker's life."""
    from pygrade.service.worker import Worker, open_core

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it serves, there is nothing to look at again
    config, core = split(table)
    Worker(open_core(run, core), run, config, number).serve(listener)


def _child(run: Path, table: dict[str, Any], listener: socket.socket, number: int, prepare: Callable[[], Any]) -> None:
    prepare()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent tells the workers
    try:
        work(run, table, listener, number)
    except Exception as error:
        print(f"pygrade: worker {number}: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


class _Supervisor:
    def __init__(
        self,
        run: Path,
        table: dict[str, Any],
        config: ServeConfig,
        listener: socket.socket,
        prepare: Callable[[], Any],
    ) -> None:
        self.run_path, self.table, self.config, self.listener, self.prepare = run, table, config, listener, prepare
        self.context = multiprocessing.get_context("spawn")
        self.workers: dict[int, Any] = {}
        self.started: dict[int, float] = {}
        self.young = 0
        self.ending = False
        self.online = _Online(run, table) if config.online else None

    def run(self) -> None:
        before = {
            number: signal.signal(number, self._signaled) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            for number in range(self.config.workers):
                self._start(number)
            self._watch()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._end()

    def _start(self, number: int) -> None:
        arguments = (self.run_path, self.table, self.listener, number, self.prepare)
        process = self.context.Process(target=_child, args=arguments, name=f"pygrade-worker-{number}")
        process.start()
        self.workers[number], self.started[number] = process, time.monotonic()

    def _watch(self) -> None:
        """Starts workers again that ended by themselves."""
        while not self.ending:
            connection.wait([process.sentinel for process in self.workers.values()], timeout=0.2)
            for number, process in list(self.workers.items()):
                if process.is_alive() or self.ending:
                    continue
                self.young = self.young + 1 if time.monotonic() - self.started[number] < _YOUNG else 0
                if self.young >= _MAX_YOUNG:
                    raise OSError(
                        f"worker {number} ended with {process.exitcode} soon after its start, {self.young} "
                        "times; its message is above"
                    )
                logger.error("worker %d ended with %s and is started again", number, process.exitcode)
                self._start(number)
            if self.online is not None and not self.ending:
                self.online.watch()

    def _signaled(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._tell(signal.SIGHUP)
            return
        self.ending = True
        self._tell(signal.SIGTERM)

    def _tell(self, number: int) -> None:
        for process in self.workers.values():
            if process.is_alive():
                os.kill(process.pid, number)

    def _end(self) -> None:
        self.listener.close()  # the workers close theirs when they have drained
        if not self.ending:
            self._tell(signal.SIGTERM)
        limit = time.monotonic() + 2 * self.config.drain_seconds + _KILL_AFTER
        for process in self.workers.values():
            process.join(max(0.0, limit - time.monotonic()))
            if process.is_alive():
                logger.error("%s does not end and is killed", process.name)
                process.kill()
                process.join()
        if self.online is not None:
            self.online.end()


class _Online:
    """The process that learns beside the workers; started again if it ends."""

    def __init__(self, run: Path, table: Mapping[str, Any]) -> None:
        from pygrade.service.online import first_policy, shares_of

        self.command = [sys.executable, "-m", "pygrade", "online", "--run", str(run)]
        for name in ("exposures", "feedback"):
            folder = log_folder(run, table, name)
            folder.mkdir(parents=True, exist_ok=True)
            self.command += [f"--{name}", str(folder)]
        shares = shares_of(table) or {}
        self.command += ["--arms", *(f"{arm}={share}" for arm, share in shares.items())] if shares else []
        first_policy(run)
        self.process: subprocess.Popen[bytes] | None = None
        self.started = -math.inf

    def watch(self) -> None:
        """Starts it, not too often."""
        if self.process is not None and self.process.poll() is None:
            return
        if time.monotonic() - self.started < _YOUNG:
            return
        if self.process is not None:
            logger.error("online learning ended with %s and is started again", self.process.returncode)
        self.process, self.started = subprocess.Popen(self.command), time.monotonic()

    def end(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_KILL_AFTER)
        except subprocess.TimeoutExpired:
            logger.error("online learning does not end and is killed")
            self.process.kill()
            self.process.wait()
