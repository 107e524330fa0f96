"""FusionPolicy: parametrization, inputs, constraints."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrade import dirichlet_log_prob
from pygrade.config.policy import PolicyConfig
from pygrade.policy import FusionPolicy, PolicySpec, project_weights

TASKS = ("click", "cart", "order")
FEATURES = ("hour", "intent")


def make_policy(seed: int = 0, **options: object) -> FusionPolicy:
    return FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(hidden=(8,), **options)), seed=seed)  # type: ignore[arg-type]


def test_untrained_policy_serves_initial_weights() -> None:
    weights = torch.tensor([0.6, 0.3, 0.1])
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES), initial_weights=weights)
    served = policy.serve(torch.zeros(2, policy.num_inputs))
    assert torch.allclose(served, weights.expand(2, 3), atol=0.01)


def test_concentration_is_floor_plus_total_times_share() -> None:
    policy = make_policy(concentration_floor=0.2, total_concentration=7.0)
    alpha = policy(torch.randn(5, policy.num_inputs, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(alpha.sum(-1), torch.full((5,), 3 * 0.2 + 7.0))
    assert bool((alpha > 0.2).all())
    assert make_policy().spec.concentration_floor == pytest.approx(0.1)  # 0.3 / T


def test_inputs_that_do_not_fit_are_named() -> None:
    policy = make_policy()
    count = policy.num_inputs
    inputs = torch.randn(4, count, generator=torch.Generator().manual_seed(0))
    for wrong, message in [
        (inputs[:, :2], rf"inputs is of shape \[4, 2\]; expected \[B, D\] = \[B, {count}\]"),
        (inputs[0], rf"inputs is of shape \[{count}\]; expected \[B, D\] = \[B, {count}\]"),
        (inputs.double(), "inputs is float64; expected float32, such as inputs.float()"),
        (inputs.to("meta"), "inputs is on meta; expected cpu, where the policy is"),
        (inputs.tolist(), "inputs is list; expected a torch tensor or a numpy array"),
    ]:
        for call in (policy, policy.serve):
            with pytest.raises((TypeError, ValueError), match=f"^{message}"):
                call(wrong)
    with pytest.raises(ValueError, match="scenario has 2 names; expected B = 4, one for each request"):
        policy(inputs, ["search", "feed"])
    unknown, infinite = inputs.clone(), inputs.clone()
    unknown[0, 0], infinite[0, 0] = torch.nan, torch.inf
    assert torch.equal(policy(infinite), policy(unknown))
    assert policy.double()(inputs.double()).dtype == torch.float64


def test_scenario_scales_exploration_but_not_what_is_served() -> None:
    policy = make_policy(scenario_exploration={"search": 0.5, "feed": 2.0})
    inputs = torch.randn(3, policy.num_inputs, generator=torch.Generator().manual_seed(1))
    plain = policy(inputs)
    scaled = policy(inputs, np.array(["search", "feed", "other"]))
    assert torch.allclose(scaled, plain * torch.tensor([[0.5], [2.0], [1.0]]))
    assert torch.allclose(scaled / scaled.sum(-1, keepdim=True), plain / plain.sum(-1, keepdim=True))


@pytest.mark.parametrize("scale", ["count", "log", "log1p"])
def test_little_evidence_is_served_the_scenario_s_weights(scale: str) -> None:
    options = {"evidence_feature": "intent", "evidence_scale": scale, "evidence_prior": 3.0}
    policy, plain = make_policy(**options), make_policy()
    for one in (policy, plain):
        one.head.weight.data.mul_(50)
        one.set_static_weights(torch.tensor([0.2, 0.3, 0.5]), {"feed": torch.tensor([0.6, 0.3, 0.1])})
    count = torch.tensor([0.0, 1.0, 3.0, 12.0, float("nan"), 9.0])
    evidence = {"count": count, "log": count.log(), "log1p": count.log1p()}[scale]
    inputs = torch.randn(6, policy.num_inputs, generator=torch.Generator().manual_seed(0))
    inputs[:, 1] = evidence
    scenario = np.array(["feed", "feed", "feed", "other", "feed", "other"])
    share = torch.tensor([1.0, 3 / 4, 3 / 6, 3 / 15, 1.0, 3 / 12])[:, None]
    target = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])[[0, 0, 0, 1, 0, 1]]
    expected = (1 - share) * plain.serve(inputs) + share * target
    torch.testing.assert_close(policy.serve(inputs, scenario), expected, rtol=1e-5, atol=1e-6)
    explored = policy(inputs, scenario)
    torch.testing.assert_close(explored.sum(-1), plain(inputs).sum(-1))
    torch.testing.assert_close(explored / explored.sum(-1, keepdim=True), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(policy.concentration(inputs), plain.concentration(inputs))  # what is trained


def test_evidence_without_a_scenario_leads_to_the_global_weights() -> None:
    policy = make_policy(evidence_feature="intent", evidence_prior=1e9)
    policy.set_static_weights(torch.tensor([0.2, 0.3, 0.5]), {"feed": torch.tensor([0.6, 0.3, 0.1])})
    served = policy.serve(torch.ones(2, policy.num_inputs))
    torch.testing.assert_close(served, torch.tensor([[0.2, 0.3, 0.5]]).expand(2, 3))


def test_seed_fixes_bits_and_leaves_global_generator() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second, other = make_policy(5), make_policy(5), make_policy(6)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.version == second.version != other.version


def test_request_inputs_jagged_equal_direct_formula() -> None:
    policy = make_policy()
    rng = np.random.default_rng(0)
    offsets = np.array([0, 1, 4, 9])
    predictions = rng.uniform(0.001, 1, (9, 3)).astype(np.float32)
    context = rng.standard_normal((3, 2)).astype(np.float32)
    inputs = policy.request_inputs(context, predictions, offsets).numpy()
    for r in range(3):
        logs = np.log(predictions[offsets[r] : offsets[r + 1]].astype(float) + 1e-7)
        expected = np.concatenate([context[r], logs.mean(0), logs.std(0)])
        np.testing.assert_allclose(inputs[r], expected, rtol=1e-5, atol=1e-6)
    dense = policy.request_inputs(context[2:], predictions[4:9][None])
    assert torch.equal(dense, torch.from_numpy(inputs[2:]))


def test_normalization_ignores_missing_and_cuts_outliers() -> None:
    policy = make_policy(context_only=True)
    inputs = torch.tensor([[1.0, 5.0], [3.0, 5.0], [torch.nan, 5.0]])
    policy.fit_normalization(inputs)
    normal = policy.normalize(torch.tensor([[3.0, 5.0], [torch.nan, torch.nan], [1e9, 5.0]]))
    assert torch.allclose(normal, torch.tensor([[1.0, 0.0], [0.0, 0.0], [5.0, 0.0]]))
    assert bool(policy(torch.full((1, 2), torch.nan)).isfinite().all())


@pytest.mark.parametrize(
    ("context", "predictions", "offsets", "named"),
    [
        (np.zeros((2, 3)), np.ones((4, 3)), np.array([0, 2, 4]), "context"),
        (np.zeros((2, 2)), np.ones((4, 2)), np.array([0, 2, 4]), "predictions"),
        (np.zeros((2, 2)), np.ones((4, 3)), np.array([0, 4, 4]), "offsets"),
        (np.zeros((2, 2)), np.ones((4, 3)), None, "predictions"),
    ],
)
def test_request_inputs_names_what_is_wrong(
    context: np.ndarray, predictions: np.ndarray, offsets: np.ndarray | None, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        make_policy().request_inputs(context, predictions, offsets)


weight = st.floats(0.0, 1.0, allow_nan=False, width=32)


@settings(max_examples=60)
@given(st.lists(weight, min_size=4, max_size=4).filter(lambda w: sum(w) > 0.1), st.floats(0, 0.2), st.floats(0.3, 1.0))
def test_projection_complies_and_is_nearest(raw: list[float], low: float, high: float) -> None:
    weights = torch.tensor([raw]) / sum(raw)
    bounds = torch.tensor([[low] * 4, [high] * 4])
    projected = project_weights(weights, bounds)
    assert bool(((projected >= bounds[0]) & (projected <= bounds[1])).all())
    assert abs(float(projected.double().sum()) - 1.0) < 1e-6
    assert torch.allclose(project_weights(projected, bounds), projected, atol=1e-6)
    w, v = weights.double().clamp_min(1e-12), projected.double()
    divergence = (v * (v.clamp_min(1e-12) / w).log()).sum()
    for seed in range(5):  # no other point of the box and simplex is nearer in KL
        other = torch.rand(1, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        other = project_weights(other / other.sum(), bounds)
        assert float((other * (other.clamp_min(1e-12) / w).log()).sum()) >= float(divergence) - 1e-5


def test_projection_keeps_compliant_weights_bit_for_bit() -> None:
    weights = torch.tensor([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]])
    projected = project_weights(weights, torch.tensor([[0.01] * 3, [0.7] * 3]))
    assert torch.equal(projected[0], weights[0])
    assert torch.allclose(projected[1], torch.tensor([0.15, 0.15, 0.7]))


def test_served_weights_always_comply() -> None:
    policy = make_policy(lower=0.05, upper=0.5, minimum={"order": 0.3})
    with torch.no_grad():
        policy.head.weight.mul_(1000)
    served = policy.serve(torch.randn(500, policy.num_inputs, generator=torch.Generator().manual_seed(0)))
    low, high = policy.bounds
    assert torch.allclose(low, torch.tensor([0.05, 0.05, 0.3]))
    assert bool(((served >= low) & (served <= high)).all())
    assert float((served.sum(-1) - 1).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lower": 0.5}, "sum to"),
        ({"upper": 0.1}, "sum to"),
        ({"lower": (0.1, 0.1)}, "lower has 2 bounds"),
        ({"minimum": {"buy": 0.1}}, "'buy'"),
        ({"total_concentration": -1.0}, "total_concentration"),
        ({"concentration_floor": 0.0}, "concentration_floor"),
        ({"scenario_exploration": {"feed": 0.0}}, "feed"),
        ({"transform": "cube"}, "cube"),
        ({"evidence_prior": -1.0}, "evidence_prior is -1.0"),
        ({"evidence_prior": float("inf")}, "evidence_prior is inf"),
        ({"evidence_prior": 1.0}, "evidence_feature is ''; expected one of hour, intent"),
        ({"evidence_prior": 1.0, "evidence_feature": "age"}, "evidence_feature is 'age'"),
        ({"evidence_scale": "root"}, "evidence_scale is 'root'; expected one of count, log, log1p"),
        ({"slope": -1.0}, "slope is -1.0"),
        ({"slope": (1.0, float("inf"))}, "slope is"),
        ({"slope": (1.0, 2.0)}, "slope has 2 numbers"),
    ],
)
def test_config_errors_name_the_option(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_policy(**options)


def test_gradients_reach_every_parameter() -> None:
    policy = make_policy()
    alpha = policy(torch.randn(4, policy.num_inputs, generator=torch.Generator().manual_seed(0)))
    dirichlet_log_prob(alpha, torch.log_softmax(torch.zeros(4, 2, 3), -1)).sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in policy.parameters())
