"""A training loop run by the ranks of a group on this machine."""

import logging
import pickle
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from pygrade.workers.group import FileCheckpoints, Group
from pygrade.workers.spawn import without_script

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
    raise RuntimeError(f"training lost a rank {RESTARTS + 1} times; expected machines that have enough memory")


def _run(loop: Any, job: Any, ranks: int, checkpoints: FileCheckpoints, scratch: Path) -> bool:
    """Run all ranks; True if they finished, False if one was killed."""
    with without_script() if "__main__" not in (loop.__module__, type(job).__module__) else nullcontext():
        context = start_processes(  # type: ignore[no-untyped-call]
            _rank, (loop, job, ranks, checkpoints, scratch), ranks, join=False, daemon=True, start_method="spawn"
        )
    try:
        while not context.join(grace_period=_GRACE_SECONDS):
            pass
        return True
    except ProcessExitedException:
        errors: list[Exception] = [pickle.loads(path.read_bytes()) for path in sorted(scratch.glob("error-*"))]
        if len(errors) < sum(bool(process.exitcode) for process in context.processes):
            return False
        raise min(errors, key=lambda error: isinstance(error, RuntimeError)) from None  # others say that a rank is gone
    finally:
        for process in context.processes:
            process.kill()


def _rank(rank: int, loop: Any, job: Any, ranks: int, checkpoints: FileCheckpoints, scratch: Path) -> None:
    try:
        torch.distributed.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=ranks)
        result = loop(Group(checkpoints, rank=rank, size=ranks), job)
        if rank == 0:
            (scratch / "result").write_bytes(pickle.dumps(result))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except Exception as error:
        (scratch / f"error-{rank}").write_bytes(pickle.dumps(error))
        raise SystemExit(1) from None
