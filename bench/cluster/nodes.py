"""Ray clusters of several nodes on one machine, for benches and nothing else."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.cluster.watch import MARK, kind_of

_ATTEMPTS = 5


@contextmanager
def nodes(cpus: Sequence[int], object_store_mib: int = 100, mark: str | None = None) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` whose nodes have so many CPUs, the first of them the head.

    Node i has the resource ``node_i``. Its processes have ``MARK=mark`` in their environment.
    """
    from ray.cluster_utils import Cluster

    before = os.environ.get(MARK)
    if mark is not None:
        os.environ[MARK] = mark
    cluster = Cluster()
    try:
        for number, count in enumerate(cpus):
            add(cluster, number, count, object_store_mib)
        yield cluster
    finally:
        cluster.shutdown()
        os.environ.pop(MARK, None)
        if before is not None:
            os.environ[MARK] = before


def add(cluster: Any, number: int, cpus: int, object_store_mib: int = 100) -> Any:
    """A further node. A busy machine does not start one within the 30 s that Ray allows: it is tried again."""
    for attempt in range(_ATTEMPTS):
        try:
            return cluster.add_node(
                num_cpus=cpus,
                object_store_memory=object_store_mib * 2**20,
                resources={f"node_{number}": 1.0},
                include_dashboard=False,
            )
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == _ATTEMPTS - 1:
                raise


def workers_of(mark: str) -> list[tuple[int, str]]:
    """Process id and title of the cluster's workers; a title that is not ray::IDLE names what it runs."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                ours = f"{MARK}={mark}".encode() in file.read().split(b"\0")
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                title = file.read().rstrip(b"\0").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if ours and kind_of(title, "") == "worker":
            found.append((int(entry), title))
    return found
