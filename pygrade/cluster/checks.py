"""What is checked of a cluster before a service starts there, so that the error names the node and the reason."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pygrade._util.optional_imports import require
from pygrade._util.storage import is_url
from pygrade.cluster.errors import ClusterError
from pygrade.cluster.run_copy import artifact_version
from pygrade.service.config import split
from pygrade.service.supervisor import bind
from pygrade.stores import without_secret

_SECONDS = 60.0  # for the answers of all nodes


@dataclass(frozen=True)
class Node:
    """A node of Ray that can hold replicas."""

    number: str
    machine: str  # its host name; one machine may have several nodes
    cpus: float


def machines(nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The living nodes with processors; nodes: as ``ray.nodes()`` lists them."""
    found = [
        Node(node["NodeID"], node["NodeManagerHostname"], float(node["Resources"].get("CPU", 0.0)))
        for node in nodes
        if node["Alive"]
    ]
    return [node for node in found if node.cpus > 0]


def enough(nodes: Sequence[Node], replicas: int, may_grow: bool) -> None:
    """ValueError if there is no processor for each replica, and the cluster gets no more."""
    cpus = sum(int(node.cpus) for node in nodes)
    if cpus < replicas and not may_grow:
        raise ValueError(
            f"replicas is {replicas}; the cluster has {cpus} processors, one for each: want at most {cpus}"
        )


def machine_of(store: str, run: str, nodes: Sequence[Node]) -> str | None:
    """The only machine on which replicas can read the store, None if all can; ValueError if there are others."""
    if not store.startswith("lmdb:"):
        return None
    if "{run}" in store and is_url(run):
        raise ValueError(f"store is {store} and the run is at {run}; want redis: or unix:, which replicas can reach")
    names = sorted({node.machine for node in nodes})
    if len(names) > 1:
        raise ValueError(
            f"store is {without_secret(store)}, which one machine alone can read, and the cluster has {len(names)}: "
            f"{', '.join(names[:5])}; want redis:"
        )
    return names[0]


def listener(host: str, port: int) -> tuple[str, int, bool]:
    """Host and port of the service, and whether Ray Serve listens there already. ValueError if it listens elsewhere,
    OSError if the port is taken."""
    # Serve has no public function that tells where it listens; it ignores other options without an error.
    client = require("ray.serve.context", "cluster")._get_global_client(raise_if_no_controller_running=False)
    if client is None:
        with bind(host, port) as free:
            return host, int(free.getsockname()[1]), False
    options = client.http_config
    if port not in (0, options.port):
        raise ValueError(f"port is {port}; Ray Serve listens on this cluster at port {options.port}: want that one")
    return str(options.host), int(options.port), True


def check(
    nodes: Sequence[Node], run: str, version: str, table: Mapping[str, Any], address: tuple[str, int] | None
) -> None:
    """Looks from each node; ClusterError that names the first node where the service could not run.

    version: of the run's artifact as it is seen here; address: that the proxies will take; None: they listen already.
    """
    ray = require("ray", "cluster")
    strategy = require("ray.util.scheduling_strategies", "cluster").NodeAffinitySchedulingStrategy
    look = ray.remote(fault_here)
    seen: set[str] = set()
    asked = {}
    for node in nodes:
        own = None if node.machine in seen else address  # nodes of one machine share its ports
        seen.add(node.machine)
        task = look.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy(node.number, soft=False))
        asked[task.remote(run, version, table, own)] = node
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
    for reference in late:
        raise ClusterError(f"node {asked[reference].machine} does not answer within {_SECONDS:g} s")
    for reference in done:
        fault = ray.get(reference)
        if fault is not None:
            raise ClusterError(f"node {asked[reference].machine}: {fault}")


def fault_here(run: str, version: str, table: Mapping[str, Any], address: tuple[str, int] | None) -> str | None:
    """Why this node can't serve the run."""
    try:
        found = artifact_version(run)
        if found != version:
            return f"{run} has artifact {found} here and {version} where the command runs; want one run for all nodes"
        split(table)  # looks for the files that it names
        if address is not None:
            bind(*address).close()
    except (OSError, ValueError) as error:
        hint = "" if is_url(run) else "; want files that all nodes see, or a URL"
        return f"{error}{hint}" if isinstance(error, FileNotFoundError) else str(error)
    return None


def last_error(text: str) -> str:
    """The last line of a traceback that names an error, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"^[\w.]*(Error|Exception)\b.*: ", line)]
    return (named or lines or ["no reason is known"])[-1]
