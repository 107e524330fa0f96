"""Which run, which requests, which columns."""

import dataclasses
import json

import numpy as np
import pytest

from pygrade.config.console import ConsoleConfig
from pygrade.console.collect import _in_use, collect
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
    shown = record["requests"]
    assert shown["names"] == [str(name) for name in found.held_out.request_id[np.arange(40) * 3]]
    assert record["evaluation"]["num_requests"] == 120 and len(record["judged"]["users"]) == 40
    assert len(set(shown["item_names"])) == len(shown["item"]) == shown["offsets"][-1]


def test_a_log_that_the_policy_knows_is_marked(found, run, tmp_path):
    trained = TrainingRecord.load(found.directory, found.policy.version)
    logs = read_logs(run.parent / "logs")
    write_logs(logs.select(trained.seen(logs)), tmp_path / "logs")
    known = find_run(run, f"logs:{tmp_path / 'logs'}")
    assert known.in_sample and known.held_out.num_requests == 280
    assert known.evaluation["verdict"]["sentence"] == VERDICT[1]
    assert known.evaluation["later"]["text"].startswith("in-sample, not evidence: the new ranking ")
    (found.directory / "trained_on.safetensors").rename(tmp_path / "kept")
    try:
        unrecorded = find_run(run, f"logs:{run.parent / 'logs'}")
        assert unrecorded.in_sample is None and unrecorded.held_out.num_requests == 400
        assert "nothing records" in unrecorded.evaluation["warnings"][-1]
        assert unrecorded.evaluation["later"]["text"].startswith("requests that the policy may know: ")
    finally:
        (tmp_path / "kept").rename(found.directory / "trained_on.safetensors")


@pytest.mark.parametrize(
    ("names", "served", "control"),
    [
        (("production", "expected value", "served"), "served", "expected value"),
        (("production", "expected value"), "expected value", "production"),
        (("logged order", "expected value"), "expected value", "logged order"),
        (("expected value",), "expected value", "expected value"),
    ],
)
def test_what_is_served_is_compared_with_what_is_in_use(names, served, control):
    assert _in_use(names, "expected value", served) == control


def test_the_log_that_the_run_names_is_found(run, tmp_path):
    data = f"logs:{run.parent / 'logs'}"
    (run / "options.toml").write_text(f'[train]\ndata = "{data}"\n', encoding="utf-8")
    assert find_run(run).held_out.num_requests == 120
    (run / "options.toml").write_text("[demo]\nrequests = 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected --data logs:DIR"):
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
    with pytest.raises(ValueError, match="expected a finished pipeline"):
        find_run(tmp_path)


def test_a_policy_without_trade_offs_or_weights_in_the_log(tmp_path):
    folder = make_run(tmp_path, mixture_weight=1.0, trade_offs=False, requests=120, stages=False)
    write_logs(dataclasses.replace(read_logs(tmp_path / "logs"), weights=None), tmp_path / "bare")
    found = find_run(folder, f"logs:{tmp_path / 'bare'}", ConsoleConfig(k=3))
    result = collect(found, ConsoleConfig(requests=5))
    assert [arm["name"] for arm in result["arms"]] == ["logged order", "expected value", "best static", "policy alone"]
    assert result["served"] == found.evaluation["later"]["serves"] == "policy alone"
    assert found.evaluation["verdict"]["verdict"] == "untested"
    assert result["templates"]["tradeoffs"] is None and result["arms"][0]["policy"] is None
    first = result["arms"][0]["ranks"][: int(result["requests"]["offsets"][1])]
    shown = result["requests"]["positions"][: len(first)]
    assert np.array_equal(first[shown >= 0], shown[shown >= 0])


def test_a_page_of_long_requests_holds_fewer(found, monkeypatch):
    monkeypatch.setattr("pygrade.console.collect._MAX_VALUES", 200)
    result = collect(found, ConsoleConfig(requests=40))
    assert 5 <= len(result["requests"]["names"]) <= 12
