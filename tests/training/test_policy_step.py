"""Network and Adam of a training step: both engines learn the same, and each goes on from the other's state."""

import copy
from dataclasses import replace

import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.config.training import Stage1Config, Stage2Config
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.runs.fit import fit
from pygrade.training import policy_step as module
from pygrade.training.data import TrainingData
from pygrade.training.policy_step import FusedStep, TorchStep, concentrations, is_fused, policy_step
from pygrade.training.reward import CompositeReward
from pygrade.training.run import Run
from pygrade.training.stages import train_stage1, train_stage2
from tests.learning import TASKS, tiny_logs
from tests.training.test_train import SMALL

ENGINES = {"fused": FusedStep, "torch": TorchStep}


def policy_of(hidden=(16, 16), **options) -> FusionPolicy:
    return FusionPolicy(PolicySpec(TASKS, tiny_logs(2).features, PolicyConfig(hidden=hidden, **options)))


def weights_of(policy: FusionPolicy) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in policy.parameters()])


class Recorder(Run):
    """Keeps the figures of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.figures = []

    def after(self, stage, step, steps, figures, *rest):
        self.figures.append(figures)
        super().after(stage, step, steps, figures, *rest)


@pytest.mark.parametrize("trade_offs", [False, True])
def test_fifty_steps_of_both_engines_agree(trade_offs):
    logs = tiny_logs(400)
    found = {}
    for engine in ENGINES:
        config = replace(SMALL.policy, hidden=(16, 16), trade_offs=trade_offs)
        policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, config))
        data = TrainingData.of(CompositeReward(SMALL.reward).build(logs, policy.spec))
        policy.fit_normalization(data.tensors.inputs)
        first, second = Recorder(), Recorder()
        train_stage1(data, policy, Stage1Config(steps=50, batch_size=64), first, engine=engine)
        after_stage1 = weights_of(policy)
        train_stage2(data, policy, Stage2Config(steps=50, batch_size=64, group_size=8), second, engine=engine)
        found[engine] = (first.figures, second.figures, after_stage1, weights_of(policy))
    (first, second, *fused), (first_torch, second_torch, *plain) = found.values()
    for one, other in zip([*first, *second], [*first_torch, *second_torch], strict=True):
        assert one.keys() == other.keys()
        for name in ("loss", "grad_norm", "learning_rate"):
            assert one[name] == pytest.approx(other[name], rel=2e-3, abs=2e-5), name
    assert torch.allclose(fused[0], plain[0], atol=2e-4)
    assert torch.allclose(fused[1], plain[1], atol=2e-3)
    assert not torch.equal(fused[1], fused[0])


@pytest.mark.parametrize("kind", ENGINES.values())
def test_an_update_that_is_not_finite_changes_nothing(kind):
    policy = policy_of()
    step, before = kind(policy, 1e-2), weights_of(policy).clone()
    alpha = step.concentration(torch.zeros(3, policy.num_inputs))
    with pytest.raises(FloatingPointError, match="stage 7, step 3: gradient norm nan"):
        step.descend(torch.full_like(alpha, torch.nan), 1.0, "stage 7, step 3")
    assert torch.equal(weights_of(policy), before) and not step.state()


@pytest.mark.parametrize("source", ENGINES)
@pytest.mark.parametrize("target", ENGINES)
def test_each_engine_goes_on_from_the_state_of_the_other(source, target):
    generator = torch.Generator().manual_seed(0)
    policy = policy_of()
    inputs = torch.randn(40, policy.num_inputs, generator=generator)
    slope = torch.randn(40, len(TASKS), generator=generator)

    def advance(step, count: int) -> None:
        for _ in range(count):
            step.concentration(inputs)
            step.descend(slope, 1.0, "step")

    straight = policy_step(policy, 1e-2, source)
    advance(straight, 3)
    state, twin = straight.state(), copy.deepcopy(policy)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    other = policy_step(twin, 1e-2, target)
    other.load_state({"policy.input_mean": torch.zeros(1), **state})
    assert {name: tuple(t.shape) for name, t in other.state().items()} == {n: tuple(t.shape) for n, t in kept.items()}
    advance(straight, 3)
    advance(other, 3)
    if source == target:
        assert torch.equal(weights_of(policy), weights_of(twin))
    assert torch.allclose(weights_of(policy), weights_of(twin), atol=1e-5)
    assert float(other.state()["adam.0.step"]) == 6.0
    fresh = policy_step(copy.deepcopy(policy), 1e-2, target)
    fresh.load_state({})
    assert fresh.state() == {}


def test_the_core_is_taken_where_it_covers_the_policy(monkeypatch):
    policy = policy_of()
    monkeypatch.setattr(module, "is_fast", lambda: True)
    assert isinstance(policy_step(policy, 1e-3), FusedStep)
    double = policy_of().double()
    assert isinstance(policy_step(double, 1e-3), TorchStep)
    with pytest.raises(ValueError, match="not contiguous float32"):
        policy_step(double, 1e-3, "fused")
    assert isinstance(policy_step(policy, 1e-3, "torch"), TorchStep)
    monkeypatch.setattr(module, "is_fast", lambda: False)
    assert not is_fused(policy, "auto") and is_fused(policy, "fused")
    with pytest.raises(ValueError, match="engine is 'jax'"):
        is_fused(policy, "jax")


@pytest.mark.parametrize("engine", ENGINES)
def test_concentrations_have_the_bits_of_the_step(engine):
    policy = policy_of()
    inputs, factor = torch.randn(30, policy.num_inputs), torch.rand(30) + 0.5
    assert torch.equal(
        concentrations(policy, engine)(inputs, factor), policy_step(policy, 1e-3, engine).concentration(inputs, factor)
    )


def test_a_run_of_another_engine_is_refused(tmp_path):
    fit(tiny_logs(30), replace(SMALL, engine="fused"), tmp_path)
    with pytest.raises(ValueError, match=r'--engine is "(fused|torch)", the run has "(fused|torch)"'):
        fit(tiny_logs(30), replace(SMALL, engine="torch"), tmp_path)
