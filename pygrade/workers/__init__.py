"""Workers: jobs and actors in this process, in other processes or on a cluster, and the ranks that train together."""

from pygrade.workers.group import Checkpoints, DistributedGroup, FileCheckpoints, Group
from pygrade.workers.jobs import JobProgress, JobResult, error_context, pack_work, run_job, wait_for_all
from pygrade.workers.local import LOCAL, LocalWorkers
from pygrade.workers.protocol import Actors, Workers

__all__ = [
    "LOCAL",
    "Actors",
    "Checkpoints",
    "DistributedGroup",
    "FileCheckpoints",
    "Group",
    "JobProgress",
    "JobResult",
    "LocalWorkers",
    "Workers",
    "error_context",
    "pack_work",
    "run_job",
    "wait_for_all",
]
