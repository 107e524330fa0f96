"""Limits at each training and in online learning."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from pygrade.cli.main import main
from pygrade.config.guardrails import GuardrailConfig
from pygrade.config.training import CrossFitConfig, OnlineConfig, RewardConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.logs import Logs, write_logs
from pygrade.policy import FusionPolicy, Mixture, PolicySpec
from pygrade.runs.train import train
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.baselines import expected_value
from pygrade.training.guardrails import keep_limits
from pygrade.training.online import OnlineLearner
from tests.learning import tiny_logs

_REWARD = RewardConfig(propensity=0.5, page_size=5)
_QUICK = TrainConfig(
    reward=_REWARD, stage1=Stage1Config(steps=2), stage2=Stage2Config(steps=2), cross_fit=CrossFitConfig(folds=0)
)


@cache
def _logs() -> Logs:
    logs = tiny_logs(requests=600)
    new = (logs.item_id % 5 == 0).astype(np.float32)[:, None]
    return replace(logs, items=("new",), item_features=new)


def _policy() -> FusionPolicy:
    policy = FusionPolicy(PolicySpec(_logs().tasks, _logs().features)).eval()
    policy.mixture = Mixture(0.0, expected_value(_logs()))
    return policy


def _limits(*limits: str, **more: str) -> GuardrailConfig:
    return GuardrailConfig(limits=limits, confidence=0.9, **more)


def test_a_training_keeps_limits_and_says_so(tmp_path, capsys) -> None:
    config = replace(_QUICK, guardrails=_limits("share new >= 0.4"))
    result = train(_logs(), config, tmp_path / "run")
    guardrails = result.policy.guardrails
    assert guardrails is not None and guardrails.hold and result.policy.config.boosts["new"] > 0
    saved = FusionPolicy.load(tmp_path / "run" / "policy")
    assert saved.version == result.policy.version == result.summary["version"]
    assert saved.guardrails == guardrails and not [w for w in result.warnings if "LIMITS" in w]
    write_logs(_logs(), tmp_path / "logs")
    evaluate = ["evaluate", "--data", f"logs:{tmp_path / 'logs'}", "--policy", str(tmp_path / "run" / "policy")]
    assert main([*evaluate, "--k", "5", "--propensity", "0.5"]) == 0
    assert "share new >= 0.4" in capsys.readouterr().out


def test_limits_that_nothing_keeps_leave_the_policy_in_use(tmp_path) -> None:
    current_policy = keep_limits(_policy(), _logs(), _limits("share new >= 0.3"), _REWARD)
    current_policy.save(tmp_path / "current_policy")
    config = replace(_QUICK, guardrails=_limits("share new >= 0.95", current_policy=str(tmp_path / "current_policy")))
    result = train(_logs(), config, tmp_path / "run")
    assert result.policy.version == current_policy.version == FusionPolicy.load(tmp_path / "run" / "policy").version
    assert any("no price keeps all limits" in sentence for sentence in result.warnings)


def test_limits_want_requests_that_train_nothing(tmp_path) -> None:
    config = replace(_QUICK, guardrails=_limits("share new >= 0.3"))
    with pytest.raises(ValueError, match="expected a holdout above 0"):
        train(_logs(), config, tmp_path / "run", holdout=0.0)
    with pytest.raises(ValueError, match="item column 'old'"):
        train(_logs(), replace(_QUICK, guardrails=_limits("share old >= 0.3")), tmp_path / "run")
    with pytest.raises(ValueError, match=r"expected it with --guardrails\.limits alone"):
        train(_logs(), replace(_QUICK, guardrails=GuardrailConfig(current_policy="x")), tmp_path / "run")


def _served(policy: FusionPolicy, start: int, count: int = 300) -> Logs:
    logs = _logs().select(np.arange(start, start + count) % _logs().num_requests)
    logs = replace(logs, request_id=np.arange(start, start + count))
    page = BlendedRanker(policy, 1).rank_log(logs, 5, explore=True, seed=1)
    return page.log_rows(timestamp=np.arange(start, start + count))


@pytest.mark.parametrize("level", [0.35, 0.95])
def test_online_learning_solves_limits_anew(level: float, tmp_path) -> None:
    policy = keep_limits(_policy(), _logs(), _limits("share new >= 0.25"), _REWARD)
    config = OnlineConfig(
        min_requests=100,
        feedback_delay_ms=10,
        reward=_REWARD,
        step=Stage2Config(steps=1),
        guardrails=_limits(f"share new >= {level}"),
    )
    published: list[FusionPolicy] = []
    learner = OnlineLearner(policy, config, published.append)
    learner.serve(_served(policy, 0))
    update = learner.update(1_000)
    assert learner.guardrails is not None and learner.guardrails.states[0].level == level
    if level > 0.9:
        assert update.limits_unmet and not published and learner.served.version == policy.version
        assert not learner.guardrails.hold and learner.counters["limits_unmet"] == 1
        return
    assert update.published and learner.guardrails.hold
    assert published[0].config.boosts["new"] > policy.config.boosts["new"]
    again = OnlineLearner.load(learner.save(tmp_path / "state"), config)
    assert again.served.version == learner.served.version and again.guardrails == learner.guardrails


def test_a_policy_keeps_its_limits_online() -> None:
    policy = keep_limits(_policy(), _logs(), _limits("share new >= 0.25"), _REWARD)
    learner = OnlineLearner(policy, OnlineConfig(reward=_REWARD))
    assert learner.limits is not None and learner.limits.limits == ("share new >= 0.25",)
    with pytest.raises(ValueError, match="does not read"):
        OnlineLearner(_policy(), OnlineConfig(reward=_REWARD, guardrails=_limits("share new >= 0.25")))
