"""A replica of the service: the app of `pygrade serve` over a core of its own, in an actor of Ray Serve."""

import asyncio
import json
import logging
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve

from pygrade._util.storage import is_url
from pygrade.cluster.figures import merged
from pygrade.cluster.log_upload import LogUpload
from pygrade.cluster.run_copy import RunCopy
from pygrade.service.app import Core
from pygrade.service.config import split
from pygrade.service.gate import Asgi
from pygrade.service.worker import Worker, open_core

logger = logging.getLogger("pygrade")
NAMESPACE, BOARD = "pygrade", "pygrade-figures"
LOGS = ("exposures", "feedback")
_TELL = 1.0  # seconds between what a replica tells the board
_WAIT = 2.0  # seconds for the board's answer
_FILE_SECONDS = 300.0  # of a log, as in the core

Answer = tuple[int, str, bytes, str]


@dataclass(frozen=True)
class Job:
    """What all replicas serve, and how."""

    run: str  # a directory that all machines see, or a URL
    table: Mapping[str, Any]  # of [serve]
    machine: str | None = None  # the only one whose replicas can read the store; None: any

    def __str__(self) -> str:
        return f"run {self.run}"


@serve.ingress()
class Replica:
    """What Ray Serve calls: the app, health, new artifacts, the end."""

    def __init__(self, job: Job) -> None:
        _log_to_stderr()
        context = serve.get_replica_context()
        machine = socket.gethostname()
        if job.machine not in (None, machine):
            raise ValueError(f"machine {machine} can't read the store, which is on {job.machine}; want redis:")
        self.labels = {"node": machine, "replica": context.replica_tag}
        scratch = Path(tempfile.gettempdir()) / f"pygrade-{context.app_name}"
        self.copy: RunCopy | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        run = Path(job.run)
        if is_url(job.run):
            scratch.mkdir(parents=True, exist_ok=True)
            self._scratch = tempfile.TemporaryDirectory(prefix="run-", dir=scratch)
            run = Path(self._scratch.name) / "run"
            self.copy = RunCopy(job.run, run)
            self.copy.update()
        table, urls = _logs_of(job, machine)
        self.upload: LogUpload | None = None
        if urls:
            self.upload = LogUpload(scratch / "logs", urls, float(table.get("file_seconds", _FILE_SECONDS)))
            table |= {kind: str(self.upload.folder(kind)) for kind in urls}
        config, core = split(table)
        self.core = ReplicaCore(open_core(run, core), self.labels)
        self.worker = Worker(self.core, run, config, context.replica_tag)
        self._refreshing, self._behind = threading.Lock(), False
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._keep, args=(config.refresh_seconds,), name="keeper", daemon=True)
        self._beat.start()

    def __serve_build_asgi_app__(self) -> Asgi:
        return self.worker.app

    async def reconfigure(self, target: Mapping[str, Any]) -> None:
        """Serves what the target names, see `pygrade.cluster.serve`. It raises nothing: what was served goes on, and
        /readyz names the fault."""
        if target["draining"]:
            self.worker.traffic.draining = True
            await asyncio.to_thread(self.core.drain)
            return
        self.worker.reload_tokens()
        await asyncio.to_thread(self._refresh)

    def _refresh(self) -> None:
        """One at a time. What fails is tried again each second, by the core each ten."""
        with self._refreshing:
            try:
                if self.copy is not None:
                    self.copy.update()
            except (OSError, ValueError) as error:
                logger.error("replica %s goes on with what it has: %s", self.labels["replica"], error)
                self._behind = True
                return
            if self.core.refresh():
                logger.info("replica %s: serves what is new", self.labels["replica"])
            self._behind = self.state()["reload_error"] is not None

    def state(self) -> dict[str, Any]:
        """What /readyz says."""
        state: dict[str, Any] = json.loads(self.core.handle("GET", "/readyz", b"")[2])
        return state

    async def check_health(self) -> None:
        """A replica that is not ready is replaced, unless it drains."""
        status, _, body, _ = self.core.handle("GET", "/readyz", b"")
        if status != 200 and not self.worker.traffic.draining:
            raise RuntimeError(f"/readyz answers {status}: {body.decode()}")

    def _keep(self, refresh_seconds: float) -> None:
        """Tells the figures, uploads logs, and tries again what could not be loaded."""
        while not self._ended.wait(min(_TELL, refresh_seconds)):
            self.core.tell()
            try:
                if self.upload is not None:
                    self.upload.step()
            except (OSError, ValueError) as error:
                logger.error("logs are not uploaded yet: %s", error)
            if self._behind:
                self._refresh()

    async def __del__(self) -> None:
        """Ray Serve has waited for the pages that are being made."""
        if hasattr(self, "_ended"):
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._ended.set()
        self._beat.join()
        self.worker.close()
        self.core.leave()
        if self.upload is not None:
            self.upload.close()
        if self._scratch is not None:
            self._scratch.cleanup()


class ReplicaCore:
    """A core whose /metrics are those of all replicas, with labels."""

    def __init__(self, core: Core, labels: Mapping[str, str]) -> None:
        self.core, self.labels = core, dict(labels)
        self._board: Any = None

    def handle(self, method: str, path: str, body: bytes) -> Answer:
        """See `pygrade.service.app.Core`."""
        status, kind, content, number = self.core.handle(method, path, body)
        if path != "/metrics" or status != 200:
            return status, kind, content, number
        told = [(self.labels, content.decode()), *self._others()]
        return status, kind, merged(sorted(told, key=lambda entry: entry[0]["replica"])).encode(), number

    def refresh(self) -> bool:
        return self.core.refresh()

    def drain(self) -> None:
        self.core.drain()

    def tell(self) -> None:
        """Tells the board this replica's figures; if there is none, nobody."""
        board = self._found()
        if board is not None:
            text = self.core.handle("GET", "/metrics", b"")[2].decode()
            board.tell.remote(self.labels["replica"], self.labels, text)

    def leave(self) -> None:
        """Takes them back."""
        if self._board is not None:
            self._board.leave.remote(self.labels["replica"])

    def _others(self) -> list[tuple[dict[str, str], str]]:
        board = self._found()
        if board is None:
            return []
        try:
            others: list[tuple[dict[str, str], str]] = ray.get(
                board.others.remote(self.labels["replica"]), timeout=_WAIT
            )
            return others
        except ray.exceptions.RayError as error:
            logger.warning("the figures of the other replicas are missing: %s", error)
            self._board = None
            return []

    def _found(self) -> Any:
        if self._board is None:
            try:
                self._board = ray.get_actor(BOARD, NAMESPACE)
            except ValueError:  # its command has ended, and another may come
                return None
        return self._board


def _logs_of(job: Job, machine: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The table with directories that name this machine, and the addresses of logs that go to a URL, by kind."""
    table, urls = dict(job.table), {}
    for kind in LOGS:
        if not table.get(kind):
            continue
        place = str(table[kind]).replace("{node}", machine)
        if not is_url(place) and is_url(job.run) and not place.startswith("/"):
            place = f"{job.run.rstrip('/')}/{place}"
        table[kind] = place
        if is_url(place):
            urls[kind] = place
    return table, urls


def _log_to_stderr() -> None:
    """The lines of this process go where Ray keeps those of its workers."""
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stderr))
        logger.setLevel(logging.INFO)
