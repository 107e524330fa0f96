"""Training: it learns, it is reproducible, and a killed run ends as if it had not been killed."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.config.training import CemConfig, CrossFitConfig, RewardConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.evaluation.arms import STAGE1
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.runs.fit import fit
from pygrade.training.data import TrainingData
from pygrade.training.reward import CompositeReward
from pygrade.training.stages import train_stage1, train_stage2
from pygrade.training.steps import batch_rows, draw_seed
from pygrade.training.tracking import read_metrics
from tests.learning import tiny_logs, true_value

SMALL = TrainConfig(
    cross_fit=CrossFitConfig(folds=0),
    policy=PolicyConfig(hidden=(8,), lower=0.02, upper=0.98),
    reward=RewardConfig(page_size=5, propensity=0.5, prior_weight=0.02),
    static=CemConfig(iterations=3, population=8, elite=4),
    stage1=Stage1Config(steps=12, batch_size=16),
    stage2=Stage2Config(steps=12, batch_size=16, group_size=4),
    checkpoint_every=5,
    tensorboard=False,
)


def policy_bytes(directory: Path) -> tuple[bytes, bytes]:
    return folder_bytes(directory / "policy")


def folder_bytes(folder: Path) -> tuple[bytes, bytes]:
    (tensors,) = folder.glob("policy-*.safetensors")
    return tensors.read_bytes(), (folder / "policy.json").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run that nothing interrupts."""
    directory = tmp_path_factory.mktemp("straight")
    fit(tiny_logs(80), SMALL, directory)
    return directory


def test_policy_beats_best_static_weights_on_new_requests(tmp_path) -> None:
    config = replace(
        SMALL,
        stage1=Stage1Config(steps=150, batch_size=128),
        stage2=Stage2Config(steps=150, batch_size=128, group_size=8),
    )
    result = fit(tiny_logs(1500), config, tmp_path)
    test = tiny_logs(600, seed=1)
    inputs = result.policy.request_inputs(test.context, test.predictions, test.offsets)

    def value(weights: torch.Tensor) -> np.ndarray:
        return true_value(test, weights.numpy().reshape(-1, 2) + np.zeros((test.num_requests, 1)))

    static, first, last = (
        value(result.static_weights),
        value(result.policies[STAGE1].serve(inputs)),
        value(result.policy.serve(inputs)),
    )
    for learned in (first, last):
        gain = learned - static
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5  # far beyond chance
        assert learned.mean() > 1.05 * static.mean()
    low, high = result.policy.bounds
    served = result.policy.serve(inputs)
    assert bool(((served >= low) & (served <= high)).all())


def test_group_learning_alone_improves_on_where_it_starts() -> None:
    """Stage 2 without stage 1, from equal weights: the reward it optimizes rises on requests it has not seen."""
    logs = tiny_logs(1500)
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, SMALL.policy))
    data = CompositeReward(replace(SMALL.reward, prior_weight=0.0)).build(logs, policy.spec)
    policy.fit_normalization(data.inputs)
    test = tiny_logs(600, seed=1)
    inputs = policy.request_inputs(test.context, test.predictions, test.offsets)
    before = true_value(test, policy.serve(inputs).numpy()).mean()
    data = TrainingData.of(data)
    train_stage2(data, policy, Stage2Config(steps=200, batch_size=128, group_size=8, kl_coefficient=0.0))
    assert true_value(test, policy.serve(inputs).numpy()).mean() > 1.05 * before


def test_stage1_without_feedback_changes_nothing(caplog) -> None:
    logs = tiny_logs(30)
    logs = replace(logs, feedback=np.zeros_like(logs.feedback))
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, SMALL.policy))
    data = CompositeReward(SMALL.reward).build(logs, policy.spec)
    version = policy.version
    assert train_stage1(TrainingData.of(data), policy, SMALL.stage1).version == version
    assert "nothing to learn" in caplog.text


def test_same_seed_same_bytes_and_other_seed_other_bytes(straight, tmp_path) -> None:
    fit(tiny_logs(80), SMALL, tmp_path / "again")
    assert policy_bytes(tmp_path / "again") == policy_bytes(straight)
    fit(tiny_logs(80), replace(SMALL, seed=1), tmp_path / "other")
    assert policy_bytes(tmp_path / "other") != policy_bytes(straight)


def test_randomness_is_a_function_of_seed_stage_and_step() -> None:
    rows = {(s, g, t): tuple(batch_rows(s, g, t, 10**6, 8).tolist()) for s in (0, 1) for g in (1, 2) for t in (0, 1)}
    assert len(set(rows.values())) == 8
    assert tuple(batch_rows(1, 2, 1, 10**6, 8).tolist()) == rows[1, 2, 1]
    assert len({draw_seed(0, 2, step) for step in range(1000)}) == 1000


KILLED = """
import os, signal, sys
from pathlib import Path
from pygrade.runs.fit import fit
from tests.learning import tiny_logs
from tests.training.test_train import SMALL

for name in sys.argv[2:]:
    def on_step(stage, step):
        if name == f"{stage}-{step}":
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:  # of a process without threads, which has imported everything
        fit(tiny_logs(80), SMALL, Path(sys.argv[1]) / name, on_step=on_step)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
KILLS = ("stage1-1", "stage1-12", "stage2-5", "stage2-11", "stage2-12")


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Directories of runs that were killed at a step each."""
    folder = tmp_path_factory.mktemp("killed")
    arguments = [sys.executable, "-c", KILLED, str(folder), *KILLS]
    run = subprocess.run(arguments, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert run.stdout.split() == [str(-signal.SIGKILL.value)] * len(KILLS), run.stderr
    return folder


@pytest.mark.parametrize("name", KILLS)
def test_killed_and_resumed_run_ends_with_the_same_policy(straight, killed, name: str) -> None:
    """SIGKILL in stage 1, between the stages (its last step), in stage 2, at a checkpoint, and after the last step."""
    path = killed / name
    assert not (path / "policy").exists()
    result = fit(tiny_logs(80), SMALL, path)
    assert result.summary["resumed_from"] is not None
    assert policy_bytes(path) == policy_bytes(straight)
    assert folder_bytes(path / "stage1") == folder_bytes(straight / "stage1")
    assert read_metrics(path / "metrics.jsonl") == read_metrics(straight / "metrics.jsonl")
    expected = json.loads((straight / "train.json").read_text())
    found = json.loads((path / "train.json").read_text())
    unlike = {"seconds": 0, "cross_fit_seconds": 0, "resumed_from": None}
    assert {**found, **unlike} == {**expected, **unlike}


class Stop(Exception):
    pass


def stop_at(stage: str, step: int):
    def on_step(at_stage: str, at_step: int) -> None:
        if (at_stage, at_step) == (stage, step):
            raise Stop

    return on_step


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_broken_newest_checkpoint_falls_back(straight, tmp_path, caplog, name: str, damage: str) -> None:
    with pytest.raises(Stop):
        fit(tiny_logs(80), SMALL, tmp_path, on_step=stop_at("stage2", 11))
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("*-*")) == ["stage2-000005", "stage2-000010"]
    path = tmp_path / "checkpoints" / "stage2-000010" / name
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    result = fit(tiny_logs(80), SMALL, tmp_path)
    assert result.summary["resumed_from"] == "stage2-000005"
    assert "stage2-000010 is damaged" in caplog.text
    assert policy_bytes(tmp_path) == policy_bytes(straight)


def test_half_written_checkpoint_of_a_killed_process_is_swept_away(straight, tmp_path) -> None:
    half = tmp_path / "checkpoints" / ".stage2-000010.partial-abc"
    half.mkdir(parents=True)
    (half / "state.json").write_text("{")
    fit(tiny_logs(80), SMALL, tmp_path)
    assert not half.exists() and policy_bytes(tmp_path) == policy_bytes(straight)


def test_full_disk_keeps_the_last_checkpoint(straight, tmp_path) -> None:
    """Files may not grow beyond a limit while the second checkpoint of stage 2 is written: a real partial write."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(stage: str, step: int) -> None:
        if (stage, step) == ("stage2", 9):
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))  # SIGXFSZ is ignored by Python

    metrics = tmp_path / "metrics.jsonl"
    try:
        with pytest.raises(OSError) as error:
            fit(tiny_logs(80), SMALL, tmp_path, on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.errno == errno.EFBIG
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("*-*")) == ["stage1-000012", "stage2-000005"]
    assert metrics.exists()
    fit(tiny_logs(80), SMALL, tmp_path)
    assert policy_bytes(tmp_path) == policy_bytes(straight)


def test_finished_run_is_not_trained_again(straight, tmp_path) -> None:
    steps = []
    before = policy_bytes(straight)
    fit(tiny_logs(80), SMALL, straight, on_step=lambda stage, step: steps.append(step))
    assert steps == [] and policy_bytes(straight) == before


def test_checkpoints_of_another_run_are_refused_unless_told(straight, tmp_path) -> None:
    fit(tiny_logs(80), SMALL, tmp_path)
    with pytest.raises(ValueError, match="resume=False"):
        fit(tiny_logs(80, seed=5), SMALL, tmp_path)
    with pytest.raises(ValueError, match="resume=False"):
        fit(tiny_logs(80), replace(SMALL, stage2=replace(SMALL.stage2, clip=0.3)), tmp_path)
    assert policy_bytes(tmp_path) == policy_bytes(straight)
    result = fit(tiny_logs(80, seed=5), SMALL, tmp_path, resume=False)
    assert result.summary["resumed_from"] is None
    assert policy_bytes(tmp_path) != policy_bytes(straight)


def test_one_process_trains_in_a_directory(straight, tmp_path) -> None:
    def train_too(stage: str, step: int) -> None:
        if step == 3:
            with pytest.raises(ValueError, match="in use by another pygrade process"):
                fit(tiny_logs(80), replace(SMALL, seed=1), tmp_path)

    fit(tiny_logs(80), SMALL, tmp_path, on_step=train_too)
    assert policy_bytes(tmp_path) == policy_bytes(straight)


def test_summary_tells_what_a_user_asks(straight) -> None:
    summary = json.loads((straight / "train.json").read_text())
    stage2 = summary["stage2"]
    assert stage2["steps"] == 12 and summary["seconds"] > 0
    assert 0 <= stage2["clip_fraction"] <= 1 and 0 <= stage2["zero_signal"] <= 1 and stage2["final_kl"] >= 0
    assert stage2["ratio_largest"] >= stage2["ratio_max"] > 0
    lines = [line for line in read_metrics(straight / "metrics.jsonl") if line["stage"] == "stage2"]
    assert [line["step"] for line in lines] == list(range(1, 13))
    for name in ("reward_posterior", "reward_prior", "reward_format", "kl", "clip_fraction"):
        assert stage2[name] == pytest.approx(np.mean([line[name] for line in lines]))
    assert stage2["final_kl"] == lines[-1]["kl"]
    assert set(summary["served"]) == {"static", "stage1", "stage2"}
    assert summary["served"]["stage2"]["format"] == 0.0  # the projection complies


def test_exploration_factor_widens_sampling_in_its_scenario() -> None:
    logs = tiny_logs(200)
    config = replace(SMALL.policy, scenario_exploration={"buy": 0.25})
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, config))
    data = CompositeReward(SMALL.reward).build(logs, policy.spec)
    alpha = policy.concentration(data.inputs, data.exploration).detach()
    spread = data.rollout(torch.arange(200), alpha, 64, seed=0).weights[..., 0].std(1)
    buy = torch.from_numpy(logs.scenario == "buy")
    assert float(spread[buy].mean()) > 1.4 * float(spread[~buy].mean())


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": "group"},
        {"normalize": "component"},
        {"entropy_coefficient": 1.0},
        {"kl_coefficient": 9.0},
        {"seed": 1},
    ],
    ids=str,
)
def test_options_change_what_is_learned(options: dict) -> None:
    logs = tiny_logs(60)
    versions = set()
    for changed in ({}, options):
        policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, SMALL.policy))
        data = CompositeReward(SMALL.reward).build(logs, policy.spec)
        config = replace(SMALL.stage2, steps=3, **{k: v for k, v in changed.items() if k != "seed"})
        train_stage2(TrainingData.of(data), policy, config, seed=changed.get("seed", 0))
        versions.add(policy.version)
    assert len(versions) == 2


@pytest.mark.parametrize("device", ["tpu9", "meta"] + ([] if torch.cuda.is_available() else ["cuda"]))
def test_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, device: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}'"):
        fit(tiny_logs(5), replace(SMALL, device=device), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_thread_count_of_the_caller_comes_back(tmp_path) -> None:
    before = torch.get_num_threads()
    fit(tiny_logs(30), replace(SMALL, threads=before + 1, stage1=Stage1Config(steps=1)), tmp_path)
    assert torch.get_num_threads() == before
    assert os.listdir(tmp_path / "policy")


def test_tensorboard_scalars_are_written(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    fit(tiny_logs(30), replace(SMALL, tensorboard=True), tmp_path)
    assert any(path.stat().st_size > 500 for path in (tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("amount", [1e38, np.inf, np.nan])
def test_a_huge_amount_in_memory_is_named_by_its_row(tmp_path, amount: float) -> None:
    logs = tiny_logs(30)
    logs.feedback[7, 1] = amount
    with pytest.raises(ValueError, match="column 'y_order', row 7"):
        fit(logs, SMALL, tmp_path)
