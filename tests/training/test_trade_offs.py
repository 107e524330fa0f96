"""Policies with trade-offs: what values of the tasks teach, and what is fixed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.config.training import Stage1Config, Stage2Config
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.training.data import TrainingData
from pygrade.training.reward import CompositeReward
from pygrade.training.stages import train_stage1, train_stage2
from pygrade.training.steps import draw_values
from tests.learning import TASKS, tiny_logs
from tests.training.test_train import SMALL

FAMILY = replace(SMALL, policy=replace(SMALL.policy, trade_offs=True))


def built(logs, config=FAMILY):
    return CompositeReward(config.reward).build(logs, PolicySpec(logs.tasks, logs.features, config.policy))


def learned(logs, config, steps=40):
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, config.policy))
    data = TrainingData.of(built(logs, config))
    data.fit_normalization(policy, 0)
    train_stage1(data, policy, Stage1Config(steps=steps, batch_size=64, learning_rate=1e-2))
    return train_stage2(data, policy, Stage2Config(steps=steps, batch_size=64, group_size=8, learning_rate=2e-3))


def test_multipliers_are_a_function_of_seed_stage_and_step():
    drawn = draw_values(0, 2, 7, 4000, 3, 1.0, 0.25)
    assert torch.equal(drawn, draw_values(0, 2, 7, 4000, 3, 1.0, 0.25))
    assert not torch.equal(drawn, draw_values(0, 1, 7, 4000, 3, 1.0, 0.25))
    plain = (drawn == 1).all(1)
    assert 0.22 < plain.float().mean() < 0.28
    logs = drawn[~plain].log()
    assert abs(logs.mean()) < 0.05 and abs(logs.std() - 1) < 0.05


@pytest.mark.parametrize("jagged", [False, True])
def test_labels_and_gains_are_those_of_the_multiplied_values(jagged):
    """At u the training set is, over mean u, the one of a log whose events are worth u times as much."""
    logs = tiny_logs(60, jagged=jagged)
    data, rows = built(logs), torch.arange(60)
    u = torch.tensor([[3.0, 0.5]]).repeat(60, 1)
    other = built(replace(logs, task_values=(3.0 * logs.task_values[0], 0.5 * logs.task_values[1])))
    assert torch.allclose(1.75 * data.labels_at(rows, u), other.page_value, rtol=1e-5, atol=1e-7)
    alpha = torch.ones(60, 2)
    ours, theirs = (d.rollout(rows, alpha, 4, 0, values=v).rewards for d, v in ((data, u), (other, None)))
    assert torch.allclose(1.75 * ours[..., :2], theirs[..., :2], rtol=1e-4, atol=1e-6)
    one = torch.ones(60, 2)
    assert torch.allclose(data.rollout(rows, alpha, 4, 0, values=one).rewards, data.rollout(rows, alpha, 4, 0).rewards)
    assert torch.equal(data.inputs_at(rows, one), data.inputs) and torch.equal(data.inputs_at(rows, None), data.inputs)
    assert torch.allclose(data.inputs_at(rows, u)[:, -2:], torch.tensor([3.0, 0.5]).log().expand(60, 2), atol=1e-6)


def test_a_policy_follows_the_values():
    logs = tiny_logs(400)
    policy = learned(logs, FAMILY)
    test = tiny_logs(200, seed=1)

    def weight(values):
        inputs = policy.request_inputs(
            test.context, test.predictions, test.offsets, torch.tensor(values).repeat(200, 1)
        )
        return policy.serve(inputs).mean(0)

    assert weight([6.0, 1.0])[0] > weight([1.0, 1.0])[0] + 0.05
    assert weight([1.0, 6.0])[1] > weight([1.0, 1.0])[1] + 0.05


def test_training_inputs_are_those_served_by_default():
    logs = tiny_logs(40)
    config = replace(FAMILY.policy, values={"click": 2.0}, scenario_values={"buy": {"order": 4.0}})
    inputs = built(logs, replace(FAMILY, policy=config)).inputs
    buy = torch.from_numpy(logs.scenario == "buy")
    assert torch.allclose(inputs[buy, -2:], torch.tensor([2.0, 4.0]).log(), atol=1e-6)
    assert torch.allclose(inputs[~buy, -2:], torch.tensor([2.0, 1.0]).log(), atol=1e-6)


def test_frozen_weights_are_served_exactly_and_the_others_learn():
    logs = tiny_logs(400)
    noise = np.random.default_rng(0).random((logs.num_rows, 1)).astype(np.float32)
    logs = replace(
        logs,
        tasks=(*TASKS, "view"),
        task_values=(*logs.task_values, 0.0),
        predictions=np.concatenate([logs.predictions, noise], 1),
        feedback=np.concatenate([logs.feedback, 0 * noise], 1),
        weights=None,
    )
    config = replace(SMALL, policy=PolicyConfig(hidden=(8,), lower=0.02, upper=0.98, frozen={"view": 0.3}))
    policy = learned(logs, config)
    served = policy.serve(built(logs, config).inputs)
    assert bool((served[:, 2] == np.float32(0.3)).all()) and torch.allclose(served.sum(1), torch.ones(400))
    assert served[:, 0].std() > 0.02  # the rest is personal
    assert torch.equal(policy.serve(torch.full((1, policy.num_inputs), 1e9))[:, 2], torch.tensor([0.3]))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"dwell": 2.0}, "values names task 'dwell'; expected one of click, order"),
        ({"click": -1.0}, "values is -1.0 for task click"),
        ({"click": 0.0, "order": 0.0}, "values is 0 for every task"),
    ],
)
def test_values_that_mean_nothing_are_named(values, named):
    for given in ({"values": values}, {"scenario_values": {"buy": values}}):
        with pytest.raises(ValueError, match=named):
            PolicySpec(TASKS, ("mode",), PolicyConfig(trade_offs=True, **given))
