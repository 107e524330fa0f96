"""`pygrade serve --test`: arms, log, reading and page of one test, over kills, to the winner's holdout."""

import json
import os
import signal
import subprocess
import time
import tomllib
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from pygrade import BlendedRanker, FusionPolicy, _core
from pygrade.cli.main import main
from pygrade.config.policy import PolicyConfig
from pygrade.config.service import TestConfig as ReadingOptions
from pygrade.evaluation.arms import EXPECTED_VALUE
from pygrade.logs import read_logs
from pygrade.policy import PolicySpec
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.service.testing import SERVER, TestReader, fill_table
from tests.corrections import random_correction
from tests.service.conftest import command_of, eventually, needs_server, serving

TASKS, K, N, USERS, DAY = ("click", "order"), 5, 12, 60, 86_400_000
START = (time.time_ns() // 1_000_000 // DAY - 63) * DAY
TOKEN = {"Authorization": "Bearer secret"}
EXPECTED = Baseline(EXPECTED_VALUE, "identity", (1.0, 8.0), True)
EVIL = '<script>alert("1")</script>'


@pytest.fixture
def run(tmp_path):
    """Of a policy that ranks by corrected expected value, as its verdict over plain expected value says."""
    needs_server()
    policy = FusionPolicy(PolicySpec(TASKS, ("hour",), PolicyConfig(hidden=(4,))))
    policy.correction = random_correction(3, tasks=TASKS, features=("hour",), items=("margin",), indicators=())
    own = Baseline("corrected", "identity", (1.0, 8.0), True, corrected=True)
    policy.mixture = Mixture(0.0, own, "better", baselines=(EXPECTED,), control=EXPECTED_VALUE, weeks=1.0)
    policy.save(tmp_path / "run" / "policy")
    return tmp_path / "run"


def pages_of(count, first=0):
    """Requests of users who return, over nine weeks."""
    rng = np.random.default_rng(7)
    for r in range(first, first + count):
        clicks = rng.beta(2, 8, N)
        yield {
            "user": f"u{r % USERS}",
            "k": K,
            "items": [f"item {i}" for i in rng.choice(90, N, replace=False)],
            "predictions": {"click": clicks.tolist(), "order": (clicks * rng.beta(2, 8, N)).tolist()},
            "context": {"hour": float(rng.normal())},
            "item_features": {"margin": rng.normal(size=N).tolist()},
            "timestamp": START + r * (63 * DAY // 400),
            "request_id": f"r{r:04d}",
        }


def send(server, path, body):
    status, _, content = server.ask("POST", path, body, TOKEN)
    assert status == 200, content
    return json.loads(content)


def rank(server, count, first=0):
    bodies = list(pages_of(count, first))
    batches = [bodies[i : i + 100] for i in range(0, count, 100)]
    return bodies, [page for batch in batches for page in send(server, "/v1/rank", {"requests": batch})["pages"]]


def events_of(server, bodies, pages):
    """Clicks and orders of most of the best three items by the new ranking, where they were shown."""
    rng = np.random.default_rng(9)
    for body, page in zip(bodies, pages, strict=True):
        for item in send(server, "/v1/explain", body | {"arm": "new"})["items"][:3]:
            for task in TASKS if item in page["items"] and rng.random() < 0.6 else ():
                event = {"user": body["user"], "item": item, "task": task, "request_id": body["request_id"]}
                yield event | {"timestamp": body["timestamp"] + 1000}


def page_at(server, path="/test", headers=TOKEN):
    status, kind, content = server.ask("GET", path, None, headers)
    return status, kind, content.decode()


def reading_at(server):
    return json.loads(page_at(server, "/test?format=json")[2])


@contextmanager
def ending(run):
    """Ends the server that outlives its parent."""
    try:
        yield
    finally:
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((run / "exposures" / "test" / SERVER).read_text().split()[0]), signal.SIGKILL)


@pytest.mark.slow
def test_one_command_runs_a_test_over_kills_to_the_holdout(run, tmp_path, capsys):
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "c.toml").write_text(
        f'[serve]\nfile_seconds = 0.2\nexposure_share = 1.0\ntoken_file = "{tmp_path}/token"\n'
        "max_amount = 9.0\n"
        "test = {feedback_delay_ms = 5000, planned_requests = 300}\n"
    )
    options = ["--config", tmp_path / "c.toml", "--test"]
    with ending(run):
        with serving(run, tmp_path / "log", *options) as server:
            eventually(lambda: page_at(server)[0] == 200)
            assert "<h1>Go on</h1>" in page_at(server)[2] and page_at(server, headers={})[0] == 401
            bodies, pages = rank(server, 330)
            arms = {body["user"]: page["arm"] for body, page in zip(bodies, pages, strict=True)}
            assert set(arms.values()) == {"control", "new"}
            send(server, "/v1/update", {"events": list(events_of(server, bodies, pages))})
            other = subprocess.run(command_of(run, *options), capture_output=True, text=True, timeout=120, check=False)
            assert other.returncode == 2 and "is in use by another pygrade process" in other.stderr
            server.process.kill()
            server.process.wait()
            late, served = rank(server, 60, first=330)
            assert all(arms[body["user"]] == page["arm"] for body, page in zip(late, served, strict=True))
            pid = (run / "exposures" / "test" / SERVER).read_text()
            with (tmp_path / "again").open("w") as log:
                again = subprocess.Popen(command_of(run, *options, "--interval-seconds", "0.2"), stderr=log)
            eventually(lambda: reading_at(server).get("requests", 0) >= 389)
            assert (run / "exposures" / "test" / SERVER).read_text() == pid
            body, page = *pages_of(1, first=400), rank(server, 1, first=400)[1][0]
            assert page["arm"] == arms[body["user"]]
            eventually(lambda: reading_at(server)["requests"] == 390)  # the last one waits for its feedback
            check_reading(run, server, capsys)
            toml = reading_at(server)["toml"]
            again.terminate()
            assert again.wait(30) == 0 and "goes on with the pygraded" in (tmp_path / "again").read_text()
            with pytest.raises(OSError, match="refused"):
                page_at(server)
        (tmp_path / "winner.toml").write_text(toml)
        won = tomllib.loads(toml)["serve"]
        assert won["max_amount"] == 9.0 and won["token_file"] == f"{tmp_path}/token" and "file_seconds" not in won
        with serving(run, tmp_path / "log", "--config", tmp_path / "winner.toml", "--test") as server:
            _, pages = rank(server, 60)
            now = {body["user"]: page["arm"] for body, page in zip(pages_of(60), pages, strict=True)}
            assert list(now.values()).count("control") < 10
            assert all(arms[user] == "control" for user, arm in now.items() if arm == "control")
            assert reading_at(server)["action"] == "ship" and not reading_at(server)["alarms"]
        (tmp_path / "winner.toml").write_text(toml.replace("test of", "another of"))
        wrong = command_of(run, "--config", tmp_path / "winner.toml", "--test")
        failed = subprocess.run(wrong, capture_output=True, text=True, timeout=120, check=False)
        assert failed.returncode == 2 and "salt is 'another of " in failed.stderr


@pytest.fixture
def service(run):
    """Without HTTP, of a test."""
    arms = [{"name": "control", "ranking": "control", "share": 0.05}, {"name": "new", "share": 0.95}]
    return _core.Service(str(run), json.dumps({"test": True, "exposures": "exposures", "arms": arms}))


def write_reading(run, **changes):
    """Of an arm, a task, a fact and words that are scripts."""
    shown = {"value": 0.01, "low": 0.004, "high": None}
    arm = {"readings": {"item weights": {name: {"fixed": shown, "anytime": shown} for name in ("value", EVIL)}}}
    record = {"format": "pygrade.test 1", "time": time.time_ns() // 10**6, "interval_seconds": 60, "action": "ship"}
    record |= dict.fromkeys(("reason", "toml", "after"), EVIL) | {
        "arms": {EVIL: arm},
        "deciding": {EVIL: "item weights"},
    }
    record |= {"facts": {EVIL: EVIL}, "alarms": [EVIL], "requests": 5, "agreement": 1.0} | changes
    file = run / "exposures" / "test" / "reading.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(record))
    return file


def test_the_page_escapes_what_it_shows_and_says_when_it_is_old(run, service):
    file = write_reading(run)
    status, _, content, _ = service.handle("GET", "/test", b"")
    page = content.decode()
    assert status == 200 and "<script" not in page and '"1"' not in page and "This page is old" not in page
    assert page.count("&#60;script&#62;alert(&#34;1&#34;)&#60;/script&#62;") == 9
    assert '<tr class="decides"><th scope="row">item weights</th><td>+1.00 %</td>' in page
    assert json.loads(service.handle("GET", "/test?format=json", b"")[2]) == json.loads(file.read_text())
    write_reading(run, time=time.time_ns() // 10**6 - 121_000)
    assert b"old: the log was last read 2 minutes ago" in service.handle("GET", "/test", b"")[2]
    metrics = service.handle("GET", "/metrics", b"")[2].decode()
    assert "pygrade_test_alarms 1\n" in metrics and "pygrade_test_requests 5\n" in metrics
    assert 'bound="low"} 0.004' in metrics and 'bound="high"' not in metrics  # which is unknown
    huge = {"value": 1e300, "low": -1e306, "high": 1e306}
    arm = {"readings": {"item weights": {"value": {"fixed": huge, "anytime": huge}}}}
    write_reading(run, arms={"a": arm}, deciding={"a": "item weights"})
    assert service.handle("GET", "/test", b"")[0] == 200


def test_a_reading_that_is_damaged_is_named_and_not_shown(run, service):
    file = write_reading(run)
    whole = file.read_text()
    for text, message in (
        (whole[: len(whole) // 2], "reading.json in exposures is damaged: byte"),
        (whole.replace("test 1", "test 2"), "damaged: expected format pygrade.test 1"),
        (whole.replace('"deciding"', '"undecided"'), "damaged: "),
    ):
        file.write_text(text)
        for path in ("/test", "/test?format=json"):
            status, _, content, _ = service.handle("GET", path, b"")
            assert status == 500 and message in json.loads(content)["error"]["message"]
        assert service.handle("GET", "/metrics", b"")[0] == 200
    file.unlink()
    status, _, content, _ = service.handle("GET", "/test", b"")
    assert status == 404 and b"pygrade serve --test writes it" in content
    status, _, content, _ = _core.Service(str(run), "{}").handle("GET", "/test", b"")
    assert status == 404 and b"test is false" in content


def test_a_look_that_fails_keeps_the_reading_with_an_alarm(run):
    table = fill_table(run, {}, ReadingOptions())
    reader = TestReader(run, table, ReadingOptions())
    assert table["arms"][0] == {"name": "control", "ranking": "control", "share": 0.5}
    reader.exposures.mkdir(exist_ok=True)
    reader.step(5)
    assert "yet: no page is complete; each waits 60 minutes" in reader.record["reason"] and reader.record["time"] == 5
    write_reading(run, time=7)
    again = TestReader(run, fill_table(run, {}, ReadingOptions()), ReadingOptions())
    again.step(9)
    assert again.record["time"] == 7 and again.record["action"] == "ship"
    assert "The log can't be read: " in again.record["alarms"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--interval-seconds", "60"), "interval_seconds is 60.0; expected it with --test alone"),
        (("--test", "--online"), "online is true; expected a directory whose policy stays"),
        (("--test", "--config", "f.toml"), "online is true; expected a directory whose policy stays"),
        (("--test", "--config", "g.toml"), "g.toml: [serve.test] has max_amount; expected max_amount in [serve] alone"),
        (("--test", "--config", "c.toml"), "c.toml: [serve.test] has share; expected no [[serve.arms]] with it"),
        (("--test", "--config", "d.toml"), "d.toml: [serve.test] has shares; expected some of feedback_delay_ms"),
        (
            ("--test", "--config", "e.toml"),
            "e.toml: [serve.test] holdout is 1.0; expected a number above 0 and below 1",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(run, words, message, capsys, monkeypatch):
    monkeypatch.chdir(run)
    (run / "c.toml").write_text('[serve.test]\nshare = 0.1\n[[serve.arms]]\nname = "a"\n')
    (run / "d.toml").write_text("[serve.test]\nshares = 1\n")
    (run / "e.toml").write_text("[serve.test]\nholdout = 1\n")
    (run / "f.toml").write_text("[serve]\nonline = true\n")
    (run / "g.toml").write_text("[serve]\nmax_amount = 9\n[serve.test]\nmax_amount = 8\n")
    assert main(["serve", "--run", ".", *words]) == 2
    assert message in capsys.readouterr().err


def check_reading(run, server, capsys):
    """It is that of `pygrade test read`, and its slots are those of both rankings; the page shows it."""
    joined, reading = run / "exposures" / "test" / "joined", reading_at(server)
    assert main(["test", "read", str(joined), "--planned-users", "300", "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    assert {name: reading[name] for name in wanted} == wanted
    logs, old, new = read_logs(joined), *(FusionPolicy.load(run / "policy") for _ in range(2))
    old.mixture = Mixture(0.0, EXPECTED)
    for a, policy in enumerate((old, new)):
        policy.save(run / "one")
        ranked = BlendedRanker.load(run / "one").rank_log(logs, K).indices
        slots = np.full((logs.num_requests, N), -1, np.int32)
        np.put_along_axis(slots, ranked.astype(int), np.arange(K, dtype=np.int32)[None, :].repeat(len(ranked), 0), 1)
        np.testing.assert_array_equal(logs.slots[:, a], slots.ravel())
    status, kind, page = page_at(server)
    assert status == 200 and kind.startswith("text/html") and "<script" not in page
    for text in ("<h1>Ship</h1>", "item weights", "as planned (p = ", "100.00 % of the shown", "7 days by the verdict"):
        assert text in page, text
    assert "<td>50 %</td><td>expected value</td>" in page and "<td>corrected</td>" in page
    assert page_at(server, headers=TOKEN | {"Accept": "application/json"})[2] == page_at(server, "/test?format=json")[2]
    metrics = page_at(server, "/metrics")[2]
    low = reading["arms"]["new"]["readings"][reading["estimator"]]["value"]["anytime"]["low"]
    assert f'pygrade_test_lift{{arm="new",bound="low"}} {low}' in metrics and "pygrade_test_agreement 1" in metrics
