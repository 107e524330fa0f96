"""What serving needs of a run at a URL, in a local directory that follows it."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pygrade._util.files import replace_link
from pygrade._util.serialization import read_json
from pygrade._util.storage import Folder, Place, is_url, mirror

logger = logging.getLogger("pygrade")
ARTIFACT = "artifact"


def local_run(run: Place, *patterns: str) -> Path:
    """The directory of a run, or a local one made like the run at a URL: the files at its top, the store if it is a
    file of the run, what matches the patterns, and ``artifact``, a link that changes when all of a new one is here.

    FileNotFoundError if the run at a URL has published no artifact.
    """
    if not is_url(run):
        return Path(run)
    artifact = Folder.at(run) / ARTIFACT
    if artifact.read_manifest() is None:
        raise FileNotFoundError(f"{run} has no artifact; want a run that pygrade pipeline published")
    path = mirror(run, "*", "store/*", *patterns)
    replace_link(path / ARTIFACT, artifact.copy())
    return path


@contextmanager
def following(run: Place, seconds: float, store: str | None = None) -> Iterator[Path]:
    """The directory of a run; a local one follows the run at a URL, at which a thread looks every ``seconds``.

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
        raise ValueError(f"store is {store} and the run is at {run}; want --store redis://HOST:PORT/DB, or lmdb:DIR")
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(str(run), seconds, ended), name="pygrade-follow", daemon=True)
    thread.start()
    try:
        yield folder
    finally:
        ended.set()
        thread.join()


def _follow(run: str, seconds: float, ended: threading.Event) -> None:
    known, fault = "", ""
    while not ended.wait(seconds):
        try:
            manifest = (Folder.at(run) / ARTIFACT).read_manifest()
            if manifest is not None and manifest.version != known:
                local_run(run)
                known, fault = manifest.version, ""
        except (OSError, ValueError) as error:  # what is served goes on
            if str(error) != fault:
                logger.warning("%s can't be read, and what is served goes on: %s", run, error)
            fault = str(error)
