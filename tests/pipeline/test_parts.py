"""What the stages are made of: the sample of a log, copies of requests, the judgment, and the commands."""

import json

import numpy as np
import pytest

from pygrade._util.workers import HERE
from pygrade.cli import main as cli
from pygrade.data.events import EventLog
from pygrade.evaluation.arms import EXPECTED_VALUE, GRADE, STATIC
from pygrade.features import FeatureSet, materialize
from pygrade.logs import Logs, read_logs, validate
from pygrade.pipeline.candidate_copies import CandidateCopies
from pygrade.pipeline.candidates import Finder, with_candidates
from pygrade.pipeline.judge import judge
from pygrade.pipeline.policy_log import LogWriter, SamplePart, sample_hash, sampled_log, sampled_log_of, write_log
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.prerank import EligibleItems, Prerank
from pygrade.training.reward import RewardConfig
from tests.documents import ROOT, blocks
from tests.documents import run as run_code
from tests.pipeline.test_run import stage
from tests.pipeline.world import copy
from tests.training.test_shards import Elsewhere


@pytest.fixture(scope="module")
def features(run):
    return FeatureSet.open(stage(run, "features") / "set")


@pytest.fixture(scope="module")
def events(run):
    return EventLog.open(stage(run, "events") / "log")


TASKS, VALUES = ("click", "order"), (1.0, 10.0)


def half(batch):
    """Predictions of 0.5 and of a number that identifies the row."""
    return np.stack([np.full(len(batch.item_id), 0.5), batch.item_id / 1000.0], 1).astype(np.float32)


def sample(features, limit, requests=64, **options):
    return sampled_log(features.batches(requests=requests), half, TASKS, VALUES, limit, **options)


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_the_sample_is_of_the_smallest_hashes_whatever_the_batches(features, limit):
    found = sample(features, limit, 13)
    other = sample(features, limit, 256)
    every = np.concatenate([batch.request_id for batch in features.batches()])
    chosen = np.sort(sample_hash(every))[:limit]
    assert np.array_equal(np.sort(sample_hash(found.request_id)), chosen)
    assert np.array_equal(found.request_id, other.request_id) and np.array_equal(found.item_id, other.item_id)
    assert np.array_equal(found.predictions, other.predictions) and (np.diff(found.timestamp) >= 0).all()


@pytest.mark.parametrize(
    ("rows", "limit", "last"), [(400, 7, 600), (400, 100, 600), (400, 650, 600), (200_000, 40, 99)]
)
def test_a_sample_of_parts_is_that_of_the_whole_period(events, features, rows, limit, last, tmp_path):
    made = materialize(events, features.schema, tmp_path / "set", features.window, rows=rows)
    assert made.num_parts > 5 or rows > 400  # then a period that is a small share of its only part
    times = next(features.batches(requests=700)).timestamp
    period = int(times[50]), int(times[last])
    expected = sampled_log(made.batches(*period), half, TASKS, VALUES, limit)
    found = sampled_log_of(made, SamplePart(half, TASKS, VALUES, limit), period, HERE, "sample")
    for name in ("request_id", "item_id", "predictions", "feedback", "offsets"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()


def test_a_sample_larger_than_the_log_is_the_log(features):
    found = sample(features, 10_000)
    assert found.num_requests == features.num_requests and found.num_rows == features.num_rows
    assert np.allclose(found.predictions[:, 1], found.item_id / 1000.0)
    assert found.tasks == TASKS and found.task_values == VALUES
    orders = np.concatenate([batch.feedback[:, 2] for batch in features.batches()])
    assert np.array_equal(found.feedback[:, 1], np.nan_to_num(orders))


def test_without_negatives_candidates_are_what_was_shown(features):
    every, shown = sample(features, 50), sample(features, 50, negatives=False)
    assert shown.shown.all() and shown.num_rows == every.shown.sum() < every.num_rows
    assert np.array_equal(shown.item_id, every.item_id[every.shown])


def test_the_whole_log_is_written_part_by_part(features, tmp_path):
    """In any order, in processes of its own: the files hold what a sample of all requests holds."""
    middle = int(np.median(np.concatenate([batch.timestamp for batch in features.batches()])))
    for period in ((None, None), (middle, None)):
        folder = tmp_path / str(period[0])
        writer = LogWriter(features.path, half, TASKS, VALUES, True, folder)
        sizes = write_log(features, writer, period, Elsewhere(3), "log")
        wanted = sampled_log(features.batches(*period), half, TASKS, VALUES, 10_000)
        found = read_logs(folder)
        assert sizes == {"requests": wanted.num_requests, "rows": wanted.num_rows}
        for name in ("request_id", "user_id", "context", "item_id", "position", "predictions", "feedback"):
            assert np.array_equal(getattr(found, name), getattr(wanted, name), equal_nan=name == "context")
        assert (found.tasks, found.task_values) == (TASKS, VALUES)
    with pytest.raises(ValueError, match="no request with a shown row"):
        write_log(
            features, LogWriter(features.path, half, TASKS, VALUES, True, tmp_path / "none"), (2**62, None), HERE, "log"
        )


def test_a_period_without_requests_is_named(features):
    with pytest.raises(ValueError, match="no request with a shown row"):
        sampled_log(iter(()), half, TASKS, VALUES, 5)
    with pytest.raises(ValueError, match="limit is 0"):
        sample(features, 0)


def test_copies_have_the_features_of_their_request_and_change_nothing_else(features, events, tmp_path):
    late = next(features.batches(int(np.median([b.timestamp[0] for b in features.batches(requests=1)])), requests=3))
    requests = late.take(np.array([0, 2]))
    candidates = {int(r): np.array([5, 3, 10**12]) for r in requests.request_id}
    copies = CandidateCopies(events, candidates, int(requests.timestamp[-1]) + 1)
    made = materialize(copies, features.schema, tmp_path / "set", features.window)
    batches = list(made.batches())
    ids = np.concatenate([batch.request_id for batch in batches])
    assert (ids < 0).sum() == 2 and len(ids) < features.num_requests
    for request in range(2):
        number = copies.copy_of[int(requests.request_id[request])]
        (batch,) = [b for b in batches if number in b.request_id]
        place = int(np.flatnonzero(batch.request_id == number)[0])
        assert batch.request_id[place - 1] == requests.request_id[request]
        copy = batch.take(np.array([place]))
        assert copy.item_id.tolist() == [5, 3, 10**12] and (copy.position == -1).all()
        for name in ("request_dense", "request_ids", "sequences", "user_id", "timestamp"):
            assert getattr(copy, name)[0].tobytes() == getattr(requests, name)[request].tobytes()
    before = next(features.batches(requests=len(ids) - 2))
    same = made.batches(requests=len(ids))
    joined = next(same).take(np.flatnonzero(ids >= 0))
    for name in ("request_id", "item_id", "item_dense", "cross_dense", "request_dense", "item_ids"):
        assert getattr(joined, name).tobytes() == getattr(before, name).tobytes()


def test_candidates_of_prerank_join_the_rows_of_their_request(run, features, events, tmp_path):
    prerank = Prerank.load(stage(run, "prerank") / "prerank", features.schema.hash)
    both = sample(features, 20).split(0.5)
    items = np.arange(0, 120, 2)
    np.save(tmp_path / "known.npy", items)
    known = EligibleItems(items)
    find = Finder(stage(run, "prerank") / "prerank", tmp_path / "known.npy", features.schema.hash, 7)
    joined = with_candidates(list(both), events, features, find, half, tmp_path / "copies")
    assert not (tmp_path / "copies").exists()
    batches = {int(b.request_id[0]): b for b in features.batches(requests=1)}
    for before, after in zip(both, joined, strict=True):
        validate(after)
        assert np.array_equal(after.request_id, before.request_id)
        assert after.context.tobytes() == before.context.tobytes()
        for r, request in enumerate(after.request_id.tolist()):
            rows = slice(after.offsets[r], after.offsets[r + 1])
            own = slice(before.offsets[r], before.offsets[r + 1])
            count = own.stop - own.start
            for name in ("item_id", "position", "feedback", "predictions"):
                assert np.array_equal(getattr(after, name)[rows][:count], getattr(before, name)[own])
            new = after.item_id[rows][count:]
            seen = [before.item_id[own]]
            assert new.tolist() == prerank.candidates(batches[request], 7, seen, known)[0].tolist()
            assert set(new.tolist()) < set(items.tolist())
            assert (after.position[rows][count:] == -1).all()
            assert np.allclose(after.predictions[rows][count:, 1], new / 1000.0)


def logs_of(requests: int, shuffled: bool = False) -> Logs:
    rng = np.random.default_rng(0)
    rows = 4 * requests
    return Logs(
        tasks=("a", "b"),
        features=("user_count",),
        request_id=np.arange(requests),
        user_id=np.arange(requests) % 30,
        offsets=np.arange(requests + 1) * 4,
        context=np.arange(requests, dtype=np.float32)[:, None] % 25,
        item_id=np.arange(rows),
        position=np.tile(np.arange(4, dtype=np.int32), requests),
        predictions=rng.random((rows, 2), np.float32),
        feedback=(rng.random((rows, 2)) < 0.4).astype(np.float32),
        task_values=(1.0, 2.0),
        exploration=np.full(requests, "shuffle") if shuffled else None,
    )


def test_judgment_tells_users_by_their_history():
    logs = logs_of(250)
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features), seed=1)
    found = judge(logs, policy, policy, RewardConfig(page_size=4), logs.context[:, 0])
    sizes = {name: own["requests"] for name, own in found["users"].items()}
    assert sizes == {"new": 10, "rare": 90, "regular": 150, "frequent": 0}
    assert "lifts" not in found["users"]["new"]  # too few to say anything
    assert set(found["users"]["rare"]["lifts"]) == {STATIC, "logged order", "stage 1", GRADE}
    assert found["replay"]["baseline"] == EXPECTED_VALUE
    assert found["off_policy"] == {} and "shuffle" in found["off_policy_note"]
    given = judge(logs, policy, policy, RewardConfig(page_size=4, propensity=1.0, task_values=(1.0, 9.0)), None)
    assert given["users"] == {} and given["off_policy"]["position"]["warning"] is None
    assert given["propensity"] == "given" and given["replay"]["propensity"] == [1.0, 0.5, 1 / 3, 0.25]
    assert given["replay"]["task_values"] == {"a": 1.0, "b": 9.0}
    json.dumps(found, allow_nan=False)


def test_the_guide_makes_a_page_for_a_user(run, tmp_path, monkeypatch, capsys):
    copy(run, tmp_path / "runs" / "kuairand")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs/guides/pipeline.md", "python")
    run_code(code, "pipeline.md")
    assert capsys.readouterr().out.strip()


def test_the_commands(run, tmp_path, capsys):
    assert cli.main(["pipeline", "--data", "logs:nowhere", "--out", str(tmp_path / "none")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    mine = copy(run, tmp_path / "run")
    assert cli.main(["rank-user", "--run", str(mine), "--user", "3", "--k", "4", "--repeat", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["pages"][0]["items"]) == 4 and found["times"]["in all"]["p50_ms"] > 0
    assert found["counters"]["requests"] == 3 and not found["degraded"]
    assert (
        found["unknown_context"] == ["c_hour"]
        and "unknown, as --context does not give them: c_hour" in found["pages"][0]["why"]
    )
    assert cli.main(["rank-user", "--run", str(mine), "--user", "123456", "--context", "c_hour", "3"]) == 0
    out = capsys.readouterr().out
    assert "Where the time goes" in out and "prerank" in out and "no event of this user is known" in out
    assert cli.main(["serve-check", "--run", str(mine), "--requests", "3", "--candidates", "20"]) == 0
    assert "3 of 3 pages are equal bit for bit" in capsys.readouterr().out
    for arguments, message in (
        (["--run", str(mine), "--user", "3", "--context", "hour", "3"], "context names 'hour'"),
        (["--run", str(mine), "--user", "3", "--context", "c_hour", "x"], "context gives c_hour as 'x'"),
        *((["--run", str(mine), f"--user={name}"], f"user is '{name}'") for name in ("alice", "--5", "²", "9" * 19)),
        (["--run", str(mine), "--user", "3", "--store", f"lmdb:{tmp_path / 'no'}"], str(tmp_path / "no")),
    ):
        assert cli.main(["rank-user", *arguments]) == 2
        assert message in capsys.readouterr().err
