"""Ranks that train the towers together: as good as one process, and the same after a rank was killed."""

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pygrade.prerank import Catalog, FittedTowers, Popularity, Prerank, evaluate, fit
from pygrade.prerank.batches import positives
from pygrade.prerank.towers import Inputs, TwoTower
from pygrade.prerank.training import _loss
from pygrade.workers.group import Group
from pygrade.workers.ranks import train_here
from tests.prerank.test_training import SMALL, WEIGHTS, parameters
from tests.prerank.world import World

CONFIG = replace(SMALL, epochs=6)


@dataclass(frozen=True)
class Job:
    """``killed``: a file that is there when a rank has been killed."""

    killed: Path | None = None


def share(batches, rank: int, size: int):
    """Every size-th batch, so that ranks may have one more than others."""
    return lambda: (batch for number, batch in enumerate(batches()) if number % size == rank)


def loop(group: Group, job: Job) -> FittedTowers:
    world, passes = World(), 0
    train = share(world.batches(6000, seed=1), group.rank, group.size)
    later = share(world.batches(400, seed=2), group.rank, group.size)

    def batches():
        nonlocal passes
        passes += 1
        if job.killed and passes == 5 and group.rank == 0 and not job.killed.exists():
            job.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return train()

    return fit(batches, WEIGHTS, CONFIG, later, group)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return train_here(loop, Job(), 2, tmp_path_factory.mktemp("pair"))


@pytest.mark.slow
def test_two_ranks_find_as_much_as_one_process(pair, tmp_path):
    world = World()
    train = world.batches(6000, seed=1)
    recalls = []
    for fitted in (train_here(loop, Job(), 1, tmp_path), pair):
        prerank = Prerank.build(fitted, Catalog.from_batches(train))
        recalls.append(evaluate(prerank, world.batches(1000, 77), Popularity.fit(train, WEIGHTS), 20))
    one, two = recalls
    assert one.recall.low <= two.recall.value <= one.recall.high
    assert two.difference.low > 0.2  # and far more than popularity


@pytest.mark.slow
def test_a_killed_rank_continues_from_the_last_checkpoint(pair, tmp_path, caplog):
    caplog.set_level("WARNING", "pygrade")
    again = train_here(loop, Job(tmp_path / "killed"), 2, tmp_path)
    assert "a rank was lost" in caplog.text
    assert parameters(again.towers) == parameters(pair.towers)
    assert (again.losses, again.validation_recall) == (pair.losses, pair.validation_recall)


def test_what_ranks_have_seen_adds_up_to_what_one_has():
    batches = World(users=50, items=60).batches(500, seed=3)
    whole = Inputs.fit(batches, np.float32(WEIGHTS), CONFIG)
    halves = [share(batches, rank, 2) for rank in range(2)]
    seen = []

    class Other(Group):
        def gather(self, value):
            seen.append(value)
            return [value]

    Inputs.fit(halves[1], np.float32(WEIGHTS), CONFIG, Other())
    both = Inputs.fit(halves[0], np.float32(WEIGHTS), CONFIG, AfterFirst([None, seen[1]]))
    for name in ("item_id", "request_sizes", "item_sizes"):
        assert np.array_equal(getattr(both, name), getattr(whole, name))
    for name in ("request_mean", "request_std", "item_mean", "item_std"):
        assert np.allclose(getattr(both, name), getattr(whole, name), rtol=1e-6, atol=1e-7)


class AfterFirst(Group):
    """Gives what another rank gave at each call."""

    def __init__(self, others) -> None:
        super().__init__()
        self.others = iter(others)

    def gather(self, value):
        return [value, next(self.others)]


def gradients(group: Group, job: Job) -> list[torch.Tensor]:
    """Of the loss of one batch, of which each rank has a share, without dropout."""
    config = replace(CONFIG, dropout=0.0, id_dropout=0.0)
    batches = World(users=50, items=60).batches(31, seed=3, size=31)
    inputs = Inputs.fit(batches, np.float32(WEIGHTS), config)
    torch.manual_seed(0)
    towers = TwoTower(config, inputs)
    pairs = positives(next(batches()), np.float32(WEIGHTS))
    mine = pairs.select(np.arange(group.rank, len(pairs), group.size))
    draws = torch.zeros(len(inputs.item_id) + 1, dtype=torch.float64)
    _loss(towers, mine, draws, np.random.default_rng(0), group).backward()
    group.sum_gradients(towers)
    return [parameter.grad for parameter in towers.parameters()]


def test_the_gradient_of_ranks_is_that_of_the_whole_batch(tmp_path):
    for one, three in zip(gradients(Group(), Job()), train_here(gradients, Job(), 3, tmp_path), strict=True):
        assert torch.allclose(one, three, rtol=1e-4, atol=1e-6) and one.abs().max() > 0
