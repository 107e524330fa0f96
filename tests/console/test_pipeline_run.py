"""The console of a pipeline, and the state that its service answers."""

import json

import numpy as np
import pytest

from pygrade import _core
from pygrade.cli.main import main
from pygrade.config.console import ConsoleConfig
from pygrade.console.collect import collect
from pygrade.console.run_files import find_run
from pygrade.data.event_log import EventLog
from tests.console.browser import needs_browser, opened, service
from tests.console.node import call, needs_node, page, sliders
from tests.console.test_live import status
from tests.pipeline.world import copy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipeline(trained_run, tmp_path_factory):
    return copy(trained_run.parent, tmp_path_factory.mktemp("pipeline") / "own") / "run"


@pytest.fixture(scope="module")
def answered(pipeline):
    """What the service says after some pages."""
    worker = _core.Service(str(pipeline), '{"allow_unproven": true}')
    for user in range(20):
        code, _, body, _ = worker.handle("POST", "/v1/rank", json.dumps({"user": user, "k": 3}).encode())
        assert code == 200, body
    return json.loads(worker.handle("GET", "/v1/status", b"")[2])


@needs_node
def test_a_pipeline_has_a_console_without_more_options(pipeline, tmp_path):
    found = find_run(pipeline, config=ConsoleConfig(k=3))
    assert not found.in_sample and found.events is not None and found.held_out.num_requests > 50
    record = collect(found, ConsoleConfig(requests=20))
    (result,) = call(tmp_path, page(record, sliders(weights=record["presets"]["equal"])))
    assert result["check"]["same"] == result["check"]["all"] > 0


def test_users_and_requests_have_the_names_of_the_source(pipeline, monkeypatch):
    def names(log, kind, ids):
        return [f"{kind} {number}" if number % 2 else None for number in ids]

    monkeypatch.setattr(EventLog, "names", names)
    found = find_run(pipeline)
    shown = collect(found, ConsoleConfig(requests=20))["requests"]
    places = np.arange(20) * found.held_out.num_requests // 20
    users = found.held_out.user_id[places].tolist()
    assert shown["users"] == [f"user {user}" if user % 2 else str(user) for user in users]
    requests = found.held_out.request_id[places].tolist()
    assert shown["names"] == [f"request {name}" if name % 2 else str(name) for name in requests]


def test_warnings_have_the_names_of_the_source(pipeline, monkeypatch):
    log = find_run(pipeline).events
    monkeypatch.setattr(EventLog, "names", lambda log, kind, ids: [f"{kind} <{n}>" if n > 0 else None for n in ids])
    said = "MUCH: user 5425741207926484205 alone has 16 %, request -3 too, items 4"
    assert log.name_ids(said) == "MUCH: user user <5425741207926484205> alone has 16 %, request -3 too, items 4"


def test_the_core_answers_what_the_page_reads(answered):
    wanted = status()
    assert wanted.keys() <= answered.keys()
    assert wanted["arms"][0].keys() <= answered["arms"][0].keys()
    assert answered["weights"][0].keys() >= wanted["weights"][0].keys()
    assert answered["reloads"][0].keys() >= wanted["reloads"][0].keys()
    for name in ("/v1/rank", "/v1/update", "/v1/explain"):
        assert answered["latency"][name].keys() >= {"count", "p50", "p90", "p99", "p999"}
    assert answered["requests"]["/v1/rank"] == {"200": 20}
    assert {"none", "store", "deadline"} <= answered["degraded"].keys()
    assert all(entry.keys() >= {"count", "p50", "p99"} for entry in answered["steps"].values())


@needs_browser
def test_the_page_shows_what_the_core_answers(engine, pipeline, answered):
    assert main(["report", str(pipeline), "--quiet", "--k", "3"]) == 0
    with service(pipeline / "console.html", [answered]) as address:
        shown = opened(engine, address)
        shown.wait_for_selector("#live .card")
        assert "20 since the start" in shown.locator("#live").inner_text()
        for name in ("latency", "drift", "online", "reloads"):
            shown.locator(f"#live-{name}").click()
        assert "all of rank" in shown.locator("#live").inner_text()
        assert shown.locator("html").get_attribute("data-state") == "ready" and shown.faults == []
