"""Before work starts: every node has this pygrade and sees the files."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pygrade import __version__
from pygrade.cluster.errors import ClusterError
from pygrade.pipeline.stages import code_hash

PROBE_SECONDS = 120.0  # for all nodes to answer; a first worker of a node takes seconds to start


def check_nodes(paths: Sequence[Path] = (), probe: Callable[[list[str]], dict[str, Any]] | None = None) -> None:
    """`ClusterError` that names the nodes which have another pygrade or none, or do not see a path as this one does."""
    with ExitStack() as stack:
        wanted = [stack.enter_context(_marked(path)) for path in paths]
        folders = [str(folder) for folder in wanted]
        mine = _prober()(folders)
        found = _ask(probe or _prober(), folders)
    other = [f"{node} has {_version(facts)}" for node, facts in found.items() if facts["code"] != code_hash()]
    if other:
        raise ClusterError(
            f"this process has pygrade {__version__} ({code_hash()[:12]}); {'; '.join(other)}; "
            "want the same code on every node"
        )
    for path, folder in zip(paths, folders, strict=True):
        blind = [node for node, facts in found.items() if facts["seen"][folder] != mine["seen"][folder]]
        if blind:
            raise ClusterError(
                f"{path} is not the same on {', '.join(blind)}; want a path that every node shares, "
                "or a URL such as s3://BUCKET/…"
            )


def _version(facts: dict[str, Any]) -> str:
    return facts["error"] or f"{facts['version']} ({facts['code'][:12]})"


@contextmanager
def _marked(path: Path) -> Iterator[Path]:
    """The directory of a path, or the nearest one that exists, with a new file in it where one can be written."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    mark = folder / f".probe-{secrets.token_hex(8)}"
    with suppress(OSError):
        mark.touch()
    try:
        yield folder
    finally:
        with suppress(OSError):
            mark.unlink()


def _ask(probe: Callable[[list[str]], dict[str, Any]], folders: list[str]) -> dict[str, dict[str, Any]]:
    """Node → what the probe finds there."""
    nodes = {
        node["NodeID"]: f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()
        if node["Alive"]
    }
    task = ray.remote(num_cpus=0, max_retries=2)(probe)
    answers = {
        name: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(folders)
        for node, name in nodes.items()
    }
    _, late = ray.wait(list(answers.values()), num_returns=len(answers), timeout=PROBE_SECONDS)
    if late:
        names = [name for name, reference in answers.items() if reference in late]
        raise ClusterError(f"{', '.join(names)} did not answer within {PROBE_SECONDS:.0f} s")
    try:
        return {name: ray.get(reference) for name, reference in answers.items()}
    except RayError as error:
        raise ClusterError(f"a node cannot run Python tasks: {' '.join(str(error).split())[:500]}") from error


def _prober() -> Callable[[list[str]], dict[str, Any]]:
    """What every node is asked. A function inside a function travels by value: a node may have no pygrade."""

    def probe(folders: list[str]) -> dict[str, Any]:
        import os

        facts: dict[str, Any] = {"code": None, "version": None, "error": None, "seen": {}}
        try:
            from pygrade import __version__
            from pygrade.pipeline.stages import code_hash

            facts["code"], facts["version"] = code_hash(), __version__
        except Exception as error:
            facts["error"] = f"none that can be imported: {error}"
        for folder in folders:
            try:
                facts["seen"][folder] = sorted(os.listdir(folder))
            except OSError:
                facts["seen"][folder] = None
        return facts

    return probe
