"""A training loop run by the ranks of a group on this machine."""

import logging
import pickle
import tempfile
from collections.abc import Callable
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from pygrade.workers import DistributedGroup, FileCheckpoints, Group

Job = TypeVar("Job")
Result = TypeVar("Result")

CHECKPOINT = "checkpoint.pt"
RESTARTS = 8  # of a training whose ranks get lost
_GRACE_SECONDS = 20.0  # in which the other ranks notice that one is gone

logger = logging.getLogger("pygrade")


def train_here(loop: Callable[[Group, Job], Result], job: Job, ranks: int, directory: Path) -> Result:
    """loop(group, job) of rank 0. One rank runs in this process, several in processes of their own, over gloo.

    The loop's checkpoints are in ``directory``. If a rank is killed, all start again from the last one, at most
    `RESTARTS` times; what the loop raises is raised here.
    """
    checkpoints = FileCheckpoints(directory / CHECKPOINT)
    if ranks == 1:
        return loop(Group(checkpoints), job)
    for left in reversed(range(RESTARTS + 1)):
        with tempfile.TemporaryDirectory() as scratch:
            if _run(loop, job, ranks, checkpoints, Path(scratch)):
                result: Result = pickle.loads((Path(scratch) / "result").read_bytes())
                return result
        logger.warning("training: a rank was lost; %d more restarts", left)
    raise RuntimeError(f"training lost a rank {RESTARTS + 1} times; want machines that have enough memory")


def _run(loop: Any, job: Any, ranks: int, checkpoints: FileCheckpoints, scratch: Path) -> bool:
    """Whether all ranks finished; False if one was killed."""
    context = get_context("spawn")
    processes = [
        context.Process(target=_rank, args=(loop, job, rank, ranks, checkpoints, scratch), daemon=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    try:
        running = list(processes)
        while running and not any(process.exitcode for process in processes):
            connection.wait([process.sentinel for process in running])
            running = [process for process in running if process.exitcode is None]
        for process in running:
            process.join(_GRACE_SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.join()
    failed = [rank for rank, process in enumerate(processes) if process.exitcode]
    stated = [path for rank in range(ranks) if (path := scratch / f"error-{rank}").is_file()]
    if failed and len(stated) == len(failed):
        errors: list[Exception] = [pickle.loads(path.read_bytes()) for path in stated]
        raise min(errors, key=lambda error: isinstance(error, RuntimeError))  # that a rank is gone is said by others
    return not failed


def _rank(loop: Any, job: Any, rank: int, ranks: int, checkpoints: FileCheckpoints, scratch: Path) -> None:
    try:
        torch.distributed.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=ranks)
        result = loop(DistributedGroup(checkpoints), job)
        if rank == 0:
            (scratch / "result").write_bytes(pickle.dumps(result))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except Exception as error:
        (scratch / f"error-{rank}").write_bytes(pickle.dumps(error))
        raise SystemExit(1) from None
