"""The study's arms on corrected predictions, and the report on them from made-up records."""

from dataclasses import replace

import numpy as np
import pytest

from bench.study import corrected
from bench.study.arm_kinds import run_arm
from bench.study.fresh_worlds import fresh_targets, fresh_worlds
from bench.study.report import report_text
from bench.study.runner import StudyConfig, scaled
from bench.study.settings import load_settings
from bench.study.stats import Results
from bench.study.trial import Trial

TINY = ("log_users=300", "test_users=150", "items=300")


@pytest.fixture(scope="module")
def settings():
    found = scaled(load_settings(), StudyConfig(quick=True, full=True, world_set=TINY))
    regimes = {name: replace(regime, requests=400) for name, regime in found.regimes.items()}
    return replace(found, regimes=regimes, test_requests=150, oracle_requests=400)


@pytest.fixture(scope="module")
def trial(settings):
    return Trial(settings, settings.regimes["fresh-item-columns-5k"], 0, 0)


def test_where_nothing_is_licensed_expected_value_is_served(trial, monkeypatch):
    learned = corrected.learn(trial.logs, trial.data.propensity)
    expected = trial.requests.p_hat @ trial.values.numpy()
    monkeypatch.setattr(trial, "learned", replace(learned, licensed=None))
    assert np.array_equal(run_arm(trial, "corrected", {"gate": True}).scores, expected)
    free = run_arm(trial, "corrected", {})
    assert not np.allclose(free.scores, expected) and free.figures["licensed"] == 0.0
    monkeypatch.setattr(trial, "learned", replace(learned, licensed=learned.fitted.candidates[0]))
    assert np.array_equal(run_arm(trial, "corrected", {"gate": True}).scores, free.scores)


def test_item_columns_reach_the_correction_of_test_requests(trial):
    assert trial.logs.items and trial.test_items.shape == (*trial.requests.p_hat.shape[:2], len(trial.logs.items))
    assert corrected.learn(trial.logs, trial.data.propensity).fitted.candidates[0].correction.items == trial.logs.items


def test_a_prior_of_another_market_is_learned_where_the_regime_has_one(settings, monkeypatch):
    monkeypatch.setattr(corrected, "_MARKET_REQUESTS", 400)
    seen = []
    fit = corrected.fit_correction
    monkeypatch.setattr(corrected, "fit_correction", lambda *a, prior=None: seen.append(prior) or fit(*a, prior=prior))
    for name in ("fresh-no-prior-500", "fresh-prior-of-a-related-market-500", "fresh-prior-of-an-unrelated-market-500"):
        run_arm(Trial(settings, settings.regimes[name], 0, 0), "corrected", {})
    assert [prior is None for prior in seen] == [True, True, False, True, False]
    related, unrelated = seen[2], seen[4]
    assert not np.array_equal(related.weights, unrelated.weights)
    assert np.array_equal(np.sort(related.weights.ravel()), np.sort(unrelated.weights.ravel()))


def test_the_oracle_of_inputs_finds_what_the_context_explains(settings):
    big = replace(settings, oracle_requests=3000, test_requests=1500)
    trial = Trial(big, replace(settings.regimes["hype"], requests=400), 0, 0)
    options = big.arms["oracle-inputs"].options
    best = trial.outcome(run_arm(trial, "oracle-inputs", options))
    assert best > 1.01 * trial.outcome(run_arm(trial, "baseline", {"baseline": "expected value"}))


def unit(regime, world, arm, value, **figures):
    means = {"value": value, "orders": value}
    record = {"regime": regime, "world": world, "seed": 0, "arm": arm, "variant": {}, "expected": means}
    return record | {"figures": figures, "events": {}, "lifts": {"expected": {"value": [0.0, None, None]}}}


def records(lift, regime="fresh-default-2k", arm="served"):
    rows = []
    for world, noise in ((9701, 0.0), (9702, 0.01)):
        rows += [unit(regime, world, "ev", 10.0), unit(regime, world, "gated", 10.0 * (1 + lift / 100), licensed=1.0)]
        rows.append(unit(regime, world, arm, 10.0 * (1 + (lift + noise) / 100)))
        rows.append(unit(regime, world, "boosted-value", 10.0))
    return rows


def goals(rows, further=None):
    return {goal.name: goal for goal in fresh_targets(Results(rows), load_settings(), further or {})}


def named(found, end):
    return next(goal for name, goal in found.items() if name.endswith(end) or name.startswith(end))


@pytest.mark.parametrize(("lift", "met"), [(1.6, True), (1.4, False)])
def test_what_had_to_be_reached_is_judged(lift, met):
    found = goals(records(lift))
    assert found["served by default over expected value, default, 2,000 requests"].met is met
    assert [goal.met for name, goal in found.items() if "default, 5,000" in name] == [None]
    trees = named(found, "boosted trees, value, 18 cells")
    assert trees.met is True and trees.measured.startswith("1 of 1")


def test_a_gain_below_that_of_trees_and_harm_where_nothing_can_be_won_are_named():
    rows = [row for row in records(0.5) if row["arm"] != "boosted-value"]
    rows += [unit("fresh-default-2k", world, "boosted-value", 10.04) for world in (9701, 9702)]
    trees = named(goals(rows), "boosted trees, value, 18 cells")
    assert trees.met is False and "default 2,000 +0.10" in trees.measured
    harm = named(goals(records(-0.06, "fresh-accurate-kink-5k")), "accurate")
    assert harm.met is False and "fresh-accurate-kink-5k, world 9701" in harm.measured


def shop_record(seed, high):
    record = {"effect": "factor", "seed": seed, "oracle": 2.0, "served": 1.8, "share": 90.0, "verdict": "better"}
    return record | {"bounds": [0.5, 1.5, high], "over": "expected value", "true": 1.8, "within": 1.2}


def noise_record(number):
    return {"verdict": "better" if number < 3 else "undecided", "licensed": False}


LIFTS = {"expected value": [0, 0, 0], "served by default": [0.9, 0.5, 1.3]}
FURTHER = {
    "noise": {"noise": {"plain": {str(number): noise_record(number) for number in range(100)}}},
    "shops": {"shops": [shop_record(1, 2.5), shop_record(2, 1.7)]},
    "kuairand": {"lists": [{"days": 3, "lists": [10, 20], "rows": [30, 60], "perfect": 25.0, "lifts": LIFTS}]},
}


def text_of(sections):
    return report_text(list(sections), "study", ())


def test_noise_shops_and_the_real_log_are_reported():
    found = goals([], FURTHER)
    assert found["noise, plain: *better*"].met is False and found["noise, plain: *better*"].measured == "3 of 100"
    assert found["shop, factor: share of the oracle's gain"].met is True
    assert found["shops: bounds that cover the truth"].measured.startswith("1 of 2; 2 of")
    assert found["KuaiRand-Pure, 3-day lists: served over expected value"].met is True
    text = text_of(fresh_worlds(Results([]), load_settings(), FURTHER))
    assert "| plain | 100 | 3 [1.0, 8.5 %] |" in text and "+0.90 (+0.50 to +1.30)" in text
    assert list(fresh_worlds(Results([]), load_settings(), {})) == []


def test_the_report_has_a_row_for_each_size():
    text = text_of(fresh_worlds(Results(records(1.6)), load_settings(), {}))
    assert "| default | 2,000 | 2 |" in text and "2 of 2 |" in text and "| met |" in text
