"""`pygrade serve` on a cluster: options, and a command's life around the service of `pygrade.cluster.deployment`."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pygrade.cluster.connect import connect
from pygrade.cluster.run_copy import artifact_version
from pygrade.service.config import ServeConfig, split

_TARGET = 16.0  # requests of a replica at once, which autoscaling aims at
# Pages are made by the core's threads: threads of Ray Serve's own for each replica and router only cost.
_RAY_SERVE = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
_PATHS = ("token_file", "tls_cert", "tls_key", "console")


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """How many copies of the service run: a fixed number, or as many as the requests need."""

    replicas: int | None = None  # none: 1, or as `max_replicas` says
    min_replicas: int | None = None  # of autoscaling; none: 1
    max_replicas: int | None = None  # of autoscaling
    target_ongoing_requests: float | None = None  # of a replica at once, which autoscaling aims at

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            wanted = (int, float) if name == "target_ongoing_requests" else int
            if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
                raise TypeError(f"{name} is {value!r}; want a number")
        if self.replicas is not None and self.max_replicas is not None:
            raise ValueError("replicas and max_replicas rule each other out; want one of them")
        for name in ("min_replicas", "target_ongoing_requests"):
            if getattr(self, name) is not None and self.max_replicas is None:
                raise ValueError(f"{name} is {getattr(self, name):g}; want it with max_replicas alone")
        for name in ("replicas", "min_replicas", "max_replicas"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 10_000:
                raise ValueError(f"{name} is {value}; want 1 to 10000")
        if self.max_replicas is not None and self.least > self.max_replicas:
            raise ValueError(f"min_replicas is {self.least}; want at most max_replicas, {self.max_replicas}")
        if self.target_ongoing_requests is not None and not self.target_ongoing_requests > 0:
            raise ValueError(f"target_ongoing_requests is {self.target_ongoing_requests:g}; want more than 0")

    @property
    def least(self) -> int:
        """Replicas that always run."""
        return (self.replicas if self.max_replicas is None else self.min_replicas) or 1

    def options(self) -> dict[str, Any]:
        """As Ray Serve takes them."""
        if self.max_replicas is None:
            return {"num_replicas": self.least}
        target = self.target_ongoing_requests or _TARGET
        scaling = {"min_replicas": self.least, "max_replicas": self.max_replicas, "target_ongoing_requests": target}
        return {"autoscaling_config": scaling}


def serve(run: str, table: Mapping[str, Any], replicas: Replicas, cluster: str, ready: Callable[[str], Any]) -> None:
    """Serves a run on a cluster until SIGTERM or SIGINT. run: a path or a URL; table: of ``[serve]``.

    cluster: local, local:N or the address of one. ready: called with the service's address when all replicas serve.
    """
    table = _absolute(table)
    config, _ = split(table)
    _refuse(config, table)
    artifact_version(run)
    for name, value in _RAY_SERVE.items():  # for the processes of a cluster that starts here
        os.environ.setdefault(name, value)
    with connect(cluster):
        from pygrade.cluster.deployment import Service

        service = Service(run, table, config, replicas)
        with service.running(may_grow=not cluster.startswith("local")):
            ready(service.url)
            watch(service, config)


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
    if config.threads < 1:
        raise ValueError("threads is 0; want 1 or more on a cluster")
