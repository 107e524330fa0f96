"""The artifacts that the C++ tests of the pipeline read: python -m tests.pipeline.artifacts csrc/tests/artifacts

Two tiny systems of the same features and models, with different policies. What is the same in both, the second has by
a link to the first's.
"""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pygrade.config.mtl import MtlConfig
from pygrade.config.policy import PolicyConfig
from pygrade.config.prerank import PrerankConfig
from pygrade.features import Feature, FeatureSchema
from pygrade.pipeline.run import run_pipeline
from pygrade.policy import FusionPolicy
from pygrade.serving.artifact import PARTS, open_artifact, write_artifact
from tests.pipeline.world import CONFIG, OTHER, write_log

SCHEMA = FeatureSchema(
    (
        Feature("c_hour", "context", "dense", "c_hour"),
        Feature("scenario", "context", "categorical", "scenario"),
        Feature("user_count", "user", "count", key=("user_id",)),
        Feature("user_click_rate", "user", "rate", "y_click", ("user_id",)),
        Feature("recent_click", "user", "sequence", "y_click", length=5),
        Feature("item_id", "item", "categorical", "item_id", min_count=9),
        Feature("item_click_rate", "item", "rate", "y_click", ("item_id",)),
        Feature("item_day_count", "item", "count", key=("item_id",), transform="log1p", window_hours=24.0),
    ),
    ("click", "like", "order"),
    {"events.c_hour": "float"},
)


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        address = write_log(folder / "log")
        SCHEMA.save(folder / "schema.json")
        for name, config in (("first", CONFIG), ("second", OTHER)):
            small = replace(
                config,
                schema=folder / "schema.json",
                prerank=PrerankConfig(width=4, hidden=4, field_embedding=2, epochs=1, refit=False),
                mtl=MtlConfig(epochs=1, expert_hidden=4, expert_output=4, tower_hidden=2, embedding=2, refit=False),
                train=replace(config.train, policy=PolicyConfig(hidden=(4,))),
            )
            run_pipeline(address, folder / "run", small)
            artifact = open_artifact(folder / "run" / "artifact")
            parts = {part: shutil.copytree(artifact.part(part), folder / name / part) for part in PARTS}
            (parts["policy"] / "trained_on.safetensors").unlink()  # who taught it: only `evaluate` asks
            policy = FusionPolicy.load(parts["policy"])
            policy.mixture = replace(policy.mixture, unproven="")  # so that a service takes it
            parts["policy"] = policy.save(folder / name / "served")
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
