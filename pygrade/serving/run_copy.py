"""A local directory with what serving needs of a run at a URL, which follows the run."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pygrade._util.files import replace_link
from pygrade._util.serialization import read_json
from pygrade.storage import Folder, Place, download, download_directory, is_url

logger = logging.getLogger("pygrade")
ARTIFACT, POLICY = "artifact", "policy"


def local_run(run: Place, *patterns: str) -> Path:
    """The directory of a run, or a local one made like the run at a URL: the files at its top, the store if it is a
    file of the run, what matches the patterns, and ``artifact`` or ``policy``, a link that changes when all of a new
    one is here.

    FileNotFoundError if the run at a URL has published neither.
    """
    if not is_url(run):
        return Path(run)
    served = Folder.at(run) / ARTIFACT
    if served.read_manifest() is None:
        served = Folder.at(run) / POLICY
        if not served.has("policy.json"):
            raise FileNotFoundError(
                f"{run} has no artifact and no policy; expected what pygrade train or pipeline wrote"
            )
    path = download_directory(run, "*", "store/*", *patterns)
    replace_link(path / served.name, served.copy())
    return path


def policy_of(run: Path) -> Path:
    """The directory of the policy that a run serves; FileNotFoundError if it has none."""
    for path in (run / ARTIFACT / POLICY, run / POLICY, run):
        if (path / "policy.json").is_file():
            return path
    raise FileNotFoundError(f"{run} has no artifact and no policy; expected what pygrade train or pipeline wrote")


def check_proven(policy: Place, allowed: bool) -> None:
    """ValueError if the policy in a directory is marked (`Mixture.unproven`), unless that is allowed: it is logged."""
    verdict: dict[str, Any] = read_json(download(policy) / "policy.json")["verdict"] or {}
    if not (mark := verdict.get("unproven", "")):
        return
    text = f"the policy in {policy} is not proven: {mark}"
    if not allowed:
        raise ValueError(f"{text}; expected another one, or --allow-unproven")
    logger.warning(text)


def check_log_folders(options: Mapping[str, Any]) -> None:
    """ValueError for a URL where the service is to log: it writes files of a directory."""
    for name in ("exposures", "feedback"):
        if is_url(options.get(name)):
            raise ValueError(
                f"{name} is {options[name]}; expected a directory, from which complete files may be copied"
            )


@contextmanager
def following(run: Place, seconds: float, store: str | None = None) -> Iterator[Path]:
    """The directory of a run; a local one follows the run at a URL, at which a thread looks every ``seconds`` for
    another artifact or policy. What is served goes on if the URL can't be read, and each new fault is logged once.

    store: the address that is served; ValueError if it would be a file of the run at a URL, where nobody else sees what
    the service learns.
    """
    folder = local_run(run)
    if not is_url(run):
        yield folder
        return
    if store is None and (folder / "store.json").is_file():
        store = str(read_json(folder / "store.json")["store"])
    if store is not None and "{run}" in store:
        raise ValueError(
            f"store is {store} and the run is at {run}; expected --store redis://HOST:PORT/DB, or lmdb:DIR"
        )
    ended, initial = threading.Event(), _version(run)

    def follow() -> None:
        served, fault = initial, ""
        while not ended.wait(seconds):
            try:
                version = _version(run)
                if version != served:
                    local_run(run)
                    served, fault = version, ""
            except (OSError, ValueError) as error:
                if str(error) != fault:
                    logger.warning("%s can't be read, and what is served goes on: %s", run, error)
                fault = str(error)

    thread = threading.Thread(target=follow, name="pygrade-follow", daemon=True)
    thread.start()
    try:
        yield folder
    finally:
        ended.set()
        thread.join()


def _version(run: Place) -> str:
    """Version that a run at a URL serves; "" if nothing was published."""
    for folder in (Folder.at(run) / ARTIFACT, Folder.at(run)):
        manifest = folder.read_manifest()
        if manifest is not None:
            return manifest.version
    return ""
