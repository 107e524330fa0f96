"""Online learning beside a service, and the lifts of its arms."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.service import ServiceConfig
from pygrade.config.training import OnlineConfig, Stage2Config
from pygrade.logs import read_logs
from pygrade.policy import FusionPolicy
from pygrade.service.arms import ArmReadings
from pygrade.service.feedback_log import event_of
from pygrade.service.online import ARMS, FOLDER, LINK, STATE, STATUS, OnlineService, _with_single_tasks, first_policy
from pygrade.serving.run_copy import policy_of
from pygrade.training.feedback import PAGES
from pygrade.training.training_record import TrainingRecord
from tests.service.served import DELAY, START, events_of, pages, write_exposures, write_feedback, write_pipeline

ONLINE = OnlineConfig(
    window=200, min_requests=50, feedback_delay_ms=DELAY, min_effective_samples=1, step=Stage2Config(steps=3)
)
CONFIG = ServiceConfig(planned_users=500, online=ONLINE)
NOW = START + 10_000_000


@pytest.fixture
def run(tmp_path):
    """A pipeline's run as far as online learning looks at it."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_pipeline(folder / "artifact", seed=1)
    return folder


@pytest.fixture(params=["pipeline", "train"])
def any_run(request, tmp_path, run):
    """The same, or what `pygrade train` wrote: a policy alone."""
    if request.param == "pipeline":
        return run
    folder = tmp_path / "trained"
    folder.mkdir()
    shutil.copytree(run / "artifact" / "policy", folder / "policy")
    return folder


def served(run, count=120, first=0, seed=0):
    """Exposures and feedback of a service; the pages and how many events there are."""
    policy = FusionPolicy.load(policy_of(run))
    logs = pages(count, seed, first, tasks=policy.tasks, features=tuple(policy.features), names=f"s{seed}-{{}}")
    records, _ = events_of(logs, seed)
    write_exposures(logs, run / "exposures", first)
    write_feedback(records, run / "feedback", first)
    return logs, len(records)


def service(run, config=CONFIG, shares=None):
    return OnlineService(run, run / "exposures", [run / "feedback"], config, shares)


def status(run):
    return json.loads((run / FOLDER / STATUS).read_text())


def test_a_version_is_learned_and_published_behind_the_link(any_run):
    run = any_run
    base = FusionPolicy.load(policy_of(run))
    assert first_policy(run) == run / FOLDER / LINK
    assert FusionPolicy.load(run / FOLDER / LINK).version == base.version
    logs, events = served(run)
    part = replace(logs.select(slice(0, 30)), request_id=np.array([f"p{n}" for n in range(30)]))
    write_exposures(part.shown_only(), run / "exposures", "parts")
    learning = service(run)
    update = learning.step(NOW)
    assert update.published and update.version != base.version
    assert os.readlink(run / FOLDER / LINK) == f"policy-{update.version}"
    assert FusionPolicy.load(run / FOLDER / LINK).version == update.version
    record = status(run)
    assert record["version"] == update.version and record["reference"] == base.version
    assert record["history"][-1]["action"] == "published" and record["requests"] == 120
    assert record["read"] == {"pages": 150, "repeated_pages": 0, "events": events}
    assert record["counters"]["joined"] + record["counters"].get("unknown", 0) == events


def test_a_killed_process_continues_as_the_one_that_lived(run, tmp_path):
    served(run)
    other = tmp_path / "other"
    lived = service(run)
    lived.step(NOW)
    shutil.copytree(run, other, symlinks=True)  # the state of the first step, and no more of the process
    for folder in (run, other):
        served(folder, first=500, seed=1)
    a = lived.step(NOW + 1000)
    b = service(other).step(NOW + 1000)
    assert a.version == b.version != status(other)["reference"]
    assert status(run)["counters"] == status(other)["counters"]
    assert [entry["action"] for entry in status(other)["history"]] == ["published", "published"]
    assert json.loads((run / ARMS).read_text()) == json.loads((other / ARMS).read_text())


def test_removed_users_leave_what_is_learned_from_and_what_waits(run):
    logs, _ = served(run)
    now = START + 60_000 + DELAY  # of 120 pages, one a second, the last half waits
    learning = service(run)
    learning.step(now)
    (run / "exposures" / "removed").mkdir()
    mark = json.dumps({"user": "u3", "timestamp": START + 100_000}) + "\n"
    (run / "exposures" / "removed" / "removed-0.jsonl").write_text(mark + mark[:20])  # the last one is being written
    gone = (logs.user_id == "u3") & (logs.timestamp <= START + 100_000)
    for step in (learning, service(run)):
        step.step(now)
        step.save()
        state = run / FOLDER / STATE
        left = [read_logs(state / name / file) for name, file in (("learner", "window.parquet"), ("arms", PAGES))]
        left += [read_logs(state / "learner" / "waiting" / PAGES)]
        assert [part.num_requests for part in left] == [61 - gone[:61].sum(), *[59 - gone[61:].sum()] * 2]
        assert status(run)["counters"]["removed_pages"] == gone[61:].sum() > 0


def test_a_damaged_state_or_another_artifact_begins_anew(run, caplog):
    served(run)
    service(run).step(NOW)
    (run / FOLDER / STATE / "learner" / "state.json").write_text("{}")
    again = service(run)
    assert "learning begins anew" in caplog.text and not again.history
    assert again.step(NOW).published
    write_pipeline(run / "artifact", seed=2)
    again.step(NOW)
    assert "what the run serves changed" in caplog.text
    assert status(run)["reference"] == FusionPolicy.load(run / "artifact" / "policy").version


def test_tasks_that_happen_once_come_from_the_training_record(run):
    policy = FusionPolicy.load(run / "artifact" / "policy")
    logs, _ = served(run, count=20)
    feedback = np.zeros_like(logs.feedback)
    feedback[0] = 1
    feedback[1, 1] = 3
    record = TrainingRecord.of(replace(logs, feedback=feedback), policy.version)
    assert record.single_tasks == policy.tasks[:1] + policy.tasks[2:]
    record.save(run / "artifact" / "policy")
    assert TrainingRecord.load(run / "artifact" / "policy", policy.version).single_tasks == record.single_tasks
    online = _with_single_tasks(ONLINE, run, policy)
    assert online.single_tasks == record.single_tasks
    assert _with_single_tasks(replace(ONLINE, single_tasks=policy.tasks[1:2]), run, policy).single_tasks == policy.tasks


def test_a_pause_is_told_once(run):
    served(run)
    blind = service(run, replace(CONFIG, online=replace(ONLINE, max_reach=0.0)))
    assert blind.step(NOW).paused and blind.step(NOW + 1).paused
    record = status(run)
    assert record["paused"] and [entry["action"] for entry in record["history"]] == ["paused"]
    assert record["counters"]["paused"] == 2 and record["single_tasks"] == []
    assert record["version"] == record["reference"]


def test_a_bad_file_and_bad_events_cost_themselves_alone(run):
    served(run)
    (run / "exposures" / "exposures-9.parquet").write_bytes(b"no")
    bad = [{"request_id": "s0-1", "task": "unheard"}, {"task": "click"}, {"request_id": "a", "task": "click"}]
    write_feedback(bad, run / "feedback", 9)
    learning = service(run)
    assert learning.step(NOW).published
    read = status(run)["read"]
    assert [read[name] for name in ("refused_pages", "refused_event", "other", "unknown")] == [1] * 4


def test_lifts_of_the_arms_hold_the_truth():
    rng = np.random.default_rng(0)
    readings = ArmReadings(("click", "buy"), DELAY, 1e6, {"main": 0.5, "new": 0.5}, 1000)
    logs = pages(3000)
    users = rng.permutation(1000)
    arm = np.repeat(np.where(users % 2 == 0, "main", "new"), 3)
    logs = replace(logs, user_id=np.repeat(users, 3).astype(np.int64), arm=arm)
    readings.serve(logs)
    assert readings.record(0)["reason"].startswith("expected 100 users of each arm; main has 0")
    records, amounts = events_of(logs)
    readings.feedback(event_of(json.dumps(record).encode(), True) for record in records)
    readings.update(NOW)
    record = readings.record(NOW)
    assert record["users"] == {"main": 500, "new": 500} and record["reason"] is None
    value = np.add.reduceat(amounts.astype(float).sum(1), logs.offsets[:-1])
    new = logs.arm == "new"
    lift = record["lifts"]["new"]["value"]
    np.testing.assert_allclose(lift["alone"]["value"], value[new].mean() / value[~new].mean() - 1, rtol=1e-9)
    assert lift["anytime"]["low"] < lift["alone"]["low"] < lift["alone"]["high"] < lift["anytime"]["high"]
    assert set(record["lifts"]["new"]) == {"value", "click", "buy"}
    assert not record["sample_ratio"]["mismatch"]


def test_a_user_of_two_arms_keeps_the_first():
    readings = ArmReadings(("click", "buy"), DELAY, 1e6, {"main": 0.5, "new": 0.5}, 1000)
    logs = pages(4)
    readings.serve(replace(logs, user_id=np.array(["a", "a", "a", "b"]), arm=np.array(["main", "new", "main", "old"])))
    readings.serve(logs)  # again: the requests are known
    readings.update(NOW)
    assert dict(readings.counters) == {"requests": 2, "crossed": 1, "unknown_arm": 1}
    assert readings.record(NOW)["users"] == {"main": 1, "new": 0}


@pytest.mark.slow
def test_the_command_ends_on_a_signal_and_saves(run):
    served(run)
    command = [sys.executable, "-m", "pygrade", "online", "--run", run, "--exposures", run / "exposures"]
    command += ["--feedback", run / "feedback", "--interval-seconds", "0.2", "--online.min-requests", "50"]
    command += ["--online.feedback-delay-ms", "1000", "--online.step.steps", "2", "--online.min-effective-samples", "1"]
    command += ["--arms", "main=0.5", "new=0.5", "--allow-unproven"]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True) as process:
        limit = time.monotonic() + 60
        while not (run / FOLDER / STATUS).exists() and time.monotonic() < limit:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, process.stderr.read()
    assert (run / FOLDER / STATE / "inputs.json").exists()
    assert status(run)["history"][0]["action"] == "published"
