import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pygrade import lambda_loss, reference
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close, same_bits

BACKENDS = ("cpu", "triton", "reference")
DISCOUNT = 1.0 / torch.log2(torch.arange(10) + 2.0)


def problem(batch: int, count: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, count, generator=generator)
    if count > 3:
        scores[:, 1] = scores[:, 3]  # ties
    gains = torch.randint(0, 4, (batch, count), generator=generator).float()
    gains *= torch.rand(batch, count, generator=generator) < 0.4
    mask = torch.rand(batch, count, generator=generator) < 0.7
    return scores, gains, mask


def expected(scores, gains, mask, temperature, upstream):
    exact = scores.double().requires_grad_()
    loss = reference.lambda_loss(exact, gains.double(), mask, DISCOUNT.double(), temperature)
    (gradient,) = torch.autograd.grad((loss * upstream.double()).sum(), exact)
    return loss.detach(), gradient


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(5, 40), (3, 7), (2, 1), (0, 4), (2, 0), (1, 200)])
@pytest.mark.parametrize(("masked", "temperature"), [(False, 1.0), (True, 0.3)])
def test_matches_reference_forward_and_gradient(backend, shape, masked, temperature):
    scores, gains, mask = problem(*shape)
    chosen = mask if masked else None
    upstream = torch.linspace(-1.0, 2.0, shape[0])
    loss, gradient = expected(scores, gains, chosen, temperature, upstream)
    scores.requires_grad_()
    with dispatch.use_backend(backend):
        actual = lambda_loss(scores, gains, chosen, DISCOUNT, temperature)
        (slope,) = torch.autograd.grad((actual * upstream).sum(), scores)
    assert_close(actual.detach(), loss)
    assert_close(slope, gradient)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_values_are_not_read(backend):
    scores, gains, mask = problem(4, 12)
    with dispatch.use_backend(backend):
        clean = lambda_loss(scores, gains, mask, DISCOUNT)
        dirty = lambda_loss(scores.masked_fill(~mask, torch.nan), gains.masked_fill(~mask, torch.nan), mask, DISCOUNT)
    assert same_bits(dirty, clean)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_margins_stay_finite(backend):
    scores = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    with dispatch.use_backend(backend):
        loss = lambda_loss(scores, torch.tensor([[1.0, 0.0, 0.0]]), None, DISCOUNT, 0.01)
        (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert torch.isfinite(loss).all() and torch.isfinite(gradient).all() and gradient[0, 0] < 0


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # the interpreter runs on numpy: inf - inf is not used
@pytest.mark.parametrize("kind", ["equal", "rising", "zeros", "infinite", "one gain"])
def test_the_kernel_agrees_with_the_core_in_the_corners(kind):
    """37 candidates: more than a tile of the kernel, and not a multiple of it."""
    scores, gains, mask = problem(3, 37)
    place = torch.arange(37)
    if kind == "equal":
        scores = torch.full_like(scores, 0.25)
    elif kind == "rising":
        scores = scores.sort(1).values
    elif kind == "zeros":
        scores = torch.where(place % 2 == 0, 0.0, -0.0).expand(3, -1).contiguous()
    elif kind == "infinite":
        scores[:, 0], gains[:, 0] = -torch.inf, 0.0
        mask[:, 0] = True
    else:
        gains = torch.ones_like(gains)
    results = {}
    for backend in ("cpu", "triton"):
        leaf = scores.clone().requires_grad_()
        with dispatch.use_backend(backend):
            loss = lambda_loss(leaf, gains, mask, DISCOUNT, 0.5)
        results[backend] = loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]
    for actual, wanted in zip(results["triton"], results["cpu"], strict=True):
        assert_close(actual, wanted.double())
    if kind == "one gain":
        assert not results["triton"][0].any() and not results["triton"][1].any()


@given(seed=st.integers(0, 999), count=st.integers(2, 30))
def test_properties(seed, count):
    scores, gains, _ = problem(2, count, seed)
    scores += torch.arange(count) * 1e-4  # no ties, which a permutation would resolve differently
    loss = lambda_loss(scores, gains, None, DISCOUNT)
    assert (loss >= 0).all()
    assert (loss[gains.amax(1) == gains.amin(1)] == 0).all()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    assert_close(lambda_loss(scores[:, order], gains[:, order], None, DISCOUNT), loss.double())
    assert_close(lambda_loss(scores, gains * 4.0, None, DISCOUNT), loss.double() * 4.0)


def test_nan_that_nobody_checks_stays_nan():
    scores, gains, _ = problem(2, 5)
    assert torch.isnan(lambda_loss(scores * torch.nan, gains, None, DISCOUNT, validate=False)).any()
