"""Which run, which requests, which columns."""

import dataclasses
import json

import numpy as np
import pytest

from pygrade.config.console import ConsoleConfig
from pygrade.console.collect import _in_use, collect
from pygrade.console.columns import MAX_CLASSES, item_groups, request_columns
from pygrade.console.run_files import find_run
from pygrade.logs import read_logs, write_logs
from pygrade.training.training_record import TrainingRecord
from tests.console.conftest import VERDICT, make_run
from tests.learning import tiny_logs


def test_requests_of_the_training_are_left_out(found, record, run):
    trained = TrainingRecord.load(found.directory, found.policy.version)
    assert trained is not None and not trained.seen(found.held_out).any()
    assert (found.held_out.num_requests, found.in_sample) == (120, False)
    flat = find_run(run, f"logs:{run.parent / 'logs'}", ConsoleConfig(k=3, propensity=0.0), found.evaluation)
    assert (flat.propensity.known(5) == 1).all()  # all slots count alike
    browsed = record["browsed"]
    assert len(browsed["requests"]) == 40 and np.array_equal(browsed["judged"], np.arange(40) * 3)
    assert record["evaluation"]["num_requests"] == record["judged"]["requests"] == 120
    assert len(set(browsed["item_names"])) == len(browsed["items"]) == browsed["offsets"][-1]


def test_a_log_that_the_policy_knows_is_marked(found, run, tmp_path):
    trained = TrainingRecord.load(found.directory, found.policy.version)
    logs = read_logs(run.parent / "logs")
    write_logs(logs.select(trained.seen(logs)), tmp_path / "logs")
    known = find_run(run, f"logs:{tmp_path / 'logs'}")
    assert known.in_sample and known.held_out.num_requests == 280
    assert known.evaluation["verdict"]["sentence"] == VERDICT[1]
    assert known.evaluation["later"]["text"].startswith("in-sample, not evidence: served ")
    (found.directory / "trained_on.safetensors").rename(tmp_path / "kept")
    try:
        unrecorded = find_run(run, f"logs:{run.parent / 'logs'}")
        assert unrecorded.in_sample is None and unrecorded.held_out.num_requests == 400
        assert "nothing records" in unrecorded.evaluation["warnings"][-1]
        assert unrecorded.evaluation["later"]["text"].startswith("requests that the policy may know: ")
    finally:
        (tmp_path / "kept").rename(found.directory / "trained_on.safetensors")


@pytest.mark.parametrize(
    ("names", "served", "over"),
    [
        (("production", "expected value", "served"), "served", "expected value"),
        (("production", "expected value"), "expected value", "production"),
        (("logged order", "expected value"), "expected value", "logged order"),
        (("expected value",), "expected value", "expected value"),
    ],
)
def test_what_is_served_is_compared_with_what_is_in_use(names, served, over):
    assert _in_use([{"name": name} for name in names], "expected value", served) == over


def test_the_log_that_the_run_names_is_found(run, tmp_path):
    data = f"logs:{run.parent / 'logs'}"
    (run / "options.toml").write_text(f'[train]\ndata = "{data}"\n', encoding="utf-8")
    assert find_run(run).held_out.num_requests == 120
    (run / "options.toml").write_text("[demo]\nrequests = 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match="want --data logs:DIR"):
        find_run(run)
    (run / "options.toml").unlink()
    (run / "logs").symlink_to(run.parent / "logs")
    assert find_run(run).held_out.num_requests == 120
    (run / "logs").unlink()
    with pytest.raises(ValueError, match="mode"):
        other = dataclasses.replace(tiny_logs(20), features=("other", "noise"))
        write_logs(other, tmp_path / "other")
        find_run(run, f"logs:{tmp_path / 'other'}")
    (tmp_path / "summary.json").write_text(json.dumps({"stages": {"logs": {}}}), encoding="utf-8")
    with pytest.raises(ValueError, match="want a finished pipeline"):
        find_run(tmp_path)


def columns_of(**changes) -> dict[str, dict]:
    return {column["name"]: column for column in request_columns(dataclasses.replace(tiny_logs(60), **changes))}


def test_columns_are_a_few_classes_each():
    hour = 3_600_000
    context = np.stack([np.arange(60) % 3, np.arange(60.0)], 1).astype(np.float32)
    context[0, 1] = np.nan
    found = columns_of(context=context, timestamp=1_700_000_000_000 + np.arange(60) * hour)
    assert list(found) == ["scenario", "exploration", "day", "mode", "noise"]
    assert found["scenario"]["labels"] == ["browse", "buy"]
    assert found["mode"]["labels"] == ["0", "1", "2"] and found["mode"]["codes"][:4].tolist() == [0, 1, 2, 0]
    assert found["day"]["labels"] == ["2023-11-14", "2023-11-15", "2023-11-16", "2023-11-17"]
    labels, codes = found["noise"]["labels"], found["noise"]["codes"]
    assert labels[0].startswith("below") and labels[-1] == "unknown" and codes[0] == 4 and codes[1] == 0
    assert np.bincount(codes).tolist() == [15, 14, 15, 15, 1]


def test_many_names_and_days_share_classes():
    names = np.array([f"s{number:02}" for number in np.arange(60) % 30])
    days = 1_700_000_000_000 + np.arange(60) * 86_400_000
    found = columns_of(scenario=names, timestamp=days)
    assert len(found["scenario"]["labels"]) == MAX_CLASSES and found["scenario"]["labels"][-1] == "19 others"
    assert len(found["day"]["labels"]) == 12 and found["day"]["labels"][0] == "2023-11-14, 5 days"
    assert found["day"]["codes"].max() == 11
    constant = columns_of(scenario=np.full(60, "one"), context=np.ones((60, 2), np.float32))
    assert not {"scenario", "mode", "noise"} & set(constant)


def test_groups_of_items_are_by_price_and_by_times_in_the_log():
    logs = tiny_logs(40)
    logs = dataclasses.replace(
        logs, item_id=np.arange(logs.num_rows) % 12 // 4, value=np.arange(logs.num_rows).astype(np.float32)
    )
    rows = logs.row_request < 5
    groups = {group["name"]: group for group in item_groups(logs, rows, None)}
    assert list(groups) == ["price"] and len(groups["price"]["codes"]) == rows.sum()
    skewed = dataclasses.replace(logs, item_id=np.maximum(np.arange(logs.num_rows) - 30, 0), value=None)
    groups = {group["name"]: group for group in item_groups(skewed, rows, None)}
    assert groups["times in the log"]["labels"] == ["1", "31"]


def test_a_policy_without_trade_offs_or_weights_in_the_log(tmp_path):
    folder = make_run(tmp_path, trust=1.0, trade_offs=False, requests=120, stages=False)
    write_logs(dataclasses.replace(read_logs(tmp_path / "logs"), weights=None), tmp_path / "bare")
    found = find_run(folder, f"logs:{tmp_path / 'bare'}", ConsoleConfig(k=3))
    result = collect(found, ConsoleConfig(requests=5))
    assert [arm["name"] for arm in result["arms"]] == ["logged order", "expected value", "best static", "policy alone"]
    assert result["names"]["served"] == found.evaluation["later"]["serves"] == "policy alone"
    assert found.evaluation["verdict"]["verdict"] == "untested"
    assert result["front"] is None and result["policy"]["network"] is None
    first = result["arms"][0]["ranks"][: int(result["browsed"]["offsets"][1])]
    shown = result["browsed"]["positions"][: len(first)]
    assert np.array_equal(first[shown >= 0], shown[shown >= 0])


def test_a_page_of_long_requests_holds_fewer(found, monkeypatch):
    monkeypatch.setattr("pygrade.console.collect._MAX_VALUES", 200)
    result = collect(found, ConsoleConfig(requests=40, judge=120))
    assert 5 <= len(result["browsed"]["requests"]) <= 12 and result["judged"]["requests"] == 120
