"""KuaiRand-Pure: lists of a log's days, and every arm on them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.study import kuairand
from bench.study.foreign.nulls import Null
from pygrade.config.training import CrossFitConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.logs import Logs

ROOT = Path(__file__).parents[3]


def events():
    """Two users, three days; video 7 twice for user 1."""
    day = 86_400_000
    return Logs(
        tasks=("click", "like"),
        features=("f",),
        request_id=np.arange(4),
        user_id=np.array([1, 1, 2, 1]),
        offsets=np.array([0, 3, 5, 8, 10]),
        context=np.arange(4, dtype=np.float32)[:, None],
        item_id=np.array([7, 8, 9, 7, 5, 1, 2, 3, 6, 4]),
        position=np.array([0, 1, 2, 0, 1, 0, 1, 2, 0, 1], np.int32),
        predictions=np.linspace(0.1, 0.9, 20, dtype=np.float32).reshape(10, 2),
        feedback=np.arange(20, dtype=np.float32).reshape(10, 2) % 2,
        task_values=(1.0, 0.0),
        items=("age",),
        item_features=np.arange(10, dtype=np.float32)[:, None],
        timestamp=np.array([0, day, day, 4 * day]),
    )


def test_lists_of_days_join_requests_and_count_a_video_once():
    one, three = (kuairand.lists_of(events(), days) for days in (1, 3))
    assert one.item_id.tolist() == [7, 8, 9, 1, 2, 3]  # the others are too short
    assert three.item_id.tolist() == [7, 8, 9, 5, 1, 2, 3] and three.user_id.tolist() == [1, 2]
    assert three.position.tolist() == [0, 1, 2, 3, 0, 1, 2] and three.context[:, 0].tolist() == [0, 2]
    assert three.task_values == (1.0, 0.0)  # what is too rare to be valued stays an input
    hours = np.array([15, 73, 73, 121])  # since 8:00 of the first day, of which an hour is in the log
    late = replace(events(), timestamp=hours * 3_600_000)
    assert kuairand.lists_of(late, 3).item_id.tolist() == three.item_id.tolist()
    rows = [0, 1, 2, 4, 5, 6, 7]
    assert np.array_equal(three.predictions, events().predictions[rows])
    assert three.items == ("age",) and three.item_features[:, 0].tolist() == rows


def test_without_the_data_nothing_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("PYGRADE_DATA", raising=False)
    kuairand.main(tmp_path / "out.json", None)
    assert "skipped: PYGRADE_DATA is unset" in capsys.readouterr().out and not (tmp_path / "out.json").exists()


def test_every_arm_scores_the_lists(monkeypatch):
    pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    base = Null(1).draw(1_000, 1)[0].logs
    logs = replace(base, timestamp=np.sort(rng.integers(0, 86_400_000, base.num_requests)), exploration=None)
    quick = TrainConfig(stage1=Stage1Config(steps=2), stage2=Stage2Config(steps=2), cross_fit=CrossFitConfig(folds=2))
    once = kuairand.train_once
    monkeypatch.setattr(
        kuairand, "train_once", lambda logs, c: once(logs, replace(c, stage1=quick.stage1, stage2=quick.stage2))
    )
    record = kuairand.compare(logs, logs, 1)
    assert record["lifts"]["expected value"] == [0.0, 0.0, 0.0] and len(record["lifts"]) >= 10
    assert record["perfect"] > 0 and record["verdict"]["verdict"] in ("better", "undecided", "worse", "undecidable")


def test_a_list_has_the_columns_of_what_was_known_when_it_began():
    """Each row is an exposure at its own time; what is shown or told later changes nothing."""
    day = 86_400_000
    base = Null(1).draw(1_000, 1)[0].logs.shown_only()
    rng = np.random.default_rng(1)
    time = np.sort(rng.integers(0, 6 * day, base.num_requests))
    base = replace(base, timestamp=time, exploration=None, user_id=rng.integers(0, 100, base.num_requests))

    def columns(change):
        parts = [base.select(time < 3 * day), base.select(time >= 3 * day)]
        own = [part.timestamp[part.row_request] + 60_000 * part.position for part in parts]
        late = own[1] >= 4.5 * day
        parts[1].feedback[late] = np.where(change, 1 - parts[1].feedback[late], parts[1].feedback[late])
        exposures = [kuairand.Exposures(*pair) for pair in zip(parts, own, strict=True)]
        lists = [kuairand.lists_of(part, 1) for part in parts]
        return lists[1], kuairand.with_history(*exposures, lists)[1][1]

    (lists, one), (_, other) = columns(False), columns(True)
    assert one.items[: len(lists.items)] == lists.items and len(one.features) > len(lists.features)
    known = one.timestamp < 4.5 * day
    rows = known[one.row_request]
    np.testing.assert_array_equal(one.item_features[rows], other.item_features[rows])
    np.testing.assert_array_equal(one.context[known], other.context[known])
    assert not np.array_equal(one.item_features, other.item_features)
    np.testing.assert_array_equal(one.feedback, lists.feedback)
    np.testing.assert_array_equal(one.position, lists.position)


def test_cuts_are_pooled_by_user(monkeypatch):
    """Twice the same lists are no more evidence; a gain of one cut is half of a gain of both."""
    rng = np.random.default_rng(0)
    arms = [kuairand.PLAIN, kuairand.CORRECTED, *kuairand.TOPS]
    worth = {arm: 1 + rng.random(500) for arm in arms} | {"user": np.arange(500)}
    worth["stacked"] = 1.1 * worth[kuairand.CORRECTED]
    once, twice = (kuairand.pooled([{"v": worth}] * count)["v"] for count in (1, 2))
    assert once == twice and once["gains"]["stacked"][0] == pytest.approx(10.0)
    half = kuairand.pooled([{"v": worth}, {"v": worth | {"stacked": worth[kuairand.CORRECTED]}}])["v"]
    assert half["gains"]["stacked"][0] == pytest.approx(5.0) and set(half["lifts"]) == {*arms} - {kuairand.PLAIN}


def test_the_study_has_the_gains_of_both_cuts():
    record = json.loads((ROOT / "bench/results/kuairand.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs/STUDY.md").read_text(encoding="utf-8")
    parts = [*(cut["values"] for cut in record["cuts"]), record["pooled"]]
    assert [tuple(cut["days"]) for cut in record["cuts"]] == list(kuairand.CUTS)
    for name in record["pooled"]:
        for form, title in (("tasks", "(a)"), ("mean", "(b)"), ("stacked", "(c)")):
            cells = ["{:+.2f} ({:+.2f} to {:+.2f})".format(*part[name]["gains"][form]) for part in parts]
            assert f"| {name} | {title} | {' | '.join(cells)} |" in text


def test_the_evidence_has_the_lifts_of_the_run():
    one, three = json.loads((ROOT / "bench/results/kuairand.json").read_text(encoding="utf-8"))["lists"]
    evidence = (ROOT / "docs/evidence.md").read_text(encoding="utf-8").partition("**KuaiRand-Pure**")[2]
    names = {"**served**: corrected expected value": "served by default", "GRADE alone": "GRADE"}
    names["best static weights, z-log"] = "best static"
    names["best static weights, linear"] = "best static, linear"
    shown = re.findall(r"^\| ([^|]+) \| ([+-][^|]+) \| ([+-][^|]+) \|$", evidence, re.M)
    assert len(shown) >= 5
    for name, *cells in shown:
        lifts = [entry["lifts"][names.get(name, name)] for entry in (one, three)]
        assert cells == ["{:+.2f} ({:+.2f} to {:+.2f})".format(*lift) for lift in lifts], name
