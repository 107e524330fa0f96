"""The network of a policy in the C++ core, against the float64 reference, torch, and itself on other machines."""

import copy

import pytest
import torch
from torch import nn

from pygrade import _core
from pygrade.config.policy import PolicyConfig
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.policy.fused_network import FusedNetwork, clip_factor, is_fast, why_not_fused
from pygrade.reference import policy_network as reference
from pygrade.reference.tolerances import assert_close, same_bits
from tests.refusals import refuses


def policy_of(tasks=5, features=7, hidden=(64, 64), seed=0, scale=8.0, **options) -> FusionPolicy:
    """A policy whose α differ between requests, with inputs that need normalization."""
    names = tuple(f"t{i}" for i in range(tasks)), tuple(f"f{i}" for i in range(features))
    policy = FusionPolicy(PolicySpec(*names, PolicyConfig(hidden=hidden, **options)), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    policy.head.weight.data.mul_(scale)
    policy.input_mean.copy_(torch.randn(policy.num_inputs, generator=generator))
    policy.input_std.copy_(torch.rand(policy.num_inputs, generator=generator) + 0.5)
    return policy


def batch_of(policy: FusionPolicy, rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Raw inputs with the trouble that logs have, factors, and the gradient of a loss by α."""
    generator = torch.Generator().manual_seed(seed)
    inputs = 2.0 * torch.randn(rows, policy.num_inputs, generator=generator)
    inputs[::7, 0] = torch.nan
    inputs[1::7, -1] = torch.inf
    inputs[2::7, 0] = -1e30
    factor = torch.rand(rows, generator=generator) + 0.5
    return inputs, factor, torch.randn(rows, len(policy.tasks), generator=generator) / max(rows, 1)


def exact(policy: FusionPolicy, inputs, factor=None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """α in float64, and the parameters that it can be differentiated by."""
    parameters = [parameter.detach().double().requires_grad_() for parameter in policy.parameters()]
    options = policy.spec.concentration_floor, policy.config.total_concentration
    normalization = policy.input_mean.double(), policy.input_std.double()
    wide = None if factor is None else factor.double()
    return reference.concentration(parameters, inputs.double(), *normalization, *options, wide), parameters


def flat(parts) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


SHAPES = {
    "default": {"tasks": 8, "features": 16},
    "narrow": {"tasks": 1, "features": 1, "hidden": (1,)},
    "odd": {"tasks": 5, "features": 3, "hidden": (7, 33, 1)},
    "wide": {"tasks": 64, "features": 30, "hidden": (130,)},
    "sharp": {"tasks": 3, "features": 3, "hidden": (16,), "scale": 300.0, "total_concentration": 200.0},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 64, 257])
def test_matches_the_reference(shape, rows):
    policy = policy_of(**SHAPES[shape])
    inputs, factor, slope = batch_of(policy, rows)
    network = FusedNetwork(policy)
    for given_factor in (None, factor):
        expected, parameters = exact(policy, inputs, given_factor)
        assert_close(network.concentration(inputs, given_factor), expected.detach())
        alpha = network.forward(inputs, given_factor)
        assert same_bits(alpha, network.concentration(inputs, given_factor))
        gradient, norm = network.gradient(slope)
        expected.backward(slope.double())
        wanted = flat(parameter.grad for parameter in parameters)
        size = wanted.abs().max()
        assert_close(gradient / size.float(), wanted / size)
        assert norm == pytest.approx(float(wanted.norm()), rel=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_and_clipping_match_reference_and_torch(decay):
    policy = policy_of(tasks=3, features=2, hidden=(20,))
    network, twin = FusedNetwork(policy), copy.deepcopy(policy)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=decay)
    wide = flat(parameter.detach().double() for parameter in policy.parameters())
    first, second = torch.zeros_like(wide), torch.zeros_like(wide)
    adam = network.new_adam()
    adam.weight_decay = decay
    sizes = [parameter.numel() for parameter in policy.parameters()]
    for step in range(1, 21):
        gradient = torch.randn(len(wide), generator=torch.Generator().manual_seed(step))
        norm = float(gradient.norm())
        factor = clip_factor(norm, 1.0 if step % 2 else 1e6)
        assert factor == reference.clip_factor(norm, 1.0 if step % 2 else 1e6) <= 1.0
        network.step(adam, gradient, 0.01, factor)
        scaled = factor * gradient.double()
        wide, first, second = reference.adam(wide, scaled, first, second, step, 0.01, weight_decay=decay)
        for parameter, part in zip(twin.parameters(), gradient.split(sizes), strict=True):
            parameter.grad = part.reshape(parameter.shape).clone()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0 if step % 2 else 1e6)
        optimizer.step()
    assert adam.steps == 20
    assert_close(adam.first, first)
    assert_close(adam.second, second)
    assert_close(flat(policy.parameters()).detach(), wide)
    assert_close(flat(twin.parameters()).detach(), wide)


def test_it_trains_the_policy_itself_and_leaves_the_rest():
    policy = policy_of()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    inputs, _, slope = batch_of(policy, 100)
    network, adam = FusedNetwork(policy), FusedNetwork(policy).new_adam()
    network.forward(inputs)
    gradient, _ = network.gradient(slope)
    network.step(adam, gradient, 1e-3)
    changed = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, _ in policy.named_parameters()}
    assert_close(network.concentration(inputs), exact(policy, inputs)[0].detach())
    policy.load_state_dict(before)  # as a resumed training does
    assert_close(network.concentration(inputs), exact(policy, inputs)[0].detach())


class OtherPolicy(FusionPolicy):
    def concentration(self, inputs, factor=None):
        return super().concentration(inputs, factor) + 1.0


def changed(change) -> FusionPolicy:
    policy = policy_of(3, 2, (8,))
    change(policy)
    return policy


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: OtherPolicy(PolicySpec(("a", "b"), ("x",), PolicyConfig())), "OtherPolicy has a network of its own"),
        (lambda: changed(lambda p: p.double()), "not contiguous float32"),
        (lambda: changed(lambda p: p.to("meta")), "on meta"),
        (lambda: changed(lambda p: p.body.__setitem__(1, nn.ReLU())), "not all SiLU"),
        (lambda: changed(lambda p: p.body.__setitem__(0, nn.Linear(8, 8, bias=False))), "not all linear ones"),
    ],
)
def test_policies_that_the_core_does_not_cover(make, reason):
    policy = make()
    assert reason in why_not_fused(policy)
    refuses(ValueError, reason, FusedNetwork, policy)
    assert why_not_fused(policy_of()) == ""


def test_arguments_are_named():
    policy = policy_of(3, 2, (8,))
    network = FusedNetwork(policy)
    inputs, factor, slope = batch_of(policy, 4)
    refuses(RuntimeError, "forward pass", network.gradient, slope)
    refuses(ValueError, "inputs is of shape", network.forward, inputs[:, 1:])
    refuses(ValueError, "factor is of shape", network.forward, inputs, factor[:3])
    refuses(TypeError, "inputs is float64", lambda: network.concentration(inputs.double()))
    network.forward(inputs)
    refuses(ValueError, "slope", network.gradient, slope[:3])
    with pytest.raises(ValueError, match="learning_rate is -1"):
        network.step(network.new_adam(), network.gradient(slope)[0], -1.0)
    with pytest.raises(ValueError, match="weights and bias"):
        _core.PolicyNetwork([policy.head.weight.detach()], policy.input_mean, policy.input_std, 0.1, 1.0)


def test_it_is_fast_where_kernels_fuse():
    assert is_fast() == (_core.active_isa() != "baseline")
