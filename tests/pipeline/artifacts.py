"""The artifacts that the C++ tests of the pipeline read: python -m tests.pipeline.artifacts csrc/tests/artifacts

Two tiny systems of the same features and models, with different policies. What is the same in both, the second has by
a link to the first's.
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
    for part in PARTS:
        first, second = (target / name / part for name in ("first", "second"))
        if {path.name: path.read_bytes() for path in first.iterdir()} == {
            path.name: path.read_bytes() for path in second.iterdir()
        }:
            shutil.rmtree(second)
            second.symlink_to(Path("..") / "first" / part)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
