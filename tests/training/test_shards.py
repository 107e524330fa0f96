"""A log in shards: the policy is the same wherever they are, whatever files the log has, and if workers are lost."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pygrade.cli import main as cli
from pygrade.config.training import TrainConfig, TrustConfig
from pygrade.logs import concatenate, read_logs, request_keys, write_logs
from pygrade.logs.keys import hashes
from pygrade.logs.log_parts import LogParts
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.training.data import shard_bounds, shard_of_rows, split_batch, sum_in_order
from pygrade.training.policy_step import norm_of, parameters_of, policy_step
from pygrade.training.prepare import prepare_data
from pygrade.training.reward import CompositeReward
from pygrade.training.shard_learner import ShardLearner
from pygrade.training.shards import Fold, MemoryShard
from pygrade.training.stages import train_stage1, train_stage2
from pygrade.training.train import train
from pygrade.workers import LocalWorkers
from tests.learning import tiny_logs
from tests.training.test_train import SMALL, Stop, folder_bytes, policy_bytes, stop_at

SHARDED = replace(SMALL, shard_requests=60, sample_requests=80, static=replace(SMALL.static, subsample=100))
LOGS = tiny_logs(200, jagged=True)  # 4 shards


class Elsewhere:
    """Workers behind a wire: whatever goes there and back is pickled. With ``forgets`` every so many calls an actor is
    made anew, as if its worker had been lost."""

    def __init__(self, count: int, forgets: int = 0) -> None:
        self.count, self.forgets = count, forgets
        self.made = 0

    def map(self, work, jobs, name):
        results = {}
        for number in [n for first in range(self.count) for n in range(first, len(jobs), self.count)]:
            results[number] = wire(work(wire(jobs[number])))
        yield from (results[number] for number in range(len(jobs)))

    def actors(self, make, parts, name):
        return _Actors(self, make, [pickle.dumps(part) for part in parts])


class _Actors:
    def __init__(self, workers: Elsewhere, make, parts: list[bytes]) -> None:
        self.workers, self.make, self.parts, self.calls = workers, make, parts, 0
        self.objects = [self.new(number) for number in range(len(parts))]

    def new(self, number: int):
        self.workers.made += 1
        return self.make(pickle.loads(self.parts[number]))

    def call(self, method, *arguments):
        results = {}
        for number in reversed(range(len(self.parts))):
            self.calls += 1
            if self.workers.forgets and self.calls % self.workers.forgets == 0:
                self.objects[number] = self.new(number)
            given = [wire(values[number]) for values in arguments]
            results[number] = wire(getattr(self.objects[number], method)(*given))
        return [results[number] for number in range(len(self.parts))]

    def close(self):
        self.objects.clear()


def wire(value):
    return pickle.loads(pickle.dumps(value))


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """Learned in this process, of a log in one directory."""
    folder = tmp_path_factory.mktemp("straight")
    write_logs(LOGS, folder / "logs")
    result = train(folder / "logs", SHARDED, folder / "run")
    assert result.summary["shards"] == 4 and result.summary["requests"] == 200
    assert result.summary["sample"]["requests"] == 80
    assert not (folder / "run" / "shards").exists()
    return folder


@pytest.mark.parametrize(("count", "forgets"), [(2, 0), (4, 0), (2, 5)])
@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_the_policy_is_the_same_on_any_workers(straight, tmp_path, count, forgets, engine):
    config, workers = replace(SHARDED, engine=engine), Elsewhere(count, forgets)
    if engine == "torch":
        train(straight / "logs", config, tmp_path / "here")
    train(straight / "logs", config, tmp_path / "there", workers=workers)
    here = tmp_path / "here" if engine == "torch" else straight / "run"
    for name in ("policy", "stage1", "stage2"):
        assert folder_bytes(tmp_path / "there" / name) == folder_bytes(here / name)
    assert (workers.made > 4) == bool(forgets)


def test_the_policy_does_not_depend_on_the_files_of_the_log(straight, tmp_path):
    train(LOGS, SHARDED, tmp_path / "memory")
    assert policy_bytes(tmp_path / "memory") == policy_bytes(straight / "run")
    write_logs(LOGS, tmp_path / "parts", rows_per_file=300)
    assert len(list((tmp_path / "parts").iterdir())) > 4
    train(tmp_path / "parts", SHARDED, tmp_path / "cut")
    assert policy_bytes(tmp_path / "cut") == policy_bytes(straight / "run")
    write_logs(LOGS.select(slice(0, 37)), tmp_path / "first")
    write_logs(LOGS.select(slice(37, 200)), tmp_path / "second")
    train([tmp_path / "first", tmp_path / "second"], SHARDED, tmp_path / "two")
    assert policy_bytes(tmp_path / "two") == policy_bytes(straight / "run")


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stopped_run_ends_with_the_same_policy(straight, tmp_path, stage):
    with pytest.raises(Stop):
        train(straight / "logs", SHARDED, tmp_path, on_step=stop_at(stage, 8))
    assert train(straight / "logs", SHARDED, tmp_path, workers=Elsewhere(2)).summary["resumed_from"] is not None
    assert policy_bytes(tmp_path) == policy_bytes(straight / "run")


def test_folds_of_trust_learn_from_the_shards_of_other_users(tmp_path):
    config = replace(SHARDED, trust=TrustConfig(folds=2, processes=1), sample_requests=150, shard_requests=150)
    summary = train(tiny_logs(300), config, tmp_path / "here").summary
    assert summary["trust"]["folds"] == 2 and summary["trust"]["mixtures"], summary["trust"]["sentence"]
    train(tiny_logs(300), config, tmp_path / "there", workers=Elsewhere(2))
    assert policy_bytes(tmp_path / "there") == policy_bytes(tmp_path / "here")
    assert folder_bytes(tmp_path / "there/folds/1-of-2/stage2") == folder_bytes(tmp_path / "here/folds/1-of-2/stage2")


def test_folds_take_every_user_once_under_any_seed():
    parts = np.stack([Fold(number, 3, seed=7).has(hashes(np.arange(300))) for number in range(3)])
    assert (parts.sum(0) == 1).all() and parts.sum(1).min() > 60


def test_a_batch_in_shards_has_the_gradient_of_the_batch():
    """Rows in the order of their shards draw the same weights, and the shards' gradients sum to that of the batch."""
    logs = tiny_logs(120, jagged=True)
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, SMALL.policy))
    data = CompositeReward(SMALL.reward).build(logs, policy.spec)
    policy.fit_normalization(data.inputs)
    rows = torch.from_numpy(np.sort(np.random.default_rng(0).integers(120, size=40)))
    parameters, found = parameters_of(policy), {}
    for sizes in ([120], [30, 30, 60]):
        ends = np.cumsum(sizes)
        parts = [data.select(torch.arange(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
        learners = [ShardLearner(MemoryShard(part), policy, "auto") for part in parts]
        requests = split_batch(rows, np.array(sizes), parameters, None, 7, parameters)
        rollouts = [learner.roll_out(part, SMALL.stage2) for learner, part in zip(learners, requests, strict=True)]
        rewards = torch.cat([part.rewards for part in rollouts])
        advantages = torch.linspace(-1, 1, 40 * 4).view(40, 4)
        gradients = [
            learner.group_gradient(part, SMALL.stage2, None, part.part_of(advantages)).gradient
            for learner, part in zip(learners, requests, strict=True)
        ]
        found[len(sizes)] = rewards, sum_in_order(gradients)
    assert torch.equal(found[1][0], found[3][0])
    torch.testing.assert_close(found[1][1], found[3][1], rtol=1e-4, atol=1e-6)
    assert not torch.equal(found[1][1], found[3][1])


def test_shards_hold_what_the_log_holds(tmp_path):
    policy, reward = replace(SMALL.policy, trade_offs=True), replace(SMALL.reward, prior_calibration="slope")
    spec = PolicySpec(LOGS.tasks, LOGS.features, policy)
    whole = CompositeReward(reward).build(LOGS, spec)
    log = prepare_data(LOGS, replace(SHARDED, policy=policy, reward=reward), tmp_path, LocalWorkers())
    rows = np.array([0, 3, 59, 60, 120, 199])
    taken, wanted = log.take(rows), whole.select(torch.from_numpy(rows))
    for one, other in zip(taken.by_request().values(), wanted.by_request().values(), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(taken.component_weights, whole.component_weights)
    assert log.valued.sum() == len(whole.valued())
    policies = [FusionPolicy(spec) for _ in range(2)]
    policies[0].fit_normalization(whole.inputs_seen(0))
    log.fit_normalization(policies[1], 0, LocalWorkers())
    torch.testing.assert_close(policies[0].input_mean[:2], policies[1].input_mean[:2])
    torch.testing.assert_close(policies[0].input_std[:2], policies[1].input_std[:2])
    assert np.array_equal(log.record("x").keys, np.sort(request_keys(LOGS)))


def test_one_shard_in_memory_is_the_rule_for_small_logs():
    limit = TrainConfig().shard_requests
    assert shard_bounds(limit, limit).tolist() == [0, limit]
    assert len(shard_bounds(limit + 1, limit)) == 3
    assert len(shard_bounds(10**9, limit)) == 65
    shard, local = shard_of_rows(np.array([0, 2, 3, 9]), np.array([3, 0, 7]))
    assert shard.tolist() == [0, 0, 2, 2] and local.tolist() == [0, 2, 0, 6]


def test_the_norm_has_the_bits_of_the_core():
    policy = FusionPolicy(PolicySpec(LOGS.tasks, LOGS.features, SMALL.policy))
    step = policy_step(policy, 1e-3, "fused")
    alpha = step.concentration(torch.randn(50, policy.num_inputs))
    gradient, norm = step._network.gradient(torch.randn_like(alpha))
    assert norm_of(gradient) == norm


def test_log_parts_are_the_log(tmp_path):
    logs = replace(LOGS, timestamp=np.random.default_rng(0).permutation(200).astype(np.int64) * 1000 + 10**12)
    write_logs(logs, tmp_path / "logs", rows_per_file=300)
    parts = LogParts.open(tmp_path / "logs")
    whole = read_logs(tmp_path / "logs")
    assert parts.num_requests == 200 and (parts.tasks, parts.task_values) == (LOGS.tasks, LOGS.task_values)
    assert same(parts.read(31, 150), whole.select(slice(31, 150)))
    assert same(concatenate(list(parts.chunks(0, 200, 33))), whole)
    assert [part.num_requests for part in parts.chunks(0, 200, 33)] == [33] * 6 + [2]
    for part, wanted in zip(parts.split(0.7), whole.split(0.7), strict=True):
        assert same(part.read(0, part.num_requests), wanted)
    early, _ = parts.split(0.5)
    late_of_early = early.select(np.arange(100) >= 60)
    assert same(late_of_early.read(0, 40), whole.split(0.5)[0].select(slice(60, 100)))


def same(one, other) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("request_id", "user_id", "offsets", "context", "item_id", "position", "predictions", "feedback")
    )


def test_a_request_in_two_files_is_refused(tmp_path):
    write_logs(LOGS.select(slice(0, 100)), tmp_path / "one")
    write_logs(LOGS.select(slice(99, 200)), tmp_path / "two")
    with pytest.raises(ValueError, match=r"a request is in part-00000.parquet and in part-00000.parquet of .*two"):
        LogParts.open([tmp_path / "one", tmp_path / "two"])
    write_logs(LOGS.arranged(("click",), LOGS.features).select(slice(100, 200)), tmp_path / "other")
    with pytest.raises(ValueError, match="has tasks and features"):
        LogParts.open([tmp_path / "one", tmp_path / "other"])
    with pytest.raises(ValueError, match="paths is empty"):
        LogParts.open([])


def test_stages_take_a_log_in_memory_or_in_files(tmp_path):
    """The two kinds learn alike: they differ in the order of sums alone."""
    logs = tiny_logs(200)
    spec = PolicySpec(logs.tasks, logs.features, SMALL.policy)
    learned = []
    for limit in (200, 70):
        data = prepare_data(logs, replace(SHARDED, shard_requests=limit), tmp_path, LocalWorkers())
        policy = FusionPolicy(spec)
        train_stage1(data, policy, replace(SMALL.stage1, steps=40))
        train_stage2(data, policy, replace(SMALL.stage2, steps=5))
        learned.append(policy.serve(CompositeReward(SMALL.reward).build(logs, spec).inputs))
    assert len(data.shards) == 3
    assert (learned[0] - learned[1]).abs().mean() < 0.05


def test_the_command_reads_a_long_log_part_by_part(tmp_path, monkeypatch):
    """It never holds the log: read_logs is for one file at a time, and the later requests judge."""
    write_logs(LOGS, tmp_path / "logs", rows_per_file=300)
    options = "--shard-requests 60 --sample-requests 80 --trust.folds 2 --stage1.steps 4 --stage2.steps 4"
    words = [
        "train",
        "--data",
        f"logs:{tmp_path / 'logs'}",
        "--out",
        str(tmp_path / "run"),
        *options.split(),
        "--quiet",
    ]
    monkeypatch.setattr("pygrade.cli.options.read_logs", None)
    assert cli.main([*words, "--reward.propensity", "0.5", "--no-tensorboard", "--quiet"]) == 0
    summary = json.loads((tmp_path / "run" / "train.json").read_text())
    assert summary["requests"] == 160 and summary["shards"] == 3
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["num_requests"] == 40
    assert "160 requests in" in (tmp_path / "run" / "report.html").read_text()


def test_requests_without_all_candidates_are_left_out(tmp_path, caplog):
    sizes = np.diff(LOGS.offsets)
    logs = replace(LOGS, candidates=sizes + (np.arange(200) % 4 == 0))
    write_logs(logs, tmp_path / "logs", rows_per_file=300)
    parts = LogParts.open(tmp_path / "logs")
    complete = parts.complete()
    assert complete.num_requests == 150 and "50 of 200 requests" in caplog.text
    assert same(complete.read(0, 150), logs.complete())
    with pytest.raises(ValueError, match="50 of 200 requests list only a part"):
        train(parts, SHARDED, tmp_path / "run")
    assert same(parts.sample(200), logs) and parts.sample(20).num_requests == 20
    drawn = parts.sample(20).request_id
    write_logs(logs, tmp_path / "one")
    assert np.array_equal(LogParts.open(tmp_path / "one").sample(20).request_id, drawn)


def test_what_a_log_in_memory_does_without_is_refused_in_shards(tmp_path: Path) -> None:
    """Robots and huge amounts are left out or limited in memory; in shards they would be learned from."""
    logs = tiny_logs(300, seed=3)
    feedback, rows = logs.feedback.copy(), logs.shown & (logs.row_request < 60)
    feedback[rows, 0] = 1
    users = np.where(np.arange(300) < 60, 1000 + np.arange(300) // 10, logs.user_id)
    robots = replace(logs, feedback=feedback, user_id=users)
    small = replace(SMALL, sample_requests=300)
    write_logs(robots, tmp_path / "log")
    with pytest.raises(ValueError, match="may not hold robots"):
        train(tmp_path / "log", replace(small, shard_requests=60), tmp_path / "shards")
    warned = train(tmp_path / "log", replace(small, shard_requests=1000), tmp_path / "memory").summary["warnings"]
    assert any(sentence.startswith("ROBOTS") for sentence in warned)
