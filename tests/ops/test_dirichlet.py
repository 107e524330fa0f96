import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pygrade import (
    _core,
    dirichlet_entropy,
    dirichlet_kl,
    dirichlet_log_prob,
    dirichlet_sample,
    dirichlet_score,
    floor_log_weights,
    grpo_loss,
    reference,
)
from pygrade.ops import dirichlet as ops
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close, same_bits
from tests.refusals import refuses

BACKENDS = ("cpu", "triton")
ROWS = [
    [0.5, 1.0, 2.0, 5.0, 0.1, 3.0, 10.0, 1.5],
    [100.0, 200.0, 300.0, 50.0, 20.0, 1000.0, 3.0, 7.0],
    [1.0] * 8,
    [1e-3] * 8,
    [1e-3, 1e3] * 4,
    [1e6] * 8,
    [1e-30] * 8,
]


def rows(tasks: int = 8, count: int = len(ROWS)) -> torch.Tensor:
    return torch.tensor(ROWS)[:count, :tasks].contiguous()


def some_log_weights(batch: int, samples: int, tasks: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 3.0 * torch.randn(batch, samples, tasks, generator=generator)
    return torch.log_softmax(logits, -1)


# --- the contract of a draw ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 3, 6, 8])
@pytest.mark.parametrize(("seed", "offset"), [(7, 0), (2**63 + 5, 2**32 - 2), (-1, 2**40)])
def test_triton_draws_the_same_bits(tasks, seed, offset):
    concentration = rows(tasks)
    ours = dirichlet_sample(concentration, 20, seed, offset)
    with dispatch.use_backend("triton"):
        theirs = dirichlet_sample(concentration, 20, seed, offset)
    assert same_bits(theirs.weights, ours.weights)
    assert same_bits(theirs.log_weights, ours.log_weights)
    assert_close(theirs.log_prob, ours.log_prob)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_every_instruction_set_draws_the_same_bits(isa, tmp_path):
    code = """
import sys, torch
from pygrade import _core, dirichlet_sample
torch.set_num_threads(1)
concentration = torch.load(sys.argv[1], weights_only=True)
torch.save([_core.active_isa(), *dirichlet_sample(concentration, 37, 11, 3)], sys.argv[2])
"""
    torch.save(rows(7), tmp_path / "in")
    paths = [str(tmp_path / "in"), str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, env={**os.environ, "PYGRADE_ISA": isa})
    active, *found = torch.load(tmp_path / "out", weights_only=True)
    assert active == isa
    ours = dirichlet_sample(rows(7), 37, 11, 3)
    for mine, other in zip(ours, found, strict=True):
        assert same_bits(other, mine)


def test_threads_and_flushed_denormals_change_nothing():
    concentration = torch.rand(3000, 5, generator=torch.Generator().manual_seed(1)) + 1e-3
    one = dirichlet_sample(concentration, 9, 5, num_threads=1)
    five = dirichlet_sample(concentration, 9, 5, num_threads=5)
    assert torch.set_flush_denormal(True)
    try:
        flushed = dirichlet_sample(concentration, 9, 5, num_threads=1)
        assert (torch.tensor(2.0**-140) * 1.0).item() == 0.0  # the caller's mode came back
    finally:
        torch.set_flush_denormal(False)
    denormal = (one.weights > 0) & (one.weights < 2.0**-126)
    assert denormal.any()
    for a, b, c in zip(one, five, flushed, strict=True):
        assert same_bits(b, a) and same_bits(c, a)


@given(cut=st.integers(0, 6), samples=st.integers(1, 70), seed=st.integers(-(2**63), 2**64 - 1))
def test_a_batch_drawn_in_parts_is_the_whole(cut, samples, seed):
    concentration = rows(6)
    whole = dirichlet_sample(concentration, samples, seed, 2**32 - 3)
    head = dirichlet_sample(concentration[:cut], samples, seed, 2**32 - 3)
    tail = dirichlet_sample(concentration[cut:], max(samples // 2, 1), seed, 2**32 - 3 + cut)
    assert same_bits(whole.log_weights[:cut], head.log_weights)
    assert same_bits(whole.log_weights[cut:, : max(samples // 2, 1)], tail.log_weights)


def test_seed_and_offset_matter():
    concentration = torch.ones(1, 4)
    drawn = [
        dirichlet_sample(concentration, 1, s, o).weights for s, o in ((0, 0), (1, 0), (2**32, 0), (0, 1), (0, 2**32))
    ]
    flat = torch.stack(drawn).reshape(5, 4)
    assert len({tuple(row) for row in flat.tolist()}) == 5
    repeated = dirichlet_sample(torch.ones(5, 4), 6, 0)
    assert repeated.weights.reshape(-1, 4).unique(dim=0).shape[0] == 30  # rows and samples differ too


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_are_finite_and_consistent(backend):
    concentration = rows()
    with dispatch.use_backend(backend):
        sample = dirichlet_sample(concentration, 12, 3)
    assert_close(sample.weights.sum(-1), torch.ones(len(ROWS), 12).double())
    assert torch.isfinite(sample.log_weights).all() and (sample.log_weights <= 0).all()
    assert torch.isfinite(sample.log_prob).all()
    assert (sample.weights[6] == 0).any() and sample.log_weights[6].min() < -1e28
    assert_close(sample.weights, sample.log_weights.double().exp())
    expected = reference.dirichlet_log_prob(concentration.double(), sample.log_weights.double())
    assert_close(sample.log_prob, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_log_weights_near_one_keep_their_accuracy(backend):
    with dispatch.use_backend(backend):
        log_weights = dirichlet_sample(torch.tensor([[1e6, 0.05]]), 40, 3).log_weights[0].double()
    expected = torch.log1p(-log_weights[:, 1].exp())  # from the other weight
    visible = expected < -1e-37
    assert visible.sum() > 10
    torch.testing.assert_close(log_weights[visible, 0], expected[visible], rtol=1e-4, atol=0.0)


def test_no_samples_and_no_rows():
    assert dirichlet_sample(rows(), 0, 1).weights.shape == (len(ROWS), 0, 8)
    empty = dirichlet_sample(rows()[:0], 4, 1)
    assert empty.weights.shape == (0, 4, 8) and empty.log_prob.shape == (0, 4)
    assert dirichlet_log_prob(rows()[:0], empty.log_weights).shape == (0, 4)
    assert dirichlet_entropy(rows()[:0]).shape == (0,)


# --- the distribution ------------------------------------------------------------------------------------------------

ALPHAS = [0.02, 0.1, 0.5, 0.99, 1.0, 1.5, 5.0, 50.0, 1e3, 1e4]


def test_marginals_are_beta():
    scipy = pytest.importorskip("scipy")
    pytest.importorskip("scipy.stats")
    """Every marginal against its exact Beta law, by log-weight where it underflows; the bound counts all the tests."""
    draws, pairs = 20_000, [(a, b) for a in ALPHAS for b in (0.02, 1.0, 30.0, 1e4)]
    sample = dirichlet_sample(torch.tensor(pairs), draws, 2024)
    bound = 0.01 / (2 * len(pairs))
    logs = np.sort(sample.log_weights.double().numpy(), axis=1)
    for (a, b), marginal in zip(pairs, logs, strict=True):
        for column, (p, q) in enumerate(((a, b), (b, a))):
            x = marginal[:, column]
            with np.errstate(all="ignore"):
                # In the far left tail P(W ≤ w) = w^p / (p B(p, q)), which holds where exp(x) is 0.
                tail = np.exp(p * x - np.log(p) - scipy.special.betaln(p, q))
                exact = np.where(x < -100.0, tail, scipy.special.betainc(p, q, np.exp(x)))
                near = x > -0.1  # 1 - w from the log-weight: exact where w rounds to 1
                exact = np.where(near, scipy.special.betaincc(q, p, -np.expm1(x)), exact)
            rank = np.arange(1, draws + 1) / draws
            distance = max((rank - exact).max(), (exact - rank + 1.0 / draws).max())
            # a weight within an ulp of 1 is an atom of float32 log-weights; there the law is compared up to the atom
            if (x == x[-1]).sum() > 1:
                inner = x < x[-1]
                distance = max((rank - exact)[inner].max(initial=0.0), (exact - rank)[inner].max(initial=0.0))
            assert scipy.stats.kstwo.sf(distance, draws) > bound, (p, q, distance)


def test_gamma_of_two_equal_tasks_is_symmetric_and_uniform():
    scipy = pytest.importorskip("scipy")
    pytest.importorskip("scipy.stats")
    """w / (w + w') of a subset is again Beta: an amalgamation and a subcomposition of one row of eight tasks."""
    draws = 40_000
    concentration = torch.tensor([ROWS[0]])
    w = dirichlet_sample(concentration, draws, 99).weights[0].double().numpy()
    alpha = np.array(ROWS[0])
    tests = [
        (w[:, :3].sum(1), alpha[:3].sum(), alpha[3:].sum()),
        (w[:, 1] / (w[:, 1] + w[:, 2]), alpha[1], alpha[2]),
        (w[:, 5] / (w[:, 5] + w[:, 7]), alpha[5], alpha[7]),
    ]
    for x, p, q in tests:
        assert scipy.stats.kstest(x, scipy.stats.beta(p, q).cdf).pvalue > 0.01 / len(tests)


def test_tasks_and_samples_are_independent():
    scipy = pytest.importorskip("scipy")
    pytest.importorskip("scipy.stats")
    """χ² of quartile tables: two gamma variates of one sample, and one weight in neighboring samples and rows."""
    draws = 20_000
    sample = dirichlet_sample(torch.full((2, 3), 0.7), draws, 8)
    ratio = (sample.log_weights[..., 0] - sample.log_weights[..., 1]).numpy()
    weight = sample.weights[..., 2].numpy()
    pairs = [
        (ratio[0], weight[0]),  # a subcomposition is independent of the rest
        (weight[0, :-1], weight[0, 1:]),
        (weight[0], weight[1]),
        (ratio[0], ratio[1]),
    ]
    for x, y in pairs:
        bins = [np.searchsorted(np.quantile(v, [0.25, 0.5, 0.75]), v) for v in (x, y)]
        table = np.histogram2d(*bins, bins=4)[0]
        assert scipy.stats.chi2_contingency(table).pvalue > 0.01 / len(pairs)


# --- densities -------------------------------------------------------------------------------------------------------


def test_special_functions():
    mpmath = pytest.importorskip("mpmath")
    generator = np.random.default_rng(0)
    x = np.concatenate([10.0 ** generator.uniform(-30, 7, 200), generator.uniform(0.5, 12.0, 200), [1.0, 2.0, 8.0]])
    found = np.empty((x.size, 3))
    _core.gamma_functions(x, found)
    with mpmath.workdps(40):
        exact = [(mpmath.loggamma(v), mpmath.digamma(v), mpmath.psi(1, v)) for v in map(mpmath.mpf, map(float, x))]
        error = [
            [float(abs(f - e) / max(1, abs(e))) for f, e in zip(*row, strict=True)]
            for row in zip(found.tolist(), exact, strict=True)
        ]
    assert (np.max(error, axis=0) < [1e-14, 1e-14, 1e-14]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weight_floor", [0.0, 1e-3])
@pytest.mark.parametrize("shape", [(7, 5, 8), (7, 71, 8), (7, 66, 5), (3, 1, 1), (2, 33, 3), (4, 0, 2)])
def test_log_prob_matches_reference(backend, weight_floor, shape):
    batch, samples, tasks = shape
    concentration = rows(tasks, batch).requires_grad_()
    log_weights = some_log_weights(*shape)
    upstream = torch.randn(batch, samples, generator=torch.Generator().manual_seed(2))
    exact = concentration.detach().double().requires_grad_()
    expected = reference.dirichlet_log_prob(exact, log_weights.double(), weight_floor)
    expected.backward(upstream.double())
    with dispatch.use_backend(backend):
        found = dirichlet_log_prob(concentration, log_weights, weight_floor)
        found.backward(upstream)
    assert_close(found.detach(), expected.detach())
    assert_close(concentration.grad, exact.grad)


def test_log_prob_where_a_weight_is_zero():
    log_weights = torch.tensor([[[0.0, -torch.inf]]])
    for backend in BACKENDS:
        with dispatch.use_backend(backend):
            assert dirichlet_log_prob(torch.tensor([[2.0, 1.0]]), log_weights).item() == pytest.approx(np.log(2))
            assert dirichlet_log_prob(torch.tensor([[2.0, 0.5]]), log_weights).item() == torch.inf
            assert dirichlet_log_prob(torch.tensor([[2.0, 2.0]]), log_weights).item() == -torch.inf


@pytest.mark.parametrize("backend", BACKENDS)
def test_entropy_and_kl_match_reference(backend):
    finite = rows(count=6)  # at α = 1e-30 the gradient, about 1e60, is beyond float32
    concentration, other = finite.clone().requires_grad_(), (finite.flip(1) * 1.5).requires_grad_()
    exact, exact_other = (x.detach().double().requires_grad_() for x in (concentration, other))
    upstream = torch.linspace(-1.0, 2.0, 6)
    for op, reference_op, inputs, exact_inputs in (
        (dirichlet_entropy, reference.dirichlet_entropy, (concentration,), (exact,)),
        (dirichlet_kl, reference.dirichlet_kl, (concentration, other), (exact, exact_other)),
    ):
        expected = reference_op(*exact_inputs)
        expected_gradients = torch.autograd.grad(expected, exact_inputs, upstream.double())
        with dispatch.use_backend(backend):
            found = op(*inputs)
            gradients = torch.autograd.grad(found, inputs, upstream)
        assert_close(found.detach(), expected.detach())
        for mine, theirs in zip(gradients, expected_gradients, strict=True):
            assert_close(mine, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_entropy_of_one_task_is_zero(backend):
    concentration = torch.tensor([[1e-30], [1e-16], [0.3], [1.0], [7.0], [1e30], [torch.nan]]).requires_grad_()
    with dispatch.use_backend(backend):
        entropy = dirichlet_entropy(concentration, validate=False)
        (gradient,) = torch.autograd.grad(entropy[:-1].sum(), concentration)
        logs = torch.zeros(7, 2, 1)
        loss = grpo_loss(concentration.detach(), logs, logs[..., 0], logs[..., 0], torch.ones(7, 1), validate=False)
    assert not entropy[:-1].any() and not gradient[:-1].any() and entropy[-1].isnan()
    assert not loss.entropy[:-1].any()


def test_kl_of_equal_rows_is_zero():
    concentration = rows()
    assert dirichlet_kl(concentration, concentration).abs().max() < 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_floor(backend):
    log_weights = some_log_weights(3, 4, 5)
    with dispatch.use_backend(backend):
        found = floor_log_weights(log_weights, 0.05)
        assert same_bits(floor_log_weights(log_weights, 0.0), log_weights)
    assert_close(found, reference.floor_log_weights(log_weights.double(), 0.05))
    assert floor_log_weights(log_weights[0, 0], 0.05).shape == (5,)


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [0.0, -1.0, torch.nan, torch.inf])
def test_bad_concentrations(backend, bad):
    concentration = torch.ones(3, 2)
    concentration[1, 1] = bad
    log_weights = some_log_weights(3, 4, 2)
    calls = (
        lambda validate: dirichlet_sample(concentration, 4, 0, validate=validate).weights,
        lambda validate: dirichlet_log_prob(concentration, log_weights, validate=validate),
        lambda validate: dirichlet_entropy(concentration, validate=validate),
        lambda validate: dirichlet_kl(concentration, torch.ones(3, 2), validate=validate),
    )
    with dispatch.use_backend(backend):
        for call in calls:
            refuses(ValueError, r"concentration\[1, 1\] is", call, None)
            result = call(False)
            assert torch.isnan(result[1]).all() and torch.isfinite(result[[0, 2]]).all()
        refuses(ValueError, r"other\[1, 1\] is", dirichlet_kl, torch.ones(3, 2), concentration)


@pytest.mark.filterwarnings("ignore:.*non-deterministic.*")
@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_given_memory_is_filled(kind, backend):
    alpha = torch.tensor([[0.05, 1.0, 30.0], [2.0, 0.5, 1.0]])
    out = tuple(torch.full(shape, float("nan")) for shape in ((2, 5, 3), (2, 5, 3), (2, 5)))
    if kind == "numpy":
        alpha, out = alpha.numpy(), tuple(part.numpy() for part in out)
    with dispatch.use_backend(backend):
        wanted = dirichlet_sample(alpha, 5, seed=3, offset=7)
        found = dirichlet_sample(alpha, 5, seed=3, offset=7, out=out)
    assert isinstance(found, ops.DirichletSample)
    for own, part, memory in zip(found, wanted, out, strict=True):
        assert own is memory
        np.testing.assert_array_equal(own, part)


def test_memory_that_cannot_be_filled_is_refused():
    alpha, out = torch.ones(2, 3), (torch.empty(2, 5, 3), torch.empty(2, 5, 3), torch.empty(2, 5))
    refuses(TypeError, "out is not a DirichletSample", dirichlet_sample, alpha, 5, seed=0, out=out[:2])
    refuses(ValueError, r"out\[1\] is of shape", dirichlet_sample, alpha, 5, seed=0, out=(out[0], out[2], out[2]))
    with pytest.raises(ValueError, match=r"out\[0\] is not contiguous"):
        dirichlet_sample(alpha, 5, seed=0, out=(torch.empty(2, 3, 5).mT, *out[1:]))
    with pytest.raises(TypeError, match=r"out\[2\]"):
        dirichlet_sample(alpha, 5, seed=0, out=(*out[:2], torch.empty(2, 5, dtype=torch.float64)))


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
@pytest.mark.parametrize("weight_floor", [0.0, 1e-3])
@pytest.mark.parametrize("shape", [(3, 5, 4), (9, 33, 8), (8, 71, 13), (2, 1, 1), (0, 4, 3)])
def test_score_is_the_gradient_of_the_weighted_log_probabilities(backend, weight_floor, shape):
    batch, samples, tasks = shape
    generator = torch.Generator().manual_seed(0)
    concentration = torch.rand(batch, tasks, generator=generator) * 3 + 0.1
    log_weights = dirichlet_sample(concentration, samples, seed=3).log_weights
    coefficients = torch.randn(batch, samples, generator=generator)
    exact = concentration.double().requires_grad_()
    expected = reference.dirichlet_log_prob(exact, log_weights.double(), weight_floor)
    for weights in (coefficients, None):
        upstream = torch.ones(batch, samples) if weights is None else weights
        (slope,) = torch.autograd.grad(expected, exact, upstream.double(), retain_graph=True)
        with dispatch.use_backend(backend):
            found = dirichlet_score(concentration.requires_grad_(), log_weights, weights, weight_floor)
        assert not found.log_prob.requires_grad and not found.gradient.requires_grad
        assert_close(found.log_prob, expected.detach())
        assert_close(found.gradient, slope)
