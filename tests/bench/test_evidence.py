"""Evidence beside the study's worlds: what a shop's table plants, what a log of noise lacks, lists of a real log."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.evidence import kuairand, noise, shops
from pygrade.config.training import Stage1Config, Stage2Config, TrainConfig, TrustConfig
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of, effective_number

sys.path.insert(0, str(Path(__file__).parents[2] / "examples/python"))
from planted_shop import COLUMNS, EFFECTS, VALUES, Shop


@pytest.fixture(scope="module")
def tables():
    return {effect: Shop(1, effect).table(1_500) for effect in EFFECTS}


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_truth_of_a_shop_is_the_best_order(tables, effect):
    _, truth = tables[effect]
    best = truth.lift(truth.value())
    assert best > 1.0 and truth.lift(truth.value(truth.predictions)) == 0.0
    rng = np.random.default_rng(0)
    assert truth.lift(truth.value() * np.exp(0.3 * rng.standard_normal(len(truth.price)))) < best
    ratio = truth.probabilities.mean(0) / truth.predictions.mean(0)
    assert ratio[0] == 1.0 and (np.abs(np.log(ratio)) < 0.3).all()  # about right on average
    assert (np.diff(truth.probabilities, axis=1) <= 0).all()


def test_the_effects_are_where_they_are_said_to_be(tables):
    table, truth = tables["factor"]
    returning = np.array(table["returning"].to_pylist(), object)
    factor = truth.probabilities[:, 2] / truth.predictions[:, 2]
    assert np.median(factor[returning == "yes"]) == pytest.approx(1.5)
    assert np.median(factor[returning == "no"]) == pytest.approx(0.25)
    table, truth = tables["interaction"]
    affinity, level = (np.array(table[name].to_pylist(), float) for name in ("price_affinity", "price_level"))
    factor = np.log(truth.probabilities[:, 2] / truth.predictions[:, 2])
    for rows, side in ((affinity > 0.7, 1), (affinity < 0.3, -1)):
        assert side * np.corrcoef(factor[rows], level[rows])[0, 1] > 0.6
    table, truth = tables["addition"]
    device = np.array(table["device"].to_pylist(), object)
    odds = [p[:, 1] / (p[:, 0] - p[:, 1]) for p in (truth.probabilities, truth.predictions)]
    added = np.log(odds[0] / odds[1])
    assert added[device == "Smart TV"].mean() == pytest.approx(-3.5)
    assert added[device == "iPhone app"].mean() == pytest.approx(1.0)


def test_a_shop_is_read_as_it_is(tables):
    table, truth = tables["all"]
    logs = Logs.from_table(table, columns=COLUMNS, values=VALUES, value_tasks=["order"])
    assert np.array_equal(logs.offsets, truth.offsets) and logs.tasks == ("click", "cart", "order")
    assert np.isnan(logs.context).any() and "price_level" in logs.items and any("TV" in name for name in logs.features)
    assert np.allclose(logs.value_of(logs.predictions), truth.value(truth.predictions), rtol=1e-4)
    again, other = Shop(1, "all").table(1_500), Shop(1, "all").table(1_500, 1)
    assert again[0].equals(table) and not other[0].equals(table)
    with pytest.raises(ValueError, match="effect is 'luck'"):
        Shop(1, "luck")


def test_train_is_judged_by_the_truth_of_a_shop(monkeypatch):
    monkeypatch.setattr(shops, "JUDGING", 400)
    short = {"stage1": Stage1Config(steps=2), "stage2": Stage2Config(steps=2)}
    found = shops.shop("addition", 1, 1_500, TrainConfig(**short))
    assert found["oracle"] > 1 and found["share"] == pytest.approx(100 * found["served"] / found["oracle"], abs=0.2)
    assert found["sentence"] and (found["bounds"] is None or found["bounds"][0] < found["bounds"][2])


@pytest.mark.parametrize("kind", noise.KINDS)
def test_nothing_predicts_noise(kind):
    logs = noise.noise_log(kind, 1)
    again, other = noise.noise_log(kind, 1), noise.noise_log(kind, 2)
    assert np.array_equal(logs.feedback, again.feedback) and not np.array_equal(logs.feedback, other.feedback)
    calm = (logs.feedback[logs.shown].max(1) <= 1) & (logs.position[logs.shown] == 0)
    p, y = logs.predictions[logs.shown][calm], logs.feedback[logs.shown][calm]
    chance = 3.5 / len(np.unique(p, axis=0)) ** 0.5  # copies are one row
    assert all(abs(np.corrcoef(p[:, t], y[:, t])[0, 1]) < chance for t in range(4))


def test_kinds_of_noise_are_what_they_say():
    copies, whale, bots = (noise.noise_log(kind, 1) for kind in (noise.COPIES, noise.WHALE, noise.BOTS))
    assert len(np.unique(copies.user_id)) > 2 * len(np.unique(clusters_of(copies)))
    assert (whale.user_id == 0).mean() == pytest.approx(0.9, abs=0.04) and effective_number(whale.user_id) < 2
    assert bots.feedback.max() == 1_000


def test_a_verdict_on_noise():
    found = noise.verdict(noise.noise_log(noise.WHALE, 0))
    assert found["verdict"] != "better" and not found["licensed"]
    assert noise.counts({"0": found, "1": found}) == {found["verdict"]: 2, "licensed": 0}


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
        timestamp=np.array([0, day, day, 4 * day]),
    )


def test_lists_of_days_join_requests_and_count_a_video_once():
    one, three = (kuairand.lists_of(events(), days) for days in (1, 3))
    assert one.item_id.tolist() == [7, 8, 9, 1, 2, 3]  # the others are too short
    assert three.item_id.tolist() == [7, 8, 9, 5, 1, 2, 3] and three.user_id.tolist() == [1, 2]
    assert three.position.tolist() == [0, 1, 2, 3, 0, 1, 2] and three.context[:, 0].tolist() == [0, 2]
    assert three.task_values == (1.0, 2.0)
    rows = [0, 1, 2, 4, 5, 6, 7]
    assert np.array_equal(three.predictions, events().predictions[rows])


def test_without_the_data_nothing_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("PYGRADE_DATA", raising=False)
    kuairand.main(tmp_path / "out.json", None)
    assert "skipped: PYGRADE_DATA is unset" in capsys.readouterr().out and not (tmp_path / "out.json").exists()


def test_every_arm_scores_the_lists(monkeypatch):
    pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    base = noise.noise_log(noise.PLAIN, 1)
    logs = replace(base, timestamp=np.sort(rng.integers(0, 86_400_000, base.num_requests)), exploration=None)
    quick = TrainConfig(stage1=Stage1Config(steps=2), stage2=Stage2Config(steps=2), trust=TrustConfig(folds=2))
    once = kuairand.train_once
    monkeypatch.setattr(
        kuairand, "train_once", lambda logs, c: once(logs, replace(c, stage1=quick.stage1, stage2=quick.stage2))
    )
    record = kuairand.compare(logs, logs, 1)
    assert record["lifts"]["expected value"] == [0.0, 0.0, 0.0] and len(record["lifts"]) >= 10
    assert record["perfect"] > 0 and record["verdict"]["verdict"] in ("better", "undecided", "worse", "undecidable")
