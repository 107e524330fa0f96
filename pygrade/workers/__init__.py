"""Workers: jobs in this process, in other processes or on a cluster.

The ranks that train together are in `pygrade.workers.group`, which imports torch; jobs do without it.
"""

from pygrade.workers.jobs import JobProgress, JobResult, error_context, pack_work, run_job, wait_for_all
from pygrade.workers.local import LOCAL, LocalWorkers
from pygrade.workers.protocol import Workers

__all__ = [
    "LOCAL",
    "JobProgress",
    "JobResult",
    "LocalWorkers",
    "Workers",
    "error_context",
    "pack_work",
    "run_job",
    "wait_for_all",
]
