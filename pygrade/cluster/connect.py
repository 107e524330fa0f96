"""Connection to a cluster: from ``--cluster local[:N]|ADDRESS`` to workers."""

import gc
import logging
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from pygrade._util.optional_imports import require
from pygrade._util.progress import screen
from pygrade._util.text import one_line
from pygrade.cluster.errors import ClusterError
from pygrade.storage import Place
from pygrade.workers import Workers

CONNECT_SECONDS = 10.0  # for a host to accept a connection
ANSWER_SECONDS = 30.0  # for its Ray to answer
START_TRIES = 4  # Ray gives its own processes 30 s to start, which do not suffice on a busy machine
_CLIENT = "ray://"
_AUTO = "auto"
_TOKEN = "RAY_AUTH_MODE=token if it asks for a token, which Ray gives to no address on its own"
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no statistics to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a FutureWarning
    "RAY_task_oom_retries": "3",  # of a job that the memory does not suffice for; Ray's default is forever
}
logger = logging.getLogger("pygrade")


class ClusterAddress(NamedTuple):
    """Address by ``--cluster``: Ray started here with so many processes (0: one a core), or a cluster's address."""

    processes: int | None
    address: str


def parse_address(text: str) -> ClusterAddress:
    """The place that ``local``, ``local:N`` or an address names.

    >>> parse_address("local:4").processes, parse_address("ray://head:10001").address
    (4, 'ray://head:10001')
    """
    local = re.fullmatch(r"local(?::(\d+))?", text)
    if local is not None and local[1] != "0":
        return ClusterAddress(int(local[1] or 0), "")
    if local is None and re.fullmatch(r"auto|(ray://)?([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}", text):
        return ClusterAddress(None, text)
    raise ValueError(
        f"cluster is {text!r}; expected local, local:N with N processes from 1, auto (the cluster of this machine), "
        "HOST:PORT of its head, or ray://HOST:PORT"
    )


@contextmanager
def connect(text: str, paths: Sequence[Place] = (), object_store_mib: int | None = None) -> Iterator[Workers]:
    """The workers of a cluster, while the block runs.

    text: ``local`` or ``local:N`` (Ray starts here with N processes, default one a core), ``auto``, ``HOST:PORT`` or
    ``ray://HOST:PORT``. paths: places that every node must see. object_store_mib: memory for what Ray passes between
    processes, of ``local`` alone. If this process has started Ray already, ``local`` and ``auto`` use that.
    `ClusterError` if the cluster does not answer, if a node has another pygrade, or if it does not see a path.
    """
    cluster = parse_address(text)
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)  # read when Ray is imported
    ray = require("ray", "cluster")
    mine = not ray.is_initialized()
    if mine:
        _quiet()
        _start(ray, cluster, object_store_mib) if cluster.processes is not None else _join(ray, cluster.address)
    elif cluster.address not in ("", _AUTO):
        raise ClusterError(
            f"cluster is {text}; this process is connected to Ray already: expected ray.shutdown() first"
        )
    try:
        from pygrade.cluster.nodes import check_nodes
        from pygrade.cluster.workers import RayWorkers

        if cluster.processes is None:
            check_nodes(paths)
        workers = RayWorkers()
        logger.info("cluster: %s, %d workers", text, workers.count)
        with screen():
            yield workers
    finally:
        if mine:
            ray.shutdown()


def _quiet() -> None:
    """None of Ray's lines between ours: what matters comes back as an error."""
    from ray._private import worker

    # It prints every lost worker, whatever log_to_driver says; nothing public keeps it quiet.
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _debug


def _debug(data: dict[str, Any], *_: Any, **__: Any) -> None:
    for line in data.get("lines", ()):
        logger.debug("ray: %s", line)


_SILENT: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}


def _start(ray: Any, cluster: ClusterAddress, object_store_mib: int | None) -> None:
    options = _SILENT | ({} if object_store_mib is None else {"object_store_memory": object_store_mib * 2**20})
    for left in reversed(range(START_TRIES)):
        try:
            ray.init("local", num_cpus=cluster.processes or None, include_dashboard=False, **options)
            return
        except Exception as error:
            ray.shutdown()
            if not left:
                raise ClusterError(f"Ray does not start here: {one_line(error, 500)}") from error
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()  # the processes of this try, which end with this one


def _join(ray: Any, address: str) -> None:
    if address != _AUTO:
        _wait_for(address)
    try:
        with warnings.catch_warnings(action="ignore"):  # what its client warns of is in the error, too
            ray.init(address=address, **_SILENT)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        ray.shutdown()
        hint = "start one with: ray start --head" if address == _AUTO else f"expected {_TOKEN}"
        raise ClusterError(f"cluster {address} cannot be used: {one_line(error, 500)}; {hint}") from error


def _wait_for(address: str) -> None:
    """`ClusterError` unless Ray answers there in time. Ray itself would wait for many minutes."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"cluster {address} does not answer: {error}; is it running, and is the port open?"
        ) from error
    if address.startswith(_CLIENT):
        return  # its client has a time limit of its own
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--skip-version-check", "--address", address]
    with suppress(subprocess.TimeoutExpired):
        if not subprocess.run(ask, capture_output=True, timeout=ANSWER_SECONDS).returncode:
            return
    raise ClusterError(
        f"cluster {address} does not answer as the head of a Ray cluster does within {ANSWER_SECONDS:.0f} s; expected "
        f"its port, which ray start --head prints (6379 by default), and {_TOKEN}"
    )
