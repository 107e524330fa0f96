"""Histories that are served: a page's columns are those that training makes of its log, whatever ends the server."""

import json
import os
import re
import signal
import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pygrade import _core
from pygrade._util.hashing import stable_id
from pygrade.config.policy import PolicyConfig
from pygrade.config.service import JoinConfig
from pygrade.logs import Logs, concatenate, read_logs
from pygrade.logs.history import GROUPS, History, without_columns
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.service.exposures import read_removals
from pygrade.service.join import join_logs
from pygrade.serving.page_table import page_table
from pygrade.serving.ranker import BlendedRanker
from tests.corrections import random_correction
from tests.refusals import refuses
from tests.service.conftest import Server, eventually, needs_server
from tests.service.served import by_request

TASKS = ("click", "order")
SECOND = 1000
HISTORY = History(
    TASKS, True, SECOND, 4 * SECOND, 40 * SECOND, ((1.3, 0.7),) * GROUPS, (2.0, 3.0), (4.0, 5.0), (6.0, 7.0)
)
START, PAUSE = 1_764_000_000_000, 150  # ms
ITEMS, USERS, SLOTS, CANDIDATES = 60, 7, 5, 20
PROGRAM = Path(os.environ.get("PYGRADED") or Path(_core.__file__).parent / "bin/pygraded")


def save_policy(folder: Path, mixed: bool = True) -> FusionPolicy:
    """A policy that ranks by predictions which the columns of history correct."""
    spec = PolicySpec(TASKS, ("hour", *HISTORY.features), PolicyConfig(hidden=(4,)))
    policy = FusionPolicy(spec, seed=0)
    policy.correction = random_correction(
        tasks=TASKS, features=spec.features, items=("margin", *HISTORY.items), indicators=(), scale=0.3
    )
    values = (1.0, 20.0)
    corrected = Baseline("corrected", "identity", values, True, corrected=True)
    plain = Baseline("expected value", "identity", values, True, corrected=not mixed)
    policy.mixture = Mixture(1.0, plain, challenger=corrected)
    policy.history = HISTORY
    policy.save(folder / "policy")
    return policy


@pytest.fixture
def run(tmp_path):
    needs_server()
    save_policy(tmp_path / "run")
    return tmp_path / "run"


OPTIONS = ["--exposures", "logs", "--feedback", "feedback", "--exposure-share", "1", "--file-seconds", "0.2"]


def serve(run, log, *options):
    command = [PROGRAM, "--run", run, "--port", "0", "--drain-seconds", "0", *OPTIONS, *options]
    return Server(command, log)


def page_of(number: int, rng: np.random.Generator) -> dict:
    items = rng.choice(ITEMS, CANDIDATES, replace=False)
    clicks = rng.beta(2, 8, CANDIDATES)
    return {
        "user": f"u{rng.integers(USERS)}",
        "items": [f"item {item}" for item in items],
        "categories": [None if item % 7 == 0 else f"c{item % 5}" for item in items],
        "predictions": {"click": clicks.tolist(), "order": (clicks * rng.beta(2, 8, CANDIDATES)).tolist()},
        "context": {"hour": float(rng.random())},
        "item_features": {"margin": rng.random(CANDIDATES).tolist()},
        "k": SLOTS,
        "timestamp": START + PAUSE * number,
        "request_id": f"r{number}",
    }


def feedback_on(body: dict, shown: list, rng: np.random.Generator) -> list[dict]:
    """Events within the time that they count, and one too late."""
    events = []
    for item in shown:
        for task, share in (("click", 0.4), ("order", 0.1), ("click", 0.05)):
            if rng.random() < share:
                late = share == 0.05
                time = body["timestamp"] + int(rng.integers(0, 4 * SECOND)) + 5 * SECOND * late
                number = f"{body['request_id']}/{item}/{task}/{late}"
                event = {"user": body["user"], "item": item, "task": task, "timestamp": time, "event_id": number}
                events.append(event | {"request_id": body["request_id"]})
    return events


def figure(server: Server, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", server.ask("GET", "/metrics")[2].decode(), re.M)
    return float(found[1]) if found else 0.0


def replayed(folder: Path, history: History = HISTORY, of_run: str = "") -> tuple[Logs, Logs]:
    """The log that was served, and its columns made anew from all of it."""
    config = JoinConfig(feedback_delay_ms=history.feedback_delay_ms)
    joined = folder / "joined" / of_run
    join_logs(folder / "logs" / of_run, [folder / "feedback" / of_run], joined, config, 1 << 60)
    served = read_logs(joined)
    served = served.select(np.argsort(served.timestamp))
    return served, history.columns().add(without_columns(served, history))


def wait_for_disk(server: Server, pages: int) -> None:
    eventually(lambda: figure(server, "pygrade_exposure_rows_total") == CANDIDATES * pages)
    eventually(lambda: figure(server, "pygrade_history_pages_total") == pages)
    assert figure(server, "pygrade_history_dropped_total") == figure(server, "pygrade_history_errors_total") == 0


def test_columns_are_those_of_the_log_whatever_ends_the_server(run, tmp_path):
    """Three kills; feedback comes before the first page after it."""
    pages, rng = 100, np.random.default_rng(0)
    waiting: list[dict] = []
    for life in range(4):
        server = serve(run, tmp_path / f"said-{life}")
        for number in range(pages * life, pages * (life + 1)):
            body = page_of(number, rng)
            due = [event for event in waiting if event["timestamp"] <= body["timestamp"]]
            waiting = [event for event in waiting if event["timestamp"] > body["timestamp"]]
            if due:
                server.answer("/v1/update", {"events": due})
            answer = server.answer("/v1/rank", body)
            assert answer["degraded"] is None and answer["user"] == "known"
            waiting += feedback_on(body, answer["items"], rng)
        wait_for_disk(server, pages)
        assert figure(server, "pygrade_history_ignored_total") > 0
        server.signal(signal.SIGKILL)
        server.process.wait()
    served, made = replayed(run)
    assert served.num_requests == 4 * pages and set(served.items or ()) == {"margin", *HISTORY.items}
    check_columns(served, made)


def check_columns(served: Logs, made: Logs) -> None:
    places = [made.features.index(name) for name in served.features]
    np.testing.assert_array_equal(served.context, made.context[:, places])
    places = [made.items.index(name) for name in served.items]
    np.testing.assert_array_equal(served.item_features, made.item_features[:, places])
    assert (made.item_features != 0).any(0).all() and (made.context[:, 1:] != 0).any(0).all()


def test_runs_of_one_server_remember_on_their_own(run, tmp_path):
    """The same users and items in both, in turn."""
    save_policy(tmp_path / "web")
    pages, rng = 120, np.random.default_rng(1)
    names = {"shop": {}, "web": {"policy": "web"}}
    waiting: dict[str, list[dict]] = {name: [] for name in names}
    with serve(run, tmp_path / "said", "--run", f"web={tmp_path / 'web'}") as server:
        for number in range(2 * pages):
            name = ("shop", "web")[number % 2]
            body = page_of(number, rng)
            due = [event for event in waiting[name] if event["timestamp"] <= body["timestamp"]]
            waiting[name] = [event for event in waiting[name] if event["timestamp"] > body["timestamp"]]
            if due:
                server.answer("/v1/update", {"events": due} | names[name])
            waiting[name] += feedback_on(body, server.answer("/v1/rank", body | names[name])["items"], rng)
        wait_for_disk(server, pages)
        eventually(lambda: figure(server, 'pygrade_history_pages_total{policy="web"}') == pages)
    for folder, of_run in ((run, ""), (run, "runs/web")):
        served, made = replayed(folder, of_run=of_run)
        assert served.num_requests == pages
        check_columns(served, made)


def test_feedback_counts_by_its_time_or_differs_as_documented(run, tmp_path):
    with serve(run, tmp_path / "said") as server:
        body = page_of(0, np.random.default_rng(5)) | {"user": "ann", "k": CANDIDATES}
        early, soon, last, late, twice, before, of_bob, belated = items = body["items"][:8]

        def update(item: str, delay: int, **changes: str) -> None:
            event = {"user": "ann", "item": item, "task": "click", "request_id": "r0", "timestamp": START + delay}
            server.answer("/v1/update", {"events": [event | changes]})

        update(early, 500)  # sent before its page: no record has the row
        server.answer("/v1/rank", body)
        update(soon, SECOND)
        update(last, 4 * SECOND)
        update(late, 4 * SECOND + 1)
        update(twice, 900, event_id="a")
        update(twice, 900, event_id="b")
        update(before, -SECOND)  # a clock that is behind
        update(of_bob, SECOND, user="bob")  # whose record has no such page
        for number, delay in ((1, 4 * SECOND), (2, 8 * SECOND)):
            server.answer("/v1/rank", body | {"request_id": f"r{number}", "timestamp": START + delay})
            if number == 1:
                update(belated, SECOND)  # received when it should have counted
        wait_for_disk(server, 3)
    served, made = replayed(run)

    def clicked(logs: Logs, page: int) -> set[str]:
        rows = logs.row_request == page
        seen = logs.item_features[rows, logs.items.index("seen_click")] > 0
        return {item for item in items if stable_id(item) in logs.item_id[rows][seen]}

    assert clicked(served, 1) == {soon, last, twice, before} == clicked(served, 2) - {belated}
    assert clicked(made, 1) == clicked(made, 2) == clicked(served, 2) | {early, of_bob}
    folders = run / "logs", [run / "feedback"], run / "longer"
    join_logs(*folders, JoinConfig(feedback_delay_ms=4 * SECOND + 1), 1 << 60)
    longer = read_logs(run / "longer")
    assert longer.feedback.sum() == served.feedback.sum() + 1 and longer.feedback_delays == (4 * SECOND + 1,)
    for logs in (longer, concatenate([served.select([0]), longer.select([1, 2])])):
        refuses(
            ValueError,
            "joined with feedback_delay_ms = 4001; expected .* joined with 4000",
            HISTORY.columns().add,
            logs,
        )


def handle(service: _core.Service, path: str, body: dict | None = None, method: str = "POST") -> tuple[int, dict]:
    status, _, content, _ = service.handle(method, path, json.dumps(body).encode() if body else b"")
    return status, json.loads(content)


def test_a_store_that_fails_costs_the_columns_and_says_so(run):
    options = {"history": "redis://127.0.0.1:1/0", "exposures": "logs"}
    service = _core.Service(str(run), json.dumps(options))
    body = page_of(0, np.random.default_rng(1))
    status, page = handle(service, "/v1/rank", body)
    assert (status, page["degraded"]) == (200, "history")
    plain = np.array(body["predictions"]["click"]) + 20 * np.array(body["predictions"]["order"])
    assert page["items"] == [body["items"][place] for place in np.argsort(-plain)[:SLOTS]]
    assert handle(service, "/v1/explain", body)[1]["ranking"]["by"] == ["expected value"]
    event = {"user": body["user"], "item": page["items"][0], "task": "click", "request_id": "r0", "timestamp": START}
    status, answer = handle(service, "/v1/update", {"events": [event]})
    assert status == 503 and "history" in answer["error"]["message"]
    assert handle(service, f"/v1/users/{body['user']}", method="DELETE")[0] == 503
    counters = handle(service, "/v1/status", method="GET")[1]["counters"]
    assert counters["pygrade_history_errors_total"] > 0 and counters["pygrade_history_waiting"] == 1


def test_columns_of_the_caller_stand_for_themselves(run):
    service = _core.Service(str(run), json.dumps({"history": "none"}))
    body = page_of(0, np.random.default_rng(1))
    assert handle(service, "/v1/rank", body)[1]["degraded"] == "history"
    rng = np.random.default_rng(2)
    body["context"] |= {name: float(rng.random()) for name in HISTORY.features}
    body["item_features"] |= {name: rng.random(CANDIDATES).tolist() for name in HISTORY.items}
    assert handle(service, "/v1/rank", body)[1]["degraded"] is None
    body["item_features"].popitem()
    assert handle(service, "/v1/rank", body)[1]["degraded"] == "history"


def test_an_explanation_says_what_history_did(run):
    """The factors are those of the correction with a group's columns at 0, in the item's row alone; the words are
    those of `Page`."""
    service = _core.Service(str(run), json.dumps({"history": "none"}))
    rng = np.random.default_rng(4)
    body = page_of(0, rng) | {"k": CANDIDATES}
    columns = np.abs(rng.normal(size=(CANDIDATES, 1 + len(HISTORY.items)))).astype(np.float32)
    names = ["margin", *HISTORY.items]
    for name, value in (("seen", 3), ("item_shown", 340), ("item_age", 48.0), ("seen_click", 1), ("seen_order", 0)):
        columns[:, names.index(name)] = np.log1p(value)
    columns[:, names.index("seen_recently")] = 1 / (1 + 5.0)
    columns[1, names.index("seen") : names.index("seen_order") + 1] = 0
    context = np.abs(rng.normal(size=1 + len(HISTORY.features))).astype(np.float32)
    body["context"] = dict(zip(("hour", *HISTORY.features), map(float, context), strict=True))
    body["item_features"] = {name: columns[:, i].tolist() for i, name in enumerate(names)}
    entries = handle(service, "/v1/explain", body)[1]["explanation"]
    policy = FusionPolicy.load(run / "policy")
    correction, p = policy.correction, np.array(list(body["predictions"].values()), np.float32).T

    def quantity(context: np.ndarray, items: np.ndarray, row: int) -> np.ndarray:
        click, order = correction.apply(context[None], p, np.array([0, len(p)]), items)[row].astype(np.float64)
        return np.array([click, order / (click - order)])

    assert correction.parents == (-1, 0)
    groups = {name: [i for i, column in enumerate(names) if column.startswith(name)] for name in ("seen", "category")}
    groups["item"] = [i for i, column in enumerate(names) if column.startswith("item_")]
    for entry in entries:
        row, expected = body["items"].index(entry["item"]), []
        as_is = quantity(context, columns, row)
        for group in ("seen", "category", "item", "user"):
            neutral, unknown = columns.copy(), context.copy()
            neutral[row, groups.get(group, [])] = 0
            unknown[1:] *= group != "user"
            factors = as_is / quantity(unknown, neutral, row)
            expected += [(group, task, factor) for task, factor in zip(TASKS, factors, strict=True)]
        expected = [reason for reason in expected if abs(reason[2] - 1) >= 0.05]
        expected.sort(key=lambda reason: -abs(np.log(reason[2])))
        said = [(reason["of"], reason["task"], reason["factor"]) for reason in entry["history"]["reasons"]]
        assert [reason[:2] for reason in said] == [reason[:2] for reason in expected[:2]]
        np.testing.assert_allclose([r[2] for r in said], [r[2] for r in expected[:2]], rtol=1e-12)
        facts = entry["history"]["facts"]
        assert facts["item_shown"] == 340 and facts["hours_since_first_shown"] == pytest.approx(48, rel=1e-5)
        assert facts.get("seen", 0) == 3 * (row != 1) and "seen_order" not in facts
        assert facts["item_click"] == pytest.approx(np.exp(columns[row, names.index("item_click")]), rel=1e-6)
    reasons = [reason for entry in entries for reason in entry["history"]["reasons"]]
    words, seen = [reason["why"] for reason in reasons], next(r for r in reasons if r["of"] == "seen")
    assert seen["why"] == f"seen 3 times, last 5 hours ago, click once: {seen['task']} × {seen['factor']:.2g}"
    assert any(text.startswith("item shown 340 times, more ") for text in words)
    page = BlendedRanker(policy).rank(context[None], p[None], CANDIDATES, items=columns[None])
    assert [[reason.text for reason in reasons] for reasons in page.explain_history(0)] == [
        [reason["why"] for reason in entry["history"]["reasons"]] for entry in entries
    ]
    record = page.describe(0, "")
    assert page_table(record).notes[0].partition(": ")[2] == "; ".join(record["items"][0]["history"])


def test_a_user_is_forgotten(run, tmp_path):
    rng = np.random.default_rng(3)
    with serve(run, tmp_path / "said") as server:
        for number in range(20):
            server.answer("/v1/rank", page_of(number, rng) | {"user": "née/1", "context": {}})
        later = page_of(100, rng) | {"user": "née/1", "context": {}}
        assert server.answer("/v1/explain", later)["inputs"] is not None
        seen = server.answer("/v1/explain", later)["inputs"]["user_shown"]
        assert seen == pytest.approx(np.log1p(100))
        status, _, content = server.ask("DELETE", "/v1/users/n%C3%A9e%2F1")
        assert (status, json.loads(content)) == (200, {"removed": True})
        assert server.answer("/v1/explain", later)["inputs"]["user_shown"] == 0.0
        assert [*read_removals(run / "logs")] == ["née/1"]
        assert server.ask("GET", "/v1/users/5")[0] == 405 and server.ask("DELETE", "/v1/users/")[0] == 400


def test_pages_of_a_removed_user_leave_the_joined_log(run, tmp_path):
    """Whatever was joined before; killed before it is answered, the removal is sent again."""
    rng, config, times = np.random.default_rng(4), JoinConfig(feedback_delay_ms=HISTORY.feedback_delay_ms), []
    folders = run / "logs", [run / "feedback"]
    before: list[dict] = []
    with serve(run, tmp_path / "first") as server:
        for number in range(80):
            body = page_of(number, rng)
            before += feedback_on(body, server.answer("/v1/rank", body)["items"], rng)
        server.answer("/v1/update", {"events": before})
        wait_for_disk(server, 80)
    some = join_logs(*folders, run / "joined", config)
    assert some["requests"] > some["open"] > 0
    whole = join_logs(*folders, run / "whole", config, 1 << 60)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a store of histories that never answers
        address = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        server = serve(run, tmp_path / "second", "--history", address)
        with socket.create_connection(("127.0.0.1", server.port)) as request:
            request.sendall(b"DELETE /v1/users/u3 HTTP/1.1\r\nHost: here\r\n\r\n")
            eventually(lambda: read_removals(run / "logs"))
            server.signal(signal.SIGKILL)
            server.process.wait()
            with suppress(ConnectionResetError):
                assert request.recv(1) == b""
    with serve(run, tmp_path / "third") as server:
        for _ in range(2):
            assert server.ask("DELETE", "/v1/users/u3")[0] == 200
            times.append(read_removals(run / "logs")["u3"])
        late = page_of(80, rng) | {"user": "u3", "timestamp": times[-1] + 1}
        server.answer("/v1/rank", late)
        server.answer("/v1/update", {"events": before})
        wait_for_disk(server, 1)
    assert times == sorted(times)
    log = read_logs(run / "whole")
    gone = int((log.user_id == "u3").sum())
    for name in ("joined", "whole", "anew"):
        record = join_logs(*folders, run / name, config, 1 << 60)
        joined = read_logs(run / name)
        assert (record["removed_pages"], record["requests"]) == (gone, 80 - gone + 1) and gone > 5
        assert record["rows"] == joined.num_rows and joined.request_id[joined.user_id == "u3"].tolist() == ["r80"]
        assert join_logs(*folders, run / name, config, 1 << 60) == record
    assert whole["removed_pages"] == 0
    anew, joined = (by_request(read_logs(run / name)) for name in ("anew", "joined"))
    for name, values in vars(anew).items():
        np.testing.assert_array_equal(values, getattr(joined, name), name)


def test_a_user_is_removed_where_no_arm_reads_history(run):
    for options, status in (({}, 400), ({"exposures": "logs"}, 200)):
        service = _core.Service(str(run), json.dumps({"history": "none"} | options))
        found, answer = handle(service, "/v1/users/7", method="DELETE")
        assert found == status and (status == 200 or "expected exposures, or" in answer["error"]["message"])
    assert [*read_removals(run / "logs")] == ["7"]


@pytest.mark.parametrize(("options", "mixed"), [({}, True), ({"history": "lmdb:h"}, False)])
def test_a_policy_is_not_served_without_history(tmp_path, options, mixed):
    """Without a store, or without a ranking for the pages when it fails."""
    save_policy(tmp_path, mixed)
    with pytest.raises(ValueError, match="history"):
        _core.Service(str(tmp_path), json.dumps(options))
