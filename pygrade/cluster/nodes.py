"""Check of a cluster's nodes before work starts: each has this pygrade and sees the files."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pygrade import __version__
from pygrade._util.text import one_line
from pygrade.cluster.errors import ClusterError
from pygrade.pipeline.stages import code_hash
from pygrade.storage import Folder, Place
from pygrade.storage.cache import cache_root

DEATH_SECONDS = 30.0  # in which a cluster notices that a node is dead
PROBE_SECONDS = 120.0  # for all nodes to answer; a first worker of a node takes seconds to start


def check_nodes(paths: Sequence[Place] = ()) -> None:
    """`ClusterError` that names the nodes which have another pygrade or none, or do not see a path of this one."""
    with ExitStack() as stack:
        wanted = [stack.enter_context(_mark(path)) for path in paths]
        answers = _ask(wanted)
    other = [f"{node} has {_version(facts)}" for node, facts in answers if facts["code"] != code_hash()]
    if other:
        raise ClusterError(
            f"this process has pygrade {__version__} ({code_hash()[:12]}); {'; '.join(other)}; "
            "expected the same code on every node"
        )
    for path, mark in zip(paths, wanted, strict=True):
        blind = {node: facts["unseen"][mark] for node, facts in answers if mark in facts["unseen"]}
        if blind:
            reasons = "; ".join(f"{node} ({reason})" for node, reason in blind.items())
            wanted_path = "a path that all nodes share, or a URL such as s3://BUCKET/…"
            if Path(str(path)).absolute().is_relative_to(cache_root().absolute()):
                wanted_path = "PYGRADE_CACHE, where runs at URLs are worked on, at a path that all nodes share"
            raise ClusterError(f"{path} is not seen by {reasons}; expected {wanted_path}")


def _version(facts: dict[str, Any]) -> str:
    return facts["error"] or f"{facts['version']} ({facts['code'][:12]})"


@contextmanager
def _mark(path: Place) -> Iterator[str]:
    """A mark that nodes must see: a URL, or a new file in the directory or in the nearest one that exists; the
    directory itself if it cannot be written to."""
    place = Folder.at(path)
    if not place.is_local:
        yield str(path)
        return
    folder = Path(str(place)).absolute()
    while not folder.is_dir():
        folder = folder.parent
    mark = folder / f".probe-{secrets.token_hex(8)}"
    try:
        mark.touch()
    except OSError:
        yield str(folder)
        return
    try:
        yield str(mark)
    finally:
        mark.unlink(missing_ok=True)


def _ask(wanted: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Every node, and what `_prober` finds there. A node that dies meanwhile is not among them: others do its work."""
    nodes = _alive()
    task = ray.remote(num_cpus=0, max_retries=2)(_prober())
    answers = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(wanted)
        for node in nodes
    }
    _, late = ray.wait(list(answers.values()), num_returns=len(answers), timeout=PROBE_SECONDS)
    if late:
        names = [nodes[node] for node, reference in answers.items() if reference in late]
        raise ClusterError(f"{', '.join(names)} did not answer within {PROBE_SECONDS:.0f} s")
    facts = []
    for node, reference in answers.items():
        try:
            facts.append((nodes[node], ray.get(reference)))
        except RayError as error:
            if not _has_died(node):
                raise ClusterError(f"{nodes[node]} cannot run Python tasks: {one_line(error, 500)}") from error
    return facts


def _alive() -> dict[str, str]:
    """Node → its name for people; several may have the same."""
    return {
        node["NodeID"]: f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()
        if node["Alive"]
    }


def _has_died(node: str) -> bool:
    """Wait for the cluster to notice a node's death, which takes some time; False if it did not."""
    until = time.monotonic() + DEATH_SECONDS
    while node in _alive():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def _prober() -> Callable[[list[str]], dict[str, Any]]:
    """The function that every node runs. One inside a function travels by value: a node may have no pygrade."""

    def probe(wanted: list[str]) -> dict[str, Any]:
        import os

        facts: dict[str, Any] = {"code": None, "version": None, "error": None, "unseen": {}}
        try:
            from pygrade import __version__
            from pygrade.pipeline.stages import code_hash
            from pygrade.storage import Folder

            facts["code"], facts["version"] = code_hash(), __version__
        except Exception as error:
            return facts | {"error": f"none that can be imported: {error}"}
        for path in wanted:
            try:
                if "://" in path:
                    Folder.at(path).exists()  # raises if the store cannot be reached
                else:
                    os.stat(path)
            except Exception as error:
                facts["unseen"][path] = str(error)
        return facts

    return probe
