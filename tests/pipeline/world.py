"""A tiny system, trained once a test process, and copies of it to break."""

import shutil
from dataclasses import replace
from pathlib import Path

from devtools.synthetic_log import write_synthetic_log
from pygrade.config.mtl import MtlConfig
from pygrade.config.pipeline import PipelineConfig
from pygrade.config.prerank import PrerankConfig
from pygrade.config.training import CemConfig, CrossFitConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.pipeline.run import run_pipeline

CONFIG = PipelineConfig(
    min_events=2,
    policy_requests=100,
    candidates=5,
    allow_unproven=True,  # so small a log proves nothing
    prerank=PrerankConfig(width=8, hidden=16, epochs=1, refit=False),
    mtl=MtlConfig(epochs=1, expert_hidden=16, refit=False),
    train=TrainConfig(
        static=CemConfig(iterations=2),
        cross_fit=CrossFitConfig(folds=2),
        stage1=Stage1Config(steps=8),
        stage2=Stage2Config(steps=8),
        checkpoint_every=4,
        tensorboard=False,
    ),
)
OTHER = replace(CONFIG, train=replace(CONFIG.train, stage2=Stage2Config(steps=9)))  # another policy


def write_log(path: Path) -> str:
    """Some 700 requests of 60 users; the address of their log."""
    write_synthetic_log(path, requests=700, users=60, items=120, shown=6, hidden=2)
    return f"logs:{path}"


def trained(folder: Path) -> Path:
    """The directory of a finished pipeline in ``folder``."""
    run_pipeline(write_log(folder / "log"), folder / "run", CONFIG)
    return folder / "run"


def copy(run: Path, to: Path) -> Path:
    """A copy of a run with its store, to break."""
    shutil.copytree(run, to, symlinks=True)
    return to
