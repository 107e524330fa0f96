"""A worker: uvicorn over the core, refreshed while it serves, and drained before it ends."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from pygrade.service.app import Answers, Core, create_app
from pygrade.service.config import ServeConfig
from pygrade.service.gate import Asgi, Gate, Traffic
from pygrade.service.tokens import Tokens
from pygrade.service.tracing import Tracer

logger = logging.getLogger("pygrade")
CONSOLE = "studio.html"  # in the run: the page of /console
_MAX_IN_FLIGHT = 512  # requests of a worker; more are told to come again
_KEEP_ALIVE = 75  # seconds that an idle connection stays open, longer than the proxies in front wait


def open_core(run: Path, config_json: str) -> Core:
    """The core over a run; config_json: as `split` makes it. The core's errors name what is missing."""
    from pygrade import _core

    return _core.Service(str(run), config_json)


class Worker:
    """The app over one core, served on a socket until a signal ends it, or by whoever calls `app`."""

    def __init__(self, core: Core, run: Path, config: ServeConfig, number: int | str = 0) -> None:
        """number: of the worker, or its name, in the lines of the log."""
        self.core, self.config, self.number = core, config, number
        self.traffic = Traffic()
        self.tokens = None if config.token_file is None else Tokens(Path(config.token_file))
        self.tracer = Tracer() if config.otel else None
        self.answers = Answers(core, config.threads, config.max_body_bytes, self.tracer)
        console = run / CONSOLE if config.console is None else Path(config.console)
        app: Asgi = create_app(self.answers, console)
        if self.tracer is not None:
            app = self.tracer.around(app)
        self.app = Gate(app, self.traffic, self.tokens, _MAX_IN_FLIGHT, config.log, number)
        self._ended = threading.Event()
        self._look = threading.Event()

    def serve(self, listener: socket.socket) -> None:
        """Answers until SIGTERM or SIGINT; then drains."""
        server = _Server(self)
        watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        watcher.start()
        try:
            server.run(sockets=[listener])
        finally:
            self._ended.set()
            self._look.set()
            watcher.join()
            self.close()

    def close(self) -> None:
        """Waits for the pages that are being made, and flushes the logs."""
        self.answers.close()
        self.core.drain()  # what was served since the first time is in the logs, too
        if self.tracer is not None:
            self.tracer.close()

    def hang_up(self) -> None:
        """SIGHUP: looks at the artifact, the policies and the tokens at once."""
        self.reload_tokens()
        self._look.set()

    def reload_tokens(self) -> None:
        """Reads the file of tokens again; a bad one is told, and the tokens stay."""
        if self.tokens is not None:
            try:
                self.tokens.reload()
            except (OSError, ValueError) as error:
                logger.error("the tokens stay as they were: %s", error)

    def _watch(self) -> None:
        while True:
            self._look.wait(self.config.refresh_seconds)
            self._look.clear()
            if self._ended.is_set():
                return
            parent = multiprocessing.parent_process()
            if parent is not None and not parent.is_alive():
                os.kill(os.getpid(), signal.SIGTERM)  # nobody would end this worker any more
                return
            if self.core.refresh():
                logger.info("worker %s: serves what is new on disk", self.number)


class _Server(uvicorn.Server):
    """uvicorn whose SIGTERM drains and whose SIGHUP refreshes."""

    def __init__(self, worker: Worker) -> None:
        config = worker.config
        options = uvicorn.Config(
            worker.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
            ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
        )
        super().__init__(options)
        self._worker = worker

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's handlers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        loop.add_signal_handler(signal.SIGHUP, self._worker.hang_up)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _drain(self) -> None:
        if self._worker.traffic.draining:  # a second signal: at once
            self.should_exit = self.force_exit = True
            return
        self._worker.traffic.draining = True
        self._draining = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        """Readiness ends first, so that no new requests are sent here, and the port after `drain_seconds`."""
        await asyncio.to_thread(self._worker.core.drain)
        await asyncio.sleep(self._worker.config.drain_seconds)
        self.should_exit = True
