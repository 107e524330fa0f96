"""Guardrails: limits kept by the smallest prices, served by the core."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from pygrade.config.guardrails import GuardrailConfig, Limit
from pygrade.config.policy import PolicyConfig
from pygrade.config.simulation import SimulateConfig
from pygrade.config.training import RewardConfig
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy, Mixture, PolicySpec
from pygrade.policy.correction import Correction, ItemEffects
from pygrade.policy.guardrails import Guardrails, LimitState
from pygrade.serving.ranker import BlendedRanker
from pygrade.simulation.marketplace import TASK_VALUES
from pygrade.simulation.simulate import simulate_logs
from pygrade.training.baselines import expected_value
from pygrade.training.guardrails import keep_limits, measured, unprovable_limits
from tests.refusals import refuses

_REWARD = RewardConfig(propensity=0.6)


@cache
def _logs() -> Logs:
    logs = simulate_logs(SimulateConfig(requests=800, seed=5))
    groups = np.stack([logs.item_id % 10 == 0, logs.item_id % 7 == 1], 1).astype(np.float32)
    return replace(logs, items=("new", "seller"), item_features=groups, timestamp=None)


def _policy(config: PolicyConfig | None = None, logs: Logs | None = None) -> FusionPolicy:
    logs = _logs() if logs is None else logs
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, config or PolicyConfig()))
    policy.mixture = Mixture(0.0, expected_value(logs))
    return policy.eval()


def _kept(*limits: str, policy: FusionPolicy | None = None, current_policy: FusionPolicy | None = None) -> FusionPolicy:
    config = GuardrailConfig(limits=limits, confidence=0.95)
    return keep_limits(policy or _policy(), _logs(), config, _REWARD, current_policy=current_policy)


def test_limits_that_hold_change_nothing() -> None:
    kept = _kept("click >= 0.5", "share new >= 0.01")
    assert kept.guardrails is not None and kept.guardrails.hold
    assert (kept.config.values, kept.config.boosts) == ({}, {})
    assert np.array_equal(policy_scores(kept, _logs()), policy_scores(_policy(), _logs()))


def test_prices_are_the_smallest_that_keep_the_limits() -> None:
    limits = ("click >= 0.98", "share new >= 0.15", "share seller <= 0.12")
    kept = _kept(*limits)
    assert kept.guardrails is not None and kept.guardrails.hold, kept.guardrails
    assert kept.config.values["click"] > 1 and kept.config.boosts["new"] > 0 > kept.config.boosts["seller"]
    config = GuardrailConfig(limits=limits, confidence=0.95)
    assert measured(kept, _logs(), config, _REWARD).states == kept.guardrails.states  # bounds are of what is served
    for name, table in (("values", kept.config.values), ("boosts", kept.config.boosts)):
        for key, price in table.items():
            nearer = price**0.8 if name == "values" else 0.8 * price
            less = replace(kept.config, **{name: table | {key: nearer}})
            other = _policy(less)
            other.correction = kept.correction
            assert not measured(other, _logs(), config, _REWARD).hold, key


def test_bounds_allow_for_the_steps_of_a_log_that_moves() -> None:
    day = np.arange(800) // 160
    limits = GuardrailConfig(limits=("share new >= 0.1",), confidence=0.95)
    widths = []
    for step in (0, 3):
        new = _logs().item_id % 10 < 2 + step * (day % 3)[_logs().row_request]
        logs = replace(_logs(), item_features=np.stack([new, new], 1).astype(np.float32))
        for timestamp in (None, 86_400_000 * day + np.arange(800)):
            state = measured(_policy(), replace(logs, timestamp=timestamp), limits, _REWARD).states[0]
            widths.append(state.value - state.bound)
    assert widths[1] < 4 * widths[0] and widths[3] > 8 * widths[2], widths


def test_scenarios_have_prices_of_their_own() -> None:
    config = GuardrailConfig(limits=("share new >= 0.1", "feed: share new >= 0.2"), confidence=0.95)
    kept = keep_limits(_policy(), _logs(), config, _REWARD)
    assert measured(kept, _logs(), config, _REWARD).states == kept.guardrails.states
    own, feed = kept.config.boosts.get("new", 0.0), kept.config.scenario_boosts["feed"]["new"]
    assert kept.guardrails is not None and kept.guardrails.hold and feed > own >= 0
    scores = policy_scores(kept, _logs()).reshape(-1, 40)
    assert _logs().scenario is not None
    shown = np.take_along_axis((_logs().item_id % 10 == 0).reshape(-1, 40), np.argsort(-scores, 1)[:, :10], 1).mean(1)
    in_feed = _logs().scenario == "feed"
    assert shown[in_feed].mean() > shown[~in_feed].mean() + 0.05


@pytest.mark.parametrize("gaps", [False, True])
def test_the_core_serves_prices_with_the_same_bits(gaps: bool, tmp_path) -> None:
    kept = _kept("click >= 1", "share new >= 0.15", "feed: share seller <= 0.1")
    kept.save(tmp_path)
    loaded = FusionPolicy.load(tmp_path)
    assert (loaded.version, loaded.guardrails) == (kept.version, kept.guardrails)
    logs = _logs().select(np.arange(60))
    scores = policy_scores(kept, logs).reshape(60, -1)
    if gaps:  # the items' columns belong to the rows that have predictions
        hidden = np.zeros(logs.num_rows, bool)
        hidden[7::11] = True
        rows = np.where(hidden[:, None], np.float32(np.nan), logs.predictions)
        page = BlendedRanker(loaded, 1).rank_log(replace(logs, predictions=rows), 10)
        assert not np.isin(page.indices, np.flatnonzero(hidden.reshape(60, -1)[0])).all()
        tables = [kept.config.boosts | kept.config.scenario_boosts.get(name, {}) for name in logs.scenario]
        boosts = np.array([[table.get(name, 0.0) for name in logs.items] for table in tables])
        boosted = (boosts[logs.row_request] * logs.item_columns).sum(1)
        places = page.indices.astype(int) + 40 * np.arange(60)[:, None]
        plain = FusionPolicy.load(tmp_path)
        plain.spec = replace(plain.spec, config=replace(plain.config, boosts={}, scenario_boosts={}))
        base = BlendedRanker(plain, 1).rank_log(replace(logs, predictions=rows), 40)
        z = np.full((60, 40), np.nan)
        np.put_along_axis(z, base.indices.astype(int).clip(0), base.values, 1)
        z = (z - np.nanmean(z, 1, keepdims=True)) / np.nanstd(z, 1, keepdims=True)
        np.testing.assert_allclose(page.values, z.ravel()[places] + boosted[places], rtol=1e-3, atol=1e-3)
        return
    page = BlendedRanker(loaded, 1).rank_log(logs, 10)
    assert np.array_equal(page.indices, np.argsort(-scores, 1, kind="stable")[:, :10])
    assert np.array_equal(page.values, np.take_along_axis(scores, page.indices.astype(int), 1))
    assert page.by_values and page.request_values is not None


def test_a_new_training_starts_from_no_price() -> None:
    kept = _kept("share new >= 0.15")
    again = keep_limits(kept, _logs(), GuardrailConfig(limits=("share new >= 0.15",), confidence=0.95), _REWARD)
    assert again.version == kept.version
    assert not _kept("share new >= 0.01", policy=kept).config.boosts


def test_without_a_price_the_policy_in_use_stays() -> None:
    current_policy = _kept("click >= 0.98")
    stays = _kept("click >= 1.6", current_policy=current_policy)
    assert stays.version == current_policy.version and stays.guardrails is not None
    assert stays.guardrails.kept and not stays.guardrails.hold and stays.guardrails.sentence.startswith("LIMITS: ")
    alone = _kept("click >= 1.6")
    assert alone.guardrails is not None and not alone.guardrails.hold and not alone.guardrails.kept


def test_limits_that_the_estimate_keeps_are_not_proved_and_the_log_says_what_they_need() -> None:
    words = {
        ("order >= 1", 1.116, 0.9579): "is not proved",
        ("order >= 1", 0.99, 0.9): "is broken",
        ("order >= 1", 1.116, 1.02): "holds",
        ("hide <= 1.02", 1.0, 1.1): "is not proved",
        ("hide <= 1.02", 1.03, 1.1): "is broken",
    }
    states = []
    for (limit, value, bound), word in words.items():
        level = Limit.parse(limit).level
        states.append(LimitState(limit, level, value, bound, word == "holds"))
        assert states[-1].word == word
    lacks = Guardrails(tuple(states[:1]), 0.99, 800)
    assert not lacks.hold and not lacks.broken and lacks.unproved == lacks.states
    assert lacks.sentence == (  # (1.116 - .9579)² / .116² of 800
        "LIMITS: limits are not proved: order >= 1 is not proved (1.116, bound 0.9579; about 1,500 requests would do); "
        "on 800 requests, with 99 % for all at once"
    )
    both = Guardrails(tuple(states[:3]), 0.99, 800)
    assert both.broken == (states[1],) and both.sentence.startswith("LIMITS: limits are broken and not proved: order")
    config = GuardrailConfig(limits=("click >= 0.7", "order >= 1"), confidence=0.99)
    (said,) = unprovable_limits(_logs(), config, _REWARD)  # clicks may fall by as much as is seen
    assert (
        said.startswith("order >= 1 needs about ") and "held-out requests to be proved by an estimate of 1.05" in said
    )
    foreseen = float(said.rpartition(" of ")[2]) - 1
    state = keep_limits(_policy(), _logs(), config, _REWARD).guardrails.states[1]
    assert 0.5 < foreseen / (state.value - state.bound) < 2


def test_production_is_remembered() -> None:
    kept = _kept("click >= 0.98")
    served = BlendedRanker(kept, 1).rank_log(_logs(), 10)
    assert kept.guardrails is not None and kept.guardrails.production is not None
    other = replace(_logs(), weights=np.roll(_logs().weights, 1, 1))  # no longer production's weights
    config = GuardrailConfig(limits=("click >= 0.98",), confidence=0.95)
    assert measured(kept, other, config, _REWARD) == measured(kept, _logs(), config, _REWARD)
    assert len(served.indices) == _logs().num_requests


def test_columns_that_boosts_read_leave_a_correction_as_it_is() -> None:
    logs = _logs()
    rng = np.random.default_rng(0)
    plain = Correction.identity(logs.tasks, logs.features)
    moved = replace(plain, weights=rng.normal(0, 0.05, plain.weights.shape).astype(np.float32))
    levels = ItemEffects(np.array([3, 9], np.uint64), rng.normal(0, 0.1, (2, len(logs.tasks))).astype(np.float32))
    for correction in (moved, moved.with_item_effects(levels)):
        wider = correction.with_items(("new", "seller"))
        assert wider.own_items == ("new", "seller") and wider.with_items(("new",)).items == wider.items
        keys = np.full(logs.num_rows, 3, np.uint64)
        columns = dict(zip(logs.items, logs.item_columns.T, strict=True))
        results = [
            c.apply(logs.context, logs.predictions, logs.offsets, c.item_columns(columns, keys))
            for c in (correction, wider)
        ]
        np.testing.assert_allclose(*results, rtol=1e-5)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (["click"], "expected 'TASK >= SHARE'"),
        (["click > 0.9"], "expected 'TASK >= SHARE'"),
        (["click >= much"], "expected 'TASK >= SHARE'"),
        (["share new >= 1.2"], "between 0 and 1"),
        (["click >= 0"], "above 0"),
        (["click >= 0.9", "click >= 0.95"], "expected each once"),
        (["share new >= 0.3", "share new <= 0.2"], "which nothing meets"),
    ],
)
def test_wrong_limits_are_named(limits: list[str], message: str) -> None:
    refuses(ValueError, message, GuardrailConfig, limits=tuple(limits))
    assert str(Limit.parse("search:click<=1.02")) == "search: click <= 1.02"


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("buy >= 0.9", "task 'buy'; expected one of click"),
        ("share fresh >= 0.1", "item column 'fresh'; expected one of new, seller"),
        ("home: click >= 0.9", "scenario 'home'"),
        ("like >= 0.9", "'like', whose events are worth 0"),
    ],
)
def test_what_a_limit_lacks_is_named(limit: str, message: str) -> None:
    values = tuple(0.0 if task == "like" else v for task, v in zip(_logs().tasks, TASK_VALUES, strict=True))
    refuses(ValueError, message, lambda: _kept(limit, policy=_policy(logs=_logs().with_values(values))))
    logs = replace(_logs(), item_features=2 * _logs().item_columns)
    with pytest.raises(ValueError, match="from 0 to 2"):
        keep_limits(_policy(), logs, GuardrailConfig(limits=("share new >= 0.1",)), _REWARD)


def test_values_and_boosts_of_a_policy_need_what_they_turn() -> None:
    alone = FusionPolicy(PolicySpec(("click", "order"), ("age",), PolicyConfig(values={"click": 2.0})))
    with pytest.raises(ValueError, match="an expected value"):
        alone.artifact() and BlendedRanker(alone)
    boosted = FusionPolicy(PolicySpec(("click", "order"), ("age",), PolicyConfig(boosts={"new": 2.0})))
    refuses(ValueError, "no item column", BlendedRanker, boosted)
    refuses(ValueError, "boosts is nan", PolicyConfig, boosts={"new": float("nan")})
