"""A pipeline whose policy reads history: trained, checked and served."""

import json
import signal
from ctypes import CFUNCTYPE, POINTER, byref, c_float, c_int, c_int64, c_size_t, c_void_p, cast, sizeof
from dataclasses import replace

import numpy as np
import pytest

from pygrade import _core
from pygrade._util.hashing import stable_id
from pygrade._util.serialization import read_json
from pygrade.config.pipeline import CheckConfig
from pygrade.config.training import CrossFitConfig, HistoryConfig
from pygrade.logs import Logs, read_logs, write_logs
from pygrade.logs.history import History
from pygrade.pipeline.check import serve_check
from pygrade.pipeline.run import run_pipeline
from pygrade.policy import FusionPolicy
from pygrade.serving.export import export_policy
from pygrade.serving.pipeline import Pipeline
from tests.pipeline.test_c_abi import CPipeline, Request
from tests.pipeline.test_run import stage
from tests.pipeline.world import CONFIG, copy
from tests.refusals import refuses
from tests.runs.test_history import tired_log
from tests.service.conftest import needs_server
from tests.service.test_history import CANDIDATES, replayed, serve, wait_for_disk

HISTORY_COLUMNS = CFUNCTYPE(
    c_int, c_void_p, POINTER(c_int64), c_size_t, POINTER(c_float), c_size_t, POINTER(c_float), c_size_t
)
START, MINUTE, REQUESTS = 1_700_000_000_000, 60_000, 5_000
HISTORY = HistoryConfig(enabled=True, feedback_delay_seconds=120.0)
TRAIN = replace(CONFIG.train, grade=False, history=HISTORY, cross_fit=CrossFitConfig())
REMEMBER = replace(CONFIG, policy_requests=0, leak_checks=0, train=TRAIN)


def named_log() -> Logs:
    log = tired_log(requests=REQUESTS, users=160, items=200, by_item=True)
    names = {kind: np.array([f"{kind} {number}" for number in getattr(log, f"{kind}_id")]) for kind in ("user", "item")}
    return replace(log, user_id=names["user"], item_id=names["item"])


@pytest.fixture(scope="module")
def tired(tmp_path_factory):
    """A finished pipeline. Do not write into it."""
    folder = tmp_path_factory.mktemp("tired")
    write_logs(named_log(), folder / "log")
    run_pipeline(f"logs:{folder / 'log'}", folder / "run", REMEMBER)
    return folder / "run"


def columns_of(logs, history):
    """The history's context and item columns of a log."""
    features, items = map(logs.features.index, history.features), map(logs.items.index, history.items)
    return logs.context[:, list(features)], logs.item_features[:, list(items)]


@pytest.fixture
def mine(tired, tmp_path):
    return copy(tired, tmp_path / "run")


def test_history_is_accepted_and_begins_with_the_log(tired):
    policy, record = FusionPolicy.load(tired / "artifact" / "policy"), read_json(tired / "summary.json")
    assert policy.history == History.from_dict(record["stages"]["history"]["history"])
    assert record["stages"]["policy"]["cross_fit"]["proof"]["name"].endswith("history")
    assert "read; made from 3,000 earlier requests on" in (tired / "report.html").read_text()
    whole, made = policy.history.columns().add(named_log()).shown_only(), stage(tired, "history")
    before = read_logs(made / "before")
    learned = before.timestamp < record["stages"]["features"]["timeline"]["stop_end"]
    assert before.num_requests == 3_000 and 2_000 < learned.sum() < 3_000
    assert np.array_equal(before.predictions[:, 0] == 0, learned[before.row_request])
    for name in ("policy", "evaluate"):
        late = read_logs(made / name).shown_only()
        wanted = whole.select(np.isin(whole.request_id, late.request_id))
        assert (late.request_id == wanted.request_id).all() and late.user_id[0] == stable_id(wanted.user_id[0])
        kinds = policy.history.features, policy.history.items
        for names, *columns in zip(kinds, *(columns_of(log, policy.history) for log in (late, wanted)), strict=True):
            counted = [name not in ("user_a", "item_a", "item_recent_a") for name in names]
            np.testing.assert_array_equal(*(table[:, counted] for table in columns))


def test_pages_are_the_same_offline_and_online_and_what_has_no_history_is_refused(mine):
    assert serve_check(mine, CheckConfig(requests=20, candidates=20, k=5))["equal_pages"] == 20
    assert "all new to the user" in (mine / "report.html").read_text()
    system = Pipeline.load(mine, seed=0)
    refuses(ValueError, "context lacks user_a, which is of the user's", system.rank, 3)
    policy, unseen = system.models.policy, system.models.unseen
    assert not system.rank(3, history=unseen).degraded
    refuses(ValueError, "history's columns", system.rank, 3, history=lambda items: unseen(items[1:]))
    refuses(ValueError, "policy_requests is 100, but train.history.enabled", replace, REMEMBER, policy_requests=100)
    refuses(ValueError, "reads history", export_policy, policy, mine / "page")
    for options, message in (({"history": "none"}, "no request to a pipeline brings"), ({}, "no store of it")):
        refuses(ValueError, message, _core.Service, str(mine), json.dumps(options | {"allow_unproven": True}))


def test_served_columns_are_those_of_the_log(mine, tmp_path):
    """A kill; then the last page from Python, given its columns."""
    needs_server()
    history, rng = FusionPolicy.load(mine / "artifact" / "policy").history, np.random.default_rng(0)
    now, waiting, pages = START + 3 * REQUESTS * MINUTE, list[dict](), 60
    for life in range(2):
        server = serve(mine, tmp_path / f"said-{life}", "--allow-unproven", "true")
        for number in range(life * pages, (life + 1) * pages):
            now += int(rng.choice([MINUTE // 4, 10 * MINUTE]))
            if due := [event for event in waiting if event["timestamp"] <= now]:
                server.answer("/v1/update", {"events": due})
            waiting = [event for event in waiting if event["timestamp"] > now]
            body = {"user": f"user {rng.integers(5)}", "k": 5, "candidates": CANDIDATES, "timestamp": now}
            page = server.answer("/v1/rank", body | {"request_id": f"r{number}"})
            assert page["degraded"] is None
            for item in page["items"]:
                event = {"user": body["user"], "item": item, "task": "a", "request_id": f"r{number}"}
                waiting += [event | {"timestamp": now + int(rng.integers(4 * MINUTE))}] * (rng.random() < 0.4)
        wait_for_disk(server, pages)
        assert "item_shown" in server.answer("/v1/explain", body)["explanation"][0]["history"]["facts"]
        server.signal(signal.SIGKILL)
        server.process.wait()
    served, made = replayed(mine, history)
    assert served.num_requests == 2 * pages and served.feedback.sum() > 50
    found = columns_of(served, history)
    for one, other in zip(found, columns_of(made, history), strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one != 0).any(0).all()
    start, system = served.offsets[-2], Pipeline.load(mine, seed=0)
    row = {int(item): start + place for place, item in enumerate(served.item_id[start:])}

    def given(items):
        return found[0][-1], found[1][[row[item] for item in items.tolist()]]

    again = system.rank(stable_id(body["user"]), k=5, candidates=CANDIDATES, timestamp=now, history=given)
    np.testing.assert_array_equal(again.scores, np.float32(page["scores"]))
    assert again.items.tolist() == list(map(stable_id, page["items"]))
    policy, pipeline = system.models.policy, (mine / "artifact", f"lmdb:{mine / 'store'}")
    system.close()
    assert policy.correction is not None
    wide = (policy.features, history.features), (policy.correction.items, history.items)
    answers = [0, 1]

    @HISTORY_COLUMNS
    def columns(_, items, count, context, features, rows, width):
        arrays = (np.ctypeslib.as_array(context, (1, features)), np.ctypeslib.as_array(rows, (count, width)))
        for array, (names, own), values in zip(
            arrays, wide, given(np.ctypeslib.as_array(items, (count,))), strict=True
        ):
            array[:, list(map(names.index, own))] = values
        return answers.pop(0)

    core, (shown, arrays) = CPipeline(*pipeline), CPipeline.page(None)
    asked = {"user_id": stable_id(body["user"]), "timestamp": now, "candidates": CANDIDATES}
    request = Request(size=sizeof(Request), **asked, history=cast(columns, c_void_p))
    core.call("rank", core.pipeline, byref(request), byref(shown))
    assert arrays["items"].tolist() == again.items.tolist() and arrays["scores"].tobytes() == again.scores.tobytes()
    core.call("rank", core.pipeline, byref(request), byref(shown), status=1)
    assert b"history is not there" in core.core.pygrade_last_error()
    core.close()


def test_without_a_proof_the_policy_has_the_same_bytes(run, tmp_path, monkeypatch):
    """As without history: where nothing accepts it, and where there is too little for it."""
    made, log = [], f"logs:{run.parent / 'log'}"
    for name, history in (("off", HistoryConfig()), ("on", HISTORY), ("too little", HISTORY)):
        if name == "too little":
            monkeypatch.setattr("pygrade.logs.history.LEAST_EVENTS", 10_000)
        config = replace(CONFIG, policy_requests=0, train=replace(CONFIG.train, history=history))
        made.append(run_pipeline(log, copy(run, tmp_path / name), config))
        assert (tmp_path / name / "report.html").read_text().count("not accepted; made from") == (name == "on")
    assert len({record["stages"]["policy"]["version"] for record in made}) == 1
    sentence = "HISTORY: the policy is trained without, as no task has 10000 events."
    assert ["history" in record["stages"] for record in made] == [False, True, True]
    assert [sentence in record["warnings"] for record in made] == [False, False, True]


def test_feedback_of_another_delay_is_refused(tmp_path):
    write_logs(replace(named_log(), feedback_delays=(60_000,)), tmp_path / "log")
    message = "joined with feedback_delay_ms = 60000; expected history.feedback_delay_seconds = 60"
    refuses(ValueError, message, run_pipeline, f"logs:{tmp_path / 'log'}", tmp_path / "run", REMEMBER)
