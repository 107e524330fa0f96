"""A log whose users and items have names, users' of digits, and whose requests have negative ids."""

import json

import numpy as np
import polars
import pytest

from pygrade import _core
from pygrade._util.hashing import stable_id
from pygrade.cli import main as cli
from pygrade.config.pipeline import CheckConfig
from pygrade.data.events import EventLog
from pygrade.logs import read_logs
from pygrade.pipeline.candidates import CandidateCopies
from pygrade.pipeline.check import serve_check
from pygrade.pipeline.run import run_pipeline
from pygrade.serving.names import Names
from tests.candidates import candidate_file
from tests.pipeline.test_run import stage
from tests.pipeline.world import CONFIG, copy, write_log
from tests.refusals import refuses


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A finished pipeline on such a log. Do not write into it."""
    folder = tmp_path_factory.mktemp("named")
    data = write_log(folder / "log")
    for part in (folder / "log").glob("*.parquet"):
        meta = polars.read_parquet_metadata(part)
        frame = polars.read_parquet(part).with_columns(
            polars.col("request_id") - 700,
            polars.col("user_id").cast(polars.String),
            polars.format("item {}", "item_id").alias("item_id"),
        )
        frame.write_parquet(part, metadata={name: text for name, text in meta.items() if name != "ARROW:schema"})
    run_pipeline(data, folder / "run", CONFIG)
    return folder / "run"


def test_a_user_is_found_by_name_though_it_is_a_number(named, capsys):
    assert Names.of(named).user_id("3") == stable_id("3")
    words = ["rank", "--allow-unproven", "--run", str(named), "--user", "3", "--repeat", "1", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["history"] > 0
    items = found["pages"][0]["items"]
    assert all(item["name"].startswith("item ") and item["item_id"] == stable_id(item["name"]) for item in items)
    assert cli.main(["rank", "--allow-unproven", "--run", str(named), "--user", "3", "--repeat", "1"]) == 0
    out = capsys.readouterr().out
    assert "no event of this user" not in out and items[0]["name"] in out and str(items[0]["item_id"]) not in out


def test_users_without_names_are_numbers(run, tmp_path):
    names = Names.of(run)
    assert names.user_id("-3") == -3 and names.items([1, 2]) == [None, None]
    for text in ("alice", "--5", "²", "", "1_0", "9" * 19, "1" * 5000):
        refuses(ValueError, "expected a whole number", names.user_id, text)
    refuses(FileNotFoundError, "has published", Names.of, tmp_path)
    (tmp_path / "store.json").write_text('{"store": "memory:", "version": "1"}')
    refuses(ValueError, "run pygrade pipeline again", Names.of, tmp_path)


def test_without_the_log_of_events_items_are_numbers(named, tmp_path):
    mine = copy(named, tmp_path / "run")
    log = EventLog.open(stage(mine, "events") / "log")
    assert [kind for kind in ("user", "item", "request") if log.has_names(kind)] == ["item"]  # "3" and 3 are one user
    log.path.rename(tmp_path / "elsewhere")
    assert Names.of(mine).user_id("3") == stable_id("3") and Names.of(mine).items([stable_id("item 1")]) == [None]


def test_negative_requests_are_not_taken_for_copies(named, tmp_path):
    for part in ("policy", "evaluate"):
        logs = read_logs(stage(named, "logs") / part)
        assert logs.request_id.max() < 0 and set((logs.offsets[1:] - logs.offsets[:-1]).tolist()) == {6 + 2 + 5}
    mine = copy(named, tmp_path / "run")
    found = serve_check(mine, CheckConfig(requests=10, candidates=20, k=5))
    assert found["equal_pages"] == 10 == found["equal_candidates"]


def test_ids_that_leave_no_room_for_copies_are_named(named, monkeypatch, tmp_path):
    log = EventLog.open(stage(named, "events") / "log")
    least = -(2**63) + 1
    monkeypatch.setattr(log, "scan", lambda: polars.LazyFrame({"request_id": [least]}))
    files = [candidate_file(tmp_path / f"{number}.npz", [number], [0], [[1]]) for number in (least, 5)]
    assert CandidateCopies(log, files[:1], 0).copy_id(np.array([0])).tolist() == [-(2**63)]
    refuses(ValueError, "request_id of the log goes down", CandidateCopies, log, files, 0)


def test_the_service_takes_and_gives_names(named):
    service = _core.Service(str(named), '{"allow_unproven": true}')
    status, _, content, _ = service.handle("POST", "/v1/rank", b'{"user": "3", "k": 5}')
    page = json.loads(content)
    ids = [stable_id(name) for name in page["items"]]
    assert status == 200 and page["items"] == EventLog.open(Names.of(named).events).names("item", ids)
    for user in ("3", 3):
        body = json.dumps({"user": user, "k": 2, "items": [page["items"][0], ids[1]]}).encode()
        again = json.loads(service.handle("POST", "/v1/rank", body)[2])
        assert set(again["items"]) == {page["items"][0], ids[1]} and again["user"] == "known"
