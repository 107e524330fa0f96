"""A log that is longer than the sample that judges: mapped, learned from as a whole, with the same bytes anywhere."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pygrade.cli import main as cli
from pygrade.config.training import CorrectionConfig, CrossFitConfig
from pygrade.logs import concatenate, read_logs, request_keys, write_logs
from pygrade.logs.dataset import Dataset
from pygrade.logs.log_parts import LogParts
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.runs.fit import fit
from pygrade.training.data import TrainingData
from pygrade.training.evidence import clean
from pygrade.training.propensity import SlotPropensity
from pygrade.training.reward import CompositeReward
from pygrade.training.training_record import TrainingRecord
from tests.learning import tiny_logs
from tests.refusals import refuses
from tests.training.test_train import SMALL, Stop, folder_bytes, policy_bytes, stop_at
from tests.workers.elsewhere import Elsewhere, wire

LONG = replace(SMALL, sample_requests=150, cross_fit=CrossFitConfig(folds=2, processes=1))
LOGS = tiny_logs(300, jagged=True)


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        for module in ("logs.dataset", "training.data"):
            patch.setattr(f"pygrade.{module}.CHUNK", 33)
        yield


@pytest.fixture(scope="module")
def straight(small_chunks, tmp_path_factory) -> Path:
    """PolicyFit in this process, of a log in one directory."""
    folder = tmp_path_factory.mktemp("straight")
    write_logs(LOGS, folder / "logs")
    summary = fit(folder / "logs", LONG, folder / "run").summary
    assert summary["requests"] == 300 and summary["sample"]["requests"] == 150
    assert summary["cross_fit"]["mixtures"] and not (folder / "run" / "dataset").exists()
    return folder


def test_files_and_workers_change_nothing(straight, tmp_path):
    write_logs(LOGS, tmp_path / "parts", rows_per_file=300)
    assert len(list((tmp_path / "parts").iterdir())) > 4
    write_logs(LOGS.select(slice(0, 37)), tmp_path / "first")
    write_logs(LOGS.select(slice(37, 300)), tmp_path / "second")
    sources = {"memory": LOGS, "parts": tmp_path / "parts", "two": [tmp_path / "first", tmp_path / "second"]}
    for name, source in sources.items():
        fit(source, LONG, tmp_path / name, workers=Elsewhere(3))
        for folder in ("policy", "stage1", "folds/1-of-2/stage2", "folds/later/stage2", "folds/2-of-2/policy"):
            assert folder_bytes(tmp_path / name / folder) == folder_bytes(straight / "run" / folder), name


@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_steps_of_a_mapped_log_are_those_of_one_in_memory(tmp_path, engine):
    """The sample decides nothing about the steps where propensities are given and no page format is rewarded."""
    reward = replace(SMALL.reward, format_weight=0.0)
    config = replace(SMALL, correction=CorrectionConfig(enabled=False), reward=reward, engine=engine)
    fit(LOGS, config, tmp_path / "memory")
    fit(LOGS, replace(config, sample_requests=80), tmp_path / "mapped")
    (memory,), (mapped,) = ([*(tmp_path / name / "checkpoints").glob("stage2-000012")] for name in ("memory", "mapped"))
    assert (memory / "state.safetensors").read_bytes() == (mapped / "state.safetensors").read_bytes()


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stopped_run_ends_with_the_same_policy(straight, tmp_path, stage):
    with pytest.raises(Stop):
        fit(straight / "logs", LONG, tmp_path, on_step=stop_at(stage, 8))
    assert fit(straight / "logs", LONG, tmp_path, workers=Elsewhere(2)).summary["resumed_from"] is not None
    assert policy_bytes(tmp_path) == policy_bytes(straight / "run")


def test_batches_have_the_tensors_of_the_whole(tmp_path):
    spec = PolicySpec(LOGS.tasks, LOGS.features, replace(SMALL.policy, trade_offs=True))
    whole = CompositeReward(SMALL.reward).build(LOGS, spec)
    dataset = Dataset.open(LOGS, 80, tmp_path)
    data = TrainingData.prepare(dataset, dataset.sample(80), spec, SMALL.reward, SlotPropensity(0.5, "given"))
    requests = torch.tensor([3, 0, 199, 59, 60, 3])
    tensors, rows = data.batch(requests)
    found, wanted = tensors.select(rows).by_request(), whole.select(requests).by_request()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert torch.equal(data.inputs, whole.inputs) and torch.equal(data.rewarded, whole.rewarded())
    assert tensors.component_weights.equal(data.tensors.component_weights) and data.num_requests == 300
    policies = [FusionPolicy(spec) for _ in range(2)]
    TrainingData.of(whole).fit_normalization(policies[0], 0)
    data.fit_normalization(policies[1], 0)
    assert torch.equal(policies[0].input_std, policies[1].input_std)


def with_everything():
    """Text, one of it long or ending with a zero, item columns and vectors, whose widths differ between files."""
    rng, rows = np.random.default_rng(0), LOGS.num_rows
    ids = [f"user {2 ** (3 * i % 40)}" + "\0" * (i % 7 == 0) for i in range(299)]
    return replace(
        LOGS,
        user_id=np.array([*ids, "x" * 99_999], object),
        timestamp=rng.permutation(300).astype(np.int64) * 1000 + 10**12,
        items=("age",),
        item_features=rng.normal(size=(rows, 1)).astype(np.float32),
        embedding=(np.arange(rows) % 9 - 1).astype(np.int32),
        embeddings=rng.normal(size=(8, 4)).astype(np.float32),
    )


def test_a_mapped_log_is_the_log(tmp_path):
    logs = with_everything()
    write_logs(logs, tmp_path / "logs", rows_per_file=300)
    whole, parts = read_logs(tmp_path / "logs"), LogParts.open(tmp_path / "logs")
    assert parts.num_requests == 300 and (parts.tasks, parts.task_values) == (LOGS.tasks, LOGS.task_values)
    for source in (logs, parts):
        dataset = Dataset.open(source, 100, tmp_path / "mapped")
        assert dataset.is_mapped and not dataset.logs.feedback.flags.writeable
        assert sum(file.stat().st_size for file in (tmp_path / "mapped").iterdir()) < 10**6
        for one in (dataset, wire(dataset)):
            assert same(one.read(), whole) and same(concatenate(list(one.chunks())), whole)
        view = wire(dataset.without(np.arange(300) % 3 == 0))
        kept = np.flatnonzero(np.arange(300) % 3)
        assert view.num_requests == len(kept) and same(view.read(np.arange(5, 60)), whole.select(kept[5:60]))
        assert same(view.contiguous(tmp_path / "kept").logs, whole.select(kept)) and not view.sample(9).is_mapped
        assert np.array_equal(TrainingRecord.of(dataset).keys, np.sort(request_keys(whole)))
    for part, wanted in zip(parts.split(0.7), whole.split(0.7), strict=True):
        assert same(part.read(), wanted)
    assert same(parts.split(0.5)[0].select(np.arange(150) >= 60).read(), whole.split(0.5)[0].select(slice(60, 150)))


def same(one, other) -> bool:
    names = ["request_id", "user_id", "offsets", "context", "item_id", "position", "predictions", "feedback"]
    names += ["timestamp", "scenario"]
    columns = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    if one.embedding is None:
        return columns
    vectors = [logs.embeddings[logs.embedding] * (logs.embedding >= 0)[:, None] for logs in (one, other)]
    return columns and np.array_equal(*vectors) and np.array_equal(one.item_features, other.item_features)


def test_a_request_in_two_files_is_refused(tmp_path):
    write_logs(LOGS.select(slice(0, 100)), tmp_path / "one")
    write_logs(LOGS.select(slice(99, 300)), tmp_path / "two")
    with pytest.raises(ValueError, match=r"a request is in part-00000.parquet and in part-00000.parquet of .*two"):
        LogParts.open([tmp_path / "one", tmp_path / "two"])
    write_logs(LOGS.arranged(("click",), LOGS.features).select(slice(100, 200)), tmp_path / "other")
    refuses(ValueError, "has tasks and features", LogParts.open, [tmp_path / "one", tmp_path / "other"])
    refuses(ValueError, "paths is empty", LogParts.open, [])


def test_the_command_maps_a_long_log(tmp_path, monkeypatch):
    """It never holds the log: read_logs is for one file at a time, and the later requests judge."""
    write_logs(LOGS, tmp_path / "logs", rows_per_file=300)
    options = "--sample-requests 80 --cross-fit.folds 2 --stage1.steps 4 --stage2.steps 4 --no-tensorboard --quiet"
    words = ["train", "--data", f"logs:{tmp_path / 'logs'}", "--out", str(tmp_path / "run"), *options.split()]
    monkeypatch.setattr("pygrade.cli.options.read_logs", None)
    assert cli.main([*words, "--reward.propensity", "0.5"]) == 0
    summary = json.loads((tmp_path / "run" / "train.json").read_text())
    assert summary["requests"] == 240 and summary["sample"]["requests"] == 80
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["num_requests"] == 60
    assert "240 requests of" in (tmp_path / "run" / "report.html").read_text()


def test_requests_without_all_candidates_are_left_out(tmp_path, caplog):
    sizes = np.diff(LOGS.offsets)
    logs = replace(LOGS, candidates=sizes + (np.arange(300) % 4 == 0))
    write_logs(logs, tmp_path / "logs", rows_per_file=300)
    parts = LogParts.open(tmp_path / "logs")
    complete = parts.complete()
    assert complete.num_requests == 225 and "75 of 300 requests" in caplog.text
    assert same(complete.read(), logs.complete())
    refuses(ValueError, "75 of 300 requests", fit, parts, LONG, tmp_path / "run")
    assert same(parts.sample(300), logs) and parts.sample(20).num_requests == 20
    drawn = parts.sample(20).request_id
    assert np.array_equal(Dataset.open(parts, 80, tmp_path / "mapped").sample(20).read().request_id, drawn)


def test_a_long_log_is_cleaned_as_a_short_one(tmp_path):
    """Robots are left out and huge amounts limited, whatever the log's size."""
    logs = tiny_logs(300, seed=3)
    feedback, rows = logs.feedback.copy(), logs.shown & (logs.row_request < 60)
    feedback[rows, 0] = 1
    feedback[np.flatnonzero(logs.shown)[-1], 1] = 1e4
    users = np.where(np.arange(300) < 60, 1000 + np.arange(300) // 10, logs.user_id)
    logs = replace(logs, feedback=feedback, user_id=users)
    (short, said), (long, said_of_long) = (
        clean(Dataset.open(logs, limit, tmp_path / "log"), 300, tmp_path / "log") for limit in (300, 100)
    )
    assert long.is_mapped and not short.is_mapped and short.num_requests < 250 and short.read().feedback.max() < 1e4
    assert said == said_of_long and said[-1].startswith("ROBOTS")
    assert same(short.read(), long.read()) and same(wire(long).read(), short.read())
