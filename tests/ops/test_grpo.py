import pytest
import torch

from pygrade import dirichlet_log_prob, dirichlet_sample, grpo_loss, reference
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close

BACKENDS = ("cpu", "triton")
FLOOR = 1e-5
Group = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def group(batch: int, samples: int, tasks: int, scale: float = 1.0, step: float = 0.3, seed: int = 0) -> Group:
    """concentration, log_weights, old_log_prob, advantages, reference_concentration after a step of the policy."""
    generator = torch.Generator().manual_seed(seed)
    old = (torch.rand(batch, tasks, generator=generator) * 3 + 0.05) * scale
    log_weights = dirichlet_sample(old, samples, seed).log_weights
    old_log_prob = dirichlet_log_prob(old, log_weights, FLOOR)
    advantages = torch.randn(batch, samples, generator=generator)
    advantages[:, ::3] = 0.0
    concentration = old * (1 + step * torch.randn(batch, tasks, generator=generator)).clamp_min(0.3)
    return concentration, log_weights, old_log_prob, advantages, old * 1.2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip": 0.1, "clip_high": 0.3, "kl_coefficient": 0.5, "entropy_coefficient": 0.2},
        {"log_ratio_clamp": 0.05, "weight_floor": 0.0},
        {"clip": 0.0, "weight_floor": 1e-2},
    ],
)
@pytest.mark.parametrize("shape", [(4, 24, 7), (3, 5, 8), (9, 71, 8), (2, 1, 1), (2, 40, 3), (8, 7, 21)])
def test_matches_reference(backend, options, shape):
    concentration, *others = group(*shape)
    concentration.requires_grad_()
    exact = concentration.detach().double().requires_grad_()
    upstream = torch.linspace(0.5, 2.0, shape[0])
    expected = reference.grpo_loss(exact, *(x.double() for x in others), **options)
    expected.loss.backward(upstream.double())
    with dispatch.use_backend(backend):
        found = grpo_loss(concentration, *others, **options)
        found.loss.backward(upstream)
    for mine, theirs in zip(found[:-1], expected, strict=True):
        assert_close(mine.detach(), theirs.detach())
    assert_close(concentration.grad, exact.grad)
    assert_close(found.gradient, exact.grad / upstream[:, None])
    assert not any(part.requires_grad for part in found[1:])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_large_concentrations(backend, scale):
    concentration, *others = group(3, 16, 5, scale, step=0.01 / scale**0.5)
    exact = concentration.double().requires_grad_()
    expected = reference.grpo_loss(exact, *(x.double() for x in others))
    expected.loss.sum().backward()
    with dispatch.use_backend(backend):
        found = grpo_loss(concentration.requires_grad_(), *others)
        found.loss.sum().backward()
    assert_close(found.loss.detach(), expected.loss.detach())
    assert_close(concentration.grad, exact.grad)


@pytest.mark.parametrize("backend", BACKENDS)
def test_advantages_of_zero_leave_only_the_penalties(backend):
    concentration, log_weights, old, advantages, anchor = group(3, 6, 4)
    old[:] = 1e4  # a ratio of any size
    with dispatch.use_backend(backend):
        found = grpo_loss(concentration, log_weights, old, torch.zeros_like(advantages), anchor, kl_coefficient=2.0)
    assert_close(found.loss, 2.0 * found.kl.double())


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_policy_gradient_is_the_score_function(backend):
    concentration, log_weights, _, advantages, _ = group(2, 9, 4, step=0.0)
    old = dirichlet_log_prob(concentration, log_weights, FLOOR)
    alpha = concentration.clone().requires_grad_()
    with dispatch.use_backend(backend):
        found = grpo_loss(alpha, log_weights, old, advantages, concentration, kl_coefficient=0.0)
        found.loss.sum().backward()
    other = concentration.clone().requires_grad_()
    (-(dirichlet_log_prob(other, log_weights, FLOOR) * advantages).mean(-1)).sum().backward()
    assert_close(alpha.grad, other.grad.double())
    assert not found.clip_fraction.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_concentrations(backend):
    concentration, *others, anchor = group(3, 4, 2)
    concentration[1, 0] = -1.0
    with dispatch.use_backend(backend):
        with pytest.raises(ValueError, match=r"concentration\[1, 0\] is -1"):
            grpo_loss(concentration, *others, anchor)
        found = grpo_loss(concentration, *others, anchor, validate=False)
        assert torch.isnan(found.loss[1]) and torch.isfinite(found.loss[[0, 2]]).all()
        anchor[2, 1] = torch.nan
        with pytest.raises(ValueError, match=r"reference_concentration\[2, 1\] is nan"):
            grpo_loss(concentration.abs(), *others, anchor)
