import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.policy.alone import rank_by
from pygrade.policy.mixture import mix_scores, request_values
from tests.refusals import refuses

TASKS = ("click", "buy")
EV = Baseline("expected value", "identity", (1.0, 20.0), logarithm=True)


def z(values):
    return (values - values.mean(-1, keepdims=True)) / (values.std(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("mixture_weight", [0.0, 0.3, 1.0])
def test_scores_are_the_formula(mixture_weight):
    rng = np.random.default_rng(0)
    p, context = rng.beta(1, 5, (7, 9, 2)).astype(np.float32), rng.normal(size=(7, 1)).astype(np.float32)
    policy = FusionPolicy(PolicySpec(TASKS, ("x",)), (0.3, 0.7))
    alone = policy.scores(context, p).astype(np.float64)
    policy.mixture = Mixture(mixture_weight, EV)
    expected = (1 - mixture_weight) * z(np.log(p.astype(float) @ [1.0, 20.0] + 1e-7)) + mixture_weight * z(alone)
    found = policy.scores(context, p)
    np.testing.assert_allclose(found, alone if mixture_weight == 1 else expected, atol=2e-5)
    jagged = policy.scores(context, p.reshape(-1, 2), np.arange(8) * 9)
    assert (jagged.reshape(7, 9) == found).all()
    if mixture_weight < 1:
        parts = rank_by(policy, EV).scores(context, p).ravel(), alone.ravel()
        offsets = np.array([0, *range(0, 64, 9)])  # the first request has no candidate
        assert mix_scores(*parts, mixture_weight, offsets).tobytes() == found.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture_weight": 1.5}, "mixture_weight is 1.5"),
        ({"other": np.ones(3)}, "other is of shape"),
        ({"offsets": np.array([0, 3])}, "offsets must ascend from 0 to the number of rows, 4"),
    ],
)
def test_scores_that_do_not_mix_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        mix_scores(
            **{"base": np.ones(4), "other": np.ones(4), "mixture_weight": 0.5, "offsets": np.array([0, 4])} | change
        )


def test_values_turn_the_baseline_and_reach_the_inputs():
    rng = np.random.default_rng(1)
    p, context = rng.beta(1, 5, (5, 8, 2)).astype(np.float32), np.zeros((5, 1), np.float32)
    policy = FusionPolicy(PolicySpec(TASKS, ("x",), PolicyConfig(trade_offs=True, values={"buy": 2.0})))
    policy.mixture = Mixture(0.0, EV)
    found = policy.scores(context, p, values={"click": 0.0})
    assert (np.argsort(-found) == np.argsort(-p[..., 1])).all()  # of what clicks are worth nothing is left
    inputs = policy.request_inputs(
        context, p, None, policy.spec.multipliers(policy.spec.own_values((1.0, 1.0), None, 5))
    )
    assert inputs[:, -2:].numpy() == pytest.approx(np.tile([0.0, math.log(2.0)], (5, 1)), abs=1e-6)
    assert policy.num_inputs == 1 + 4 + 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1.0}, "names task 'share'"),
        (np.ones((2, 2)), "shape"),
        ([{"click": 1.0}], "1 mappings"),
        ("abc", "values is 'abc'"),
    ],
)
def test_wrong_values_are_named(values, message):
    refuses(ValueError, message, request_values, values, TASKS, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "square"}, "transform is"),
        ({"weights": (0.0, 0.0)}, "weights is"),
        ({"weights": (1.0, math.nan)}, "weights is"),
        ({"weights": (-1.0, 1.0)}, "logarithm needs"),
        ({"calibration": (((0.0, 1.0), (0.0, 1.0)),)}, "calibration has 1 maps"),
        ({"calibration": (((0.1, 1.0), (0.0, 1.0)),) * 2}, "x from 0"),
        ({"name": "x" * 64}, "name is"),
    ],
)
def test_wrong_baselines_are_named(options, message):
    good = {"name": "b", "transform": "identity", "weights": (1.0, 2.0), "logarithm": True}
    refuses(ValueError, message, Baseline, **good | options)


def test_the_version_covers_what_is_served_and_not_the_words():
    policy = FusionPolicy(PolicySpec(TASKS, ("x",)))
    versions = [policy.version]
    made = ((0.5, "a", "better"), (0.5, "a", "untested"), (0.6, "a", "better"), (0.5, "b", "better"))
    for mixture_weight, name, verdict in made:
        policy.mixture = Mixture(mixture_weight, Baseline(name, "zlog", (0.5, 0.5)), verdict)
        versions.append(policy.version)
    assert versions[1] == versions[2] and len({*versions}) == 4
    refuses(ValueError, "mixture_weight is", Mixture, 1.5, EV)
    refuses(ValueError, "verdict is", Mixture, 0.5, EV, "good")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reasons": ("a", "b", "c", "d")}, "reasons has 4 lines; expected at most 3"),
        ({"lift": (0.1, 0.0)}, "lift is"),
        ({"lift": (0.1, math.nan, 0.2)}, "lift is"),
        ({"weeks": 0.0}, "weeks is 0.0"),
        ({"weeks": math.inf}, "weeks is inf"),
    ],
)
def test_wrong_words_of_the_verdict_are_named(options, message):
    refuses(ValueError, message, Mixture, 0.5, EV, **options)


def test_the_verdict_s_words_do_not_change_the_version_and_come_back():
    policy = FusionPolicy(PolicySpec(TASKS, ("x",)))
    words = {"sentence": "Test it.", "detail": "z 3", "reasons": ("a", "b"), "lift": (0.1, 0.0, 0.2), "weeks": 3.0}
    policy.mixture = Mixture(0.5, EV)
    version = policy.version
    policy.mixture = Mixture(0.5, EV, **words)
    assert policy.version == version
    record = json.loads(json.dumps(asdict(policy.mixture)))
    assert Mixture.from_dict(record) == policy.mixture


def test_whose_scores_count():
    other = Baseline("other", "zlog", (0.5, 0.5))
    assert Mixture(0.5, EV).ranked_by == (EV,) and Mixture(1.0, EV).ranked_by == ()
    assert Mixture(0.5, EV, challenger=other).ranked_by == (other, EV)
    assert Mixture(0.0, EV, challenger=other).ranked_by == (EV,)
    assert Mixture(1.0, EV, challenger=other).ranked_by == (other,)
    assert [Mixture(mixture_weight, EV).uses_network for mixture_weight in (0.0, 0.5, 1.0)] == [False, True, True]
    assert not Mixture(0.5, EV, challenger=other).uses_network


@pytest.mark.parametrize("mixture_weight", [0.0, 0.4, 1.0])
def test_a_challenger_takes_the_network_s_place(mixture_weight):
    rng = np.random.default_rng(0)
    p, context = rng.beta(1, 5, (7, 9, 2)).astype(np.float32), np.zeros((7, 1), np.float32)
    policy = FusionPolicy(PolicySpec(TASKS, ("x",)), (0.3, 0.7))
    policy.mixture = Mixture(mixture_weight, EV, challenger=Baseline("static", "identity", (1.0, 0.1)))
    challenger, base = p.astype(float) @ [1.0, 0.1], np.log(p.astype(float) @ [1.0, 20.0] + 1e-7)
    expected = challenger if mixture_weight == 1 else (1 - mixture_weight) * z(base) + mixture_weight * z(challenger)
    np.testing.assert_allclose(policy.scores(context, p), expected, atol=2e-5)


@pytest.mark.parametrize("transform", ["zlog", "identity"])
def test_prices_multiply_predictions_of_value_tasks(transform):
    rng = np.random.default_rng(0)
    p, prices = rng.beta(1, 5, (7, 9, 2)).astype(np.float32), rng.uniform(0.5, 2, (7, 9)).astype(np.float32)
    context = np.zeros((7, 1), np.float32)
    options = {"transform": transform, "context_only": True}
    priced, plain = (
        FusionPolicy(PolicySpec(TASKS, ("x",), PolicyConfig(value_tasks=tasks, **options)), (0.3, 0.7))
        for tasks in (("buy",), ())
    )
    times = p.copy()
    times[..., 1] *= prices
    found = priced.scores(context, p, item_values=prices)
    assert found.tobytes() == plain.scores(context, times).tobytes()
    assert priced.schema_hash() != plain.schema_hash()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_tasks": ("share",)}, "value_tasks names 'share'; expected one of click, buy"),
        ({"value_tasks": ("buy", "buy")}, "value_tasks is buy, buy; expected each name once"),
        ({"indicators": ("y",)}, "indicators names 'y'; expected one of x"),
        ({"indicators": ("x", "x")}, "indicators is x, x"),
    ],
)
def test_wrong_names_of_the_config_are_named(options, message):
    refuses(ValueError, message, lambda: PolicySpec(TASKS, ("x",), PolicyConfig(**options)))


def test_indicators_are_inputs_of_what_is_missing():
    policy = FusionPolicy(PolicySpec(TASKS, ("x", "y"), PolicyConfig(indicators=("y",), trade_offs=True)))
    context = np.array([[1.0, 2.0], [np.nan, 3.0], [4.0, np.inf]], np.float32)
    inputs = policy.request_inputs(context, np.full((3, 4, 2), 0.5, np.float32))
    assert inputs.shape == (3, 2 + 1 + 4 + 2) == (3, policy.num_inputs)
    assert inputs[:, 2].tolist() == [0.0, 0.0, 1.0]
    np.testing.assert_array_equal(inputs[:, :2], np.where(np.isinf(context), np.nan, context))


def test_a_request_without_a_known_feature_is_served_static_weights():
    policy = FusionPolicy(PolicySpec(TASKS, ("x", "y")), (0.3, 0.7))
    policy.set_static_weights(torch.tensor([0.4, 0.6]), {"feed": torch.tensor([0.6, 0.4])})
    context = np.array([[1.0, np.nan], [np.nan, np.inf], [np.nan, np.nan]], np.float32)
    weights = policy.serve(policy.request_inputs(context, np.full((3, 4, 2), 0.5, np.float32)), ["", "feed", "other"])
    np.testing.assert_allclose(weights[1:], [[0.6, 0.4], [0.4, 0.6]], rtol=1e-6)
    assert not np.allclose(weights[0], weights[2])


def test_frozen_weights_are_served_as_they_are():
    policy = FusionPolicy(PolicySpec(("a", "b", "c"), ("x",), PolicyConfig(frozen={"b": 0.25})))
    with torch.no_grad():
        policy.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    weights = policy.serve(torch.randn(20, policy.num_inputs, generator=torch.Generator().manual_seed(1)))
    assert (weights[:, 1] == 0.25).all() and weights.sum(1).numpy() == pytest.approx(np.ones(20), abs=1e-5)
    with pytest.raises(ValueError, match="frozen names task 'd'"):
        PolicySpec(("a", "b", "c"), ("x",), PolicyConfig(frozen={"d": 0.25}))
