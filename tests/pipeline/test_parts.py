"""What the stages are made of: the sample of a log, copies of requests, the judgment, and the commands."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from pygrade import mtl
from pygrade.cli import main as cli
from pygrade.config.pipeline import PipelineConfig
from pygrade.data.events import EventLog
from pygrade.features import FeatureSet, materialize
from pygrade.logs import read_logs
from pygrade.logs.columns import COLUMNS, PER_REQUEST
from pygrade.pipeline.candidates import CandidateCopies, Finder, with_candidates
from pygrade.pipeline.logs import LogsStage
from pygrade.pipeline.mtl import ModelPredictions
from pygrade.pipeline.policy_inputs import PolicyInputs
from pygrade.pipeline.policy_log import NO_COPY, LogWriter, RequestSelection, sample_hash, select_requests, write_log
from pygrade.workers import LOCAL
from tests.candidates import candidate_file
from tests.documents import ROOT, blocks
from tests.documents import run as run_code
from tests.pipeline.test_run import stage
from tests.pipeline.world import copy
from tests.workers.elsewhere import Elsewhere


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


def written(features, folder, limit=0, period=(None, None), workers=LOCAL):
    """The log of a period."""
    wanted = select_requests(features, period, limit, workers, "sample")
    inputs = PolicyInputs(features.schema.request_features, ())
    writer = LogWriter(features.path, NO_COPY, wanted, half, TASKS, VALUES, (), inputs, folder)
    sizes = write_log(features, writer, workers, "log")
    found = read_logs(folder)
    assert sizes == {"requests": found.num_requests, "rows": found.num_rows}
    return found


def same(one, other):
    assert (one.tasks, one.features, one.task_values) == (other.tasks, other.features, other.task_values)
    for name in (*COLUMNS, "offsets"):
        mine, yours = getattr(one, name), getattr(other, name)
        if mine is not None or yours is not None:
            assert np.array_equal(mine, yours, equal_nan=mine.dtype.kind == "f"), name


@pytest.fixture(scope="module")
def cut(events, features, tmp_path_factory):
    """The features in several parts."""
    folder = tmp_path_factory.mktemp("cut")
    made = materialize(events, features.schema, folder / "set", features.window, rows=400)
    assert made.num_parts > 5
    return made


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_the_sample_is_of_the_smallest_hashes_however_the_features_are_cut(features, cut, limit, tmp_path):
    found = written(features, tmp_path / "one", limit)
    every = np.concatenate([batch.request_id for batch in features.batches()])
    chosen = np.sort(sample_hash(every))[:limit]
    assert np.array_equal(np.sort(sample_hash(found.request_id)), chosen)
    assert (np.diff(found.timestamp) >= 0).all()
    same(found, written(cut, tmp_path / "many", limit, workers=Elsewhere(3)))


@pytest.mark.parametrize(("limit", "last"), [(7, 600), (100, 600), (650, 600), (40, 99)])
def test_a_sample_of_a_period(features, cut, limit, last, tmp_path):
    """In parts that are cut by the period, too."""
    times = next(features.batches(requests=700)).timestamp
    period = int(times[50]), int(times[last])
    every = written(features, tmp_path / "every", 0, period)
    hashes = sample_hash(every.request_id)
    kept = hashes <= np.sort(hashes)[min(limit, len(hashes)) - 1]
    assert kept.sum() == min(limit, len(hashes)) and every.timestamp.min() >= period[0]
    same(every.select(kept), written(cut, tmp_path / "some", limit, period))


def test_a_log_without_a_limit_has_all_requests(features, tmp_path):
    found = written(features, tmp_path)
    assert found.num_requests == features.num_requests and found.num_rows == features.num_rows
    assert np.allclose(found.predictions[:, 1], found.item_id / 1000.0)
    assert found.tasks == TASKS and found.task_values == VALUES
    orders = np.concatenate([batch.feedback[:, 2] for batch in features.batches()])
    assert np.array_equal(found.feedback[:, 1], np.nan_to_num(orders))


def test_the_log_is_written_part_by_part(features, cut, tmp_path):
    """In any order, in processes of its own."""
    middle = int(np.median(np.concatenate([batch.timestamp for batch in features.batches()])))
    for period in ((None, None), (middle, None)):
        folder = tmp_path / str(period[0])
        same(written(features, folder / "one", 0, period), written(cut, folder / "many", 0, period, Elsewhere(3)))
    files = [path.name for path in sorted((tmp_path / "None" / "many").iterdir())]
    assert files == [f"part-{number:05d}.parquet" for number in range(cut.num_parts)]


@pytest.mark.parametrize("limit", [0, 5])
def test_a_period_without_requests_is_named(features, events, limit, tmp_path):
    with pytest.raises(ValueError, match="no request with a shown row"):
        written(features, tmp_path / "none", limit, (2**62, None))
    late = select_requests(features, (2**62, None), limit, LOCAL, "sample")
    with pytest.raises(ValueError, match="no request with a shown row"):
        with_candidates(events, features, nothing, [RequestSelection((None, None)), late], tmp_path / "copies")
    with pytest.raises(ValueError, match="limit is -1"):
        select_requests(features, (None, None), -1, LOCAL, "sample")


def nothing(batch):
    return np.full((len(batch), 3), -1)


def test_copies_have_the_features_of_their_request_and_change_nothing_else(features, events, tmp_path):
    late = next(features.batches(int(np.median([b.timestamp[0] for b in features.batches(requests=1)])), requests=3))
    requests = late.take(np.array([0, 2]))
    file = candidate_file(tmp_path / "file.npz", requests.request_id, requests.timestamp, [[5, 3, 10**12]] * 2)
    copies = CandidateCopies(events, [file], file.last + 1)
    made = materialize(copies, features.schema, tmp_path / "set", features.window)
    batches = list(made.batches())
    ids = np.concatenate([batch.request_id for batch in batches])
    assert (ids < 0).sum() == 2 and len(ids) < features.num_requests
    for request, number in enumerate(copies.copy_id(np.arange(2))):
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


@dataclass(frozen=True)
class Sometimes:
    """What a finder gives, but nothing for every fifth request."""

    find: Finder

    def __call__(self, batch):
        return np.where(batch.request_id[:, None] % 5 == 0, -1, self.find(batch))


@pytest.fixture(scope="module")
def stage_of(run, events, features, tmp_path_factory):
    """A factory of the stage of logs over other features, with 7 candidates out of known items."""
    known = tmp_path_factory.mktemp("known") / "known.npy"
    np.save(known, np.arange(0, 120, 2))
    find = Sometimes(Finder(stage(run, "prerank") / "prerank", known, features.schema.hash, 7))
    model = stage(run, "mtl") / "mtl"
    tasks = tuple(mtl.load(model).tasks)

    def make(source, workers, limit):
        config = PipelineConfig(policy_requests=limit)
        predict, raw = ModelPredictions(model), ModelPredictions(model, calibrated=False)
        values = (1.0,) * len(tasks)
        return LogsStage(events, source, find, predict, raw, tasks, values, (), config, workers, 800)

    return make


@pytest.fixture(scope="module")
def periods(features):
    times = np.concatenate([batch.timestamp for batch in features.batches()])
    return (int(times[300]), int(times[500])), (int(times[500]), None)


def test_logs_of_events_without_slots_say_so(events, cut, stage_of, periods, tmp_path):
    unlisted = EventLog(events.path, events.source | {"slots_known": False}, events.parts)
    for log, folder in ((events, tmp_path / "known"), (unlisted, tmp_path / "unknown")):
        replace(stage_of(cut, LOCAL, 20), log=log).make(folder, *periods)
    assert read_logs(tmp_path / "known" / "policy").slots_known
    assert not any(read_logs(tmp_path / "unknown" / part).slots_known for part in ("policy", "evaluate"))


@pytest.mark.parametrize("limit", [0, 30])
def test_candidates_of_prerank_join_the_rows_of_their_request(
    run, features, events, cut, stage_of, periods, limit, tmp_path
):
    """All requests or a sample, in several parts: what a request by itself gets."""
    made = stage_of(cut, LOCAL, limit)
    record = made.make(tmp_path, *periods)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluate", "policy"]
    batches = {int(batch.request_id[0]): batch for batch in cut.batches(requests=1)}
    for name, period, most in (("policy", periods[0], limit), ("evaluate", periods[1], 0)):
        found = read_logs(tmp_path / name)
        before = written(features, tmp_path / f"{name} alone", most, period)
        assert record[name] == {"requests": found.num_requests, "rows": found.num_rows, "at_most": most or None}
        for column in PER_REQUEST:
            values = getattr(before, column)
            assert values is None or np.array_equal(getattr(found, column), values, equal_nan=column == "context")
        assert found.num_requests == (most or {"policy": 200, "evaluate": features.num_requests - 500}[name])
        for r, request in enumerate(found.request_id.tolist()):
            rows, own = slice(*found.offsets[r : r + 2]), slice(*before.offsets[r : r + 2])
            count, batch = own.stop - own.start, batches[request]
            assert np.array_equal(found.item_id[rows][:count], before.item_id[own])
            assert np.array_equal(found.position[rows][:count], before.position[own])
            assert (found.position[rows][count:] == -1).all()
            assert found.predictions[rows][:count].tobytes() == made.predict(batch).tobytes()
            more = made.find(batch)[0]
            assert found.item_id[rows][count:].tolist() == more[more >= 0].tolist()
            assert (request % 5 == 0) == (len(found.item_id[rows]) == count)
            assert not found.feedback[rows][count:].any()
    for request in [number for number in found.request_id.tolist() if number % 5][::15]:
        batch, r = batches[request], found.request_id.tolist().index(request)
        file = candidate_file(tmp_path / "file.npz", [request], batch.timestamp, [made.find(batch)[0]])
        copies = CandidateCopies(events, [file], file.last + 1)
        alone = materialize(copies, features.schema, tmp_path / f"set-{request}", features.window)
        (copy,) = [b for b in alone.batches(requests=1) if copies.is_copy(b.request_id).all()]
        copy = replace(copy, fitted=cut.fitted)
        assert found.predictions[slice(*found.offsets[r : r + 2])][-7:].tobytes() == made.predict(copy).tobytes()


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("workers", "limit"), [(Elsewhere(2), 0), (Elsewhere(2), 30), (Elsewhere(5), 0)])
def test_logs_with_candidates_are_the_same_for_any_workers(cut, stage_of, periods, workers, limit, tmp_path):
    records = [stage_of(cut, own, limit).make(tmp_path / str(own.count), *periods) for own in (LOCAL, workers)]
    assert records[0] == records[1]
    content = files_of(tmp_path / "1")
    assert content == files_of(tmp_path / str(workers.count)) and len(content) > 5


def test_metrics_of_the_predictions_are_those_of_the_shown_rows(cut, stage_of, periods, tmp_path):
    made = stage_of(cut, LOCAL, 0)
    found = made.make(tmp_path, *periods)["predictions"]
    late = list(cut.batches(*periods[1]))
    shown = [batch.position >= 0 for batch in late]
    for t, task in enumerate(made.tasks):
        column = cut.schema.tasks.index(task)
        labels = np.concatenate([batch.feedback[rows, column] for batch, rows in zip(late, shown, strict=True)])
        for predict, name in ((made.predict, "log_loss"), (made.raw, "log_loss_before")):
            values = np.concatenate([predict(batch)[rows, t] for batch, rows in zip(late, shown, strict=True)])
            loss = -np.mean(np.where(labels > 0, np.log(values), np.log1p(-values)), dtype=np.float64)
            assert np.isclose(found[task][name], loss, rtol=1e-5)
        assert found[task]["rows"] == len(labels)


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
    words = ["rank", "--allow-unproven", "--run", str(mine), "--user", "3", "--k", "4", "--repeat", "3", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["pages"][0]["items"]) == 4 and found["times"]["in all"]["p50_ms"] > 0
    assert found["counters"]["requests"] == 3 and not found["degraded"]
    assert (
        found["unknown_context"] == ["c_hour"]
        and "unknown, as --context does not give them: c_hour" in found["pages"][0]["why"]
    )
    words = ["rank", "--allow-unproven", "--run", str(mine), "--user", "123456", "--context", "c_hour=3"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "Where the time goes" in out and "prerank" in out and "no event of this user is known" in out
    assert cli.main(["pipeline", "--check", str(mine), "--check-requests", "3"]) == 0
    assert "3 of 3 pages are equal bit for bit" in capsys.readouterr().out
    for arguments, message in (
        (["--run", str(mine), "--user", "3", "--context", "hour=3"], "context names 'hour'"),
        (["--run", str(mine), "--user", "3", "--context", "c_hour=x"], "context gives c_hour as 'x'"),
        *((["--run", str(mine), f"--user={name}"], f"user is '{name}'") for name in ("alice", "--5", "²", "9" * 19)),
        (["--run", str(mine), "--user", "3", "--store", f"lmdb:{tmp_path / 'no'}"], str(tmp_path / "no")),
    ):
        assert cli.main(["rank", "--allow-unproven", *arguments]) == 2
        assert message in capsys.readouterr().err
