import numpy as np
import pytest
import torch

from pygrade import (
    dirichlet_log_prob,
    dirichlet_sample,
    format_penalty,
    reference,
    rollout,
    topk_gain,
    transform_scores,
)
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close, same_bits
from tests.refusals import refuses

BACKENDS = ("cpu", "triton", "reference")
SAMPLES = 5


def problem(batch: int = 3, count: int = 20, tasks: int = 4):
    generator = torch.Generator().manual_seed(0)
    return {
        "concentration": torch.rand(batch, tasks, generator=generator) * 3.0 + 0.05,
        "scores": transform_scores(torch.rand(batch, count, tasks, generator=generator), "zlog"),
        "gains": torch.rand(batch, count, 2, generator=generator),
        "k": 6,
        "discount": 1.0 / torch.log2(torch.arange(6) + 2.0),
        "num_samples": SAMPLES,
        "seed": 7,
        "masks": torch.rand(batch, 1, count, generator=generator) < 0.5,
        "component_list": torch.tensor([0, -1], dtype=torch.int32),
        "weight_bounds": torch.tensor([[0.05] * tasks, [0.6] * tasks]),
    }


def chain(given, weight_floor):
    sample = dirichlet_sample(given["concentration"], SAMPLES, given["seed"], given.get("offset", 0))
    lists = {name: given.get(name) for name in ("masks", "component_list")}
    gain = (given["gains"], given["k"], given["discount"])
    rewards = topk_gain(given["scores"], sample.weights, *gain, **lists)
    if given.get("weight_bounds") is not None:
        rewards = torch.cat([rewards, format_penalty(sample.weights, given["weight_bounds"])[..., None]], -1)
    log_prob = sample.log_prob
    if weight_floor > 0.0:
        log_prob = dirichlet_log_prob(given["concentration"], sample.log_weights, weight_floor)
    return sample.weights, sample.log_weights, log_prob, rewards


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weight_floor", [0.0, 1e-3])
@pytest.mark.parametrize("dropped", [(), ("weight_bounds",), ("masks", "component_list")])
def test_equals_the_chain_bit_for_bit(backend, weight_floor, dropped):
    given = {**problem(), "offset": 11}
    given = {name: value for name, value in given.items() if name not in dropped}
    with dispatch.use_backend(backend):
        result = rollout(**given, weight_floor=weight_floor)
        expected = chain(given, weight_floor)
    for actual, wanted in zip(result, expected, strict=True):
        assert same_bits(actual, wanted)
    assert result.rewards.shape == (3, SAMPLES, 2 if "weight_bounds" in dropped else 3)


@pytest.mark.parametrize("weight_floor", [0.0, 1e-3])
def test_matches_reference(weight_floor):
    given = problem()
    result = rollout(**given, weight_floor=weight_floor)
    exact = {
        name: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for name, v in given.items()
    }
    del exact["num_samples"], exact["seed"]
    expected = reference.rollout(log_weights=result.log_weights.double(), **exact, weight_floor=weight_floor)
    for actual, wanted in zip((result.weights, result.log_prob, result.rewards), expected, strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize(
    ("candidates", "tasks", "samples", "k", "dtype"),
    [(150, 8, 6, 12, torch.float32), (90, 1, 3, 100, torch.float16), (40, 9, 1, 8, torch.bfloat16)],
)
def test_one_launch_has_the_bits_of_the_core(candidates, tasks, samples, k, dtype):
    """Three components over two lists and all candidates; more items than programs, samples that fill no program."""
    generator = torch.Generator().manual_seed(candidates)
    given = {
        "concentration": 10.0 ** (torch.rand(4, tasks, generator=generator) * 6.0 - 3.0),
        "scores": torch.randn(4, candidates, tasks, generator=generator).to(dtype),
        "gains": torch.randn(4, candidates, 3, generator=generator),
        "k": k,
        "discount": torch.rand(k, generator=generator),
        "num_samples": samples,
        "seed": 2**40 + 3,
        "offset": 2**33,
        "masks": torch.rand(4, 2, candidates, generator=generator) < 0.3,
        "component_list": torch.tensor([1, -1, 0], dtype=torch.int32),
        "weight_bounds": torch.rand(2, tasks, generator=generator).sort(0).values,
    }
    given["masks"][1, 0] = False  # a list of nobody
    expected = rollout(**given, weight_floor=1e-4)
    with dispatch.use_backend("triton"):
        result = rollout(**given, weight_floor=1e-4)
    assert same_bits(result.weights, expected.weights)
    assert same_bits(result.log_weights, expected.log_weights)
    assert same_bits(result.rewards[..., :3].contiguous(), expected.rewards[..., :3].contiguous())
    assert_close(result.rewards[..., 3], expected.rewards[..., 3].double())
    assert_close(result.log_prob, expected.log_prob.double())


def test_what_one_launch_was_not_told_to_check_comes_back_as_nan():
    given = {**problem(), "component_list": torch.tensor([1, -1], dtype=torch.int32)}
    given["concentration"][1, 2] = -1.0
    with dispatch.use_backend("triton"):
        result = rollout(**given, validate=False)
        refuses(ValueError, "concentration", rollout, **given, validate=True)
        given["concentration"][1, 2] = 1.0
        refuses(ValueError, r"component_list is \[1, -1\]", rollout, **given, validate=True)
        refuses(ValueError, "k is 1025", rollout, **{**given, "k": 1025, "discount": torch.ones(1025)}, validate=False)
    assert torch.isnan(result.rewards[..., 0]).all() and torch.isnan(result.weights[1]).all()
    assert not torch.isnan(result.rewards[::2, :, 1:]).any() and not torch.isnan(result.weights[::2]).any()


def test_one_launch_is_one_launch(monkeypatch):
    from pygrade.kernels import launch
    from pygrade.kernels import rollout as kernel

    names = []

    def record(function, grid, *arguments, **options):
        names.append(function.__name__)
        launch.launch(function, grid, *arguments, **options)

    monkeypatch.setattr(kernel, "launch", record)
    with dispatch.use_backend("triton"):
        rollout(**problem())
    assert names == ["_rollout_kernel"]


def test_a_split_batch_draws_the_same():
    given = problem()
    whole = rollout(**given)
    per_row = ("concentration", "scores", "gains", "masks")
    part = rollout(**{name: v[1:] if name in per_row else v for name, v in given.items()}, offset=1)
    for actual, wanted in zip(part, whole, strict=True):
        assert same_bits(actual, wanted[1:])


def test_format_penalty_measures_the_violation():
    weights = torch.tensor([[0.1, 0.2, 0.7], [0.25, 0.25, 0.5]])
    bounds = torch.tensor([[0.2, 0.0, 0.0], [1.0, 1.0, 0.55]])
    assert_close(format_penalty(weights, bounds), torch.tensor([-0.25, 0.0], dtype=torch.float64))
    array = format_penalty(weights.numpy(), bounds.numpy())
    assert isinstance(array, np.ndarray) and array.shape == (2,)
    assert torch.autograd.gradcheck(format_penalty, (weights.double().requires_grad_(), bounds.double()))
    refuses(ValueError, r"weight_bounds is of shape \[2, 2\]", format_penalty, weights, bounds[:, :2])
    refuses(TypeError, "weight_bounds is float64", lambda: format_penalty(weights, bounds.double()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("low", "high"), [(0.9, 0.1), (float("nan"), 1.0)])
def test_a_low_above_its_high_is_refused(backend, low, high):
    given = problem()
    given["weight_bounds"][:, 1] = torch.tensor([low, high])
    message = rf"weight_bounds\[:, 1\] is {low:g}, {high:g}; expected low <= high"
    with dispatch.use_backend(backend), pytest.raises(ValueError, match=message):
        rollout(**given)
    refuses(ValueError, message, format_penalty, torch.rand(3, 4), given["weight_bounds"])
