"""Plain eager calls on a CPU carry their gradient past torch's dispatcher; everything else takes the registered ops."""

import pytest
import torch

from devtools.tolerances import assert_close, same_bits
from pygrade import dirichlet_entropy, dirichlet_kl, dirichlet_log_prob, dirichlet_sample, grpo_loss, lambda_loss


def _problem():
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(11, 5, generator=generator) + 0.5
    logs = dirichlet_sample(alpha, 9, seed=1).log_weights
    return alpha, logs, torch.randn(11, 9, generator=generator)


def _calls():
    alpha, logs, advantages = _problem()
    old = dirichlet_log_prob(alpha, logs, 1e-5)
    discount = torch.tensor([1.0, 0.5, 0.25])
    return {
        "log_prob": lambda a: dirichlet_log_prob(a, logs, 1e-5),
        "entropy": dirichlet_entropy,
        "kl": lambda a: dirichlet_kl(a, alpha + 0.5),
        "grpo": lambda a: grpo_loss(a, logs, old, advantages, alpha + 0.5).loss,
        "lambda": lambda a: lambda_loss(a, alpha, None, discount),
    }


class _Seen(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names = [*getattr(self, "names", []), function.name()]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", list(_calls()))
def test_equals_the_registered_op(name):
    call, argument = _calls()[name], _problem()[0].requires_grad_()
    value = call(argument)
    assert type(value.grad_fn).__name__ in ("_ScaledBackward", "_ComputedBackward")
    upstream = torch.linspace(-1.0, 2.0, value.numel()).view(value.shape)
    (gradient,) = torch.autograd.grad(value, argument, upstream)
    mode = _Seen()
    with mode:
        expected = call(argument)
    assert any(seen.startswith("pygrade::") for seen in mode.names)
    assert "_Scaled" not in type(expected.grad_fn).__name__
    assert same_bits(value.detach(), expected.detach())
    assert_close(gradient, torch.autograd.grad(expected, argument, upstream)[0].double())


@pytest.mark.parametrize("name", list(_calls()))
def test_differentiating_twice_is_an_error(name):
    argument = _problem()[0].requires_grad_()
    (gradient,) = torch.autograd.grad(_calls()[name](argument).square().sum(), argument, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_changed_log_weights_are_noticed():
    alpha, logs, _ = _problem()
    value = dirichlet_log_prob(alpha.requires_grad_(), logs)
    logs += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


@pytest.mark.parametrize("name", list(_calls()))
def test_no_gradient_where_none_is_asked_for(name):
    call, argument = _calls()[name], _problem()[0].requires_grad_()
    with torch.no_grad():
        assert not call(argument).requires_grad
    assert not call(argument.detach()).requires_grad
