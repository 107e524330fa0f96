"""`pygrade serve` on a cluster: a command's life around the service of `pygrade.cluster.deployment`."""

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from pygrade.cluster.connect import connect
from pygrade.cluster.run_copy import artifact_version
from pygrade.cluster.scale import Replicas
from pygrade.service.config import ServeConfig, split

RAY_SERVE = {  # settings of Ray Serve in a cluster that starts here, unless the environment has others
    # Pages are made by the core's threads: threads of Serve's own for each replica and router only cost.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # its 30 s are for balancers that ask seldom
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # its 5 s are too short for a machine that is busy
}
HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
_HAPROXY_FILES = {  # by default in a directory that all services of a machine share, and all its users can write to
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
_PATHS = ("token_file", "tls_cert", "tls_key", "console")


def serve(run: str, table: Mapping[str, Any], replicas: Replicas, cluster: str, ready: Callable[[str], Any]) -> None:
    """Serves a run on a cluster until SIGTERM or SIGINT. run: a path or a URL; table: of ``[serve]``.

    cluster: local, local:N or the address of one. ready: called with the service's address when all replicas serve.
    """
    table = _absolute(table)
    config, _ = split(table)
    _refuse(config, table)
    artifact_version(run)
    starts_here = cluster.startswith("local")
    with _settings(config) if starts_here else nullcontext(), connect(cluster):
        from pygrade.cluster.deployment import Service

        service = Service(run, table, config, replicas)
        with service.running(may_grow=not starts_here):
            ready(service.url)
            watch(service, config)


@contextmanager
def _settings(config: ServeConfig) -> Iterator[None]:
    """Ray Serve's settings in a cluster that starts here. Requests go to the replicas by HAProxy, which costs a
    fraction of Serve's proxy in Python; it has no TLS."""
    with tempfile.TemporaryDirectory(prefix="pygrade-serve-") as folder:
        settings = dict(RAY_SERVE)
        if config.tls_cert is None:
            settings[HAPROXY] = "1"
            settings |= {name: os.path.join(folder, file) for name, file in _HAPROXY_FILES.items()}
        new = {name: value for name, value in settings.items() if name not in os.environ}
        os.environ.update(new)
        try:
            yield
        finally:
            for name in new:
                del os.environ[name]


def watch(service: Any, config: ServeConfig) -> None:
    """Rolls out what is new in the run until SIGTERM or SIGINT, then drains. SIGHUP looks at once."""
    ending, look, at_once = False, threading.Event(), False

    def signaled(number: int, _frame: FrameType | None) -> None:
        nonlocal ending, at_once
        ending, at_once = ending or number != signal.SIGHUP, True
        look.set()

    before = {number: signal.signal(number, signaled) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        while not ending:
            look.wait(config.refresh_seconds)
            look.clear()
            asked, at_once = at_once, False
            if not ending:
                service.look(asked)
        look.clear()
        service.drain()
        look.wait(config.drain_seconds)  # a second signal: at once
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _absolute(table: Mapping[str, Any]) -> dict[str, Any]:
    """Paths that start at this process's directory, which replicas do not have."""
    table = dict(table)
    for name in _PATHS:
        if table.get(name):
            table[name] = str(Path(table[name]).resolve())
    kind, _, place = str(table.get("store") or "").partition(":")
    if kind == "lmdb" and not place.startswith("{run}"):
        table["store"] = f"lmdb:{Path(place).absolute()}"
    return table


def _refuse(config: ServeConfig, table: Mapping[str, Any]) -> None:
    """Options that replicas can't heed."""
    if "workers" in table:
        raise ValueError(f"workers is {config.workers}; want it without a cluster alone, and replicas here")
    if config.online:
        raise ValueError("online is true; want it without a cluster alone, and here pygrade online beside the service")
    if table.get("metrics"):
        raise ValueError(f"metrics is {table['metrics']}; want it without a cluster alone: replicas need no directory")
    if config.tls_cert is not None and os.environ.get(HAPROXY) == "1":
        raise ValueError(f"tls_cert is {config.tls_cert} and {HAPROXY} is 1; want it unset: that proxy has no TLS")
    if config.threads < 1:
        raise ValueError("threads is 0; want 1 or more on a cluster")
