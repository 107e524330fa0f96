"""An artifact is read whole, whatever takes its place meanwhile."""

import os
import shutil
from pathlib import Path

import pytest

from pygrade._util.serialization import ArtifactError
from pygrade.serving import artifact
from pygrade.serving.artifact import open_artifact

ARTIFACTS = Path(__file__).parents[2] / "csrc" / "tests" / "artifacts"


def test_an_artifact_that_is_replaced_while_it_is_read_is_the_new_one(tmp_path, monkeypatch):
    shutil.copytree(ARTIFACTS / "first", tmp_path / "artifact")
    first, second = (open_artifact(ARTIFACTS / name).version for name in ("first", "second"))
    hashes, calls = artifact._hashes, []

    def replaced(folder):
        calls.append(folder)
        if len(calls) == 1:
            os.rename(tmp_path / "artifact", tmp_path / "old")
            shutil.copytree(ARTIFACTS / "second", tmp_path / "artifact")
        return hashes(folder)

    monkeypatch.setattr(artifact, "_hashes", replaced)
    assert open_artifact(tmp_path / "artifact").version == second != first and len(calls) == 2
    (tmp_path / "artifact" / "policy" / "policy.json").unlink()
    with pytest.raises(ArtifactError, match=r"policy\.json is missing; manifest\.json names it"):
        open_artifact(tmp_path / "artifact")
    assert len(calls) == 3  # damage is no replacement
