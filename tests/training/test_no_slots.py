"""Training and judging without slots, and the refusal of events alone."""

from dataclasses import replace

import numpy as np
import pytest

import pygrade
from pygrade.config.training import CrossFitConfig, RewardConfig
from pygrade.console.arms import describe_arms
from pygrade.console.trade_offs import ranking_evaluator
from pygrade.evaluation.arms import LOGGED_ORDER
from pygrade.runs.fit import fit
from pygrade.training.evaluate_policy import evaluate_policy, simple_baselines
from pygrade.training.propensity import SlotPropensity, slot_propensity
from tests.learning import tiny_logs
from tests.training.test_train import SMALL

TRUSTED = replace(SMALL, cross_fit=CrossFitConfig(folds=2))


def without_slots(requests: int = 200):
    return replace(tiny_logs(requests), slots_known=False)


def test_nothing_is_decided_until_an_exponent_is_chosen(tmp_path):
    unknown = replace(TRUSTED, reward=replace(SMALL.reward, propensity="estimate"))
    undecided = fit(without_slots(), unknown, tmp_path / "unknown")
    assert undecided.policy.mixture.verdict == "undecidable" and undecided.policy.mixture.mixture_weight == 0
    assert "(--reward.propensity 0)" in undecided.policy.mixture.sentence
    assert "the log has no slots" in undecided.policy.mixture.detail

    reward = replace(SMALL.reward, propensity=0.0)
    chosen = fit(without_slots(), replace(TRUSTED, reward=reward), tmp_path / "chosen")
    assert "slots unknown: exponent 0 by choice, no estimate" in chosen.policy.mixture.detail
    assert "if each shown item is looked at equally: the log has no slots." in chosen.policy.mixture.sentence
    assert LOGGED_ORDER not in chosen.summary["cross_fit"]["baselines"], "a list's order may follow the feedback"
    assert chosen.summary["propensity"]["note"] == "slots unknown: exponent 0 by choice, no estimate"
    assert any(warning.startswith("NO SLOTS: ") for warning in chosen.summary["warnings"])


def test_replay_and_console_have_no_logged_order(tmp_path):
    policy, reward = fit(tiny_logs(80), SMALL, tmp_path).policy, RewardConfig(propensity=0.0)
    for logs in (replace(without_slots(), weights=None), replace(tiny_logs(200), weights=None)):
        record = evaluate_policy(logs, slot_propensity(logs, reward), {"GRADE": policy}, None, reward, 5)
        simple = simple_baselines(logs, policy, None)
        arms = {arm["name"] for arm in describe_arms(logs, {"GRADE": policy}, simple, ())}
        assert (LOGGED_ORDER in record["rankers"]) == logs.slots_known
        assert (LOGGED_ORDER in arms) == logs.slots_known
        assert any(text.startswith("NO SLOTS") for text in record["warnings"]) != logs.slots_known
        assert ("slots unknown: exponent 0 by choice" in record["later"]["text"]) != logs.slots_known
    with pytest.raises(ValueError, match="neither slots nor logged weights"):
        ranking_evaluator(policy, replace(without_slots(), weights=None), SlotPropensity(0.0, "none"), 5, 0.15)


@pytest.mark.parametrize("sample", [120, 60])
def test_events_alone_train_nothing(tmp_path, sample):
    logs = tiny_logs(120)
    feedback = np.where(logs.shown[:, None], 1.0, 0.0).astype(np.float32) * [[1, 0]] + logs.feedback * [[0, 1]]
    with pytest.raises(ValueError, match=r"each of the \d+ shown rows .*'click'"):
        fit(replace(logs, feedback=feedback.astype(np.float32)), replace(SMALL, sample_requests=sample), tmp_path)
    assert not (tmp_path / "policy").exists()
    with pytest.raises(ValueError, match="not an exposure log"):
        pygrade.train(replace(logs, feedback=feedback.astype(np.float32)), out_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists(), "said before anything is written"
