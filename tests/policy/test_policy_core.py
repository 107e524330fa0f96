"""The C++ reader and evaluation of a saved policy against the Python ones."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrade import _core, reference
from pygrade.config.policy import PolicyConfig
from pygrade.policy import FusionPolicy, PolicySpec
from tests.corrections import random_correction


def save(folder, tasks=("click", "cart", "order"), features=("hour", "intent"), scale=30.0, seed=0, **options):
    policy = FusionPolicy(PolicySpec(tasks, features, PolicyConfig(**options)), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    policy.head.weight.data.mul_(scale)  # so that requests differ
    policy.input_mean.copy_(torch.randn(policy.num_inputs, generator=generator))
    policy.input_std.copy_(torch.rand(policy.num_inputs, generator=generator) + 0.5)
    share = torch.rand(2, len(tasks), generator=generator) + 0.2
    static, search = share / share.sum(-1, keepdim=True)
    policy.set_static_weights(static, {"search": search, "": static.flip(0)})
    policy.save(folder)
    return policy


def evaluate(core, context, predictions, scenario=None, values=None):
    tasks = len(core.tasks)
    inputs, concentration, weights = (np.full(n, np.nan, np.float32) for n in (core.num_inputs, tasks, tasks))
    core.evaluate(context, predictions, scenario, inputs, concentration, weights, values)
    return inputs, concentration, weights


CASES = {
    "default": {"tasks": tuple("abcdefgh"), "features": tuple(f"f{i}" for i in range(22)), "hidden": (64, 64)},
    "odd": {"tasks": tuple("abcde"), "features": ("é", "\U0001f600", 'quo"te\\\n\x7f'), "hidden": (7, 33, 1)},
    "one task": {"tasks": ("only",), "features": (), "hidden": (5,)},
    "no prediction features": {"context_only": True, "hidden": (130,), "transform": "rank"},
    "scenarios": {"scenario_exploration": {"search": 0.5, "feed": 2.0}, "concentration_floor": 0.7, "hidden": (16,)},
    "product": {"transform": "log1p", "slope": (0.0, 2.5, 30.0)},
    "evidence": {"evidence_feature": "hour", "evidence_prior": 0.7, "scenario_exploration": {"search": 0.5}},
    "evidence, log": {"evidence_feature": "hour", "evidence_scale": "log", "evidence_prior": 2.0, "upper": 0.4},
    "evidence, log1p": {"evidence_feature": "hour", "evidence_scale": "log1p", "evidence_prior": 1.0},
    "no evidence": {"evidence_feature": "intent", "evidence_prior": 0.1},
    "tight box": {"lower": (0.2, 0.3, 0.1), "upper": 0.5, "minimum": {"order": 0.15}, "scale": 900.0},
    "trade-offs": {"trade_offs": True, "values": {"cart": 3.0}, "scenario_values": {"search": {"click": 0.0}}},
    "trade-offs of the context": {"trade_offs": True, "context_only": True, "frozen": {"order": 0.3}},
    "indicators": {"indicators": ("intent", "hour"), "trade_offs": True},
    "indicators of the context": {"indicators": ("intent",), "context_only": True, "evidence_feature": "hour"},
    "wide": {"tasks": tuple(f"t{i}" for i in range(64)), "features": (), "lower": 0.0, "upper": 1.0},
}


def test_the_core_corrects_what_the_network_reads(tmp_path):
    policy = save(tmp_path)
    policy.correction = random_correction(tasks=policy.tasks, features=policy.features, form="marginal")
    policy.spec = replace(policy.spec, config=replace(policy.config, corrected=True))
    core = _core.Policy(*policy.artifact())
    rng = np.random.default_rng(0)
    context, predictions = np.array([0.5, np.nan], np.float32), rng.uniform(0, 1, (40, 3)).astype(np.float32)
    items = rng.normal(size=(40, 2)).astype(np.float32)
    for columns in (items, None):
        inputs, concentration, weights = (np.full(n, np.nan, np.float32) for n in (8, 3, 3))
        core.evaluate(context, predictions, None, inputs, concentration, weights, items=columns)
        expected = policy.request_inputs(context[None], predictions[None], items=columns)
        np.testing.assert_allclose(inputs, expected[0].numpy(), rtol=1e-6, atol=1e-6, equal_nan=True)
        np.testing.assert_allclose(weights, policy.serve(expected)[0].numpy(), rtol=1e-5)
    raw = policy.spec.request_inputs(context[None], predictions[None])
    assert not torch.allclose(raw, expected, equal_nan=True)
    with pytest.raises(ValueError, match=r"items is of shape \[40, 1\]"):
        core.evaluate(context, predictions, None, inputs, concentration, weights, items=items[:, :1].copy())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [1, 3, 500, 2501])
def test_forward_agrees_with_torch(case, rows, tmp_path):
    policy = save(tmp_path, **CASES[case])
    core = _core.Policy.load(str(tmp_path))
    assert core.version == policy.version
    assert core.schema_hash == policy.schema_hash()
    assert tuple(core.tasks) == policy.tasks and tuple(core.features) == policy.features
    rng = np.random.default_rng(rows)
    context = rng.standard_normal(len(policy.features)).astype(np.float32) * 3
    if len(context) > 1:
        context[1] = np.nan  # unknown
    predictions = (rng.uniform(0, 1, (rows, len(policy.tasks))) ** 6).astype(np.float32)
    predictions[0, 0] = 0.0
    given = np.array([np.nan, 0.0, 2.5], np.float32) if policy.config.trade_offs else None
    for scenario in (None, "search", "other"):
        inputs, concentration, weights = evaluate(core, context, predictions, scenario, given)
        own = policy.spec.own_values(policy.spec.task_values, None if scenario is None else [scenario], 1)
        u = policy.spec.multipliers(own if given is None else np.where(np.isnan(given), own, given))
        expected = policy.request_inputs(context[None], predictions[None], None, u)
        np.testing.assert_allclose(inputs, expected[0].numpy(), rtol=1e-6, atol=1e-6, equal_nan=True)
        with torch.no_grad():
            names = None if scenario is None else [scenario]
            alpha = policy(expected, names)[0].numpy()
        np.testing.assert_allclose(concentration, alpha, rtol=1e-5)
        np.testing.assert_allclose(weights, policy.serve(expected, names)[0].numpy(), rtol=1e-5, atol=1e-7)
        low, high = policy.bounds.numpy()
        assert ((weights >= low) & (weights <= high)).all()
        assert abs(weights.astype(float).sum() - 1) < 1e-6


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sets(st.integers(1, 4096), min_size=1, max_size=40), st.integers(0, 100))
def test_a_piecewise_linear_map_agrees_with_the_reference(places, count):
    x = torch.tensor([0, *sorted(places)]) / 4096
    rng = np.random.default_rng(count)
    y = torch.from_numpy(np.sort(rng.uniform(0, 3, len(x))).astype(np.float32))
    values = np.concatenate([rng.uniform(0, 1.5, count), x.numpy()]).astype(np.float32)
    result = np.empty_like(values)
    _core.piecewise_linear(values, x.tolist(), y.tolist(), result)
    expected = reference.piecewise_linear(torch.from_numpy(values).double(), x.double(), y.double()).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert (result[-len(x) : -1] == y.numpy()[:-1]).all()  # knots are met exactly


name = st.text(st.characters(exclude_categories=("Cs",)), max_size=4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(name, min_size=1, max_size=5, unique=True), st.lists(name, max_size=5), st.booleans())
def test_schema_hash_of_any_names_is_reproduced(tmp_path_factory, tasks, features, context_only):
    context_only = context_only and bool(features)
    folder = tmp_path_factory.mktemp("policy")
    policy = save(folder, tasks, features, hidden=(2,), context_only=context_only, upper=1.0)
    assert _core.Policy.load(str(folder)).schema_hash == policy.schema_hash()
    shutil.rmtree(folder)


def test_extra_may_hold_any_json(tmp_path):
    policy = FusionPolicy(PolicySpec(("a", "b"), ("x",), PolicyConfig(hidden=(2,))))
    policy.save(tmp_path, {"loss": float("nan"), "best": float("inf"), "deep": [{"a": [1e-300, -1, "é\n"]}]})
    assert _core.Policy.load(str(tmp_path)).version == policy.version
