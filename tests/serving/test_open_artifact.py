"""An artifact is read whole, whatever takes its place meanwhile."""

import os

import pytest

from pygrade._util.serialization import ArtifactError
from pygrade.serving import artifact
from pygrade.serving.artifact import open_artifact
from tests.service.served import write_pipeline


def test_an_artifact_that_is_replaced_while_it_is_read_is_the_new_one(tmp_path, monkeypatch):
    first, second = (write_pipeline(tmp_path / name, seed).version for seed, name in enumerate(("artifact", "new")))
    hashes, calls = artifact._hashes, []

    def replaced(folder):
        calls.append(folder)
        if len(calls) == 1:
            os.rename(tmp_path / "artifact", tmp_path / "old")
            os.rename(tmp_path / "new", tmp_path / "artifact")
        return hashes(folder)

    monkeypatch.setattr(artifact, "_hashes", replaced)
    assert open_artifact(tmp_path / "artifact").version == second != first and len(calls) == 2
    (tmp_path / "artifact" / "policy" / "policy.json").unlink()
    with pytest.raises(ArtifactError, match=r"policy\.json is missing; manifest\.json names it"):
        open_artifact(tmp_path / "artifact")
    assert len(calls) == 3  # damage is no replacement
