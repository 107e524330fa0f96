"""The artifacts that the C++ tests of the pipeline read: python -m tests.pipeline.artifacts csrc/tests/artifacts

Two tiny systems of the same features and models, with different policies.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from pygrade.pipeline.run import run_pipeline
from pygrade.serving.artifact import PARTS, open_artifact, write_artifact
from tests.pipeline.world import CONFIG, OTHER, write_log


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        address = write_log(folder / "log")
        for name, config in (("first", CONFIG), ("second", OTHER)):
            run_pipeline(address, folder / "run", config)
            artifact = open_artifact(folder / "run" / "artifact")
            parts = {part: shutil.copytree(artifact.part(part), folder / name / part) for part in PARTS}
            (parts["policy"] / "trained_on.safetensors").unlink()  # who taught it: only `evaluate` asks
            write_artifact(target / name, parts, artifact.schema_hash, {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
