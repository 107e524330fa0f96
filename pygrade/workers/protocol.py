"""Interface of workers, which run jobs in this process, in several processes, or on a cluster (`pygrade.cluster`).

Work is cut into a fixed number of jobs that does not depend on the number of workers, and results come back in the
order of the jobs, so that what is added up in this order has the same bits everywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from pygrade.workers.group import Group

Job = TypeVar("Job")
Result = TypeVar("Result")


class Workers(Protocol):
    """Runs jobs. Functions, jobs and results must be picklable; a function is found by its module and name."""

    @property
    def count(self) -> int:
        """Jobs that run at the same time."""

    def map(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """work(job) of every job, in the order of the jobs. ``name`` is that of the stage, for progress and errors.

        A job may run more than once (its worker died), so it must leave the same result again: it writes files whole or
        not at all, under names that depend on the job alone. Results should be small: large ones go into files. An
        error of a job is raised with a note that names the stage and the job (``str(job)``); no other job starts then.
        If jobs or results have an attribute ``rows``, progress shows the rows per second. Work that is an object is
        held by a worker between jobs with what it loads, as a model.
        """

    def train(self, loop: "Callable[[Group, Job], Result]", job: Job, ranks: int, directory: Path, name: str) -> Result:
        """loop(group, job) of rank 0 of ``ranks`` processes that train together; with 1 the group is alone.

        The loop keeps checkpoints in ``directory`` (`Group.save`). If a rank is lost, all start again from the last
        one. The number of ranks decides what is learned, not where they run.
        """
