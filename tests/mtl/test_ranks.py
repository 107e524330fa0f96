"""Ranks that train together: as good a model as that of one process, the same one after a rank was killed."""

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pygrade.metrics.roc import auc
from pygrade.mtl import MtlModel, TimeSplit, fit_stream, predict
from pygrade.workers.group import Group
from pygrade.workers.ranks import train_here
from tests.mtl.worlds import COLUMNS, SMALL, parameters, world

TASKS = ("a", "b")
TIMELINE = TimeSplit(4000, 4700, 5400)


@dataclass(frozen=True)
class Job:
    """Rows of a planted world; ``killed``: a file that is there when a rank has been killed."""

    rows: int = 6000
    killed: Path | None = None
    wrong: int = -1  # the row whose label is out of range


def loop(group: Group, job: Job) -> MtlModel:
    """Each rank has every size-th row, in chunks."""
    dense, ids, labels, time, _ = world(job.rows)
    if job.wrong >= 0:
        labels[job.wrong] = 2.0
    own = slice(group.rank, None, group.size)
    arrays = [array[own] for array in (dense, ids, labels, time)]
    passes = 0

    def batches():
        nonlocal passes
        passes += 1
        if job.killed and passes == 4 and group.rank == group.size - 1 and not job.killed.exists():
            job.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return (tuple(array[at : at + 300] for array in arrays) for at in range(0, len(arrays[0]), 300))

    return fit_stream(batches, TASKS, TIMELINE, COLUMNS, replace(SMALL, epochs=4, memory_rows=500), group)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return train_here(loop, Job(), 2, tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train_here(loop, Job(), 1, tmp_path_factory.mktemp("alone"))


def test_two_ranks_learn_as_well_as_one_process(pair, alone):
    assert parameters(alone) != parameters(pair)  # so two ranks have trained
    dense, ids, labels, _, truth = world(seed=1)
    for task in range(2):
        one, two, best = (
            auc(labels[:, task], p[:, task]) for p in (predict(alone, dense, ids), predict(pair, dense, ids), truth)
        )
        assert one.low <= two.value <= one.high and two.value > 0.85 * best.value
        rate = predict(pair, dense, ids)[:, task].mean()
        assert abs(rate / labels[:, task].mean() - 1) < 0.15  # calibrated on the rows of both


@pytest.mark.slow
def test_a_killed_rank_continues_from_the_last_checkpoint_and_ends_with_the_same_model(pair, tmp_path, caplog):
    caplog.set_level("WARNING", "pygrade")
    again = train_here(loop, Job(killed=tmp_path / "killed"), 2, tmp_path)
    assert (tmp_path / "killed").exists() and "a rank was lost" in caplog.text
    assert again.files() == pair.files()


def test_one_process_continues_from_its_checkpoint_too(alone, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupted(group, job):
        save, saved = group.save, []

        def then_stop(name, state):
            save(name, state)
            saved.append(name)
            if len(saved) == 6:  # in the second training, that of more rows
                raise Interrupted

        group.save = then_stop
        return loop(group, job)

    with pytest.raises(Interrupted):
        train_here(interrupted, Job(), 1, tmp_path)
    assert train_here(loop, Job(), 1, tmp_path).files() == alone.files()


def test_an_error_of_one_rank_is_raised_as_it_is(tmp_path):
    with pytest.raises(ValueError, match=r"labels of task 'a' is 2\.0 in row"):
        train_here(loop, Job(wrong=5), 2, tmp_path)


def test_ranks_without_rows_wait_for_the_others(tmp_path):
    model = train_here(few, Job(rows=300), 2, tmp_path)
    assert np.isfinite(predict(model, *world(100)[:2])).all()


def few(group: Group, job: Job) -> MtlModel:
    """Only rank 0 has rows."""
    arrays = world(job.rows)[:4]
    timeline = TimeSplit(250, 250, 250)
    config = replace(SMALL, epochs=2)
    return fit_stream(lambda: iter([arrays] if group.rank == 0 else []), TASKS, timeline, COLUMNS, config, group)
