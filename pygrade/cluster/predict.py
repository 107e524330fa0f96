"""Predictions on the cluster: Ray Data's ``map_batches`` by actors, which hold a model."""

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError, RayTaskError

from pygrade._util.progress import track
from pygrade.cluster.errors import ClusterError
from pygrade.workers import JobProgress, error_context, run_job

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_by_actors(work: Callable[[Job], Result], jobs: Sequence[Job], name: str, count: int) -> Iterator[Result]:
    """work(job) of every job, in the order of the jobs, by at most ``count`` actors; see `Workers.map_by_actors`."""
    if not jobs:
        return
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it reports every map; what fails is an error here
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.raise_original_map_exception = True
    context.enable_progress_bars = context.print_on_execution_start = False
    actors = ActorPoolStrategy(min_size=1, max_size=min(count, len(jobs)))
    with track(name, total=len(jobs)) as bar:
        progress = JobProgress(bar)
        packed = [{"job": pickle.dumps(job)} for job in jobs]
        rows = ray.data.from_items(packed, override_num_blocks=len(jobs)).map_batches(
            _Holder,
            fn_constructor_args=(os.getcwd(), pickle.dumps((work, name, progress.level))),
            batch_size=1,
            compute=actors,
        )
        try:
            for job, row in zip(jobs, rows.iter_rows(), strict=True):
                yield progress.add(job, pickle.loads(row["answer"]))
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except RayError as error:
            raise ClusterError(f"a worker was lost: {' '.join(str(error).split())[:300]}") from error


class _Holder:
    """In a worker: the work, and what it has loaded."""

    def __init__(self, folder: str, packed: bytes) -> None:
        with suppress(OSError):
            os.chdir(folder)
        self._work, self._name, self._level = pickle.loads(packed)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        answers = []
        for packed in batch["job"]:
            job = pickle.loads(packed)
            with error_context(self._name, job):
                answers.append(pickle.dumps(run_job(self._work, job, self._level)))
        return {"answer": np.array(answers, object)}
