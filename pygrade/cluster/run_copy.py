"""What serving needs of a run at a path or a URL: what it publishes, and a copy of a URL's for the core."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pygrade._util.files import replace_link
from pygrade._util.storage import Folder, is_url
from pygrade.serving.artifact import open_artifact

_FILES = ("store.json", "reference.json", "item_names.safetensors", "studio.html")  # those that are there


def artifact_version(run: str) -> str:
    """The version that a run serves; FileNotFoundError if it has no artifact."""
    folder = Folder.at(run) / "artifact"
    try:
        manifest = json.loads(folder.read("manifest.json"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{run} has no artifact; want a directory of pygrade pipeline") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("version"), str):
        raise ValueError(f"{folder}/manifest.json names no version")
    return str(manifest["version"])


def store_of(run: str, table: Mapping[str, Any]) -> str:
    """The address of the store: of the table, else of the run; FileNotFoundError if the run did not publish."""
    if table.get("store"):
        return str(table["store"])
    try:
        return str(json.loads(Folder.at(run).read("store.json"))["store"])
    except FileNotFoundError:
        raise FileNotFoundError(f"{run} has no store.json; want a run that has published") from None


def published(run: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """What the run has to serve: the artifact's version and the state of the arms' policies."""
    arms = [*(table.get("arms") or ()), *(table.get("shadow") or ())]
    policies = [str(arm["policy"]) for arm in arms if isinstance(arm, dict) and arm.get("policy")]
    return {"artifact": artifact_version(run), "policies": [_stamp(run, policy) for policy in policies]}


def _stamp(run: str, policy: str) -> list[str]:
    """Where a policy is and when it was written, as the core tells one from another."""
    if is_url(run):
        raise ValueError(f"policy is {policy} and the run is at {run}; want arms with the artifact's policy alone")
    real = (Path(run) / policy).resolve()
    try:
        return [str(real), Folder.at(real).stamp("policy.json")]
    except OSError:
        return [str(real)]


class RunCopy:
    """A directory like that of a run at a URL, for one core to serve."""

    def __init__(self, url: str, folder: Path) -> None:
        """folder: new."""
        self.url, self.folder = url, folder
        folder.mkdir(parents=True)

    def update(self) -> None:
        """Makes it what the run serves now: the artifact whole, with every hash checked, or as it was."""
        run = Folder.at(self.url)
        artifact = (run / "artifact").copy().resolve()
        if (self.folder / "artifact").resolve() == artifact:
            return
        open_artifact(artifact)
        for name in (name for name in _FILES if run.has(name)):
            replace_link(self.folder / name, run.fetch(name))
        replace_link(self.folder / "artifact", artifact)
