import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pygrade import group_advantage, reference
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close

NORMALIZE = ("none", "group", "batch", "component")
BACKENDS = ("cpu", "triton")


def rewards_of(batch: int, samples: int, components: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, samples, components, generator=generator)
    if batch > 1:
        values[0] = 3.0  # a group without a signal
    if batch > 2:
        values[1] *= 1e4
        values[2] *= 1e-4
    return values


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(7, 5, 2), (1, 8, 1), (3, 1, 2), (4, 33, 3), (0, 4, 2), (2, 0, 1), (2, 3, 0)])
@pytest.mark.parametrize(("normalize", "leave_one_out"), [*itertools.product(NORMALIZE, (False, True))])
def test_matches_reference(backend, shape, normalize, leave_one_out):
    rewards = rewards_of(*shape)
    weights = torch.tensor([1.0, 0.5, -2.0])[: shape[2]]
    with dispatch.use_backend(backend):
        advantage = group_advantage(rewards, weights, normalize, leave_one_out, clip=3.0)
    expected = reference.group_advantage(rewards.double(), weights.double(), normalize, leave_one_out, clip=3.0)
    assert_close(advantage, expected)


def one_component(batch: int, samples: int, kind: str) -> torch.Tensor:
    """Rewards [B, G, 1] that are hard for single precision."""
    values = rewards_of(batch, samples, 1, seed=4)
    if kind == "level":
        values = 3000.0 + 1e-3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(5))
        values[0] = 3000.0
    elif kind == "first alone":  # the first sample is the one that stands out
        values[1:, 0] += 1e6
    elif kind == "sparse":
        values = (values > 2.0).float()
        values[1, 0] = 1.0
    elif kind == "range":  # beyond it: squares overflow, or underflow
        values[-1] *= 1e25
        values[3] *= 1e-26
        values[4] = 0.0
        values[4, 1] = 1e-30
    elif kind == "nan":
        values[-1, 1] = torch.nan
    return values


@pytest.mark.parametrize("kind", ["plain", "level", "first alone", "sparse", "range", "nan"])
@pytest.mark.parametrize("shape", [(37, 16), (35, 32), (48, 24), (16, 8), (6, 64), (5, 72)])
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_one_component_matches_reference(kind, shape, normalize):
    rewards = one_component(*shape, kind)
    weight = torch.tensor([-0.5])
    for leave_one_out in (False, True):
        advantage = group_advantage(rewards, weight, normalize, leave_one_out, validate=kind != "nan")
        expected = reference.group_advantage(rewards.double(), weight.double(), normalize, leave_one_out)
        assert_close(advantage, expected)
    constant = rewards[:, :, 0].amax(1) == rewards[:, :, 0].amin(1)
    assert not advantage[constant].any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (20, 31), (36, 5)])
def test_one_bad_value_among_many_is_found(place, bad):
    rewards = rewards_of(37, 32, 1)
    rewards[place] = bad
    for normalize in NORMALIZE:
        for backend in ("cpu", "reference"):
            with dispatch.use_backend(backend), pytest.raises(ValueError, match="rewards holds NaN or infinity"):
                group_advantage(rewards, None, normalize)
            with dispatch.use_backend(backend), pytest.raises(ValueError, match="component_weights holds NaN or inf"):
                group_advantage(rewards_of(2, 3, 1), torch.tensor([bad]), normalize)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_samples_that_are_not_finite_are_left_out(backend, normalize, bad):
    rewards = rewards_of(5, 6, 2, seed=1)
    rewards[3, 2, 1] = bad
    rewards[4] = bad
    rewards[4, 0, 1] = -bad
    with dispatch.use_backend(backend):
        advantage = group_advantage(rewards, None, normalize, validate=False)
    assert torch.isfinite(advantage).all() and advantage[1].any()
    assert advantage[3, 2] == 0 and not advantage[4].any()
    kept = [0, 1, 3, 4, 5]
    weights = torch.ones(2, dtype=torch.float64)
    if normalize != "batch":
        expected = reference.group_advantage(rewards[3:4, kept].double(), weights, normalize)
        assert_close(advantage[3:4, kept], expected)
    assert_close(advantage, reference.group_advantage(rewards.double(), weights, normalize))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalize", NORMALIZE)
def test_groups_without_a_signal_get_exactly_zero(backend, normalize):
    rewards = torch.full((2, 16, 1), 0.1)  # 16 × 0.1 / 16 is not 0.1 in floating point
    rewards[1, 0] = 1.0
    with dispatch.use_backend(backend):
        advantage = group_advantage(rewards, None, normalize)
    assert not advantage[0].any()
    assert advantage[1].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_clip_advantages_are_unbounded(backend):
    rewards = torch.tensor([[[0.0], [0.0], [0.0], [100.0]]])
    with dispatch.use_backend(backend):
        assert group_advantage(rewards, None, "none", clip=2.0).tolist() == [[-2.0, -2.0, -2.0, 2.0]]
        assert group_advantage(rewards, None, "none", clip=None).tolist() == [[-25.0, -25.0, -25.0, 75.0]]


@given(
    scale=st.sampled_from([0.25, 3.0, 1024.0]),
    normalize=st.sampled_from(["group", "batch", "component"]),
    seed=st.integers(0, 99),
)
def test_scaling_rewards_changes_nothing(scale, normalize, seed):
    rewards = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(seed))
    assert_close(group_advantage(rewards * scale, None, normalize), group_advantage(rewards, None, normalize).double())


def test_a_compiled_graph_checks_values():
    compiled = torch.compile(lambda r: group_advantage(r * 2.0), fullgraph=True, backend="aot_eager")
    with pytest.raises((ValueError, RuntimeError), match="rewards holds NaN"):  # the latter in newer versions of torch
        compiled(torch.full((3, 4, 2), torch.nan))
