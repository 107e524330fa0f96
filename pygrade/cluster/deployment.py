"""The service on Ray Serve: replicas behind one address, which change to a new artifact one after another.

Serve tells one replica after another what to serve, while the others go on. A replica loads a new artifact whole beside
the old one and changes over between two pages, so no page mixes two, and no request waits for a load or is lost.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
from ray import serve

from pygrade import __version__
from pygrade.cluster import checks
from pygrade.cluster.errors import ClusterError
from pygrade.cluster.figures import Board
from pygrade.cluster.replica import BOARD, NAMESPACE, Job, Replica
from pygrade.cluster.run_copy import published, store_of
from pygrade.cluster.scale import Replicas
from pygrade.service.config import ServeConfig

logger = logging.getLogger("pygrade")
APP = "pygrade"
_KEEP_ALIVE = 75  # seconds that an idle connection stays open, as in `pygrade serve`
_MAX_ONGOING = 128  # requests that a replica holds; more wait in front of it
_POLL = 0.3  # seconds between looks at what Serve does
_ENDING = 30.0  # seconds for the requests that an ending replica holds
_QUIET = {"enable_access_log": False, "log_level": "WARNING"}


class Service:
    """One service on the cluster to which this process is connected."""

    def __init__(self, run: str, table: Mapping[str, Any], config: ServeConfig, replicas: Replicas) -> None:
        self.address, self.table, self.config, self.replicas = run, table, config, replicas
        self.target: dict[str, Any] = {"published": published(run, table), "looks": 0, "draining": False}
        self.rolling = False  # replicas have not all been told the target yet
        self.url = ""

    @contextmanager
    def running(self, may_grow: bool = False) -> Iterator[None]:
        """The service from the moment when all replicas serve. Afterwards they answer what they hold, and end.

        may_grow: the cluster may get more nodes than it has. ValueError or OSError (`ClusterError`) for what can't be
        served, before anything is started.
        """
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        nodes = checks.machines(ray.nodes())
        checks.enough(nodes, self.replicas.least, may_grow)
        store = store_of(self.address, self.table)
        self.job = Job(self.address, self.table, checks.machine_of(store, self.address, nodes))
        host, port, listening = checks.listener(self.config.host, self.config.port)
        version = self.target["published"]["artifact"]
        checks.check(nodes, self.address, version, self.table, None if listening else (host, port))
        board = self._board()
        own = not listening or APP in serve.status().applications  # left by a command that was killed
        try:
            if not listening:
                self._listen(host, port)
            try:
                self._deploy()
                self._wait()
                scheme = "http" if self.config.tls_cert is None else "https"
                self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
                yield
            finally:
                serve.delete(APP)
                if own and not serve.status().applications:
                    serve.shutdown()
        finally:
            ray.kill(board)

    def look(self, at_once: bool = False) -> None:
        """Rolls out what is new in the run. at_once: tells the replicas in any case, so that they read tokens again."""
        if self.rolling:
            self._progress()
        try:
            found = published(self.address, self.table)
        except (OSError, ValueError) as error:  # say an artifact that is being replaced
            logger.warning("the run can't be read, and what is served goes on: %s", error)
            return
        if found == self.target["published"] and not at_once:
            return
        self.target |= {"published": found, "looks": self.target["looks"] + at_once}
        self._deploy()
        self.rolling = True

    def drain(self) -> None:
        """From soon on /readyz answers 503; requests are answered on."""
        self.target |= {"draining": True}
        self._deploy()

    def _board(self) -> Any:
        try:
            return ray.remote(Board).options(name=BOARD, namespace=NAMESPACE, num_cpus=0).remote()
        except ValueError as error:
            raise ValueError("another pygrade serve uses this cluster; end it first") from error

    def _listen(self, host: str, port: int) -> None:
        tls = {"ssl_certfile": self.config.tls_cert, "ssl_keyfile": self.config.tls_key}
        try:
            serve.start(
                proxy_location="EveryNode",
                http_options={"host": host, "port": port, "keep_alive_timeout_s": _KEEP_ALIVE, **tls},
                logging_config=_QUIET,
            )
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise ClusterError(
                f"Ray Serve does not listen at host {host} and port {port}: {checks.last_error(str(error))}"
            ) from error

    def _deploy(self) -> None:
        """Tells Serve what the replicas are to serve; it does not wait."""
        made: Any = serve.deployment(
            Replica,
            name="service",
            max_ongoing_requests=_MAX_ONGOING,
            user_config=dict(self.target),
            graceful_shutdown_wait_loop_s=0.2,
            graceful_shutdown_timeout_s=_ENDING,
            ray_actor_options={"num_cpus": 1},
            logging_config=_QUIET,
            **self.replicas.options(),
        )
        # Serve would give each call another version, for which it starts all processes again. This one depends on all
        # but the target, so that replicas are told a new target one after another and go on.
        content = json.dumps([__version__, asdict(self.job)], sort_keys=True, default=str)
        version = hashlib.sha256(content.encode()).hexdigest()[:12]
        deployment = made.options(version=version, _internal=True)
        target = serve.RunTarget(deployment.bind(self.job), name=APP, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)

    def _wait(self) -> None:
        """Until all replicas serve; ClusterError with the fault of one that does not start."""
        while (status := self._status()) != "RUNNING":
            if status == "DEPLOY_FAILED":
                raise ClusterError(f"the replicas do not start: {self._fault()}")
            time.sleep(_POLL)

    def _progress(self) -> None:
        status = self._status()
        if status == "RUNNING":
            self.rolling = False
            logger.info("all replicas were told to serve artifact %s", self.target["published"]["artifact"])
        elif status == "DEPLOY_FAILED":
            self.rolling = False
            logger.error("a replica does not take artifact %s: %s", self.target["published"]["artifact"], self._fault())

    def _status(self) -> str:
        app = serve.status().applications.get(APP)
        return "" if app is None else str(app.status.value)

    def _fault(self) -> str:
        app = serve.status().applications[APP]
        return checks.last_error("\n".join([app.message, *(entry.message for entry in app.deployments.values())]))
